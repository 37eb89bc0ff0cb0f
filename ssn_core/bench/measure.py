"""Speed ratios measured in one run: ``python -m ssn_core.bench`` prints them and writes <figures>/bench.csv.

Every form of a computation is a process of its own, and the processes take turns, so that a machine whose speed
drifts slows all alike. Medians are compared with the first form of the group, the plain one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ssn_core.bench.forms import Form, Point
from ssn_core.bench.plan import Group, Settings, plan
from ssn_core.errors import InputError
from ssn_core.files import write_csv
from ssn_core.runs.profiles import Profile, load_profile, project_root
from ssn_core.runs.result import Log

FILE = "bench.csv"
COLUMNS = [
    "group", "measurement", "experiment", "backbone", "variant", "batch", "height", "width", "images", "device",
    "value", "unit", "spread_low", "spread_high", "ratio_to_plain", "conditions",
]  # fmt: skip
_LEAST_TURNS = 3
_RATES = ("images/s", "GFLOP/s", "GB/s")  # more is better


def measure(
    profile: Profile,
    device: str | None = None,
    again: bool = False,
    only: str = "",
    peers: Path | None = None,
    log: Log = print,
) -> pd.DataFrame:
    """Measure what ``<figures>/bench.csv`` of a profile lacks, and return the table (columns: ``COLUMNS``).

    ``again``: measure anew. ``only``: the groups whose name holds this text. ``peers``: the Python of an environment
    that has anomalib. The table is written after every group.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    groups = plan(Settings.of(profile), device, peers is not None)
    if not (chosen := [group for group in groups if only in group.name]):
        raise InputError(f"nothing to measure is called {only!r}; there are {', '.join(g.name for g in groups)}")
    path = profile.figures / FILE
    table: list[dict[str, Any]] = []
    if path.is_file():
        read(path)  # refuses another format before anything is measured
        table = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    order = [group.name for group in groups]
    for group in chosen:
        if not again and any(row["group"] == group.name for row in table):
            continue
        new = _measured(group, Settings.of(profile), peers)
        table = [row for row in table if row["group"] != group.name and row["group"] in order] + new
        table.sort(key=lambda row: order.index(row["group"]))
        write_csv(path, table, COLUMNS)
        for row in new:
            log(_line(row))
    return read(path)


def read(path: Path) -> pd.DataFrame:
    """A written table, with numbers where numbers belong."""
    table = pd.read_csv(path, keep_default_na=False, na_values={"ratio_to_plain": [""], "images": [""]})
    if missing := [column for column in COLUMNS if column not in table.columns]:
        raise InputError(f"{path} has no column {', '.join(missing)}; delete it and run python -m ssn_core.bench again")
    return table


def _line(row: dict[str, Any]) -> str:
    ratio = f"{row['ratio_to_plain']}x" if row["ratio_to_plain"] else ""
    where = f"{row['measurement']:28s} {row['experiment']:16s} {row['backbone']:18s} {row['variant']:14s}"
    return f"{where} {row['value']:>8s} {row['unit']:12s} {ratio:>7s}  {row['conditions'].partition(', median')[0]}"


class _Process:
    """One form in a process of its own."""

    def __init__(self, form: Form, peers: Path | None) -> None:
        self.form = form
        python = [str(peers), "-W", "ignore"] if form.variant == "anomalib" else [sys.executable]
        self.process = subprocess.Popen(
            [*python, "-m", "ssn_core.bench.process"], cwd=project_root(), text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._send(dataclasses.asdict(form))

    def _send(self, command: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has stopped; the missing answer says so
            self.process.stdin.write(json.dumps(command) + "\n")

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._send(command)
        if not (answer := self.process.stdout.readline()):
            raise InputError(f"the benchmark's process of {self.form} stopped; its own message stands above")
        return json.loads(answer)

    def end(self) -> None:
        """Let it go."""
        self.process.kill()
        self.process.communicate()


def _measured(group: Group, settings: Settings, peers: Path | None) -> list[dict[str, Any]]:
    processes = [_Process(form, peers) for form in group.forms]
    table: list[dict[str, Any]] = []
    try:
        for i, (measurement, point) in enumerate(group.points):
            for process in processes:
                process.ask(point=dataclasses.asdict(point))
            turns: list[list[dict[str, Any]]] = [[] for _ in processes]
            started = time.monotonic()
            while len(turns[0]) < settings.turns:
                for process, answers in zip(processes, turns, strict=True):
                    answers.append(process.ask(turn=True))
                if len(turns[0]) >= _LEAST_TURNS and time.monotonic() - started > settings.seconds:
                    break
            table += rows(group, measurement, point, turns)
            counted = group.forms[0].kind in ("inference", "training") and not group.name.startswith("gpu")
            if i == 0 and counted and not point.images:
                table += fact_rows(group, measurement, point, [process.ask(facts=True) for process in processes])
    finally:
        for process in processes:
            process.end()
    return table


def rows(group: Group, measurement: str, point: Point, turns: Sequence[Sequence[dict]]) -> list[dict[str, Any]]:
    """Rows of one point from each form's turns (``seconds`` and ``peak`` bytes or None): time, then memory; ratios
    compare medians with the first form's."""
    unit, scale = _unit(measurement, point)
    times = [[scale / t["seconds"] if unit in _RATES else scale * t["seconds"] for t in form] for form in turns]
    table = _table_rows(group, measurement, point, unit, times)
    peaks = [[turn["peak"] / 1e6 for turn in form if turn["peak"] is not None] for form in turns]
    if all(peaks) and group.forms[0].kind != "machine":
        table += _table_rows(group, f"memory_{measurement}", point, "MB", peaks)
    return table


def fact_rows(group: Group, measurement: str, point: Point, facts: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """Rows of what is counted and not timed: operations and bytes an image, parameters, rounding errors."""
    kinds = [("error", "error", "of the map's deviation", 1)]
    if measurement != "precision":
        suffix = "_training" if group.forms[0].kind == "training" else ""
        kinds = [("parameters", "parameters", "M", 1e6)]
        kinds += [
            (f"operations{suffix}", "flops", "GFLOP/image", 1e9),
            (f"traffic{suffix}", "traffic", "MB/image", 1e6),
        ]
    table = []
    for name, key, unit, scale in kinds:
        of = [(form, [f[key] / scale]) for form, f in zip(group.forms, facts, strict=True) if key in f]
        part = dataclasses.replace(group, forms=[form for form, _ in of])
        table += _table_rows(part, name, point, unit, [values for _, values in of])
    return table


def _unit(measurement: str, point: Point) -> tuple[str, float]:
    """Unit, and the factor from seconds to it (a rate: what is divided by the seconds)."""
    if measurement.removeprefix("gpu_").startswith("throughput"):
        return "images/s", point.batch
    if measurement.startswith("machine_product"):
        return "GFLOP/s", 2 * point.size[0] ** 3 / 1e9
    if measurement == "machine_copy":
        return "GB/s", 2 * 4 * point.size[0] * point.size[1] / 1e9  # float32, read and written
    if point.images:
        return "s", 1.0
    return "ms/image", 1e3 / point.batch


def _table_rows(
    group: Group, measurement: str, point: Point, unit: str, samples: Sequence[Sequence[float]]
) -> list[dict[str, Any]]:
    reference = statistics.median(samples[0]) if samples else 0.0
    table = []
    for form, values in zip(group.forms, samples, strict=True):
        median = statistics.median(values)
        ratio = median / reference if unit in _RATES else reference / median if median else 0.0
        size = {"batch": point.batch, "height": point.size[0], "width": point.size[1], "images": point.images or ""}
        row = {"group": group.name, "measurement": measurement, "experiment": form.experiment} | size
        row |= {"backbone": form.backbone, "variant": form.variant, "device": form.device, "unit": unit}
        row |= {"value": f"{median:.4g}", "spread_low": f"{min(values):.4g}", "spread_high": f"{max(values):.4g}"}
        row |= {"ratio_to_plain": f"{ratio:.3g}" if len(samples) > 1 else ""}
        table.append(row | {"conditions": _conditions(form, point, len(values))})
    return table


def _conditions(form: Form, point: Point, turns: int) -> str:
    size = "x".join(map(str, point.size))
    parts = [f"{point.images} images of {size}" if point.images else size]
    if form.kind in ("inference", "training"):
        parts.append(f"batch {point.batch}")
    parts.append(f"median of {turns} turns" if turns > 1 else "once")
    if form.device.startswith("cuda"):
        parts.append(torch.cuda.get_device_name())
    else:
        parts.append(f"{platform.machine()}, {torch.get_num_threads()} threads")
    return ", ".join([*parts, f"torch {torch.__version__.split('+')[0]}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m ssn_core.bench", description=__doc__)
    parser.add_argument("--profile", default="cpu", help="what to measure, and where the table goes")
    parser.add_argument("--only", default="", metavar="TEXT", help="groups whose name holds this text")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="python of an environment that has anomalib")
    parser.add_argument("--device")
    options = parser.parse_args(arguments)
    try:
        profile = load_profile(options.profile)
        measure(profile, options.device, again=True, only=options.only, peers=options.peers)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"table: {profile.figures / FILE}")
    return 0
