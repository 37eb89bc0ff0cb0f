"""The one error class for what a user gave us: it names the file or field and the way out."""

from __future__ import annotations


class InputError(ValueError):
    """Something given from outside (a field, a file, a folder, weights) cannot be used.

    Raised before any training starts, or later where a disk or a GPU's memory is full. The message names the field or
    the file and says what to do.
    """


class Stopped(KeyboardInterrupt):
    """Interrupted by Ctrl-C or SIGTERM; the message says what is kept: a run's last epoch, a prediction's rows."""
