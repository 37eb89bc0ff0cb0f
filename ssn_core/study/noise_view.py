"""Gaussian against learned noise on one feature map (figure 13), as the end of a learned-noise run kept it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssn_core.runs.profiles import older
from ssn_core.runs.result import RunResult
from ssn_core.study.labels import data_label, pick
from ssn_core.study.run_values import constant_share
from ssn_core.study.style import bilingual


@bilingual
def noise_fields(runs: Sequence[RunResult], language: str = "en") -> Figure | None:
    """Features and mask, then either noise of the same RMS, over all channels and in one of them; of the first run.
    Where that kept no noise a printed line says how to make it again."""
    run = runs[0]
    if run.noise is None:
        return print(older(run, "noise field"))
    figure, axes = plt.subplots(2, 4, figsize=(6.3, 3.4), width_ratios=[1.15, 1, 1, 1])
    field = {name: values.astype(float) for name, values in run.noise.items() if name != "image"}
    shown = axes[0, 0].imshow(field["features"], cmap="viridis")
    axes[0, 0].set_title(
        pick(language, "adapted features A\n(RMS over channels)", "feature adattate A\n(RMS sui canali)")
    )
    _bar(shown, axes[0, 0])
    axes[1, 0].imshow(field["mask"], cmap="gray")
    axes[1, 0].set_title(pick(language, "Perlin mask M", "maschera di Perlin M"))
    labels = pick(language, "Gaussian", "gaussiano"), pick(language, "learned", "appreso")
    top, limit = field["rms"].max(), np.abs(field["channel"]).max()
    for i, (row, label, rms, channel) in enumerate(zip(axes, labels, field["rms"], field["channel"], strict=True)):
        _bar(row[1].imshow(rms, cmap="viridis", vmin=0, vmax=top), row[1])
        row[1].set_title(f"{label}:\nRMS(M·ε)")
        _bar(row[2].imshow(channel, cmap="RdBu_r", vmin=-limit, vmax=limit), row[2])
        constant = f"{100 * constant_share(run.noise, i):.0f} %"
        texts = f"one channel of\nM·ε: {constant} constant", f"un canale di\nM·ε: costante per il {constant}"
        row[2].set_title(f"{label}, {pick(language, *texts)}")
        _scatter(row[3], field["features"], rms, field["mask"] > 0)
    for ax in axes[:, :3].ravel():
        ax.set_axis_off()
        ax.title.set_fontsize(7)
    steps = run.info["steps"]
    text = pick(language, f"after {steps} steps of training", f"dopo {steps} passi di addestramento")
    figure.suptitle(f"{data_label(run.config, language)}, {text}", fontsize=7.5)
    return figure


def _bar(shown: Any, ax: Axes) -> None:
    ax.figure.colorbar(shown, ax=ax, shrink=0.8).ax.tick_params(labelsize=6)


def _scatter(ax: Axes, features: np.ndarray, rms: np.ndarray, mask: np.ndarray) -> None:
    """Does the noise follow the features? Its RMS against theirs, position by position."""
    ax.plot(features[mask], rms[mask], ".", ms=1.5, color="#0072B2")
    ax.set(ylim=(0, None))
    ax.tick_params(labelsize=6)
    ax.set_xlabel("RMS(A)", fontsize=6.5)
    ax.set_ylabel("RMS(ε)", fontsize=6.5)
