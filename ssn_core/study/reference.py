"""What others measured: the published runs and the course report, read from ``data/reference``."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ssn_core.data.datasets import EXPECTED
from ssn_core.errors import InputError
from ssn_core.metrics import METRICS
from ssn_core.runs.config import RunConfig
from ssn_core.runs.profiles import project_root
from ssn_core.study.run_values import LAST_EVALUATIONS

PUBLISHED_RUNS = 5  # behind every published mean and its sample standard deviation
NEAR_ONE = 0.05  # a loss at most so far from one counts as near one
#: supervision of the published run that corresponds to an experiment
_PUBLISHED = {
    ("mvtec", "baseline"): "unsupervised",
    ("ksdd2", "supervised"): "full",
    ("ksdd2", "unsupervised"): "unsupervised",
    ("ksdd2", "weak"): "weak",
}


@functools.cache
def reference(name: str, root: Path | None = None) -> pd.DataFrame:
    """A file of ``data/reference`` by its stem, see the README there; percentages become shares.

    ``root``: the checkout, by default this one. A file that is not there is an :class:`InputError`.
    """
    path = (root or project_root()) / "data" / "reference" / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path} is missing: results are compared with it; restore it from the repository")
    table = pd.read_csv(path, dtype={"table": str, "category": str}, keep_default_na=False, na_values=[""])
    if "unit" in table:
        table["value"] = table["value"].where(table["unit"] != "%", table["value"] / 100)
    return table


@functools.cache
def log_statistics(root: Path | None = None) -> pd.DataFrame:
    """The course report's log, a row per training and metric: the final test; the first and the least of the periodic
    evaluations; mean, least and greatest of the last ten of them; and the best one made while the loss lay near one."""
    rows = []
    log = reference("course_report_training_log", root)
    for (experiment, category), part in log.groupby(["experiment", "category"], sort=False):
        periodic, final = part[part["evaluation"] == "periodic"], part[part["evaluation"] == "final"].iloc[0]
        late = periodic.tail(LAST_EVALUATIONS)
        near_one = periodic[(periodic["last_shown_avg_loss"] - 1).abs() <= NEAR_ONE]
        for metric in METRICS:
            row = {"experiment": experiment, "category": category, "metric": metric, "final": final[metric]}
            row |= {"late_mean": late[metric].mean(), "late_min": late[metric].min(), "late_max": late[metric].max()}
            row |= {
                "first": periodic[metric].iloc[0],
                "least": periodic[metric].min(),
                "near_one": near_one[metric].max(),
            }
            rows.append(row | {"best": part[metric].max(), "loss": final["last_shown_avg_loss"]})
    return pd.DataFrame(rows)


def published(config: RunConfig) -> tuple[str, pd.DataFrame]:
    """Source and rows (metric, mean, std) of the published run to compare with on the same data; no rows: none.

    The paper is the one whose classification head reads the same features. MVTec AD: Wide-ResNet50, hence the
    baseline only. KolektorSDD2: the same supervision, and under mixed supervision the same number of masks.
    """
    source = "ICPR 2024" if config.cls_features == "adapted" else "JIMS 2025"
    frame = reference("supersimplenet_published")
    wanted: dict[str, Any] = {"source": source, "dataset": config.dataset, "category": config.category}
    wanted["supervision"] = _PUBLISHED.get((config.dataset, config.experiment), "")
    if config.masks is not None:
        wanted |= {"supervision": "mixed", "masks": config.masks}
    return source, frame[(frame[list(wanted)] == pd.Series(wanted)).all(axis=1)]


def course_report(config: RunConfig) -> dict[str, float]:
    """Metric -> the course report's value for a configuration: of its tables, else its training log, and mean and range
    of the log's last ten evaluations. Empty where it has none; its log names no data set."""
    name, tables, log = course_name(config), reference("course_report_tables"), log_statistics()
    found: dict[str, float] = {}
    if config.dataset in ("mvtec", "ksdd2"):
        for row in log[(log["experiment"] == name) & (log["category"] == config.category)].itertuples():
            found |= {row.metric: row.final, f"{row.metric} late mean": row.late_mean}
            found[f"{row.metric} late range"] = row.late_max - row.late_min
    of_data = (tables["dataset"] == config.dataset) & (tables["category"] == config.category)
    for row in tables[of_data & (tables["configuration"] == name)][::-1].itertuples():  # the first table has the say
        found[row.metric.removeprefix("ROC curve ")] = row.value
    return {metric: value for metric, value in found.items() if pd.notna(value)}


def values(config: RunConfig) -> Iterator[dict[str, Any]]:
    """What others give for a configuration's experiment and data, as rows of :func:`ssn_core.study.results.table`."""
    shared = {name: getattr(config, name) for name in ("experiment", "dataset", "category")}
    source, rows = published(config)
    named = shared | {"source": "published", "setting": source, "backbone": "wide_resnet50_2", "n": PUBLISHED_RUNS}
    yield from (named | {"metric": row.metric, "mean": row.mean, "std": row.std} for row in rows.itertuples())
    small = config.dataset == "mvtec" and config.experiment != "baseline"  # Table 8's rows are all of the large one
    named = shared | {"source": "course", "setting": "" if config.beta is None else f"β = {config.beta}", "n": 1}
    named["backbone"] = "resnet18" if small else "wide_resnet50_2"
    yield from (named | {"metric": metric, "mean": value} for metric, value in course_report(config).items())


def periodic(experiment: str) -> pd.DataFrame:
    """The evaluations during one training of the course report's log, by its name there."""
    log = reference("course_report_training_log")
    return log[(log["experiment"] == experiment) & (log["evaluation"] == "periodic")]


def course_log(config: RunConfig) -> pd.DataFrame | None:
    """The course report's training log of a configuration, or None; ``step`` is added (batches of 32 images)."""
    expected = EXPECTED.get((config.dataset, config.category))
    if config.dataset != "mvtec" or expected is None:
        return None
    log = reference("course_report_training_log")
    rows = log[(log["experiment"] == course_name(config)) & (log["category"] == config.category)]
    return None if rows.empty else rows.assign(step=rows["epoch"] * math.ceil(expected.train / 32))


def course_name(config: RunConfig) -> str:
    """How the course report's files call an experiment. Its learned noise was trained by the published rule."""
    base = config.experiment.removesuffix("_as_published")
    if base in ("learned_noise_v1", "learned_noise_v2", "weak_gap_cam"):
        bound = f"_beta{config.beta:g}" if base == "learned_noise_v2" else ""
        return base + bound if base != config.experiment else ""
    return {"supervised": "supersimplenet_full"}.get(config.experiment, config.experiment)
