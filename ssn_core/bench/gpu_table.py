"""Inference on a GPU in half precision: every form of it, beside what the course and the paper measured on theirs."""

from __future__ import annotations

import pandas as pd

from ssn_core.bench.plan import GPU_FORMS
from ssn_core.bench.show import BACKBONES
from ssn_core.study.reference import reference

COMMAND = "python -m ssn_core.bench --profile full --device cuda"
_MODELS = (("baseline", "wide_resnet50_2"), ("scenario_a", "resnet18"))
_FORMS = {
    "plain": "plain form",
    "compiled": "plain form, compiled",
    "fold": "fast form",
    "graph": "fast form as a graph",
    "graph_compiled": "fast form, compiled, as a graph",
}
_MEASURED = {
    "latency, batch 1 (ms)": "gpu_latency_batch1",
    "throughput, batch 16 (images/s)": "gpu_throughput_batch16",
    "throughput, batch 256 (images/s)": "gpu_throughput_batch256",
    "peak memory, batch 1 (MB)": "memory_gpu_latency_batch1",
    "peak memory, batch 16 (MB)": "memory_gpu_throughput_batch16",
    "peak memory, batch 256 (MB)": "memory_gpu_throughput_batch256",
}


def gpu_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network and form, from images in main memory to logits there; cells are text. ``table`` is the
    benchmark's; what it lacks is "not run", and the last column names the command that measures it."""
    rows = []
    for experiment, backbone in _MODELS:
        own = table[(table["experiment"] == experiment) & (table["backbone"] == backbone)]
        for variant in GPU_FORMS:
            found = own[own["variant"] == variant].drop_duplicates("measurement").set_index("measurement")
            row = {"backbone": BACKBONES[backbone], "form": _FORMS[variant]}
            for name, measurement in _MEASURED.items():
                row[name] = f"{float(found['value'][measurement]):.4g}" if measurement in found.index else "not run"
            first = _MEASURED["latency, batch 1 (ms)"]
            rows.append(row | {"conditions": found["conditions"][first] if first in found.index else COMMAND})
    return pd.DataFrame([*_published(), *rows])


def _published() -> list[dict[str, str]]:
    """The course's figures and the paper's (medians of its cycles); neither says what became of the transfers."""
    course, (latency, throughput, _, memory, *_) = reference("course_report_tables"), _MEASURED
    rows = []
    for experiment, backbone in _MODELS:
        own = course[(course["configuration"] == experiment) & (course["backbone"] == backbone)]
        values = own.drop_duplicates("metric").set_index("metric")["value"]
        row = {"backbone": BACKBONES[backbone], "form": "course report"} | dict.fromkeys(_MEASURED, "")
        row |= {latency: f"{values['latency_batch1']:g}", throughput: f"{values['throughput_batch16']:g}"}
        rows.append(row | {"conditions": "P100, half precision"})
    paper = reference("supersimplenet_published_speed").median()
    row = {"backbone": BACKBONES["wide_resnet50_2"], "form": "SuperSimpleNet as published"}
    row |= dict.fromkeys(_MEASURED, "") | {latency: f"{paper['time_ms']:.4g}", memory: f"{paper['memory_mb']:.4g}"}
    row |= {throughput: f"{paper['throughput_images_per_s']:.4g}", "conditions": "V100S"}
    return [*rows, row]
