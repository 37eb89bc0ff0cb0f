"""Speed ratios measured in one run: every form is a process of its own, and the processes take turns, so that a machine
whose speed drifts slows all alike. Medians are compared with the first form of the group, the plain one. No torch here.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from ssn_core.bench.plan import PEER, Form, Group, Point, Settings, inference_dtype, plan, settings_of
from ssn_core.errors import InputError
from ssn_core.files import write_csv
from ssn_core.runs.profiles import Profile, project_root
from ssn_core.runs.result import Log

FILE = "bench.csv"
COLUMNS = [
    "group", "measurement", "experiment", "backbone", "variant", "batch", "height", "width", "images", "device",
    "value", "unit", "spread_low", "spread_high", "ratio_to_plain", "conditions",
]  # fmt: skip
_LEAST_TURNS = 3
_RATES = ("images/s", "GFLOP/s", "GB/s")  # more is better
_COUNTED = {
    "latency_batch1": {"parameters": "M", "operations": "GFLOP/image", "traffic": "MB/image"},
    "training_step_batch8": {"operations_training": "GFLOP/image", "traffic_training": "MB/image"},
    "precision": {"error": "of the map's deviation"},
}  # beside which measurement what is counted, and its unit
Row = dict[str, Any]


def measure(
    profile: Profile, device: str | None = None, only: str = "", peers: str | None = None, log: Log = print
) -> pd.DataFrame:
    """Measure the groups whose name holds ``only``, all by default, and return :func:`read` of ``<figures>/bench.csv``.

    ``peers``: the Python of an environment that has anomalib. The file is written after every group and keeps the
    others as they are. Raises :class:`InputError` for settings and names that are unknown, and for a form that stops.
    """
    settings = settings_of(profile)
    groups = plan(settings, device or _device(), peers is not None)
    order = [group.name for group in groups]
    if not (chosen := [group for group in groups if only in group.name]):
        raise InputError(f"nothing to measure is called {only!r}; there are {', '.join(order)}")
    path = profile.figures / FILE
    table: list[Row] = []
    if path.is_file():
        read(path)  # refuses another format before anything is measured
        table = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    for group in chosen:
        new = _measured(group, settings, peers)
        gone = {r["variant"] for r in table if r["group"] == group.name} - {form.variant for form in group.forms}
        table = [row for row in table if row["group"] != group.name] + new
        table.sort(key=lambda row: order.index(row["group"]) if row["group"] in order else len(order))
        write_csv(path, table, COLUMNS)
        for row in new:
            log(_line(row))
        for variant in sorted(gone):
            log(f"{group.name}: {variant} had no turns this time, so its rows left the table (--peers measures it)")
    return read(path)


def read(path: Path) -> pd.DataFrame:
    """A written table, with numbers where numbers belong, and ``precision``: what a forward computes in, else None."""
    table = pd.read_csv(path, keep_default_na=False, na_values={"ratio_to_plain": [""], "images": [""]})
    if missing := [column for column in COLUMNS if column not in table.columns]:
        raise InputError(f"{path} has no column {', '.join(missing)}; delete it and run python -m ssn_core.bench again")
    forward = table["group"].str.match("(gpu )?inference|precision")
    forms = zip(forward, table["variant"], table["device"], strict=True)
    return table.assign(precision=[inference_dtype(variant, device) if f else None for f, variant, device in forms])


def _device() -> str:
    import torch  # takes seconds, and who reads a table does without

    return "cuda" if torch.cuda.is_available() else "cpu"


def _line(row: Row) -> str:
    ratio = f"{row['ratio_to_plain']}x" if row["ratio_to_plain"] else ""
    where = f"{row['measurement']:28s} {row['experiment']:16s} {row['backbone']:18s} {row['variant']:14s}"
    return f"{where} {row['value']:>8s} {row['unit']:12s} {ratio:>7s}  {row['conditions'].partition(', median')[0]}"


@contextlib.contextmanager
def _process(form: Form, peers: str | None) -> Iterator[Callable[..., Row]]:
    """A form in a process of its own; gives what sends it a command and waits for its answer."""
    python = peers if form.variant == PEER else sys.executable
    process = subprocess.Popen(
        [python, "-m", "ssn_core.bench.forms", json.dumps(form)], cwd=project_root(), text=True, bufsize=1,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip

    def ask(**command: Any) -> Row:
        with contextlib.suppress(BrokenPipeError):  # it has stopped; the missing answer says so
            process.stdin.write(json.dumps(command) + "\n")
        if not (answer := process.stdout.readline()):
            raise InputError(f"the benchmark's process of {form} stopped; its own message stands above")
        return json.loads(answer)

    try:
        yield ask
    finally:
        process.kill()
        process.communicate()


def _measured(group: Group, settings: Settings, peers: str | None) -> list[Row]:
    table: list[Row] = []
    with contextlib.ExitStack() as stack:
        forms = [stack.enter_context(_process(form, peers)) for form in group.forms]
        for point in group.points:
            for ask in forms:
                ask(point=point)
            turns: list[list[Row]] = [[] for _ in forms]
            started = time.monotonic()
            while len(turns[0]) < settings.turns:
                for ask, answers in zip(forms, turns, strict=True):
                    answers.append(ask(turn=True))
                if len(turns[0]) >= _LEAST_TURNS and time.monotonic() - started > settings.seconds:
                    break
            table += rows(group, point, turns)
            if point.measurement in _COUNTED:
                table += counted_rows(group, point, [ask(count=True) for ask in forms])
    return table


def rows(group: Group, point: Point, turns: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of one point from each form's turns (``seconds``, ``peak`` bytes or None, ``where``): time, then memory."""
    unit, scale = _unit(point)
    where = [form[0]["where"] for form in turns]
    times = [[scale / t["seconds"] if unit in _RATES else scale * t["seconds"] for t in form] for form in turns]
    table = _rows(group, point, point.measurement, unit, times, where)
    peaks = [[turn["peak"] / 1e6 for turn in form if turn["peak"] is not None] for form in turns]
    if all(peaks) and group.forms[0].kind != "machine":
        table += _rows(group, point, f"memory_{point.measurement}", "MB", peaks, where)
    return table


def counted_rows(group: Group, point: Point, counts: Sequence[Row]) -> list[Row]:
    """Rows of what is counted and not timed (:data:`_COUNTED`), from each form's counts and ``where``."""
    table = []
    for name, unit in _COUNTED[point.measurement].items():
        values = [[form[key]] if (key := name.removesuffix("_training")) in form else [] for form in counts]
        table += _rows(group, point, name, unit, values, [form["where"] for form in counts])
    return table


def _unit(point: Point) -> tuple[str, float]:
    """Unit, and the factor from seconds to it (a rate: what is divided by the seconds)."""
    height, width = point.size
    if "throughput" in point.measurement:
        return "images/s", point.batch
    if point.measurement.startswith("machine_product"):
        return "GFLOP/s", 2 * height**3 / 1e9
    if point.measurement == "machine_copy":
        return "GB/s", 2 * 4 * height * width / 1e9  # float32, read and written
    return ("s", 1.0) if point.images else ("ms/image", 1e3 / point.batch)


def _rows(
    group: Group, point: Point, measurement: str, unit: str, samples: Sequence[Sequence[float]], where: Sequence[str]
) -> list[Row]:
    """One row for every form that has samples."""
    table: list[Row] = []
    medians = [median(values) for values in samples if values]
    for form, values, place in zip(group.forms, samples, where, strict=True):
        if not values:
            continue
        middle = median(values)
        ratio = middle / medians[0] if unit in _RATES else medians[0] / middle if middle else 0.0
        row = {"group": group.name, "measurement": measurement, "unit": unit, "batch": point.batch}
        row |= {"height": point.size[0], "width": point.size[1], "images": point.images or ""}
        row |= {name: getattr(form, name) for name in ("experiment", "backbone", "variant", "device")}
        row |= {"value": f"{middle:.4g}", "spread_low": f"{min(values):.4g}", "spread_high": f"{max(values):.4g}"}
        row |= {"ratio_to_plain": f"{ratio:.3g}" if len(medians) > 1 else ""}
        table.append(row | {"conditions": _conditions(form, point, len(values), place)})
    return table


def _conditions(form: Form, point: Point, turns: int, where: str) -> str:
    size = "x".join(map(str, point.size))
    parts = [f"{point.images} images of {size}" if point.images else size]
    parts += [f"batch {point.batch}"] if form.kind in ("inference", "training") else []
    return ", ".join([*parts, f"median of {turns} turns" if turns > 1 else "once", where])
