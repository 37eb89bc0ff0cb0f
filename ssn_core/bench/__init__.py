"""What is timed, how, and how it is shown: ``ssn bench``. Imports everything below it."""
