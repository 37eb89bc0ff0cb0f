"""SuperSimpleNet, the variants of the course report, their training and their metrics."""

from __future__ import annotations

__version__ = "0.1.0"

from ssn_core import metrics
from ssn_core.data.datasets import check, find_root, open_dataset
from ssn_core.data.synthetic import make_synthetic
from ssn_core.errors import InputError
from ssn_core.fast.inference import FoldedDetector, fold
from ssn_core.models.detectors import GapCamNet, Prediction, SimpleNet, SuperSimpleNet, build_model
from ssn_core.runs.config import PRESETS, RunConfig, preset
from ssn_core.runs.profiles import NotRun, Profile, load_profile, matched_control, run_command
from ssn_core.runs.store import RunResult, find_run, load_model, load_run, run

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
