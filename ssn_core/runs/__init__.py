"""From a configuration to a run folder: presets, profiles, feature cache, trainer, evaluation, store. Imports ``fast``,
``metrics`` and below."""

STORE = "ssn-runs"  # where runs go that no profile makes: outside git, so that they enter no report
