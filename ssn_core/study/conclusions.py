"""What the results say, in words: each function returns the sentences that answer a notebook's question.

A difference is called one where the 95 % interval of :mod:`ssn_core.study.differences` leaves zero out and the side
behind was not still rising (:mod:`ssn_core.study.trend`); else the question is open, and what was not run names its
command.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pandas as pd

from ssn_core.metrics import METRICS, NOT_AVAILABLE
from ssn_core.runs.result import RunResult
from ssn_core.study import reference, tables
from ssn_core.study.differences import Sample, difference, open_ended, place
from ssn_core.study.labels import BACKBONES, data_label, experiment_label, method_label
from ssn_core.study.results import Group, Outcome, groups

_ORDER = {"more": "higher", "less": "lower"}


def contrasts(pairs: Iterable[tuple[Sequence[Outcome], Sequence[Outcome], str]]) -> list[str]:
    """Sentences for (left, right, metric): for every data set that both sides are about, by how much the left side is
    higher or lower. Where all else is equal the interval is that of the differences seed by seed. Last, once, the
    command of the first that is missing of each method."""
    sentences, commands = [], {}
    for left, right, metric in pairs:
        for sides in itertools.product(groups(left), groups(right)):
            names = {data_label(side.config) for side in sides}
            if len(names) == 1:
                sentences.append(f"{names.pop()}, {metric}: {_contrast(*sides, metric)}.")
                commands |= {side.absent[0].command: len(side.absent) for side in sides if side.absent}
    shown = [f"`{command}`" + (f" (and {n - 1} more)" if n > 1 else "") for command, n in commands.items()]
    return sentences + ([f"Not run: {', '.join(shown)}."] if shown else [])


def _contrast(left: Group, right: Group, metric: str) -> str:
    names = [method_label(side.config) for side in (left, right)]
    if not (left.runs and right.runs):
        missing = " and ".join(method_label(side.config) for side in (left, right) if not side.runs)
        return f"{' against '.join(names)}: open, {missing} not run here{_reported(left, right, metric)}"
    samples = [side.sample(metric) for side in (left, right)]
    if None in samples:
        return f"{' against '.join(names)}: {NOT_AVAILABLE}, the metric is not defined there"
    shown = " against ".join(f"{name} {_text(sample)}" for name, sample in zip(names, samples, strict=True))
    if (found := difference(*samples, paired=left.pairs_with(right))) is None:
        return f"{shown}: open, one seed has no spread"
    if metric in METRICS and any(sample.rise is None for sample in samples):
        return f"{shown}: open, too few evaluations to tell whether it had settled"
    interval = f"95 % interval {found.low:+.3f} to {found.high:+.3f}"
    known = open_ended(found, *samples)
    so_far, word = (_ORDER.get(place(each, 0.0)) for each in (found, known))
    if word:
        return f"{shown}: {word} by {abs(found.value):.3f} ({interval})"
    if max(abs(known.low), abs(known.high)) < 0.0005:
        return f"{shown}: no difference to three decimals"
    behind = f"{names[found.value > 0]} still rising when training ended; " if so_far else ""
    return f"{shown}: open, {behind}{interval}"


def _reported(left: Group, right: Group, metric: str) -> str:
    """What the course report has of both sides, if it has."""
    theirs = [reference.course_report(side.config).get(metric) for side in (left, right)]
    return "" if None in theirs else "; the course report has {:.3f} against {:.3f}".format(*theirs)


def _text(sample: Sample) -> str:
    spread = "" if sample.std is None else f" ± {sample.std:.3f}"
    return f"{sample.value:.3f}{spread} (n = {sample.n})"


def reproduction(outcomes: Sequence[Outcome], metric: str = "AUPRO") -> list[str]:
    """Does the baseline come out as published? The course report's value in deviations of the published runs, and ours
    beside it."""
    sentences = []
    for group in groups(outcomes):
        theirs = {row["source"]: row for row in reference.values(group.config) if row["metric"] == metric}
        parts = []
        if (published := theirs.get("published")) and (course := theirs.get("course")):
            mean, spread = published["mean"], published["std"]
            away = (course["mean"] - mean) / spread
            parts.append(
                f"the course report's {course['mean']:.3f} lies {abs(away):.1f} standard deviations "
                f"{'above' if away > 0 else 'below'} the published {mean:.3f} ± {spread:.3f} (n = {published['n']})"
            )
        sample, command = group.sample(metric), getattr(group.outcomes[0], "command", "")
        parts.append(f"ours is {_text(sample)}" if sample else f"ours is not run (`{command}`)")
        sentences.append(f"{data_label(group.config)}, {metric}: {'; '.join(parts)}.")
    return sentences


def selection(runs: Sequence[RunResult]) -> list[str]:
    """Which bound held-out training images choose, and what that costs against a choice by the test set."""
    bounds = sorted({run.config.beta for run in runs})
    if len(bounds) < 2:
        made = f"only β = {bounds[0]:g} was run" if bounds else "no run of the sweep is finished"
        return [f"No bound is chosen: {made}."]
    chosen = tables.beta_selection(runs)
    return [
        f"By {row['metric']}, held-out training images choose β = {row['chosen_beta']} "
        f"({row['test_of_chosen']} on the test set) and the test set itself would have chosen "
        f"β = {row['oracle_beta']} ({row['test_of_oracle']}); choosing without it costs {row['lost']} "
        f"(mean over {len({run.config.seed for run in runs})} seed(s), bounds {row['bounds']})."
        for _, row in chosen[chosen["seed"] == "mean"].iterrows()
    ]


def efficiency(table: pd.DataFrame) -> list[str]:
    """How much faster than the plain form the folded one is, network by network, at batch 1."""
    rows = table[(table["measurement"] == "latency_batch1") & (table["variant"] == "fold")]
    return [
        f"{experiment_label(row.experiment)}, {BACKBONES[row.backbone]}: the fast form takes {row.value:.3g} ms "
        f"and is {row.ratio_to_plain:.2f} times faster than the plain one."
        for row in rows.itertuples()
    ]
