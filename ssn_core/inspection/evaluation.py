"""A finished run measured on another labelled folder: whatever its labels and masks allow."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ssn_core.inspection.gallery import labelled_samples
from ssn_core.inspection.prediction import inspect_all, opened
from ssn_core.inspection.threshold import Rate, Threshold, decide, not_available
from ssn_core.runs.evaluation import Outputs, Truth, measure
from ssn_core.runs.result import RunResult


def evaluate(run: RunResult, folder: Path, device: str | None = None) -> dict[str, Any]:
    """The seven metrics on a labelled folder (its test split where it has one), "n/a" with the reason where they are
    not defined, and what the run's threshold finds and wrongly finds there."""
    samples, model = labelled_samples(folder), opened(run, device)
    results = list(inspect_all(model, samples))
    scores = np.array([result.score for result in results], np.float32)
    outputs = Outputs(scores, np.stack([result.anomaly_map for result in results]), run.config.pixel_values)
    truth, threshold = Truth.of(samples, model.image_size), Threshold.of(run)
    found, false_alarms = decide(outputs.map_scores, truth.labels, threshold.value)
    values = measure(outputs, truth)
    return {
        "run": run.config.run_id,
        "folder": str(folder),
        **values,
        "not_available": not_available(values, truth.labels),
        "threshold": threshold.value,
        "found": _counted(found),
        "false_alarms": _counted(false_alarms),
    }


def _counted(rate: Rate) -> dict[str, Any]:
    return {**dataclasses.asdict(rate), "interval": list(rate.interval)}
