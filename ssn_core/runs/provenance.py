"""What a result was made by: the code's revision and the libraries."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import numpy as np
import torch
import torchvision

from ssn_core import __version__


def versions() -> dict[str, str]:
    """Of Python, of the libraries that numbers depend on, and of this package."""
    libraries = {"torch": torch.__version__, "torchvision": torchvision.__version__, "numpy": np.__version__}
    return {"python": platform.python_version(), **libraries, "ssn_core": __version__}


def git_revision() -> str | None:
    """Revision of the checkout that holds this package, marked when it has changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
