"""The run store: ``run(config)`` trains what is absent, resumes what is half done and loads what is finished."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from ssn_core.data.datasets import open_dataset
from ssn_core.errors import InputError
from ssn_core.files import read_json
from ssn_core.models.detectors import Detector, build_model
from ssn_core.runs.config import RunConfig
from ssn_core.runs.guard import interrupted_by_sigterm, owned
from ssn_core.runs.runner import CHECKPOINT, FORMAT, MODEL, Log, Runner, read_run_file
from ssn_core.runs.trainer import trained_state
from ssn_core.runs.training_set import TrainingSet


@dataclass(frozen=True)
class RunResult:
    """A finished run, read from its folder. ``metrics`` values are floats or "n/a"; ``info`` is run.json."""

    config: RunConfig
    path: Path
    info: dict[str, Any]
    metrics: dict[str, Any]

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """One row per epoch: losses, noise RMS and, where evaluated, the metrics."""
        return pd.read_csv(self.path / "history.csv")

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        """One row per test image: image, defect, label, score, map_score (logits)."""
        return pd.read_csv(self.path / "scores.csv")

    @functools.cached_property
    def curves(self) -> dict[str, np.ndarray]:
        """ROC and precision-recall arrays, see :func:`ssn_core.runs.evaluation.curve_arrays`."""
        return _read_npz(self.path / "curves.npz")

    @functools.cached_property
    def examples(self) -> dict[str, np.ndarray]:
        """``images`` (n,) names and ``maps`` (n, H, W) float16 logits."""
        return _read_npz(self.path / "examples.npz")


def run(
    config: RunConfig,
    store: str | Path = "data/results",
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    checkpoint_seconds: float = 30.0,
    log: Log = print,
) -> RunResult:
    """Train and evaluate one configuration, or load it when its folder in ``store`` is finished.

    An interrupted run resumes from its checkpoint and, on a CPU, ends with the same bits as an uninterrupted one.
    ``data_root``: see :func:`ssn_core.find_root`. All input is checked before training (:class:`InputError`).
    A non-finite loss ends a Gaussian run with :class:`ssn_core.runs.trainer.NonFiniteLoss` and keeps the checkpoint of
    the last good epoch; a learned-noise run is then recorded as diverged and evaluated as of that epoch.
    A run that another process is making is refused; Ctrl-C and SIGTERM save the last whole epoch and raise
    :class:`ssn_core.errors.Stopped`.
    """
    folder = Path(store) / config.run_id
    if (finished := find_run(config, store)) is not None:
        return finished
    device = _usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dataset = open_dataset(config.dataset, config.category, data_root, training_masks=config.needs_training_masks)
    training = TrainingSet.of(config, dataset)
    with interrupted_by_sigterm(), owned(folder) as gone:
        if gone:
            log(f"[{config.run_id}] taken over from {gone}, which has ended")
        if (finished := find_run(config, store)) is None:  # else its last owner ended just now
            with _memory_errors(config, folder):
                Runner(config, folder, dataset, training, device, checkpoint_seconds, log).complete()
            finished = find_run(config, store)
    assert finished is not None
    return finished


@contextlib.contextmanager
def _memory_errors(config: RunConfig, folder: Path) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        height, width = config.image_size
        kept = f"; the checkpoint of this run stays in {folder}" if (folder / CHECKPOINT).is_file() else ""
        first = str(error).splitlines()[0].split(". GPU")[0].rstrip(".")
        raise InputError(
            f"run {config.run_id}: {first}. Lower batch_size={config.batch_size} or "
            f"image_size={height},{width}, or use a device with more memory{kept}"
        ) from error


def _usable_device(device: str | torch.device) -> torch.device:
    try:
        torch.zeros((), device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch was built without it, or it is absent
        reason = str(error).splitlines()[0]
        raise InputError(f"device={str(device)!r} cannot be used here ({reason}); choose cpu or cuda") from error


def find_run(config: RunConfig, store: str | Path = "data/results") -> RunResult | None:
    """The finished run of a configuration, or None; another configuration's or format's folder is an error."""
    folder = Path(store) / config.run_id
    if not (folder / "run.json").is_file():
        return None
    result = load_run(folder)
    if result.config != config:
        raise InputError(
            f"{folder} was written by another configuration ({_difference(result.config, config)}); "
            "move that folder away or choose another store"
        )
    return result


def load_run(folder: str | Path) -> RunResult:
    """Read a finished run folder."""
    folder = Path(folder)
    path = folder / "run.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no finished run (no run.json); run its configuration first")
    info = read_run_file(path, read_json)
    if info.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {info.get('format')!r}, this version reads format {FORMAT}; "
            "delete the folder and run the configuration again"
        )
    config = read_run_file(path, lambda _: RunConfig(**info["config"]))
    return RunResult(config, folder, info, read_run_file(folder / "metrics.json", read_json))


def load_model(path: str | Path) -> Detector:
    """The trained model of a run folder, in eval mode on the CPU."""
    config = load_run(path).config
    file = Path(path) / MODEL
    if not file.is_file():
        raise InputError(
            f"{file} is missing: weights are not kept with committed results. Delete the folder {path} "
            "(or choose another store) and run its configuration again"
        )
    model = build_model(**config.model_arguments())
    wanted, state = trained_state(model), read_run_file(file, load_file)
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in wanted.items()}:
        raise InputError(f"{file} does not fit its run.json; delete the folder {path} and run the configuration again")
    model.load_state_dict(state, strict=False)
    return model.eval()


def _difference(found: RunConfig, wanted: RunConfig) -> str:
    a, b = found.as_dict(), wanted.as_dict()
    return ", ".join(f"{name}: {a[name]!r} there, {b[name]!r} asked" for name in a if a[name] != b[name])


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
