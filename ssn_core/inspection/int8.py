"""A run's ONNX file in int8, kept only where the run's own images show that it still decides as the float32 one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ssn_core.data.datasets import Dataset, open_dataset
from ssn_core.data.images import read_image, resize_bilinear
from ssn_core.errors import InputError
from ssn_core.fast.export import session, speed
from ssn_core.fast.int8 import int8_units, write_int8
from ssn_core.files import write_bytes
from ssn_core.inspection.export import write_float32
from ssn_core.inspection.threshold import Threshold, not_available
from ssn_core.metrics import METRICS
from ssn_core.runs.evaluation import Outputs, Truth, measure
from ssn_core.runs.result import Log, RunResult
from ssn_core.runs.store import load_model
from ssn_core.runs.training_set import TrainingSet

CALIBRATION = 32  # good training images, spread evenly over the set
ALLOWED = 0.005  # by which the AUROC of either image score may fall
_GUARDED = ("I-AUROC", "seg-I-AUROC")
Call = Callable[[np.ndarray], list[np.ndarray]]
_UNITS = {True: "has", False: "lacks", None: "may lack"}


def export_int8(run: RunResult, path: Path | None, data_root: str | None = None, log: Log = print) -> Path:
    """Write :func:`ssn_core.fast.int8.write_int8`'s file of a run (default: ``model.int8.onnx`` in it), calibrated on
    its good training images, and log every metric of its test set before and after, and the speed.

    Raises:
        InputError: the data are absent or others than the run's; the AUROC of an image score falls by more than
            :data:`ALLOWED`; or, where the test set has no defects, more of its good images are rejected than the
            interval of the run's threshold allows. No file is written then.
    """
    path, dataset = Path(path or run.path / "model.int8.onnx"), _dataset_of(run, data_root)
    training = TrainingSet.of(run.config, dataset)
    good = list(dict.fromkeys(sample.image for sample, _ in training.entries[: training.normal]))
    chosen = [good[i] for i in np.unique(np.linspace(0, len(good) - 1, CALIBRATION).astype(int))]
    size = run.config.image_size
    threshold, truth = Threshold.of(run), Truth.of(dataset.test, size)
    with tempfile.TemporaryDirectory() as folder:
        exact = write_float32(run, load_model(run.path), Path(folder, "float32.onnx"))
        rough = write_int8(exact, Path(folder, "int8.onnx"), (_read(image, size) for image in chosen))
        calls = [session(file) for file in (exact, rough)]
        before, after = (_outputs(run, call, dataset) for call in calls)
        log(f"calibrated on {len(chosen)} good training images, measured on {len(truth.labels)} test images")
        if refused := _compared(before, after, truth, threshold, log):
            raise InputError(f"{path} is not written: {refused}; export without --int8")
        write_bytes(path, rough.read_bytes())
        float32, int8 = speed(*calls, size=size)
    log(
        f"{path}: one image, {torch.get_num_threads()} threads: int8 {int8:.1f} ms, float32 {float32:.1f} ms, ratio "
        f"{float32 / int8:.2f}; this processor {_UNITS[int8_units()]} units for int8 (VNNI)"
    )
    return path


def _dataset_of(run: RunResult, data_root: str | None) -> Dataset:
    config = run.config
    dataset = open_dataset(config.dataset, config.category, data_root, training_masks=config.needs_training_masks)
    if dataset.fingerprint() != run.info["data"]["fingerprint"]:
        raise InputError(f"{dataset.root} holds other images than {run.path} was trained on; name those (--data-root)")
    return dataset


def _read(image: Path, size: tuple[int, int]) -> np.ndarray:
    return resize_bilinear(read_image(image), size)


def _outputs(run: RunResult, call: Call, dataset: Dataset) -> Outputs:
    pairs = [call(_read(sample.image, run.config.image_size)) for sample in dataset.test]
    maps, scores = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return Outputs(scores, maps, run.config.pixel_values)


def _compared(before: Outputs, after: Outputs, truth: Truth, threshold: Threshold, log: Log) -> str:
    """Log what int8 changes; why it is refused, or ""."""
    old, new = measure(before, truth), measure(after, truth)
    log(f"{'':12s} float32     int8   change")
    for name in METRICS:
        known = isinstance(old[name], float)
        log(f"{name:12s}" + (f" {old[name]:7.4f}  {new[name]:7.4f}  {new[name] - old[name]:+.4f}" if known else " n/a"))
    rejected = [outputs.map_scores > threshold.value for outputs in (before, after)]
    log(f"decisions that change: {(rejected[0] != rejected[1]).sum()} of {len(truth.labels)}")
    if truth.labels.any():
        fallen = [
            f"{name} falls by {old[name] - new[name]:.4f}" for name in _GUARDED if old[name] - new[name] > ALLOWED
        ]
        return f"{' and '.join(fallen)}, {ALLOWED} is allowed" if fallen else ""
    log(f"not checked: whether defects are still found ({not_available(old, truth.labels)}); good images are, instead")
    false_alarms, highest = rejected[1].mean(), threshold.false_alarms.interval[1]
    wrong = f"{false_alarms:.1%} of the good images are rejected, the threshold allows {highest:.1%}"
    return wrong if false_alarms > highest else ""
