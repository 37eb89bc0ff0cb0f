"""A finished run measured on another labelled folder: whatever its labels and masks allow."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ssn_core.data.datasets import open_dataset
from ssn_core.data.find import OWN
from ssn_core.errors import InputError
from ssn_core.fast.inference import fold
from ssn_core.inspection.prediction import inspect
from ssn_core.inspection.threshold import Rate, Threshold, not_available
from ssn_core.runs.evaluation import Outputs, Truth, measure
from ssn_core.runs.result import RunResult
from ssn_core.runs.store import load_model, usable_device


def evaluate(run: RunResult, folder: Path, device: str | None = None) -> dict[str, Any]:
    """The seven metrics on a labelled folder (its test split where it has one), "n/a" with the reason where they are
    not defined, and what the run's threshold finds and wrongly finds there."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    dataset = open_dataset(OWN, folder.resolve().name, folder)
    samples = dataset.test if dataset.layout else dataset.train + dataset.test
    on = usable_device(device)
    model = fold(load_model(run.path).to(on))
    results = [result for _, result in inspect(model, [sample.image for sample in samples], on)]
    scores = np.array([result.score for result in results], np.float32)
    outputs = Outputs(scores, np.stack([result.anomaly_map for result in results]), run.config.pixel_values)
    truth, threshold = Truth.of(samples, model.image_size), Threshold.of(run)
    flagged = outputs.map_scores > threshold.value
    values = measure(outputs, truth)
    return {
        "run": run.config.run_id,
        "folder": str(folder),
        **values,
        "not_available": not_available(values, truth.labels),
        "threshold": threshold.value,
        "found": _counted(flagged[truth.labels == 1]),
        "false_alarms": _counted(flagged[truth.labels == 0]),
    }


def _counted(flagged: np.ndarray) -> dict[str, Any]:
    rate = Rate(int(flagged.sum()), len(flagged))
    return {**dataclasses.asdict(rate), "interval": list(rate.interval)}
