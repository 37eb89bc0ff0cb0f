"""The one error class for what a user gave us: it names the file or field and the way out."""

from __future__ import annotations


class InputError(ValueError):
    """Something given from outside (a field, a file, a folder, weights) cannot be used.

    Raised before any training starts. The message names the field or the file and says what to do.
    """


class Stopped(KeyboardInterrupt):
    """A run was interrupted (Ctrl-C, SIGTERM); the message says from which epoch the same command resumes it."""
