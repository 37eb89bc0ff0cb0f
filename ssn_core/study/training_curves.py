"""Figures over the training: metrics against steps, convergence, the noise and its generator."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssn_core.models.names import FIXED_NOISES
from ssn_core.runs.result import RunResult
from ssn_core.study import reference, tables
from ssn_core.study.labels import METHOD_COLOURS, method_colour, method_label, pick
from ssn_core.study.results import Outcome
from ssn_core.study.style import PUBLISHED, bilingual, legend_below

_LEARNED = ("I-AUROC", "seg-I-AUROC", "AUPRO")  # metrics shown over the training


@bilingual
def learning(outcomes: Sequence[Outcome], language: str = "en") -> Figure | None:
    """Test metrics against optimiser steps, one row per category: ours where evaluated during training, and the course
    report's training log (thin; its steps are epochs times batches of 32). No point but the last is a result. None
    where neither a log nor an evaluated history exists."""
    outcomes = [o for o in outcomes if _has_learning(outcomes, o.config.category)]
    if not outcomes:
        return None
    categories = list(dict.fromkeys(o.config.category for o in outcomes))
    size = (6.3, 1.0 + 1.45 * len(categories))
    figure, axes = plt.subplots(len(categories), len(_LEARNED), figsize=size, sharex=True, sharey=True, squeeze=False)
    for row, category in zip(axes, categories, strict=True):
        of_category = tables.select(outcomes, category=category)
        for ax, metric in zip(row, _LEARNED, strict=True):
            for config in {method_label(o.config): o.config for o in of_category}.values():
                if (log := reference.course_log(config)) is not None:
                    ax.plot(log["step"], log[metric], color=method_colour(config), lw=0.7, alpha=0.75)
            for run in tables.finished(of_category):
                measured = run.history.dropna(subset=[metric])
                ax.plot(measured["step"], measured[metric], color=method_colour(run.config), lw=1.6, marker=".")
            ax.set(ylim=(0, 1.03), xscale="log")
        row[0].set_ylabel(category)
    for ax, metric in zip(axes[0], _LEARNED, strict=True):
        ax.set_title(metric)
    for ax in axes[-1]:
        ax.set_xlabel(pick(language, "optimiser steps", "passi dell'ottimizzatore"))
    axes[0][0].plot([], [], color=PUBLISHED, lw=1.6, marker=".", label=pick(language, "ours", "nostri"))
    label = pick(language, "course report's training log", "log di addestramento della relazione")
    axes[0][0].plot([], [], color=PUBLISHED, lw=0.7, label=label)
    for config in {o.config.experiment: o.config for o in outcomes}.values():
        axes[0][0].plot([], [], color=method_colour(config), label=method_label(config, language))
    legend_below(figure, axes[0][0])
    return figure


def _has_learning(outcomes: Sequence[Outcome], category: str) -> bool:
    """Whether a category has a course-report log or a run of ours with more than the final evaluation."""
    of_category = tables.select(outcomes, category=category)
    ours = any(run.history["I-AUROC"].notna().sum() > 1 for run in tables.finished(of_category))
    return ours or any(reference.course_log(o.config) is not None for o in of_category)


@bilingual
def convergence(runs: Sequence[RunResult], language: str = "en") -> Figure:
    """Training loss over the epochs, logarithmic: ours, and beside it the course report's published log (figure 14)."""
    figure, axes = plt.subplots(1, 2, figsize=(6.3, 2.9), sharey=True)
    for run in runs:
        label = method_label(run.config, language)
        if run.info["status"] == "diverged":
            label += pick(language, " (diverged)", " (divergente)")
        axes[0].plot(run.history["epoch"], run.history["loss"], color=method_colour(run.config), label=label)
    for name, label in (("learned_noise_v1", "v1"), ("learned_noise_v2_beta0.1", "v2, β = 0.1")):
        rows, rule = reference.periodic(name), f"{name.partition('_beta')[0]}_as_published"
        axes[1].plot(rows["epoch"], rows["last_shown_avg_loss"], color=METHOD_COLOURS[rule], label=label)
    ours_and_the_courses(axes, language, pick(language, "measured here", "misurato qui"))
    axes[0].set(yscale="log", ylabel=pick(language, "mean training loss", "loss media di addestramento"))  # shared
    axes[1].legend()
    legend_below(figure, axes[0])
    return figure


def ours_and_the_courses(axes: Sequence[Axes], language: str, ours: str) -> None:
    """Titles and x labels of two panels over the epochs."""
    theirs = pick(language, "course report's log (MVTec AD screw)", "log della relazione (MVTec AD screw)")
    for ax, title in zip(axes, (ours, theirs), strict=True):
        ax.set(title=title, xlabel=pick(language, "epoch", "epoca"))


@bilingual
def noise_histories(runs: Sequence[RunResult], language: str = "en") -> Figure:
    """RMS of the injected noise and the generator's loss over the epochs; fixed noise has no generator."""
    figure, axes = plt.subplots(1, 2, figsize=(6.3, 2.9))
    for run in runs:
        look = {"color": method_colour(run.config), "label": method_label(run.config, language)}
        axes[0].plot(run.history["epoch"], run.history["noise_rms"], **look)
        if run.config.noise not in FIXED_NOISES:
            axes[1].plot(run.history["epoch"], run.history["loss_generator"], **look)
    axes[0].set(yscale="log")
    axes[0].set_ylabel(pick(language, "RMS of the noise (feature units)", "RMS del rumore (unità delle feature)"))
    axes[1].set_yscale("symlog", linthresh=1e-2)
    axes[1].axhline(0, color="#aaaaaa", lw=0.8)
    axes[1].set_ylabel(pick(language, "generator's loss", "loss del generatore"))
    for ax in axes:
        ax.set_xlabel(pick(language, "epoch", "epoca"))
    legend_below(figure, axes[0])
    return figure
