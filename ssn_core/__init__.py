"""SuperSimpleNet, the variants of the course report, their training and their metrics."""

from __future__ import annotations

__version__ = "0.1.0"

from . import metrics
from .config import PRESETS, RunConfig, preset
from .datasets import check, find_root, open_dataset
from .errors import InputError
from .fold import FoldedDetector, fold
from .models import GapCamNet, Prediction, SimpleNet, SuperSimpleNet, build_model
from .store import RunResult, find_run, load_model, load_run, run
from .synthetic import make_synthetic

__all__ = [
    "PRESETS",
    "FoldedDetector",
    "GapCamNet",
    "InputError",
    "Prediction",
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
    "load_run",
    "make_synthetic",
    "metrics",
    "open_dataset",
    "preset",
    "run",
]
