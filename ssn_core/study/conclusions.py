"""What the results say, in words: each function returns the sentences that answer a notebook's question.

A difference is called one where the 95 % interval of :mod:`ssn_core.study.differences` leaves zero out; else the
question is open, and what was not run names its command.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ssn_core.metrics import NOT_AVAILABLE
from ssn_core.runs.profiles import NotRun
from ssn_core.runs.result import RunResult
from ssn_core.study import reference, tables
from ssn_core.study.differences import Sample, difference, place
from ssn_core.study.labels import BACKBONES, data_label, experiment_label, method_label
from ssn_core.study.tables import Outcome, finished

Contrast = tuple[Sequence[Outcome], Sequence[Outcome], str]


def contrasts(pairs: Iterable[Contrast]) -> list[str]:
    """Sentences for (left, right, metric): for every data set that both sides are about, by how much the left side is
    higher or lower. Over seeds that both share the interval is that of the differences seed by seed. Last, once, the
    commands of what is missing."""
    sentences, commands = [], {}
    for left, right, metric in pairs:
        for data in dict.fromkeys(data_label(outcome.config) for outcome in left):
            sides = [[o for o in side if data_label(o.config) == data] for side in (left, right)]
            if all(sides):
                sentences.append(f"{data}, {metric}: {_contrast(*sides, metric)}.")
                commands |= {o.command: None for side in sides for o in side if isinstance(o, NotRun)}
    return sentences + ([f"Not run: {', '.join(f'`{c}`' for c in commands)}."] if commands else [])


def _contrast(left: list[Outcome], right: list[Outcome], metric: str) -> str:
    names = [method_label(side[0].config) for side in (left, right)]
    done = [finished(side) for side in (left, right)]
    if not all(done):
        missing = " and ".join(name for name, runs in zip(names, done, strict=True) if not runs)
        return f"{' against '.join(names)}: open, {missing} not run here{_reported(left, right, metric)}"
    samples = [_sample(runs, metric) for runs in done]
    if None in samples:
        return f"{' against '.join(names)}: {NOT_AVAILABLE}, no image decides it"
    shown = " against ".join(f"{name} {_text(sample)}" for name, sample in zip(names, samples, strict=True))
    if (found := difference(*samples, paired=True)) is None:
        return f"{shown}: open, one seed has no spread"
    interval = f"95 % interval {found.low:+.3f} to {found.high:+.3f}"
    word = {"more": "higher", "less": "lower"}.get(place(found, 0.0))
    return f"{shown}: {word} by {abs(found.value):.3f} ({interval})" if word else f"{shown}: open, {interval}"


def _reported(left: list[Outcome], right: list[Outcome], metric: str) -> str:
    """What the course report has of both sides, if it has."""
    theirs = [reference.course_report(side[0].config, metric) for side in (left, right)]
    return "" if None in theirs else "; the course report has {:.3f} against {:.3f}".format(*(v for v, _ in theirs))


def _sample(runs: Sequence[RunResult], metric: str) -> Sample | None:
    """Mean over the seeds; None where the metric is not defined."""
    seeds = {str(run.config.seed): run.metrics[metric] for run in runs}
    if NOT_AVAILABLE in seeds.values():
        return None
    values = list(seeds.values())
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Sample(value=float(np.mean(values)), std=spread, n=len(values), seeds=seeds)


def _text(sample: Sample) -> str:
    spread = "" if sample.std is None else f" ± {sample.std:.3f}"
    return f"{sample.value:.3f}{spread} (n = {sample.n})"


def reproduction(outcomes: Sequence[Outcome], metric: str = "AUPRO") -> list[str]:
    """Does the baseline come out as published? The course report's value in deviations of the published runs, and ours
    beside it."""
    sentences = []
    for config in dict.fromkeys(outcome.config.replace(seed=0) for outcome in outcomes):
        theirs, course = reference.published(config, metric), reference.course_report(config, metric)
        own = tables.select(outcomes, category=config.category)
        parts = []
        if theirs is not None and course is not None:
            away = (course[0] - theirs[0]) / theirs[1]
            parts.append(
                f"the course report's {course[0]:.3f} lies {abs(away):.1f} standard deviations "
                f"{'above' if away > 0 else 'below'} the published {theirs[0]:.3f} ± {theirs[1]:.3f}"
            )
        sample = _sample(finished(own), metric) if finished(own) else None
        parts.append(f"ours is {_text(sample)}" if sample else f"ours is not run (`{own[0].command}`)")
        sentences.append(f"{data_label(config)}, {metric}: {'; '.join(parts)}.")
    return sentences


def selection(runs: Sequence[RunResult]) -> list[str]:
    """Which bound held-out training images choose, and what that costs against a choice by the test set."""
    if not runs:
        return ["No bound is chosen: no run of the sweep is finished."]
    chosen = tables.beta_selection(runs)
    return [
        f"By {row['metric']}, held-out training images choose β = {row['chosen_beta']} "
        f"({row['test_of_chosen']} on the test set) and the test set itself would have chosen "
        f"β = {row['oracle_beta']} ({row['test_of_oracle']}); choosing without it costs {row['lost']} "
        f"(mean over {len({run.config.seed for run in runs})} seed(s), bounds {row['bounds']})."
        for _, row in chosen[chosen["seed"] == "mean"].iterrows()
    ]


def efficiency(table: pd.DataFrame) -> list[str]:
    """How much faster the folded form is than the plain one, and the small backbone than the large one, at batch 1."""
    rows = table[table["measurement"] == "latency_batch1"].set_index(["experiment", "backbone", "variant"])
    sentences = []
    for (experiment, backbone, _), row in rows[rows.index.get_level_values("variant") == "fold"].iterrows():
        name = f"{experiment_label(experiment)}, {BACKBONES[backbone]}"
        times = f"{row['ratio_to_plain']:.2f} times faster than the plain one"
        sentences.append(f"{name}: the fast form takes {row['value']:.3g} ms and is {times}.")
    return sentences
