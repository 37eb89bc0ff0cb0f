"""Gating: an image whose score lies below a threshold shows no mask. What that removes, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from ssn_core.data.datasets import Dataset
from ssn_core.fast.inference import fold
from ssn_core.metrics import NOT_AVAILABLE
from ssn_core.runs.evaluation import predict_features
from ssn_core.runs.features import extract
from ssn_core.runs.result import MODEL, RunResult
from ssn_core.runs.store import load_model
from ssn_core.study.labels import method_colour, method_label, pick
from ssn_core.study.panels import pixel_threshold
from ssn_core.study.style import legend_below

RELATIVE, ABSOLUTE = "scaled per image > 0.5", "raw map > threshold"
GATES = ("no gate", "Youden (test)", "quantile (normal training)")


@dataclass(frozen=True)
class Masks:
    """Per test image (n,): marked pixels under both rules, or None where maps cannot be had; labels; image scores."""

    labels: np.ndarray
    scores: np.ndarray
    marked: dict[str, np.ndarray]
    pixels: dict[str, np.ndarray] | None

    @classmethod
    def of(cls, run: RunResult, dataset: Dataset | None) -> Masks:
        """Whether an image is marked at all follows from its scores; how many pixels needs its map, hence the weights
        and the data set."""
        labels, scores = run.scores["label"].to_numpy(), run.scores["score"].to_numpy()
        threshold = pixel_threshold(run)
        above = run.scores["map_score"].to_numpy() > threshold
        marked = {RELATIVE: np.ones(len(labels), bool), ABSOLUTE: above}  # the scaled maximum is 1 in every image
        if dataset is None or not (run.path / MODEL).is_file():
            return cls(labels, scores, marked, None)
        maps = test_maps(run, dataset)
        low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
        relative = (maps - low) > 0.5 * (high - low)
        pixels = {RELATIVE: relative.sum((1, 2)), ABSOLUTE: (maps > threshold).sum((1, 2))}
        return cls(labels, scores, marked, pixels)


def test_maps(run: RunResult, dataset: Dataset) -> np.ndarray:
    """Anomaly maps (n, H, W) float32 of the whole test split, in the order of scores.csv, from the saved weights."""
    model = load_model(run.path)
    device = torch.device("cpu")
    features = extract(model.trunk, [(s, 0) for s in dataset.test], run.config.image_size, device, lambda text: None)
    return predict_features(fold(model), features, device).maps


def gating(run: RunResult, dataset: Dataset | None) -> pd.DataFrame:
    """False positives on normal test images before and after gating by the image score, under two mask rules.

    ``scaled per image > 0.5`` is how the course report drew masks: every image gets one. ``raw map > threshold`` uses
    one threshold for all images. The gate's threshold is Youden's (chosen on the test set) or the quantile of normal
    training images. Pixels are "n/a" where weights or data are not at hand.
    """
    masks = Masks.of(run, dataset)
    youden = run.metrics["youden"]["score"]
    gates = dict(zip(GATES, (-np.inf, _threshold(youden), run.metrics["train_quantile"]["score"]), strict=True))
    rows = []
    for rule in (RELATIVE, ABSOLUTE):
        for gate, threshold in gates.items():
            if threshold == NOT_AVAILABLE:
                continue
            rows.append({"method": method_label(run.config), "mask": rule, "gate": gate} | _row(masks, rule, threshold))
    return pd.DataFrame(rows)


def _threshold(youden: dict[str, float] | str) -> float | str:
    return youden if isinstance(youden, str) else youden["threshold"]


def _row(masks: Masks, rule: str, threshold: float) -> dict[str, str]:
    normal, passed = masks.labels == 0, masks.scores >= threshold
    shown = masks.marked[rule] & passed
    cells = {
        "threshold": "" if threshold == -np.inf else f"{threshold:.4f}",
        "normal_images": str(normal.sum()),
        "normal_with_mask": str((shown & normal).sum()),
        "defective_images": str((~normal).sum()),
        "defective_without_mask": str((~shown & ~normal).sum()),
        "false_positive_pixels": NOT_AVAILABLE,
    }
    if masks.pixels is not None:
        cells["false_positive_pixels"] = str(int(masks.pixels[rule][normal & passed].sum()))
    return cells


def gating_bars(runs: Sequence[RunResult], frame: pd.DataFrame, language: str = "en") -> Figure:
    """Share of normal test images that show a mask, and of defective ones that show none, by gate, for both rules."""
    figure, axes = plt.subplots(1, 2, figsize=(6.3, 2.9), sharey=True)
    rules = {
        RELATIVE: pick(language, "map scaled per image > 0.5", "mappa scalata per immagine > 0.5"),
        ABSOLUTE: pick(language, "raw map > fixed threshold", "mappa grezza > soglia fissa"),
    }
    gates = [
        pick(language, "no gate", "nessun filtro"),
        pick(language, "Youden\n(test set)", "Youden\n(test)"),
        pick(language, "quantile\n(normal training)", "quantile\n(training normale)"),
    ]
    width = 0.8 / len(runs)
    for ax, (rule, title) in zip(axes, rules.items(), strict=True):
        for j, run in enumerate(runs):
            mine = frame[(frame["method"] == method_label(run.config)) & (frame["mask"] == rule)].set_index("gate")
            places = np.array([GATES.index(gate) for gate in mine.index]) + (j - (len(runs) - 1) / 2) * width
            alarms = mine["normal_with_mask"].astype(int) / mine["normal_images"].astype(int)
            missed = mine["defective_without_mask"].astype(int) / mine["defective_images"].astype(int)
            label = method_label(run.config, language)
            bars = ax.bar(places, alarms, 0.9 * width, color=method_colour(run.config), label=label)
            ax.bar_label(bars, mine["normal_with_mask"], fontsize=6, padding=1)
            ax.plot(places + 0.32 * width, missed, "v", color="white", mec="black", ms=4.5, zorder=4, clip_on=False)
        ax.set_xticks(range(len(gates)), gates)
        ax.set(title=title, ylim=(0, 1.08))
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel(pick(language, "share of images", "frazione di immagini"))
    label = pick(language, "defective images left without a mask", "immagini difettose rimaste senza maschera")
    axes[0].plot([], [], "v", color="white", mec="black", ls="", label=label)
    legend_below(figure, axes[0])
    return figure
