"""What trainings cost, by measured seconds per step: those of a notebook, and the whole study (all classes of MVTec
AD, all presets, some seeds)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ssn_core.data.datasets import EXPECTED
from ssn_core.errors import InputError
from ssn_core.runs.config import RunConfig
from ssn_core.runs.presets import PRESETS, preset
from ssn_core.runs.result import load_run
from ssn_core.study import results
from ssn_core.study.labels import data_name, experiment_label


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
            images = list(_images(config).values())
            measured = speeds.get((device, _kind(config)), [])
            seconds = statistics.median(measured) * _load(config) if measured else math.nan
            steps = seeds * sum(config.epochs * math.ceil(count / config.batch_size) for count in images)
            rows.append([device, name, len(measured), seconds, seeds * len(images), steps, seconds * steps / 3600])
    return pd.DataFrame(rows, columns=["device", "preset", "measured", "s/step", "runs", "steps", "hours"])


def budget(outcomes: Iterable[results.Outcome]) -> pd.DataFrame:
    """A row per method and data, of runs made and not made yet: how many there are to be and are, the steps of one, the
    seconds of a step with evaluations (a filled memory has none: of the whole run), and the hours of all of them.

    The seconds are the median of those made, of the same kind (see :func:`cost`) where none is; NaN where nothing is.
    """
    groups = results.groups(outcomes)
    made = [run for group in groups for run in results.finished(group.outcomes)]
    rows = []
    for group in groups:
        config, count = group.config, len(group.outcomes)
        own = results.finished(group.outcomes)
        steps = own[0].info["steps"] if own else _steps(config)
        alike = own or [run for run in made if _kind(run.config) == _kind(config)]
        taken = [run.info["wall_seconds"] / (run.info["steps"] or 1) / _load(run.config) for run in alike]
        seconds = statistics.median(taken) * _load(config) if taken else math.nan
        hours = count * max(steps, 1) * seconds / 3600
        names = experiment_label(config.experiment), data_name(config.dataset, config.category)
        rows.append([*names, count, len(own), steps, round(seconds, 2), round(hours, 2)])
    return pd.DataFrame(rows, columns=["method", "data", "runs", "made", "steps a run", "s/step", "hours"])


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


def _steps(config: RunConfig) -> int:
    """Optimiser steps of a run on a data set whose counts are known; filling a memory takes none."""
    if config.method == "memory":
        return 0
    images = _images(config)[config.category]
    images -= int(images * config.validation_fraction)
    return config.epochs * math.ceil(images / config.batch_size)


def _images(config: RunConfig) -> dict[str, int]:
    """Images of an epoch, by category of the data set; see :mod:`ssn_core.runs.training_set`."""
    counts = {category: c for (dataset, category), c in EXPECTED.items() if dataset == config.dataset}
    if config.supervision == "unsupervised":
        return {category: c.train - c.train_defective for category, c in counts.items()}
    return {category: 2 * config.flips * c.train_defective for category, c in counts.items()}
