"""What is timed, how, and how it is shown: ``python -m ssn_core.bench``. Imports everything below it."""
