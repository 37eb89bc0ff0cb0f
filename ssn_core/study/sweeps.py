"""Figures of sweeps: one number of a recipe against what it does, the scale of fixed noise and the bound of learned."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssn_core.runs.result import RunResult
from ssn_core.study import reference, tables
from ssn_core.study.labels import BACKBONES, method_colour, method_label, pick
from ssn_core.study.results import Group, Outcome, groups
from ssn_core.study.run_values import LAST_EVALUATIONS
from ssn_core.study.style import MARKS, PUBLISHED, bilingual, legend_below
from ssn_core.study.training_curves import ours_and_the_courses

#: one method, four bounds: shades of its colour, dark for the widest
_SHADES = ("#00382B", "#009E73", "#5CC9A7", "#E69F00", "#882255", "#56B4E9")


@bilingual
def beta_histories(outcomes: Sequence[Outcome], language: str = "en") -> Figure:
    """I-AUROC at every evaluation, one colour per bound, one line per seed; the course report's log beside, also of
    bounds that were not run here."""
    figure, axes = plt.subplots(1, 2, figsize=(6.3, 2.9), sharey=True)
    shades = _shades(outcomes)
    for run in tables.finished(outcomes):
        measured = run.history.dropna(subset=["I-AUROC"])
        axes[0].plot(measured["epoch"], measured["I-AUROC"], color=shades[run.config.beta], marker=".", ms=3)
    for beta, shade in shades.items():
        axes[0].plot([], [], color=shade, label=f"β = {beta:g}")
        log = _course_sweep(beta)
        axes[1].plot(log["epoch"], log["I-AUROC"], color=shade, lw=0.9)
    ours_and_the_courses(axes, language, pick(language, "measured here, every seed", "misurato qui, ogni seme"))
    for ax in axes:
        ax.axhline(0.5, color="#aaaaaa", lw=0.8, ls=":")
        ax.set(ylim=(0, 1.03))
    axes[0].set_ylabel("I-AUROC (test)")
    legend_below(figure, axes[0])
    return figure


@bilingual
def beta_band(outcomes: Sequence[Outcome], language: str = "en") -> Figure:
    """What one final value is worth: range of the last ten evaluations (bar), their mean (tick) and the final value
    (dot), for every bound and seed that was run, and for the course report's log (grey)."""
    figure, axes = plt.subplots(1, 2, figsize=(6.3, 3.0), sharey=True)
    shades = _shades(outcomes)
    for ax, metric in zip(axes, tables.SELECTED_BY, strict=True):
        for i, (beta, shade) in enumerate(shades.items()):
            mine = tables.finished(tables.select(outcomes, beta=beta))
            places = i + np.linspace(-0.3, 0.15, len(mine)) if len(mine) > 1 else [i - 0.1][: len(mine)]
            for place, run in zip(places, mine, strict=True):
                _band(ax, place, run.history[metric].dropna(), shade)
            _band(ax, i + 0.33, _course_sweep(beta)[metric], "#9A9A9A")
        ax.axhline(0.5, color="#aaaaaa", lw=0.8, ls=":")
        ax.set_xticks(range(len(shades)), [f"{beta:g}" for beta in shades])
        ax.set(title=metric, xlabel="β", xlim=(-0.5, len(shades) - 0.5), ylim=(0, 1.03))
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel(pick(language, "last ten evaluations (test)", "ultime dieci valutazioni (test)"))
    ours, course = pick(language, "ours, per seed", "nostri, per seme"), pick(language, "course report", "relazione")
    shown = [(ours, next(iter(shades.values())))] if tables.finished(outcomes) else []
    for label, colour in (*shown, (course, "#9A9A9A")):
        axes[0].plot([], [], color=colour, lw=3, alpha=0.5, label=label)
    axes[0].plot([], [], "o", color=PUBLISHED, label=pick(language, "final value", "valore finale"))
    legend_below(figure, axes[0])
    return figure


def _band(ax: Axes, place: float, values: pd.Series, colour: str) -> None:
    last = values.tail(LAST_EVALUATIONS)
    if last.empty:
        return
    ax.plot([place, place], [last.min(), last.max()], color=colour, lw=4, alpha=0.45, solid_capstyle="butt")
    ax.plot(place, last.mean(), "_", color=colour, ms=7, mew=1.4)
    ax.plot(place, last.iloc[-1], "o", color=colour, ms=3.2)


@bilingual
def beta_selection(runs: Sequence[RunResult], language: str = "en") -> Figure | None:
    """Validation metric (held-out images with pasted defects) against test metric, per run; a ring marks the bound
    that validation chooses, a square the one that the test set (the oracle) would have chosen. None for one bound."""
    if len({run.config.beta for run in runs}) < 2:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(6.3, 3.2))
    shades = _shades(runs)
    for ax, metric in zip(axes, tables.SELECTED_BY, strict=True):
        means = tables.beta_means(runs, metric)
        for run in runs:
            point = (run.metrics[f"validation {metric}"], run.metrics[metric])
            ax.plot(*point, ".", color=shades[run.config.beta], alpha=0.6)
        for beta, shade in shades.items():
            ax.plot(*means.loc[beta], "o", ms=6, color=shade, label=f"β = {beta:g}")
        look = {"ls": "", "mfc": "none", "mec": PUBLISHED}
        chosen, oracle = means["validation"].idxmax(), means["test"].idxmax()
        label = pick(language, "chosen by validation", "scelto dalla validazione")
        ax.plot(*means.loc[chosen], "o", ms=11, label=label, **look)
        ax.plot(*means.loc[oracle], "s", ms=14, label=pick(language, "oracle (test set)", "oracolo (test)"), **look)
        ax.set_xlabel(f"{metric}, " + pick(language, "validation", "validazione"))
        ax.set_ylabel(f"{metric}, test")
    legend_below(figure, axes[0])
    return figure


def _shades(outcomes: Sequence[Outcome]) -> dict[float, str]:
    """The bounds, the widest first, and a colour for each."""
    return dict(zip(sorted({outcome.config.beta for outcome in outcomes}, reverse=True), itertools.cycle(_SHADES)))


def _course_sweep(beta: float) -> pd.DataFrame:
    return reference.periodic(f"learned_noise_v2_beta{beta:g}")


@bilingual
def noise_scale(runs: Sequence[RunResult], language: str = "en") -> Figure:
    """Metrics of one category against the loudness of fixed noise, in standard deviations of the features that it is
    added to: a dot per run in its method's colour, for every backbone a line through the means."""
    figure, axes = plt.subplots(1, 3, figsize=(6.3, 2.9), sharex=True, sharey=True)
    made = sorted(groups(runs), key=_loudness)
    networks = list(dict.fromkeys(group.config.backbone for group in made))
    powers = range(math.floor(math.log(_loudness(made[0]), 4)), 1)
    for ax, metric in zip(axes, ("I-AUROC", "seg-I-AUROC", "AUPRO"), strict=True):
        for network in networks:
            own = [(g, found) for g in made if g.config.backbone == network and (found := g.sample(metric))]
            ax.plot([_loudness(g) for g, _ in own], [found.value for _, found in own], color="#aaaaaa", lw=1)
            for group, found in own:
                look = {"color": method_colour(group.config), "marker": MARKS[network], "ls": "", "alpha": 0.8}
                ax.plot([_loudness(group)] * len(found.seeds), list(found.seeds.values()), ms=3.5, **look)
        ax.set(title=metric, xscale="log", ylim=(0, 1.03))
        ax.set_xticks([4.0**p for p in powers], [f"1/{4**-p}" if p else "1" for p in powers])
        ax.minorticks_off()
        ax.axhline(0.5, color="#aaaaaa", lw=0.8, ls=":")
    for config in {group.config.experiment: group.config for group in made}.values():
        axes[0].plot([], [], "o", ms=3.5, color=method_colour(config), label=method_label(config, language))
    for network in networks:
        axes[0].plot([], [], MARKS[network], ms=3.5, ls="-", lw=1, color="#aaaaaa", label=BACKBONES[network])
    axes[1].set_xlabel(pick(language, "σ over the features' deviation", "σ sulla deviazione delle feature"))
    legend_below(figure, axes[0])
    return figure


def _loudness(group: Group) -> float:
    return group.values["noise-to-features"]["mean"]
