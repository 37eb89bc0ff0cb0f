"""Quantities that a check or a sentence compares: looked up in the summary, with what they were measured on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ssn_core.study.differences import Sample
from ssn_core.study.reference import PUBLISHED_RUNS
from ssn_core.study.results import PAIRED, only

SOURCES = ("runs", "log", "course", "published", "speed", "bench", "counters", "value")
FILES = ("log", "course", "published", "speed")
#: counted, or computed from the data and the frozen trunk alone: the same for every seed
DETERMINISTIC = ("parameters", "feature-std")
#: what two measurements of time or memory must share before they may be compared
TERMS = ("device", "precision", "batch", "height", "width")
_COLUMNS = {"course": "value", "published": "mean"}
_COMMANDS = {"bench": "make bench", "counters": "python -m ssn_core.bench.counters"}


@dataclass(frozen=True, kw_only=True)
class Quantity(Sample):
    """A number and where it comes from. ``value`` is None when it is missing, ``command`` is what would make it.

    ``setting``: what must be shared by two sides that are compared seed by seed.
    """

    source: str
    where: dict[str, Any]
    metric: str = ""
    statistic: str = "mean"
    times: float = 1.0
    plus: float = 0.0
    label: dict[str, str] | None = None
    conditions: dict[str, Any] | None = None
    command: str | None = None
    setting: dict[str, Any] | None = None


def resolve(spec: dict[str, Any], summary: dict[str, Any]) -> Quantity:
    """Look a quantity up in the summary; a run set that is not there gives a Quantity without a value."""
    source = next(s for s in SOURCES if s in spec)
    bare = Quantity(
        value=None,
        source=source,
        where=spec[source] if isinstance(spec[source], dict) else {},
        metric=str(spec.get("metric", spec.get("column", ""))),
        statistic=spec.get("statistic", "mean"),
        times=float(spec.get("times", 1.0)),
        plus=float(spec.get("plus", 0.0)),
        label=spec.get("label"),
    )
    if source == "value":
        return _scaled(bare, value=float(spec["value"]))
    return _from_runs(bare, summary) if source == "runs" else _from_rows(bare, summary)


def _scaled(bare: Quantity, **fields: Any) -> Quantity:
    """The quantity with its numbers times ``times`` plus ``plus``; a spread is only multiplied."""
    for name in ("value", "low", "high"):
        if fields.get(name) is not None:
            fields[name] = fields[name] * bare.times + bare.plus
    if fields.get("seeds"):
        fields["seeds"] = {seed: x * bare.times + bare.plus for seed, x in fields["seeds"].items()}
    if fields.get("std") is not None:
        fields["std"] *= bare.times
    return dataclasses.replace(bare, **fields)


def _from_rows(bare: Quantity, summary: dict[str, Any]) -> Quantity:
    """The one fitting row of a reference file, of the counters or of the benchmark."""
    where = dict(bare.where)
    if bare.source in ("course", "published", "log"):
        where["metric"] = bare.metric
    if bare.source == "speed":
        where["statistic"] = bare.statistic
    column = bare.statistic if bare.source == "log" else _COLUMNS.get(bare.source, bare.metric)
    row, fields = only(summary[bare.source], **where), {}
    if row is None or row[column] is None:
        return dataclasses.replace(bare, command=_COMMANDS.get(bare.source))
    if bare.source == "published":
        fields = {"std": row["std"], "n": PUBLISHED_RUNS}
    if bare.source == "bench":
        fields = {"conditions": {name: row[name] for name in TERMS}}
        if column == "value":
            fields |= {"low": row["spread_low"], "high": row["spread_high"]}
    return _scaled(bare, value=row[column], **fields)


def _from_runs(bare: Quantity, summary: dict[str, Any]) -> Quantity:
    where = bare.where if "backbone" in bare.where else bare.where | {"edge": False}
    bare = dataclasses.replace(bare, command=missing_command(where, summary))
    group = only(summary["groups"], **where)
    if group is None or bare.metric not in group["values"]:
        return bare
    found = group["values"][bare.metric]
    if found["n"] < group["n"]:  # not defined for all of them
        return bare
    fields: dict[str, Any] = {"conditions": {name: group[name] for name in ("steps", "n")}}
    fields["setting"] = {name: group[name] for name in PAIRED}
    if bare.statistic == "mean" and bare.metric not in DETERMINISTIC:
        fields |= {name: found[name] for name in ("std", "n", "seeds")}
        fields["rise"] = group["values"].get(f"{bare.metric} rise", {}).get("mean")
    return _scaled(bare, value=found[bare.statistic], **fields)


def missing_command(where: dict[str, Any], summary: dict[str, Any]) -> str | None:
    """The command of the first run of a set that is not there yet, or None when the profile's runs are all there."""
    absent = (command for command in summary["commands"] if not command["there"])
    return next((c["command"] for c in absent if all(c[k] == v for k, v in where.items() if k in c)), None)
