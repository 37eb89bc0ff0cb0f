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
from math import inf
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
Row = dict[str, Any]


def measure(
    profile: Profile, device: str | None = None, only: str = "", peers: str | None = None, log: Log = print
) -> pd.DataFrame:
    """Measure the groups whose name holds ``only``, all by default, and return :func:`read` of ``<figures>/bench.csv``.

    ``peers``: the Python of an environment that has anomalib. The file is written after every group and keeps the
    others as they are. Raises :class:`InputError` for settings and names that are unknown, and for a form that stops.
    """
    import torch  # takes seconds, and who reads a table does without

    settings = settings_of(profile)
    groups = plan(settings, device or ("cuda" if torch.cuda.is_available() else "cpu"), peers is not None)
    if not (chosen := [group for group in groups if only in group.name]):
        known = ", ".join(group.name for group in groups)
        raise InputError(f"nothing to measure is called {only!r}; there are {known}")
    order = [group.name for group in plan(settings, "cuda", peers=True)]
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
        raise InputError(f"{path} has no column {', '.join(missing)}; delete it and run python -m ssn_core bench again")
    forward = table["group"].str.match("(gpu )?inference|runtime|precision")
    forms = zip(forward, table["variant"], table["device"], strict=True)
    return table.assign(precision=[inference_dtype(variant, device) if f else None for f, variant, device in forms])


def _line(row: Row) -> str:
    ratio = f"{row['ratio_to_plain']}x" if row["ratio_to_plain"] else ""
    where = f"{row['measurement']:28s} {row['experiment']:16s} {row['backbone']:18s} {row['variant']:14s}"
    return f"{where} {row['value']:>8s} {row['unit']:12s} {ratio:>7s}  {row['conditions'].partition(', median')[0]}"


@contextlib.contextmanager
def _process(form: Form, peers: str | None) -> Iterator[Callable[..., Any]]:
    """A :class:`ssn_core.bench.process.Worker` in a process of its own; gives what calls a method of it by name."""
    python = peers if form.variant.startswith(PEER) else sys.executable
    process = subprocess.Popen(
        [python, "-m", "ssn_core.bench.process", json.dumps(form)], cwd=project_root(), text=True, bufsize=1,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip

    def ask(method: str, *arguments: Any) -> Any:
        with contextlib.suppress(BrokenPipeError):  # it has stopped; the missing answer says so
            process.stdin.write(json.dumps([method, *arguments]) + "\n")
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
            where = [ask("begin", *point) for ask in forms]
            answers: list[list[Row]] = [[] for _ in forms]
            started = time.monotonic()
            for turn in range(settings.turns):
                if turn >= _LEAST_TURNS and time.monotonic() - started > settings.seconds:
                    break
                for ask, own in zip(forms, answers, strict=True):
                    own.append(ask("turn"))
            for ask, own in zip(forms, answers, strict=True):
                own.append(ask("count"))
            table += rows(group, point, answers, where)
    return table


def rows(group: Group, point: Point, answers: Sequence[Sequence[Row]], where: Sequence[str]) -> list[Row]:
    """Rows of one point from each form's answers, measurement -> (value, unit), and where it ran."""
    table: list[Row] = []
    for measurement in dict.fromkeys(name for form in answers for answer in form for name in answer):
        samples = [[answer[measurement] for answer in form if measurement in answer] for form in answers]
        base = median(value for value, _ in samples[0]) if samples[0] else None
        for form, found, place in zip(group.forms, samples, where, strict=True):
            if found:
                values, unit = [value for value, _ in found], found[0][1]
                row = _described(group, form, point, len(found), place) | {"measurement": measurement, "unit": unit}
                row |= {"value": median(values), "spread_low": min(values), "spread_high": max(values)}
                row |= {name: f"{row[name]:.4g}" for name in ("value", "spread_low", "spread_high")}
                compared = base is not None and sum(map(bool, samples)) > 1
                table.append(row | {"ratio_to_plain": _ratio(base, median(values), unit) if compared else ""})
    return table


def _ratio(base: float, value: float, unit: str) -> str:
    """How many times faster or smaller than the first form."""
    return f"{value / base if unit.endswith('/s') else base / (value or inf):.3g}"


def _described(group: Group, form: Form, point: Point, turns: int, where: str) -> Row:
    size = "x".join(map(str, point.size))
    parts = [f"{point.images} images of {size}" if point.images else size]
    parts += [f"batch {point.batch}"] if form.kind in ("inference", "runtime", "training") else []
    parts += [f"median of {turns} turns" if turns > 1 else "once", where]
    row = {"group": group.name, "batch": point.batch, "height": point.size[0], "width": point.size[1]}
    row |= {name: getattr(form, name) for name in ("experiment", "backbone", "variant", "device")}
    return row | {"images": point.images or "", "conditions": ", ".join(parts)}
