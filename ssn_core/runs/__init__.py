"""From a configuration to a run folder: presets, profiles, feature cache, trainer, evaluation, store. Imports ``fast``,
``metrics`` and below."""
