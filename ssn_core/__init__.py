"""SuperSimpleNet, the variants of the course report, their training and their metrics."""

from __future__ import annotations

__version__ = "0.1.0"

import importlib
from typing import Any

#: module -> its public names, loaded at first use: torch takes seconds, and neither results nor help need it
_HOMES = {
    "ssn_core.data.datasets": "check find_root open_dataset",
    "ssn_core.data.synthetic": "make_synthetic",
    "ssn_core.errors": "InputError",
    "ssn_core.fast.inference": "FoldedDetector fold",
    "ssn_core.models.detectors": "GapCamNet MemoryNet MilNet Prediction SimpleNet SuperSimpleNet build_model",
    "ssn_core.runs.config": "RunConfig",
    "ssn_core.runs.presets": "PRESETS preset",
    "ssn_core.inspection.export": "export_onnx",
    "ssn_core.runs.profiles": "NotRun Profile load_profile matched_control run_command",
    "ssn_core.runs.result": "RunResult find_run load_run",
    "ssn_core.runs.store": "load_model run",
    "ssn_core.study.notebook": "notebook",
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = sorted([*_MODULES, "metrics"])


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module("ssn_core.metrics")
    if name not in _MODULES:
        raise AttributeError(f"module 'ssn_core' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
