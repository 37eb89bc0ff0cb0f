"""What a mask is worth: the map's metrics by the share of defective training images whose outline is known."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ssn_core.runs.result import RunResult
from ssn_core.study.labels import data_label, experiment_label, method_colour, pick
from ssn_core.study.reference import reference
from ssn_core.study.results import groups
from ssn_core.study.style import PUBLISHED, bilingual, legend_below

LADDER = ("weak", "mixed", "supervised")  # no mask, some, all: one network and one loss
_METRICS = ("AP-loc", "AUPRO")
_SHARES = (0, 6, 12, 25, 50, 100)


@bilingual
def mask_curve(runs: Sequence[RunResult], references: bool = True, language: str = "en") -> Figure:
    """Every seed (dots) and the mean over the seeds (line) of our ladder from labels to masks, other methods that see
    labels alone at zero, and with ``references`` what SuperSimpleNet's authors published for KolektorSDD2
    (Wide-ResNet50)."""
    figure, axes = plt.subplots(1, len(_METRICS), figsize=(6.3, 2.9))
    found = groups(runs)
    ladder = sorted((g for g in found if g.config.experiment in LADDER), key=lambda g: _share(g.runs[0]))
    for ax, metric in zip(axes, _METRICS, strict=True):
        if ladder:
            shares, means = zip(*((_share(g.runs[0]), g.values[metric]["mean"]) for g in ladder), strict=True)
            ax.plot(shares, means, color=method_colour(ladder[-1].config), label=data_label(ladder[0].config, language))
        for group in found:
            values = list(group.values[metric]["seeds"].values())
            look = {"color": method_colour(group.config), "ms": 4, "clip_on": False, "zorder": 3}
            label = None if group in ladder else experiment_label(group.config.experiment, language)
            ax.plot([_share(group.runs[0])] * len(values), values, "o", **look, label=label)
        if references:
            theirs, name = _published(metric), pick(language, "KolektorSDD2, published", "KolektorSDD2, pubblicato")
            ax.plot(theirs.index, theirs, "D--", color=PUBLISHED, mfc="white", lw=1, ms=4, label=name)
        ax.set_xscale("function", functions=(np.sqrt, np.square))  # the first masks are worth the most
        ax.set_xticks(_SHARES, [f"{share} %" for share in _SHARES])
        ax.set(title=metric, xlim=(0, 100))
        ax.set_xlabel(pick(language, "defective images with a mask", "immagini difettose con maschera"))
    legend_below(figure, axes[0])
    return figure


def _share(run: RunResult) -> float:
    """Of the defective training images, in per cent."""
    config = run.config
    if config.supervision == "weak":
        return 0.0
    return 100.0 if config.masks is None else 100 * config.masks / run.info["data"]["train_defective"]


def _published(metric: str) -> pd.Series:
    frame = reference("supersimplenet_published")
    mixed = frame[(frame["category"] == "ksdd2") & (frame["supervision"] == "mixed") & (frame["metric"] == metric)]
    return mixed.set_index(100 * mixed["masks"] / mixed["masks"].max())["mean"].sort_index()
