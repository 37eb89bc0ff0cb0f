"""Every number of a finished run that a table, a sentence or a claim may want."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from ssn_core.metrics import METRICS
from ssn_core.runs.result import RunResult
from ssn_core.study.trend import rise

LAST_EVALUATIONS = 10


def run_values(result: RunResult) -> dict[str, float]:
    """The numbers of a run by name; what is not defined is left out."""
    metrics, history = result.metrics, result.history
    values: dict[str, Any] = {name: metrics[name] for name in METRICS}
    values |= {name: value for name, value in metrics.items() if name.startswith(("top-", "validation "))}
    values |= {"parameters": metrics["parameters"], "diverged": float(result.info["status"] == "diverged")}
    if len(history):  # a training that broke down in its first epoch has none
        values |= {"loss-first": history["loss"].iloc[0], "loss-last": history["loss"].iloc[-1]}
        values |= {"loss-least": history["loss"].min(), "loss-largest": history["loss"].max()}
        values |= {"noise-rms": history["noise_rms"].mean()}
        values |= {"noise-rms-first": history["noise_rms"].iloc[0], "noise-rms-last": history["noise_rms"].iloc[-1]}
    values["noise-constant"] = constant_share(result.noise) if result.noise is not None else None
    sigma, scale = result.info["noise"]["std"], result.info["noise"]["feature_std"]
    values["feature-std"] = scale
    values["noise-to-features"] = sigma / scale if sigma and scale else None
    values |= {f"brightness {name}": value for name, value in result.info["data"].get("brightness", {}).items()}
    values |= _late(history) | _operating_points(result) | _on_logits(metrics)
    if result.config.method == "memory":  # it is filled and not trained, so nothing can still have risen
        values |= {f"{name} rise": 0.0 for name in METRICS}
    numbers = {name: float(v) for name, v in values.items() if isinstance(v, (int, float, np.number))}
    return {name: v for name, v in numbers.items() if math.isfinite(v)}


def constant_share(noise: Mapping[str, np.ndarray], row: int = 1) -> float:
    """Share of the mean square of the learned noise (``row`` 0: of the Gaussian beside it) that is the square of its
    mean, inside the mask and in the channel that the run kept. 1 is the same offset at every position."""
    values = noise["channel"][row][noise["mask"]].astype(float)
    return values.mean() ** 2 / np.square(values).mean()


def _late(history: pd.DataFrame) -> dict[str, float | None]:
    """What the last evaluations of one training say of a single final value."""
    values: dict[str, float | None] = {}
    seen = history.set_index("epoch")[list(METRICS)].apply(pd.to_numeric, errors="coerce").dropna(how="all")
    last = seen.tail(LAST_EVALUATIONS)
    # a map that still learns may be stuck in one metric while another rises: AP-loc near zero is no end
    for names in (METRICS[:1], METRICS[1:2], METRICS[2:]):
        known = [found for name in names if (found := rise(seen[name])) is not None]
        values |= {f"{name} rise": max(known, default=None) for name in names}
    for name in METRICS:
        if len(last) == LAST_EVALUATIONS:
            values |= {f"{name} late mean": last[name].mean(), f"{name} late range": np.ptp(last[name])}
    return values


def as_published(scores: pd.DataFrame, threshold: float) -> tuple[pd.DataFrame, float]:
    """Both scores of every test image on the scales that the published code prints them on, and ``threshold``, a logit
    of the image score, on the image score's.

    Its ``test`` stretches sigmoid(image score) and the map's maximum to [0, 1] over the test set, each by itself, so
    that a threshold of one *can* be held against the other (erratum 5); raw logits have ranges of their own.
    """
    printed = pd.DataFrame({"score": expit(scores["score"]), "map_score": scores["map_score"]})
    low, span = printed.min(), printed.max() - printed.min()
    return (printed - low) / span, float((expit(threshold) - low["score"]) / span["score"])


def _on_logits(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Pixel metrics of the same maps without the sigmoid, where the run ranked its pixels by it, and the share of the
    AP-loc that it takes away (erratum 12)."""
    values = {f"{name} on logits": value for name, value in metrics.get("on_logits", {}).items()}
    logits, own = values.get("AP-loc on logits"), metrics["AP-loc"]
    if isinstance(logits, float) and isinstance(own, float) and logits > 0:
        values["AP-loc lost to the sigmoid"] = 1 - own / logits
    return values


def _operating_points(result: RunResult) -> dict[str, Any]:
    """TPR and FPR at Youden's threshold, chosen on the test set, and at the quantile of normal training images.

    ``fused-I-AUROC``: of the score that is further above its quantile; what fuses them is fixed on normal images.
    ``crossed``: the map score held against Youden's threshold of the image score, both on the scales that the published
    code prints (erratum 5).
    """
    values: dict[str, Any] = {}
    normal = result.scores["label"] == 0
    youden, quantile = result.metrics["youden"], result.metrics["train_quantile"]
    if normal.all() or not normal.any() or "n/a" in youden.values():
        return values
    for name, column in (("", "score"), ("map ", "map_score")):
        values |= {f"{name}Youden TPR": youden[column]["tpr"], f"{name}Youden FPR": youden[column]["fpr"]}
        alarm = result.scores[column] > quantile[column]
        values |= {f"{name}quantile TPR": alarm[~normal].mean(), f"{name}quantile FPR": alarm[normal].mean()}
    values["Youden threshold (logit)"] = youden["score"]["threshold"]
    for rule in ("Youden", "quantile"):
        values[f"{rule} J"] = values[f"{rule} TPR"] - values[f"{rule} FPR"]
    beyond = [result.scores[column] - quantile[column] for column in ("score", "map_score")]
    values["fused-I-AUROC"] = roc_auc_score(~normal, np.maximum(*beyond))
    if (result.scores["score"] == result.scores["map_score"]).all():  # a method with one score has none to cross
        return values
    printed, threshold = as_published(result.scores, youden["score"]["threshold"])
    alarm = printed["map_score"] >= threshold
    return values | {"crossed TPR": alarm[~normal].mean(), "crossed FPR": alarm[normal].mean()}
