"""Finished runs, read from their folders: no torch, so that tables, figures and the report open at once."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ssn_core.errors import InputError
from ssn_core.files import read_json
from ssn_core.runs import STORE
from ssn_core.runs.config import RunConfig

FORMAT = 2
CHECKPOINT, PREVIOUS, MODEL, NOISE = "checkpoint.pt", "checkpoint.previous.pt", "model.safetensors", "noise.npz"
SCORES = ["image", "defect", "label", "score", "map_score", "top_score", "marked", "marked_scaled"]
TOP = 100  # highest values of a map whose mean is its top score, fixed beforehand (as in DeSTSeg, CVPR 2023)
WITHOUT_ZERO = ("gap_cam", "mil", "memory")  # methods whose map has no value that parts normal from anomalous
#: of a finished run, beside its weights
FILES = ("run.json", "metrics.json", "history.csv", "scores.csv", "curves.npz", "examples.npz", NOISE)
Log = Callable[[str], None]


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
        return read_run_file(self.path / "history.csv", pd.read_csv)

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        """One row per test image: image, defect, label, score, map_score, top_score (logits), and how many pixels its
        mask has, drawn at :attr:`pixel_threshold` or at half of the map's own range (``marked``, ``marked_scaled``);
        runs older than a column lack it."""
        return read_run_file(self.path / "scores.csv", pd.read_csv)

    @functools.cached_property
    def curves(self) -> dict[str, np.ndarray]:
        """ROC and precision-recall arrays, see :func:`ssn_core.runs.evaluation.curve_arrays`."""
        return read_run_file(self.path / "curves.npz", _read_npz)

    @functools.cached_property
    def examples(self) -> dict[str, np.ndarray]:
        """``images`` (n,) names and ``maps`` (n, H, W) float16 logits."""
        return read_run_file(self.path / "examples.npz", _read_npz)

    @property
    def noise(self) -> dict[str, np.ndarray] | None:
        """What :func:`ssn_core.runs.learned_noise.noise_field` kept; None in an older run, or in one of fixed noise."""
        path = self.path / NOISE
        return read_run_file(path, _read_npz) if path.is_file() else None

    @property
    def pixel_threshold(self) -> float:
        """See :func:`pixel_threshold`."""
        return pixel_threshold(self.config, self.metrics)


def pixel_threshold(config: RunConfig, metrics: Mapping[str, Any]) -> float:
    """Where a map becomes a mask: logit 0 with a segmentation head, whose loss pushes normal cells below -0.5 and
    anomalous ones above +0.5. A class activation map and a memory's distances have no such zero: there, the quantile of
    the maps' maxima over normal training images."""
    return float(metrics["train_quantile"]["map_score"]) if config.method in WITHOUT_ZERO else 0.0


def find_run(config: RunConfig, store: str | Path = STORE) -> RunResult | None:
    """The finished run of a configuration, or None; another configuration's or format's folder is an error."""
    folder = Path(store) / config.run_id
    if not os.path.isfile(folder / "run.json"):  # Path's own raises where the name is too long
        return None
    result = load_run(folder)
    if result.config != config:
        a, b = result.config.as_dict(), config.as_dict()
        differ = ", ".join(f"{name}: {a[name]!r} there, {b[name]!r} asked" for name in a if a[name] != b[name])
        raise InputError(
            f"{folder} was written by another configuration ({differ}); move that folder away or choose another store"
        )
    return result


def load_run(folder: str | Path) -> RunResult:
    """Read a finished run folder."""
    folder = Path(folder)
    path = folder / "run.json"
    if not os.path.isfile(path):
        raise InputError(f"{folder} holds no finished run (no run.json); run its configuration first")
    info = read_run_file(path, _read_object)
    if info.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {info.get('format')!r}, this version reads format {FORMAT}; "
            "delete the folder and run the configuration again"
        )
    config = read_run_file(path, lambda _: RunConfig(**info["config"]))
    return RunResult(config, folder, info, read_run_file(folder / "metrics.json", _read_object))


def locate_run(place: str | Path) -> Path:
    """The one finished run that a run folder, a store or a glob of them names; raises :class:`InputError` otherwise."""
    matches = [Path(place)] if Path(place).exists() else sorted(map(Path, glob.glob(str(place))))
    folders = [f for m in matches for f in (m, *sorted(m.glob("*/"))) if (f / "run.json").is_file()]
    if len(folders) > 1:
        raise InputError(f"{place} names {len(folders)} runs, {folders[0]} and {folders[1]}; name one of them")
    return folders[0] if folders else Path(place)


def read_run_file(path: Path, read: Callable[[Path], Any]) -> Any:
    """Read one file of a run folder; whatever is wrong with it names the file and the way out."""
    try:
        return read(path)
    except Exception as error:  # every reader has its own types for a truncated or a foreign file
        raise InputError(
            f"{path} cannot be read ({error}); delete the folder {path.parent} and run its configuration again"
        ) from error


def _read_object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not an object")
    return found


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
