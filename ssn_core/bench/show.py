"""Tables and figures of the benchmark (``bench.csv``): efficiency, speed-ups, growth of the cost, trade-off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ssn_core.runs.result import RunResult
from ssn_core.study.labels import BACKBONES, METHOD_COLOURS, data_label, experiment_label, pick
from ssn_core.study.reference import reference
from ssn_core.study.style import legend_below

#: what the report's Figure 6 compares: the same task, other costs
TRADED = ("baseline", "scenario_a", "scenario_b", "learned_noise_v2")
_COURSE = {"latency": "latency_batch1", "throughput": "throughput_batch16", "memory": "gpu_memory_peak"}


class Gpu(NamedTuple):
    """float32 and, where forwards are derived for it, half-precision peak in TFLOP/s; memory bandwidth in GB/s."""

    single: float
    bandwidth: float
    half: float | None = None


#: from NVIDIA's data sheets (H100: SXM, dense)
GPUS = {
    "Tesla P100": Gpu(9.3, 732),
    "Tesla V100S": Gpu(16.4, 1134),
    "Tesla T4": Gpu(8.1, 320),
    "H100": Gpu(67, 3350, half=989),
}
_FORMS = {
    "plain": ("plain form", "forma piana"),
    "fold": ("fast form", "forma rapida"),
    "fast": ("fast form", "forma rapida"),
    "anomalib": ("anomalib", "anomalib"),
}
_LOOKS = {
    "plain": {"color": "#777777", "marker": "o"},
    "fold": {"color": METHOD_COLOURS["scenario_a"], "marker": "s"},
    "fast": {"color": METHOD_COLOURS["scenario_a"], "marker": "s"},
    "anomalib": {"color": METHOD_COLOURS["scenario_b"], "marker": "^"},
}


def models(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(experiment, backbone) of every model whose forward was measured, in order."""
    rows = table[table["measurement"] == "latency_batch1"]
    return list(dict.fromkeys(zip(rows["experiment"], rows["backbone"], strict=True)))


def value(table: pd.DataFrame, measurement: str, variant: str, model: tuple[str, str]) -> float | None:
    """One measured value, or None."""
    rows = table[
        (table["measurement"] == measurement)
        & (table["variant"] == variant)
        & (table["experiment"] == model[0])
        & (table["backbone"] == model[1])
    ]
    return None if rows.empty else float(rows["value"].iloc[0])


def table3(table: pd.DataFrame, references: bool = True) -> pd.DataFrame:
    """The course report's Table 3 and section 6.7: one row per model and form, both memories at batch 1 and 16.

    Weights are random, since speed does not depend on them. Memory: see :mod:`ssn_core.bench.process`.
    """
    columns = {
        "parameters (M)": "parameters",
        "GFLOPs": "operations",
        "latency, batch 1 (ms)": "latency_batch1",
        "throughput, batch 16 (images/s)": "throughput_batch16",
        "peak memory, batch 1 (MB)": "memory_latency_batch1",
        "peak memory, batch 16 (MB)": "memory_throughput_batch16",
    }
    rows = []
    for model in models(table):
        forms = table[(table["measurement"] == "latency_batch1") & (table["experiment"] == model[0])]
        for variant in dict.fromkeys(forms[forms["backbone"] == model[1]]["variant"]):
            row = {"method": experiment_label(model[0]), "backbone": BACKBONES[model[1]], "form": _FORMS[variant][0]}
            for name, measurement in columns.items():
                found = value(table, measurement, variant, model)
                row[name] = "" if found is None else f"{found:.4g}"
            if references:
                row |= _course_cells(*model, variant)
            rows.append(row)
    conditions = table[table["measurement"] == "latency_batch1"]["conditions"].iloc[0]
    return pd.DataFrame(rows).assign(conditions=f"latency: {conditions}, random weights")


def _course_cells(experiment: str, backbone: str, variant: str) -> dict[str, str]:
    """The report's figures (P100, half precision) beside the plain form of the same network."""
    course = reference("course_report_tables")
    own = course[(course["configuration"] == experiment) & (course["backbone"] == backbone)]
    cells = {}
    for name, metric in _COURSE.items():
        found = own[own["metric"] == metric]["value"]
        cells[f"course report: {name}"] = f"{found.iloc[0]:g}" if len(found) and variant == "plain" else ""
    return cells


def metrics_table(table: pd.DataFrame) -> pd.DataFrame:
    """Time and memory of the metrics, exact and as others compute them; cells are text."""
    shown = ["measurement", "variant", "value", "unit", "ratio_to_plain", "conditions"]
    rows = table[table["measurement"].str.contains("metrics|aupro")][shown].astype(object)
    return rows.where(rows.notna(), "").astype(str)


def derived(table: pd.DataFrame) -> pd.DataFrame:
    """Derived, not measured: the least time per image that operations and traffic allow on a device, in ms.

    ``max(operations / peak, traffic / bandwidth)``, float32; forwards on the H100 are in half precision, as they run
    there, with half the bytes. On the device at hand peak and bandwidth are measured too, so the last columns say which
    share of that limit the measured time reaches. No rows where they were not.
    """
    machine = table.drop_duplicates("measurement").set_index("measurement")["value"]
    if not {"machine_product", "machine_copy"} <= set(machine.index):
        return pd.DataFrame()
    rows = []
    for suffix, timed, variants in (
        ("", "latency_batch1", ("plain", "fold")),
        ("_training", "training_step_batch8", ("plain", "fast")),
    ):
        # a GPU's forwards are measured in half precision
        halved = not suffix and "machine_product_half" in machine.index
        peak, copy = machine["machine_product_half" if halved else "machine_product"], machine["machine_copy"]
        for model in models(table):
            for variant in variants:
                work, traffic = (value(table, f"{name}{suffix}", variant, model) for name in ("operations", "traffic"))
                if work is None or traffic is None:
                    continue
                single = 2 * traffic if halved else traffic
                row = {"method": experiment_label(model[0]), "backbone": BACKBONES[model[1]]}
                row |= {"what": "training step" if suffix else "forward", "form": _FORMS[variant][0]}
                row |= {"GFLOPs": f"{work:.4g}", "MB moved": f"{single:.4g}"}
                row |= {f"{name}: derived ms": f"{_limit(gpu, work, single, suffix):.3g}" for name, gpu in GPUS.items()}
                floor, own = max(1e3 * work / peak, traffic / copy), value(table, timed, variant, model)
                row |= {"this machine: derived ms": f"{floor:.3g}", "measured ms": f"{own:.3g}"}
                rows.append(row | {"share of the limit": f"{floor / own:.0%}"})
    return pd.DataFrame(rows)


def _limit(gpu: Gpu, work: float, traffic: float, training: str) -> float:
    """ms for ``work`` GFLOP and ``traffic`` MB of float32 values."""
    if gpu.half is None or training:
        return max(work / gpu.single, traffic / gpu.bandwidth)
    return max(work / gpu.half, traffic / 2 / gpu.bandwidth)


def speedups(table: pd.DataFrame, language: str = "en") -> Figure:
    """How many times faster (and smaller) than the plain form: bars per measurement and model."""
    titles = {
        "latency_batch1": ("latency, batch 1", "latenza, batch 1"),
        "throughput_batch16": ("throughput, batch 16", "throughput, batch 16"),
        "training_step_batch8": ("training step, batch 8", "passo di training, batch 8"),
        "memory_throughput_batch16": ("peak memory, batch 16", "picco di memoria, batch 16"),
    }
    rows = table[table["measurement"].isin(titles) & ~table["variant"].isin(["plain"])]
    chosen = [model for model in models(table) if model[0] in ("baseline", "scenario_a")]
    figure, axes = plt.subplots(1, len(titles), figsize=(6.3, 0.9 + 0.5 * len(chosen)), sharey=True)
    for ax, (measurement, title) in zip(axes, titles.items(), strict=True):
        own = rows[rows["measurement"] == measurement]
        for variant, group in own.groupby("variant", sort=False):
            places = {m: i for i, m in enumerate(chosen)}
            y = [places.get(m) for m in zip(group["experiment"], group["backbone"], strict=True)]
            shown = [(a, float(r)) for a, r in zip(y, group["ratio_to_plain"], strict=True) if a is not None]
            shift = 0.2 if variant == "anomalib" else -0.2 if "anomalib" in set(own["variant"]) else 0.0
            height = 0.36 if shift else 0.6
            bars = ax.barh([a + shift for a, _ in shown], [r for _, r in shown], height, color=_LOOKS[variant]["color"])
            ax.bar_label(bars, fmt="%.1f×", fontsize=6, padding=1.5)
        ax.axvline(1, color="black", lw=0.8)
        ax.set_title(pick(language, *title), fontsize=7)
        ax.set_xlim(0, 1.3 * max([1.0, *own["ratio_to_plain"].astype(float)]))
        ax.grid(axis="y", visible=False)
    names = [f"{experiment_label(experiment, language)}\n{BACKBONES[backbone]}" for experiment, backbone in chosen]
    axes[0].set_yticks(range(len(chosen)), names)
    axes[0].invert_yaxis()
    title = pick(
        language, "times faster, or smaller, than the plain form", "volte più veloce, o più piccola, della forma piana"
    )
    figure.suptitle(title, fontsize=8, color="#555555")
    for variant in (v for v in _LOOKS if v != "fast" and v in set(rows["variant"])):
        axes[0].barh([0], [0], color=_LOOKS[variant]["color"], label=pick(language, *_FORMS[variant]))
    legend_below(figure, axes[0])
    return figure


def growth(table: pd.DataFrame, language: str = "en") -> Figure:
    """Cost against the image's side, the batch, and the number of training images, for every form measured."""
    figure, axes = plt.subplots(1, 3, figsize=(6.3, 2.7))
    grown = table[table["measurement"] == "growth_side"]
    model = (grown["experiment"].iloc[0], grown["backbone"].iloc[0])
    own = table[(table["experiment"] == model[0]) & (table["backbone"] == model[1])]
    base = own[own["measurement"] == "latency_batch1"]
    _lines(axes[0], pd.concat([grown, base]), "height", language)
    batches = own[own["measurement"].isin(["growth_batch", "latency_batch1"])]
    full = own[own["measurement"] == "throughput_batch16"]
    full = full.assign(value=1000 / full["value"].astype(float))
    _lines(axes[1], pd.concat([batches, full]), "batch", language)
    _lines(axes[2], table[table["measurement"] == "training_run"], "images", language)
    labels = (
        ("image side (pixels)", "lato dell'immagine (pixel)"),
        ("batch", "batch"),
        ("training images (2 epochs)", "immagini di training (2 epoche)"),
    )
    for ax, label in zip(axes, labels, strict=True):
        ax.set_xlabel(pick(language, *label))
        _plain_logarithm(ax, sorted({float(x) for line in ax.lines for x in line.get_xdata()}))
    axes[0].set_ylabel(pick(language, "ms per image", "ms per immagine"))
    axes[2].set_ylabel(pick(language, "seconds", "secondi"))
    figure.suptitle(f"{BACKBONES[model[1]]}: {pick(language, *_MEASURED)}", fontsize=8, color="#555555")
    legend_below(figure, axes[0])
    return figure


_MEASURED = ("inference (left, middle) and training (right)", "inferenza (sinistra, centro) e training (destra)")


def _plain_logarithm(ax: Axes, ticks: Sequence[float]) -> None:
    """Logarithmic axes that are labelled with numbers, not powers; ``ticks`` along x."""
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()


def _lines(ax: Axes, rows: pd.DataFrame, column: str, language: str) -> None:
    for variant, group in rows.groupby("variant", sort=False):
        group = group.astype({column: float, "value": float}).sort_values(column)
        look = _LOOKS[variant]
        ax.plot(group[column], group["value"], label=pick(language, *_FORMS[variant]), ms=3.5, lw=1.1, **look)


def tradeoff(table: pd.DataFrame, runs: Sequence[RunResult], language: str = "en") -> Figure:
    """Figure 6: latency against the AUROC of the image score and of the map score, bubbles as large as the peak memory.

    Hollow: the plain form; filled: the folded one, which is the same detector. A model that was not trained on the
    runs' category stands at the foot of the panel, with its latency alone.
    """
    figure, axes = plt.subplots(1, 2, figsize=(6.3, 3.3), sharey=True, sharex=True)
    largest = table[table["measurement"] == "memory_throughput_batch16"]["value"].astype(float).max()
    shown = [model for model in models(table) if model[0] in TRADED]
    ticks = sorted({value(table, "latency_batch1", form, model) for form in ("plain", "fold") for model in shown})
    for ax, metric in zip(axes, ("I-AUROC", "seg-I-AUROC"), strict=True):
        for model in shown:
            trained = [r.metrics[metric] for r in runs if (r.config.experiment, r.config.backbone) == model]
            places = [value(table, "latency_batch1", form, model) for form in ("plain", "fold")]
            sizes = [value(table, "memory_throughput_batch16", form, model) or largest for form in ("plain", "fold")]
            height = float(np.mean(trained)) if trained else 0.02
            colour = METHOD_COLOURS[model[0]]
            ax.plot(places, [height] * 2, color=colour, lw=0.8, alpha=0.6, ls="-" if trained else ":")
            for place, size, filled in zip(places, sizes, (False, True), strict=True):
                area = 500 * size / largest if trained else 12
                ax.scatter(place, height, area, ec=colour, fc=colour if filled else "white", alpha=0.75, zorder=3)
        ax.axhline(0.5, color="#aaaaaa", lw=0.8, ls=":")
        ax.set(title=metric, ylim=(-0.06, 1.08), xscale="log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set_xlim(ticks[0] / 1.4, ticks[-1] * 1.4)
        ax.set_xlabel(pick(language, "latency, batch 1 (ms)", "latenza, batch 1 (ms)"))
    for experiment, backbone in shown:
        label = f"{experiment_label(experiment, language)}, {BACKBONES[backbone]}"
        if not any((r.config.experiment, r.config.backbone) == (experiment, backbone) for r in runs):
            label += f" ({pick(language, 'not run', 'non eseguito')})"
        axes[0].plot([], [], "o", color=METHOD_COLOURS[experiment], label=label)
    data = {data_label(run.config, language) for run in runs}
    axes[0].set_ylabel(f"AUROC, {' / '.join(sorted(data))}" if data else "AUROC")
    legend_below(figure, axes[0])
    return figure
