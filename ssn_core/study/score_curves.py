"""Figures from run folders: curves, score histograms, bars. Each function returns a matplotlib Figure, or None without
runs; ``language`` is "en" or "it". To write both see :func:`ssn_core.study.style.save`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssn_core.metrics import NOT_AVAILABLE
from ssn_core.runs.result import RunResult
from ssn_core.study import reference, results
from ssn_core.study.labels import category_label, data_label, method_colour, method_label, pick
from ssn_core.study.style import DEFECTIVE, NORMAL, PUBLISHED, bilingual, legend_below

#: the two scores of an image, named so that they cannot be taken for each other (erratum 5)
SCORES = {
    "score": ("image score\n(classification head)", "punteggio d'immagine\n(testa di classificazione)"),
    "map_score": (
        "map score\n(maximum of the anomaly map)",
        "punteggio della mappa\n(massimo della mappa di anomalia)",
    ),
}
_CURVE = {"score": "score", "map_score": "map"}  # names in curves.npz
_PIXEL_POINTS = 150  # of the thousand that a run folder keeps: enough for a line on paper
_DASHES = ("-", "--", "-.", ":")
_AREAS = {"roc": {"score": "I-AUROC", "map_score": "seg-I-AUROC"}, "pr": {"score": "AP-det", "map_score": "seg-AP-det"}}


@bilingual
def image_curves(runs: Sequence[RunResult], kind: str = "roc", language: str = "en") -> Figure:
    """ROC (``kind="roc"``) or precision-recall ("pr") curves of both scores; colours tell methods, dashes
    categories and seeds.

    A dot marks Youden's point on ROC curves.
    """
    height = 3.2 + (0.14 * (len(runs) + 1) if len(runs) > 3 else 0)
    figure, axes = plt.subplots(1, 2, figsize=(6.3, height), sharey=True)
    for ax, score in zip(axes, SCORES, strict=True):
        for run in runs:
            _image_curve(ax, run, runs, kind, score, language)
        if kind == "roc":
            ax.plot([0, 1], [0, 1], color="#aaaaaa", lw=0.8, ls=":")
            ax.set_xlabel(pick(language, "false positive rate", "tasso di falsi positivi"))
        else:
            ax.set_xlabel(pick(language, "recall", "richiamo"))
        ax.set(title=pick(language, *SCORES[score]), xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
        place: dict[str, Any] = {"loc": "lower right" if kind == "roc" else "lower left"}
        if len(runs) > 3:  # too many lines to find an empty corner
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17)}
        ax.legend(**place, title=_AREAS[kind][score], title_fontsize=7)
    label = ("true positive rate", "tasso di veri positivi") if kind == "roc" else ("precision", "precisione")
    axes[0].set_ylabel(pick(language, *label))
    _name_data(figure, runs, language)
    return figure


def _name_data(figure: Figure, runs: Sequence[RunResult], language: str) -> None:
    """The data set above the figure, where all runs share it."""
    labels = {data_label(run.config, language) for run in runs}
    if len(labels) == 1:
        figure.suptitle(labels.pop(), fontsize=8, color="#555555")


def _image_curve(ax: Axes, run: RunResult, runs: Sequence[RunResult], kind: str, score: str, language: str) -> None:
    names = [
        f"{kind}_{_CURVE[score]}_{axis}" for axis in (("fpr", "tpr") if kind == "roc" else ("recall", "precision"))
    ]
    if names[0] not in run.curves:
        return
    style = {"drawstyle": "steps-pre"} if kind == "pr" else {}
    label = f"{_short(run, runs, language)}: {run.metrics[_AREAS[kind][score]]:.3f}"
    ax.plot(*(run.curves[name] for name in names), **_line(run, runs), label=label, **style)
    point = run.metrics["youden"][score]
    if kind == "roc" and point != NOT_AVAILABLE:
        look = {"color": method_colour(run.config), "mec": "white", "mew": 0.6, "clip_on": False, "zorder": 4}
        ax.plot(point["fpr"], point["tpr"], "o", **look)


def _line(run: RunResult, runs: Sequence[RunResult]) -> dict[str, str]:
    """Colour by method, dashes by category and seed in order of appearance."""
    kinds = list(dict.fromkeys((r.config.category, r.config.seed) for r in runs))
    dashes = _DASHES[kinds.index((run.config.category, run.config.seed)) % len(_DASHES)]
    return {"color": method_colour(run.config), "ls": dashes}


def _short(run: RunResult, runs: Sequence[RunResult], language: str) -> str:
    """What tells a run from the others of a figure: its method, its category, its seed, as far as they vary."""
    parts = {
        method_label(run.config, language): {method_label(r.config) for r in runs},
        category_label(run.config, language): {r.config.category for r in runs},
        f"{pick(language, 'seed', 'seme')} {run.config.seed}": {r.config.seed for r in runs},
    }
    varying = [part for part, values in parts.items() if len(values) > 1]
    return ", ".join(varying) or method_label(run.config, language)


@bilingual
def histogram(runs: Sequence[RunResult], language: str = "en") -> Figure:
    """Densities of the image score over normal and defective test images, with Youden's threshold (test set) and the
    quantile of the normal training images, which needs no labelled test set."""
    figure, axes = plt.subplots(1, len(runs), figsize=(6.3, 2.6), squeeze=False)
    for ax, run in zip(axes[0], runs, strict=True):
        _histogram(ax, run, language)
        ax.set(title=f"{method_label(run.config, language)}, {data_label(run.config, language)}")
        ax.set_xlabel(pick(language, *SCORES["score"]).split("\n")[0] + ", logit")
    axes[0][0].set_ylabel(pick(language, "density", "densità"))
    legend_below(figure, axes[0][0])
    return figure


def _histogram(ax: Axes, run: RunResult, language: str) -> None:
    values, labels = (run.scores[name].to_numpy() for name in ("score", "label"))
    bins = np.linspace(values.min(), values.max(), 26)
    for label, colour, name in (
        (0, NORMAL, pick(language, "normal", "normali")),
        (1, DEFECTIVE, pick(language, "defective", "difettose")),
    ):
        look = {"color": colour, "alpha": 0.65, "histtype": "stepfilled"}
        ax.hist(values[labels == label], bins, density=True, label=name, **look)
    youden = run.metrics["youden"]["score"]
    if youden != NOT_AVAILABLE:
        name = pick(language, "Youden's threshold (test)", "soglia di Youden (test)")
        ax.axvline(youden["threshold"], color="black", ls="--", lw=1.1, label=name)
    quantile = run.metrics["train_quantile"]
    percent = f"{100 * quantile['quantile']:g}"
    normal = pick(language, "of normal training images", "delle immagini di addestramento senza difetti")
    ax.axvline(quantile["score"], color="black", ls=":", lw=1.3, label=f"{percent} % {normal}")
    ax.grid(axis="x", visible=False)


@bilingual
def metric_bars(outcomes: Sequence[results.Outcome], metrics: Sequence[str], language: str = "en") -> Figure:
    """Bars per category and method, mean over the seeds (whiskers: standard deviation); diamonds are published means,
    crosses the course report's values. The place of a method that was not run says so."""
    groups = results.groups(outcomes)
    methods = {method_label(group.config): group.config for group in groups}
    names = {group.config.category: category_label(group.config, language) for group in groups}
    figure, axes = plt.subplots(1, len(metrics), figsize=(6.3, 2.7), sharey=True, squeeze=False)
    width, shown = 0.8 / len(methods), set()
    for ax, metric in zip(axes[0], metrics, strict=True):
        for group in groups:
            aside = list(methods).index(method_label(group.config)) - (len(methods) - 1) / 2
            place = list(names).index(group.config.category) + aside * width
            shown |= _bar(ax, place, width, group, metric, language, numbers=len(methods) * len(names) <= 6)
        ax.set_xticks(range(len(names)), names.values())
        ax.set(title=metric, ylim=(0, 1.08), xlim=(-0.5, len(names) - 0.5))
        ax.grid(axis="x", visible=False)
    for config in methods.values():
        axes[0][0].bar([0], [0], color=method_colour(config), label=method_label(config, language))
    for source in (name for name in _OTHERS if name in shown):
        axes[0][0].plot([], [], ls="", label=pick(language, *_OTHERS[source]["label"]), **_OTHERS[source]["look"])
    legend_below(figure, axes[0][0])
    return figure


_OTHERS: dict[str, dict[str, Any]] = {
    "published": {"label": ("published", "pubblicato"), "look": {"marker": "D", "mfc": "white", "mec": PUBLISHED}},
    "course": {"label": ("course report", "relazione"), "look": {"marker": "x", "color": PUBLISHED}},
}


def _bar(
    ax: Axes,
    place: float,
    width: float,
    group: results.Group,
    metric: str,
    language: str,
    numbers: bool,
) -> set[str]:
    """One method's bar in one category; returns whose values were set beside it."""
    config = group.config
    if (found := group.sample(metric)) is not None:
        look = {"color": method_colour(config), "error_kw": {"lw": 0.8}}
        bar = ax.bar(place, found.value, 0.94 * width, yerr=found.std, **look)
        if numbers:
            ax.bar_label(bar, fmt="%.2f", fontsize=5.5, padding=1.5)
    else:
        missing = NOT_AVAILABLE if group.runs else pick(language, "not run", "non eseguito")
        ax.text(place, 0.02, missing, rotation=90, ha="center", va="bottom", fontsize=5.5, color="#777777")
    theirs = {row["source"]: row["mean"] for row in reference.values(config) if row["metric"] == metric}
    for source, value in theirs.items():
        ax.plot(place, value, ls="", zorder=5, clip_on=False, **_OTHERS[source]["look"])
    return set(theirs)


@bilingual
def pixel_pr(runs: Sequence[RunResult], language: str = "en") -> Figure:
    """Pixel-wise precision-recall curves."""
    figure, ax = plt.subplots(figsize=(4.2, 3.2))
    for run in runs:
        if "pixel_recall" not in run.curves:
            continue
        thin = slice(None, None, max(1, len(run.curves["pixel_recall"]) // _PIXEL_POINTS))
        recall, precision = run.curves["pixel_recall"][thin], run.curves["pixel_precision"][thin]
        label = f"{_short(run, runs, language)}: {run.metrics['AP-loc']:.3f}"
        ax.plot(recall, precision, **_line(run, runs), label=label, drawstyle="steps-pre")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
    ax.set_xlabel(pick(language, "recall (pixels)", "richiamo (pixel)"))
    ax.set_ylabel(pick(language, "precision (pixels)", "precisione (pixel)"))
    ax.legend(title="AP-loc", title_fontsize=7, loc="best")
    _name_data(figure, runs, language)
    return figure
