"""What the whole study would cost: all classes of MVTec AD, all presets, some seeds; from measured seconds per step."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pandas as pd

from ssn_core.data.datasets import EXPECTED
from ssn_core.errors import InputError
from ssn_core.runs.config import PRESETS, RunConfig, preset
from ssn_core.runs.result import load_run


def cost(store: str | Path, seeds: int = 5) -> pd.DataFrame:
    """A row per device and preset that trains: ``s/step``, how many ``runs`` and ``steps`` it takes, and ``hours``
    (NaN: unknown).

    The seconds of a step are the median over the ``measured`` runs of the same method on that device, evaluations
    included, and proportional to images and pixels. Raises :class:`InputError` for a store without runs.
    """
    speeds = _speeds(Path(store))
    if not speeds:
        raise InputError(f"{store} holds no finished run to measure a step from; `python -m ssn_core run` makes one")
    rows = []
    for device in dict.fromkeys(device for device, _ in speeds):
        for name, config in _trained().items():
            images = _images(config)
            measured = speeds.get((device, _kind(config)), [])
            seconds = statistics.median(measured) * _load(config) if measured else math.nan
            steps = seeds * sum(config.epochs * math.ceil(count / config.batch_size) for count in images)
            rows.append([device, name, len(measured), seconds, seeds * len(images), steps, seconds * steps / 3600])
    return pd.DataFrame(rows, columns=["device", "preset", "measured", "s/step", "runs", "steps", "hours"])


def lines(table: pd.DataFrame) -> list[str]:
    """The table as text, then a total per device that says how many of the runs it covers."""
    text = table.to_string(
        index=False, na_rep="?", formatters={"s/step": "{:.3f}".format, "hours": "{:,.1f}".format}
    ).splitlines()
    for device, part in table.groupby("device", sort=False):
        known = part[part["hours"].notna()]
        covered = f"{known['runs'].sum():,} of {part['runs'].sum():,} runs, one after the other"
        missing = ", ".join(part.loc[part["hours"].isna(), "preset"])
        text.append(f"{device}: {known['hours'].sum():,.0f} hours for {covered}; not measured: {missing or 'none'}")
    return text


def _trained() -> dict[str, RunConfig]:
    """The presets that take steps; filling a memory is none."""
    return {name: config for name in PRESETS if (config := preset(name)).method != "memory"}


def _speeds(store: Path) -> dict[tuple[str, tuple[str, ...]], list[float]]:
    """(device, kind of run) -> seconds per image and pixel of a step, of each run there."""
    found: dict[tuple[str, tuple[str, ...]], list[float]] = {}
    for result in (load_run(path.parent) for path in sorted(store.glob("*/run.json"))):
        info, config = result.info, result.config
        device = f"cpu, {info['threads']} thread(s)" if info["device"] == "cpu" else info["device"]
        if info["steps"]:
            seconds = info["wall_seconds"] / info["steps"]
            found.setdefault((device, _kind(config)), []).append(seconds / _load(config))
    return found


def _kind(config: RunConfig) -> tuple[str, ...]:
    """What a step's operations depend on, besides batch and image size."""
    return config.method, config.backbone, config.adaptor, config.noise, config.noise_rule, config.supervision


def _load(config: RunConfig) -> int:
    return config.batch_size * math.prod(config.image_size)


def _images(config: RunConfig) -> list[int]:
    """Images of an epoch for each category of the preset's data set; see :mod:`ssn_core.runs.training_set`."""
    counts = [c for (dataset, _), c in EXPECTED.items() if dataset == config.dataset]
    if config.supervision == "unsupervised":
        return [c.train - c.train_defective for c in counts]
    return [2 * config.flips * c.train_defective for c in counts]
