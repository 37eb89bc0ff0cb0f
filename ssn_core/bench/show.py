"""Tables and figures of the benchmark (``bench.csv``): efficiency, speed-ups, growth of the cost."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ssn_core.bench.plan import GPU_FORMS, Model
from ssn_core.study.labels import BACKBONES, METHOD_COLOURS, experiment_label, measurement_label, pick
from ssn_core.study.reference import reference
from ssn_core.study.style import bilingual, legend_below

GPU_COMMAND = "python -m ssn_core bench --profile full --device cuda"
#: from NVIDIA's data sheets: float32 peak (TFLOP/s), memory bandwidth (GB/s) and, where forwards are derived in it, the
#: peak of half precision (H100: SXM, dense)
GPUS = {
    "Tesla P100": (9.3, 732, None),
    "Tesla V100S": (16.4, 1134, None),
    "Tesla T4": (8.1, 320, None),
    "H100": (67, 3350, 989),
}
_FORMS = {
    "plain": ("plain form", "forma piana"),
    "fold": ("fast form", "forma rapida"),
    "fast": ("fast form", "forma rapida"),
    "anomalib": ("anomalib", "anomalib"),
    "compiled": ("plain form, compiled", "forma piana, compilata"),
    "graph": ("fast form as a graph", "forma rapida come grafo"),
    "graph_compiled": ("fast form, compiled, as a graph", "forma rapida, compilata, come grafo"),
}
_FAST = METHOD_COLOURS["scenario_a"]
_COLOURS = {"plain": "#777777", "fold": _FAST, "fast": _FAST, "anomalib": METHOD_COLOURS["scenario_b"]}
_TIMED = {
    "latency, batch 1 (ms)": "latency_batch1",
    "throughput, batch 16 (images/s)": "throughput_batch16",
    "throughput, batch 256 (images/s)": "throughput_batch256",
}
_PEAKS = {f"peak memory, batch {m.partition('batch')[2]} (MB)": f"memory_{m}" for m in _TIMED.values()}


def wide(table: pd.DataFrame, column: str = "value") -> pd.DataFrame:
    """A column by (experiment, backbone, variant) and measurement, in the table's order; the first of each."""
    keys = ["experiment", "backbone", "variant"]
    once = table[table["backbone"] != ""].drop_duplicates([*keys, "measurement"])
    order = pd.MultiIndex.from_frame(once[keys]).unique()
    return once.pivot(index=keys, columns="measurement", values=column).reindex(order)


def models(table: pd.DataFrame) -> list[Model]:
    """(experiment, backbone) of every model whose forward was measured, in order."""
    rows = table[table["measurement"] == "latency_batch1"]
    return list(dict.fromkeys(zip(rows["experiment"], rows["backbone"], strict=True)))


def table3(table: pd.DataFrame, references: bool = True) -> pd.DataFrame:
    """The course report's Table 3 and section 6.7: one row per model and form; cells are text. Beside the plain form
    the report's figures (P100, half precision). Memory: see :mod:`ssn_core.bench.process`.
    """
    columns = {"parameters (M)": "parameters", "GFLOPs": "operations", **_TIMED, **_PEAKS}
    columns = {name: measurement for name, measurement in columns.items() if "256" not in name}
    values, rows = wide(table), []
    for (experiment, backbone, variant), conditions in _conditions(table, "latency_batch1").items():
        row = {"method": experiment_label(experiment), "backbone": BACKBONES[backbone], "form": _FORMS[variant][0]}
        row |= _cells(values.loc[experiment, backbone, variant], columns, "")
        if references:
            course = _course(experiment, backbone) if variant == "plain" else {}
            names = {"latency": "latency_batch1", "throughput": "throughput_batch16", "memory": "gpu_memory_peak"}
            row |= _cells(course, {f"course report: {name}": metric for name, metric in names.items()}, "")
        rows.append(row | {"conditions": f"latency: {conditions}, random weights"})
    return pd.DataFrame(rows)


def gpu_table(table: pd.DataFrame) -> pd.DataFrame:
    """Forwards on a GPU in half precision, beside what the course and the paper measured on theirs: one row per network
    and form; cells are text. What was not measured is "not run", and the last column names the command."""
    networks = ("baseline", "wide_resnet50_2"), ("scenario_a", "resnet18")

    def row(backbone: str, form: str, values: Mapping[str, float], conditions: str, missing: str = "") -> dict:
        cells = _cells(values, _TIMED | _PEAKS, missing)
        return {"backbone": BACKBONES[backbone], "form": form} | cells | {"conditions": conditions}

    rows = [row(model[1], "course report", _course(*model), "P100, half precision") for model in networks]
    names = ("latency_batch1", "throughput_batch16", "memory_latency_batch1", "tflops")  # of the paper's columns
    paper = dict(zip(names, reference("supersimplenet_published_speed").median(), strict=True))
    rows.append(row("wide_resnet50_2", "SuperSimpleNet as published", paper, "V100S"))
    gpu = table[table["measurement"].str.contains("gpu_")]
    gpu = gpu.assign(measurement=gpu["measurement"].str.replace("gpu_", ""))
    values, conditions = wide(gpu), _conditions(gpu, "latency_batch1")
    for key in ((*model, variant) for model in networks for variant in GPU_FORMS):
        own = values.loc[key] if key in values.index else {}
        rows.append(row(key[1], _FORMS[key[2]][0], own, conditions.get(key, GPU_COMMAND), "not run"))
    return pd.DataFrame(rows)


def _conditions(table: pd.DataFrame, measurement: str) -> pd.Series:
    found = wide(table, "conditions")
    return found[measurement].dropna() if measurement in found else pd.Series(dtype=str)


def _cells(values: Mapping[str, float], columns: dict[str, str], missing: str) -> dict[str, str]:
    numbers = {name: values.get(measurement) for name, measurement in columns.items()}
    return {name: missing if pd.isna(x) else f"{x:.5g}" for name, x in numbers.items()}


def _course(experiment: str, backbone: str) -> dict[str, float]:
    course = reference("course_report_tables")
    own = course[(course["configuration"] == experiment) & (course["backbone"] == backbone)]
    return dict(zip(own["metric"][::-1], own["value"][::-1], strict=True))  # the first of each


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
    machine = table.groupby("measurement")["value"].max()  # of both products
    if not {"machine_product", "machine_copy"} <= set(machine.index):
        return pd.DataFrame()
    half, values, rows = machine.get("machine_product_half"), wide(table), []
    # in the order of GPUS, and last the one whose time was measured
    devices = {**GPUS, "this machine": (machine["machine_product"] / 1e3, machine["machine_copy"], half and half / 1e3)}
    networks = dict.fromkeys(key[:2] for key in values.index)
    timed = {"forward": ("", "latency_batch1"), "training step": ("_training", "training_step_batch8")}
    for what, (suffix, measurement) in timed.items():
        names, halves = [f"operations{suffix}", f"traffic{suffix}", measurement], what == "forward"
        for experiment, backbone, variant in (k for m in networks for k in values.index if k[:2] == m):
            work, traffic, measured = values.reindex(columns=names).loc[experiment, backbone, variant]
            if variant == "anomalib" or pd.isna(work + traffic + measured):
                continue
            single = traffic * (2 if half and halves else 1)  # as float32 would move
            row = {"method": experiment_label(experiment), "backbone": BACKBONES[backbone], "what": what}
            row |= {"form": _FORMS[variant][0], "GFLOPs": f"{work:.4g}", "MB moved": f"{single:.4g}"}
            for name, (full, bandwidth, lower) in devices.items():
                peak, share = (lower, 2) if lower and halves else (full, 1)
                limit = max(work / peak, single / share / bandwidth)
                row[f"{name}: derived ms"] = f"{limit:.3g}"
            rows.append(row | {"measured ms": f"{measured:.3g}", "share of the limit": f"{limit / measured:.0%}"})
    return pd.DataFrame(rows)


def _named(table: pd.DataFrame, language: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table with ``form`` and ``network`` to print, and the forms' colours."""
    pairs = zip(table["experiment"], table["backbone"], strict=True)
    networks = [f"{experiment_label(experiment, language)}\n{BACKBONES[backbone]}" for experiment, backbone in pairs]
    named = table.assign(network=networks, form=[pick(language, *_FORMS[variant]) for variant in table["variant"]])
    return named, {pick(language, *_FORMS[variant]): _COLOURS[variant] for variant in table["variant"].unique()}


@bilingual
def speedups(table: pd.DataFrame, language: str = "en") -> Figure:
    """How many times faster (and smaller) than the plain form: bars per measurement and model."""
    shown = ("latency_batch1", "throughput_batch16", "training_step_batch8", "memory_throughput_batch16")
    rows = table[table["measurement"].isin(shown) & table["experiment"].isin(["baseline", "scenario_a"])]
    rows, colours = _named(rows[rows["variant"] != "plain"], language)
    order = {"order": list(rows["network"].unique()), "hue_order": list(colours), "palette": colours}
    figure, axes = plt.subplots(1, len(shown), figsize=(6.3, 0.9 + 0.5 * len(order["order"])), sharey=True)
    for ax, measurement in zip(axes, shown, strict=True):
        own = rows[rows["measurement"] == measurement]
        sns.barplot(own, x="ratio_to_plain", y="network", hue="form", saturation=1, legend=False, ax=ax, **order)
        for container in ax.containers:
            ax.bar_label(container, fmt="%.1f×", fontsize=6, padding=1.5)
        ax.axvline(1, color="black", lw=0.8)
        ax.set(xlabel="", ylabel="", xlim=(0, 1.3 * max([1.0, *own["ratio_to_plain"]])))
        ax.set_title(measurement_label(measurement, language).replace(", ", ",\n"), fontsize=7)
        ax.grid(axis="y", visible=False)
    title = ("times faster, or smaller, than the plain form", "volte più veloce, o più piccola, della forma piana")
    figure.suptitle(pick(language, *title), fontsize=8, color="#555555")
    for form, colour in colours.items():
        axes[0].barh([0], [0], color=colour, label=form)
    legend_below(figure, axes[0])
    return figure


@bilingual
def growth(table: pd.DataFrame, language: str = "en") -> Figure | None:
    """Cost against the image's side, the batch, and the number of training images, for every form measured; None where
    no model was."""
    if not (measured := models(table)):
        return None
    experiment, backbone = measured[:2][-1]  # the one that grows, see Settings
    own = table[(table["experiment"] == experiment) & (table["backbone"] == backbone)]
    rate = own["measurement"] == "throughput_batch16"
    own = own.assign(value=own["value"].mask(rate, 1000 / own["value"]))
    panels = (
        ("height", own, "growth_side|latency_batch1", "image side (pixels)", "lato dell'immagine (pixel)"),
        ("batch", own, "growth_batch|latency_batch1|throughput_batch16", "batch", "batch"),
        ("images", table, "training_run", "training images (2 epochs)", "immagini (2 epoche)"),
    )
    figure, axes = plt.subplots(1, len(panels), figsize=(6.3, 2.7))
    for ax, (column, rows, shown, *label) in zip(axes, panels, strict=True):
        rows, colours = _named(rows[rows["measurement"].str.fullmatch(shown)], language)
        look = {"hue": "form", "palette": colours, "style": "form", "markers": ["o", "s", "^"][: len(colours)]}
        sns.lineplot(rows, x=column, y="value", dashes=False, mec="none", legend=ax is axes[0], ax=ax, **look)
        plain_logarithms(ax)
        ax.set_xticks(ticks := sorted(rows[column].unique()), [f"{x:g}" for x in ticks])
        ax.set(xlabel=pick(language, *label), ylabel="")
    axes[0].set_ylabel(pick(language, "ms per image", "ms per immagine"))
    axes[2].set_ylabel(pick(language, "seconds", "secondi"))
    title = ("inference (left, middle) and training (right)", "inferenza (sinistra, centro) e addestramento (destra)")
    figure.suptitle(f"{BACKBONES[backbone]}: {pick(language, *title)}", fontsize=8, color="#555555")
    legend_below(figure, axes[0])
    axes[0].get_legend().remove()
    return figure


def plain_logarithms(ax: Axes, names: str = "xy") -> None:
    """Logarithmic axes that are labelled with numbers, not powers."""
    for name in names:
        ax.set(**{f"{name}scale": "log"})
        axis = getattr(ax, f"{name}axis")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
    ax.minorticks_off()
