"""What others measured: the published runs and the course report, read from ``data/reference``."""

from __future__ import annotations

import functools
import math

import pandas as pd

from ssn_core.data.datasets import EXPECTED
from ssn_core.runs.config import RunConfig
from ssn_core.runs.profiles import project_root

#: supervision and number of masks of the published KolektorSDD2 run that corresponds to an experiment
_PUBLISHED_KSDD2: dict[str, tuple[str, float | None]] = {
    "supervised": ("full", 246),
    "unsupervised": ("unsupervised", None),
    "weak_gap_cam": ("weak", 0),
}


@functools.cache
def reference(name: str) -> pd.DataFrame:
    """A file of ``data/reference`` by its stem, see the README there."""
    return pd.read_csv(project_root() / "data" / "reference" / f"{name}.csv")


def published(config: RunConfig, metric: str) -> tuple[float, float, str] | None:
    """Mean, standard deviation and source of the published run to compare with on the same data, or None.

    The paper is the one whose classification head reads the same features. MVTec AD: Wide-ResNet50, hence the
    baseline only. KolektorSDD2: the same supervision; GAP+CAM stands beside SuperSimpleNet trained from image labels,
    since nobody else published GAP+CAM.
    """
    if config.experiment == "baseline" and config.dataset == "mvtec":
        supervision, masks = "unsupervised", None
    elif config.dataset == "ksdd2" and config.experiment in _PUBLISHED_KSDD2:
        supervision, masks = _PUBLISHED_KSDD2[config.experiment]
    else:
        return None
    source = "ICPR 2024" if config.cls_features == "adapted" and config.method != "gap_cam" else "JIMS 2025"
    frame = reference("supersimplenet_published")
    rows = frame[
        (frame["source"] == source)
        & (frame["dataset"] == config.dataset)
        & (frame["category"] == config.category)
        & (frame["supervision"] == supervision)
        & (frame["metric"] == metric)
        & (frame["masks"].isna() if masks is None else frame["masks"] == masks)
    ]
    if rows.empty:
        return None
    row = rows.iloc[0]
    if config.method == "gap_cam":
        source += " (SuperSimpleNet's own weak supervision)"
    return float(row["mean"]), float(row["std"]), source


def course_report(config: RunConfig, metric: str) -> tuple[float, str] | None:
    """The course report's value for a configuration and where it stands, or None: its tables, else its training log."""
    name = _course_name(config)
    tables, log = reference("course_report_tables"), reference("course_report_training_log")
    rows = tables[
        (tables["configuration"] == name)
        & (tables["dataset"] == config.dataset)
        & (tables["category"] == config.category)
        & tables["metric"].isin([metric, f"ROC curve {metric}"])
    ]
    if not rows.empty:
        row = rows.iloc[0]
        return float(row["value"]) / (100 if row["unit"] == "%" else 1), f"Table {row['table']}"
    final = log[(log["experiment"] == name) & (log["category"] == config.category) & (log["evaluation"] == "final")]
    if final.empty or metric not in final or config.dataset not in ("mvtec", "ksdd2"):
        return None
    return float(final.iloc[0][metric]), "training log"


def course_log(config: RunConfig) -> pd.DataFrame | None:
    """The course report's training log of a configuration, or None; ``step`` is added (batches of 32 images)."""
    expected = EXPECTED.get((config.dataset, config.category))
    if config.dataset != "mvtec" or expected is None:
        return None
    log = reference("course_report_training_log")
    rows = log[(log["experiment"] == _course_name(config)) & (log["category"] == config.category)]
    return None if rows.empty else rows.assign(step=rows["epoch"] * math.ceil(expected.train / 32))


def _course_name(config: RunConfig) -> str:
    """How the course report's files call an experiment. Its learned noise was trained by the published rule."""
    if config.experiment.startswith("learned_noise_v1"):
        return "learned_noise_v1" if config.experiment.endswith("as_published") else ""
    if config.experiment in ("learned_noise_v2", "learned_noise_v2_as_published"):
        return f"learned_noise_v2_beta{config.beta:g}" if config.experiment.endswith("as_published") else ""
    if config.experiment.startswith("weak_gap_cam"):
        return "weak_gap_cam" if config.experiment.endswith("as_published") else ""
    return {"supervised": "supersimplenet_full"}.get(config.experiment, config.experiment)


def sweep_log(beta: float) -> pd.DataFrame:
    """The course report's training log of learned noise v2 with a bound; no rows for a bound it did not try."""
    log = reference("course_report_training_log")
    return log[log["experiment"] == f"learned_noise_v2_beta{beta:g}"]
