"""Gating: an image whose score lies below a threshold shows no mask. What that removes, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ssn_core.metrics import NOT_AVAILABLE
from ssn_core.runs.profiles import older
from ssn_core.runs.result import RunResult
from ssn_core.study.labels import method_colour, method_label, pick
from ssn_core.study.style import bilingual, legend_below

RELATIVE, ABSOLUTE = "scaled per image > 0.5", "raw map > threshold"
GATES = ("no gate", "Youden (test)", "quantile (normal training)")


def gating(runs: Sequence[RunResult]) -> pd.DataFrame:
    """False positives on normal test images before and after gating by the image score, under two mask rules.

    ``scaled per image > 0.5`` is how the course report drew masks: every image gets one. ``raw map > threshold`` uses
    one threshold for all images. The gate's threshold is Youden's (chosen on the test set) or the quantile of normal
    training images. Pixels are "n/a" for a run that kept none, and a printed line says how to make it again.
    """
    for run in runs:
        if "marked" not in run.scores:
            print(older(run, "counts of marked pixels"))
    return pd.DataFrame([row for run in runs for row in _rows(run)])


def _rows(run: RunResult) -> list[dict[str, Any]]:
    youden, quantile = run.metrics["youden"]["score"], run.metrics["train_quantile"]["score"]
    thresholds = (-np.inf, None if youden == NOT_AVAILABLE else youden["threshold"], quantile)
    gates = {gate: value for gate, value in zip(GATES, thresholds, strict=True) if value is not None}
    named = {"method": method_label(run.config), "seed": str(run.config.seed)}
    return [
        named | {"mask": rule, "gate": gate} | _row(run, rule, threshold)
        for rule in (RELATIVE, ABSOLUTE)
        for gate, threshold in gates.items()
    ]


def _row(run: RunResult, rule: str, threshold: float) -> dict[str, Any]:
    scores = run.scores
    normal, passed = scores["label"] == 0, scores["score"] >= threshold
    # scaled to its own range every map has a maximum of 1
    marked = pd.Series(True, scores.index) if rule == RELATIVE else scores["map_score"] > run.pixel_threshold
    shown, column = marked & passed, "marked_scaled" if rule == RELATIVE else "marked"
    pixels = scores[column][normal & passed].sum() if column in scores else NOT_AVAILABLE
    return {
        "threshold": "" if threshold == -np.inf else f"{threshold:.4f}",
        "normal images": int(normal.sum()),
        "normal images with a mask": int((shown & normal).sum()),
        "defective images": int((~normal).sum()),
        "defective images without a mask": int((~shown & ~normal).sum()),
        "false positive pixels": pixels,
    }


@bilingual
def gating_bars(runs: Sequence[RunResult], language: str = "en") -> Figure:
    """Share of normal test images that show a mask, and of defective ones that show none, by gate, for both rules."""
    figure, axes = plt.subplots(1, 2, figsize=(6.3, 2.9), sharey=True)
    rules = {
        RELATIVE: pick(language, "map scaled per image > 0.5", "mappa scalata per immagine > 0.5"),
        ABSOLUTE: pick(language, "raw map > fixed threshold", "mappa grezza > soglia fissa"),
    }
    gates = [
        pick(language, "no gate", "nessun filtro"),
        pick(language, "Youden\n(test set)", "Youden\n(test)"),
        pick(language, "quantile\n(normal training)", "quantile\n(addestramento, senza difetti)"),
    ]
    width = 0.8 / len(runs)
    for ax, (rule, title) in zip(axes, rules.items(), strict=True):
        for j, run in enumerate(runs):
            mine = pd.DataFrame([row for row in _rows(run) if row["mask"] == rule]).set_index("gate")
            places = np.array([GATES.index(gate) for gate in mine.index]) + (j - (len(runs) - 1) / 2) * width
            alarms = mine["normal images with a mask"] / mine["normal images"]
            missed = mine["defective images without a mask"] / mine["defective images"]
            label = method_label(run.config, language)
            bars = ax.bar(places, alarms, 0.9 * width, color=method_colour(run.config), label=label)
            ax.bar_label(bars, mine["normal images with a mask"], fontsize=6, padding=1)
            ax.plot(places + 0.32 * width, missed, "v", color="white", mec="black", ms=4.5, zorder=4, clip_on=False)
        ax.set_xticks(range(len(gates)), gates)
        ax.set(title=title, ylim=(0, 1.08))
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel(pick(language, "share of images", "frazione di immagini"))
    label = pick(language, "defective images left without a mask", "immagini difettose rimaste senza maschera")
    axes[0].plot([], [], "v", color="white", mec="black", ls="", label=label)
    legend_below(figure, axes[0])
    return figure
