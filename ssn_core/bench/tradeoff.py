"""Figure 6: what a network costs against how well it detects."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ssn_core.bench.show import models, plain_logarithms, wide
from ssn_core.runs.result import RunResult
from ssn_core.study.labels import BACKBONES, METHOD_COLOURS, data_label, experiment_label, pick
from ssn_core.study.style import MARKS, bilingual, legend_below

#: what is compared, and whose speed it has: scenario C is A's network, trained otherwise
TRADED = {name: name for name in ("baseline", "scenario_a", "scenario_b", "learned_noise_v2", "memory")}
TRADED["scenario_c"] = "scenario_a"
_FOOT = 0.02  # where a network without a training stands


@bilingual
def tradeoff(table: pd.DataFrame, runs: Sequence[RunResult], language: str = "en") -> Figure | None:
    """Latency against the AUROC of the image score and of the map score, marks as large as the peak memory.

    Hollow: the plain form; filled: the folded one, which is the same detector. A network that was not trained on the
    runs' category stands at the foot of the panel, with its latency alone. None where no network was measured.
    """
    if not (compared := _compared(table)):
        return None
    figure, axes = plt.subplots(1, 2, figsize=(6.3, 3.5), sharey=True, sharex=True)
    values = wide(table)
    memory = values.get("memory_throughput_batch16", values["latency_batch1"] * float("nan"))  # not read everywhere
    areas = 500 * (memory / memory.max()).fillna(1)
    for experiment, backbone in compared:
        own = [run for run in runs if (run.config.experiment, run.config.backbone) == (experiment, backbone)]
        if not own and experiment != TRADED[experiment]:
            continue  # its network stands there already
        forms = [(TRADED[experiment], backbone, form) for form in ("plain", "fold")]
        places, sizes = values["latency_batch1"][forms], areas[forms] if own else 12
        colour, mark = METHOD_COLOURS[experiment], MARKS[backbone]
        for ax, metric in zip(axes, ("I-AUROC", "seg-I-AUROC"), strict=True):
            heights = [sum(run.metrics[metric] for run in own) / len(own) if own else _FOOT] * 2
            ax.plot(places, heights, color=colour, lw=0.8, alpha=0.6, ls="-" if own else ":")
            look = {"ec": colour, "fc": ["white", colour], "alpha": 0.75, "zorder": 3, "marker": mark}
            ax.scatter(places, heights, sizes, **look)
        label = f"{experiment_label(experiment, language)}, {BACKBONES[backbone]}"
        label += "" if own else f" ({pick(language, 'not run', 'non eseguito')})"
        axes[0].plot([], [], mark, color=colour, label=label)
    for ax, metric in zip(axes, ("I-AUROC", "seg-I-AUROC"), strict=True):
        ax.axhline(0.5, color="#aaaaaa", lw=0.8, ls=":")
        plain_logarithms(ax, "x")
        label = pick(language, "latency, batch 1 (ms)", "latenza, batch 1 (ms)")
        ax.set(title=metric, ylim=(-0.06, 1.08), xlabel=label, xmargin=0.15)
    data = {data_label(run.config, language) for run in runs}
    axes[0].set_ylabel(f"AUROC, {' / '.join(sorted(data))}" if data else "AUROC")
    legend_below(figure, axes[0])
    return figure


def _compared(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(experiment, backbone) of all whose network was measured."""
    measured = models(table)
    return [(name, backbone) for name in TRADED for network, backbone in measured if network == TRADED[name]]
