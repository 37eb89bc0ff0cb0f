"""SuperSimpleNet, the variants of the course report, their training and their metrics."""

from __future__ import annotations

__version__ = "0.1.0"

from . import metrics
from .config import PRESETS, RunConfig, preset
from .datasets import check, find_root, open_dataset
from .errors import InputError
from .fold import FoldedDetector, fold
from .models import GapCamNet, Prediction, SimpleNet, SuperSimpleNet, build_model
from .profiles import NotRun, Profile, load_profile, matched_control, run_command
from .store import RunResult, find_run, load_model, load_run, run
from .synthetic import make_synthetic

__all__ = [
    "PRESETS",
    "FoldedDetector",
    "GapCamNet",
    "InputError",
    "NotRun",
    "Prediction",
    "Profile",
    "RunConfig",
    "RunResult",
    "SimpleNet",
    "SuperSimpleNet",
    "build_model",
    "check",
    "find_root",
    "find_run",
    "fold",
    "load_model",
    "load_profile",
    "load_run",
    "make_synthetic",
    "matched_control",
    "metrics",
    "open_dataset",
    "preset",
    "run",
    "run_command",
]
