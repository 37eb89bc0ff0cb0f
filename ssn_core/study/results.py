"""The one table of results: ours over the seeds, beside them what the course report and the papers give.

Runs that differ in the seed alone are a :class:`Group`. A group is named by its experiment, data, backbone and
*setting*, the fields in which it departs from its preset; no two groups share that name, and a look-up that fits more
than one is an error, so that no number is ever chosen by a guess.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ssn_core.errors import InputError
from ssn_core.metrics import METRICS
from ssn_core.runs.config import RunConfig
from ssn_core.runs.presets import PRESETS, preset
from ssn_core.runs.profiles import NotRun
from ssn_core.runs.result import RunResult
from ssn_core.study import reference
from ssn_core.study.differences import Sample
from ssn_core.study.run_values import run_values

Outcome = RunResult | NotRun
_KEY = ["experiment", "dataset", "category", "backbone", "setting"]
COLUMNS = [*_KEY, "seed", "n", "metric", "source", "mean", "std"]
#: what may tell two groups apart, or two rows of a reference file or of the benchmark
_NAMING = {*RunConfig.model_fields, "setting", "source", "table", "configuration", "masks", "group", "variant"}
#: what two trainings share where one change is to explain their difference; then they are compared seed by seed
PAIRED = ("dataset", "category", "image_size", "validation_fraction", "epochs", "batch_size", "adaptor_lr", "head_lr")
_VARIES = {"seed": 0, "eval_every": 0}  # how often a run is looked at does not change it
_WORDS = {
    "epochs": "{} epochs",
    "batch_size": "batch {}",
    "adaptor_lr": "adaptor's rate {}",
    "head_lr": "heads' rate {}",
    "validation_fraction": "{} held out",
}


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone, those made and those not; ``config`` is what they share."""

    config: RunConfig
    outcomes: tuple[Outcome, ...]

    @property
    def runs(self) -> list[RunResult]:
        """Those that were made, in the order of their seeds."""
        return sorted(finished(self.outcomes), key=lambda run: run.config.seed)

    @property
    def absent(self) -> list[NotRun]:
        """Those that were not."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, NotRun)]

    @property
    def key(self) -> dict[str, str]:
        """What names the group; ``setting`` says in words what else than data and backbone departs from the preset."""
        return {name: getattr(self.config, name) for name in _KEY[:-1]} | {"setting": _setting(self.config)}

    @functools.cached_property
    def values(self) -> dict[str, dict[str, Any]]:
        """Per value of a run (:func:`run_values`) what :func:`aggregate` makes of the seeds."""
        return aggregate({run.config.seed: run_values(run) for run in self.runs})

    def pairs_with(self, other: Group) -> bool:
        """Whether one change explains how they differ, so that they are compared seed by seed."""
        return all(getattr(self.config, name) == getattr(other.config, name) for name in PAIRED)

    def sample(self, metric: str) -> Sample | None:
        """Mean over the seeds, to be compared; None where the metric is not defined for all of them."""
        found = self.values.get(metric)
        if found is None or found["n"] < len(self.runs):
            return None
        rise = self.values.get(f"{metric} rise", {}).get("mean")
        return Sample(value=found["mean"], rise=rise, **{name: found[name] for name in ("std", "n", "seeds")})


def finished(outcomes: Iterable[Outcome]) -> list[RunResult]:
    """Those that were run."""
    return [outcome for outcome in outcomes if isinstance(outcome, RunResult)]


def groups(outcomes: Iterable[Outcome]) -> list[Group]:
    """Outcomes by what they share, in order of appearance; a run that is there twice counts once.

    Raises :class:`InputError` where two runs of a group have the same seed: controls of one seed with different noise,
    or a run evaluated at two intervals.
    """
    members: dict[RunConfig, dict[int, Outcome]] = {}
    for outcome in outcomes:
        of_group = members.setdefault(_shared(outcome.config), {})
        other = of_group.setdefault(outcome.config.seed, outcome)
        if other.config != outcome.config:
            raise InputError(
                f"{other.config.run_id} and {outcome.config.run_id} are two runs of one seed of the same method; "
                "leave one of them out"
            )
    return [Group(config, tuple(seeds.values())) for config, seeds in members.items()]


def _shared(config: RunConfig) -> RunConfig:
    """What the seeds of one method share. Each control has the noise of its own seed's learned run, so that varies."""
    level = 1.0 if config.experiment == "noise_control" else config.noise_std
    return config.replace(**_VARIES, noise_std=level)


def _setting(config: RunConfig) -> str:
    base = preset(config.experiment) if config.experiment in PRESETS else RunConfig()
    ours, theirs = config.as_dict(), _shared(base).as_dict()
    named = {"experiment", "dataset", "category", "backbone", "beta", *_VARIES}
    parts = [] if config.beta is None else [f"β = {config.beta}"]
    for name, value in ours.items():
        if name not in named and value != theirs[name]:
            text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
            parts.append(_WORDS.get(name, f"{name.replace('_', ' ')} {{}}").format(text))
    return ", ".join(parts)


def aggregate(samples: Mapping[int, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Seed -> values of its run; -> per value the mean, sample standard deviation (None for one), least, greatest,
    count and the value of every seed, over the seeds that have it."""
    out = {}
    for name in sorted(set().union(*samples.values())):
        seeds = {str(seed): sample[name] for seed, sample in samples.items() if name in sample}
        x = np.array(list(seeds.values()))
        std = float(x.std(ddof=1)) if len(x) > 1 else None
        out[name] = {"mean": float(x.mean()), "std": std, "min": float(x.min()), "max": float(x.max()), "n": len(x)}
        out[name]["seeds"] = seeds
    return out


def unique(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping of pairs; a key that is there twice is an error, so that no result is ever chosen by its place."""
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"two results are {key}; leave one of them out")
        found[key] = value
    return found


def only(candidates: Sequence[Mapping[str, Any]], **where: Any) -> Mapping[str, Any] | None:
    """The one candidate that has these fields, or None; several are an error that tells how they differ."""
    if candidates and (unknown := [name for name in where if not any(name in c for c in candidates)]):
        raise InputError(f"results have no {', '.join(unknown)}; they have {', '.join(candidates[0])}")
    fitting = [c for c in candidates if all(c.get(name) == value for name, value in where.items())]
    if len(fitting) > 1:
        differ = [n for n in fitting[0] if n in _NAMING and any(c.get(n) != fitting[0][n] for c in fitting)]
        listed = "; ".join(", ".join(f"{name}: {c.get(name)}" for name in differ) for c in fitting)
        asked = ", ".join(f"{name}: {value}" for name, value in where.items())
        raise InputError(f"{len(fitting)} results fit {asked}; add one of {', '.join(differ)} ({listed})")
    return fitting[0] if fitting else None


def table(outcomes: Iterable[Outcome], compared: bool = True) -> pd.DataFrame:
    """The long table of results: a row per group, metric, source and seed, and one for the mean (``seed`` empty).

    ``source``: ``ours``, ``course`` (its tables, else the last line of its log; one run) or ``published``, where
    ``setting`` names the paper. A group without runs has rows with ``n`` 0 and no mean. ``compared=False`` leaves the
    others' values out: synthetic data have nothing to compare.
    """
    rows: list[dict[str, Any]] = []
    for group in groups(outcomes):
        rows += _ours(group)
        if compared:
            rows += [row for row in reference.values(group.config) if row not in rows]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"seed": "Int64", "mean": float, "std": float})


def _ours(group: Group) -> Iterator[dict[str, Any]]:
    key = group.key | {"source": "ours"}
    if not group.runs:
        yield from (key | {"n": 0, "metric": metric} for metric in METRICS)
    for metric, found in group.values.items():
        yield key | {"n": found["n"], "metric": metric, "mean": found["mean"], "std": found["std"]}
        for seed, value in found["seeds"].items():
            yield key | {"seed": int(seed), "n": 1, "metric": metric, "mean": value}
