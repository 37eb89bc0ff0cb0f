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
from ssn_core.runs.result import RunResult, load_run
from ssn_core.study import results
from ssn_core.study.labels import data_label, experiment_label


def cost(store: str | Path, seeds: int = 5) -> pd.DataFrame:
    """A row per device and preset that trains: ``s/step``, how many ``runs`` and ``steps`` it takes, and ``hours``
    (NaN: unknown).

    The seconds of a step are the median over the ``measured`` runs of the same method on that device, evaluations
    included, and proportional to images and pixels. Raises :class:`InputError` for a store without runs.
    """
    by_device: dict[str, list[RunResult]] = {}
    for run in (load_run(path.parent) for path in sorted(Path(store).glob("*/run.json"))):
        if run.info["steps"]:  # filling a memory takes none
            by_device.setdefault(_device(run), []).append(run)
    if not by_device:
        raise InputError(f"{store} holds no finished run to measure a step from; `python -m ssn_core run` makes one")
    rows = []
    for device, runs in by_device.items():
        for config in map(preset, PRESETS):
            if config.method == "memory":
                continue
            measured = _alike(runs, config)
            seconds = _seconds(measured, config)
            steps = [_steps(config.replace(category=name)) for dataset, name in EXPECTED if dataset == config.dataset]
            count, total = seeds * len(steps), seeds * sum(steps)
            rows.append([device, config.experiment, len(measured), seconds, count, total, seconds * total / 3600])
    return pd.DataFrame(rows, columns=["device", "preset", "measured", "s/step", "runs", "steps", "hours"])


def budget(outcomes: Iterable[results.Outcome]) -> pd.DataFrame:
    """A row per method and data, of runs made and not made yet: how many there are to be and are, the steps of one, the
    seconds of a step with evaluations (a filled memory has none: of the whole run), and the hours of all of them.

    The seconds are the median of those made, of the same kind (see :func:`cost`) where none is; NaN where nothing is.
    """
    groups = results.groups(outcomes)
    made = [run for group in groups for run in group.runs]
    rows = []
    for group in groups:
        config, own, count = group.config, group.runs, len(group.outcomes)
        steps = own[0].info["steps"] if own else _steps(config)
        seconds = _seconds(own or _alike(made, config), config)
        hours = count * max(steps, 1) * seconds / 3600
        names = experiment_label(config.experiment), data_label(config)
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


def _device(run: RunResult) -> str:
    return f"cpu, {run.info['threads']} thread(s)" if run.info["device"] == "cpu" else run.info["device"]


def _alike(runs: Iterable[RunResult], config: RunConfig) -> list[RunResult]:
    return [run for run in runs if _kind(run.config) == _kind(config)]


def _seconds(runs: Iterable[RunResult], config: RunConfig) -> float:
    """Of a step of a configuration, by the median of the runs; of a memory, that takes no steps, of the whole run."""
    per_pixel = [run.info["wall_seconds"] / (run.info["steps"] or 1) / _load(run.config) for run in runs]
    return statistics.median(per_pixel) * _load(config) if per_pixel else math.nan


def _kind(config: RunConfig) -> tuple[str, ...]:
    """What a step's operations depend on, besides batch and image size."""
    return config.method, config.backbone, config.adaptor, config.noise, config.noise_rule, config.supervision


def _load(config: RunConfig) -> int:
    return config.batch_size * math.prod(config.image_size)


def _steps(config: RunConfig) -> int:
    """Optimiser steps of a run on a data set whose counts are known, see :mod:`ssn_core.runs.training_set`; filling a
    memory takes none."""
    if config.method == "memory":
        return 0
    counts = EXPECTED[config.dataset, config.category]
    images = 2 * config.flips * counts.train_defective
    if config.supervision == "unsupervised":
        normal = counts.train - counts.train_defective
        images = (normal - int(normal * config.validation_fraction)) * (4 if config.rotations else 1)  # right angles
    return config.epochs * math.ceil(images / config.batch_size)
