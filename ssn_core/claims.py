"""The claims ledger: what the course report says, the check that decides it, and the verdict that follows.

``report/claims.yaml`` states every claim in both languages and its checks; a check compares two quantities. No verdict
is written there: it is computed from the summary (:mod:`ssn_core.summary`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import InputError

CONFIRMED, REFUTED, OPEN = "confirmed", "refuted", "open"
STANDARD_ERRORS = 2  # a difference of means below this many standard errors is no difference
_OPERATORS = (">", ">=", "<", "<=", "==")
_SOURCES = ("runs", "log", "course", "published", "speed", "bench", "value")
_FILES = ("log", "course", "published", "speed")
_CLAIM_KEYS, _TEXTS = {"id", "section", "erratum", "claim", "test", "checks"}, ("claim", "test")
_CHECK_KEYS = {"left", "op", "right", "margin", "min_seeds", "min_steps"}
_QUANTITY_KEYS = {*_SOURCES, "metric", "statistic", "column", "label", "times", "max_loss"}


@dataclass(frozen=True)
class Quantity:
    """A number and where it comes from. ``value`` is None when it is missing, ``command`` is what would make it."""

    source: str
    where: dict[str, Any]
    metric: str
    statistic: str
    value: float | None
    std: float | None = None
    n: int | None = None
    conditions: dict[str, Any] | None = None
    command: str | None = None
    label: dict[str, str] | None = None
    times: float = 1.0
    unit: str | None = None
    converged: bool = True


def load_claims(path: Path) -> list[dict[str, Any]]:
    """Read and check a ledger; every problem is an :class:`InputError` that names the claim."""
    claims = yaml.safe_load(path.read_text(encoding="utf-8"))
    problems = [f"{c.get('id', '?')}: {text}" for c in claims for text in _problems(c)]
    ids = [c.get("id") for c in claims]
    problems += [f"{name}: used twice" for name in sorted({i for i in ids if ids.count(i) > 1})]
    if problems:
        raise InputError(f"{path}: " + "; ".join(problems))
    return claims


def _problems(claim: dict[str, Any]) -> list[str]:
    found = []
    if wrong := sorted(set(claim) ^ _CLAIM_KEYS):
        return [f"keys {', '.join(wrong)} are unknown or missing"]
    for name in _TEXTS:
        if set(claim[name]) != {"en", "it"}:
            found.append(f"{name} needs the languages en and it")
    for check in claim["checks"]:
        if wrong := sorted(set(check) - _CHECK_KEYS) or sorted({"left", "op", "right"} - set(check)):
            found.append(f"check has unknown or missing {', '.join(wrong)}")
            continue
        if check["op"] not in _OPERATORS:
            found.append(f"op={check['op']!r} must be one of {' '.join(_OPERATORS)}")
        for side in ("left", "right"):
            if wrong := sorted(set(check[side]) - _QUANTITY_KEYS):
                found.append(f"{side} has unknown {', '.join(wrong)}")
            elif len([s for s in _SOURCES if s in check[side]]) != 1:
                found.append(f"{side} needs exactly one of {', '.join(_SOURCES)}")
    return found


def judge(claims: list[dict[str, Any]], summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Every claim with its checks resolved and its verdict: refuted if one check fails, else open if one is
    undecided, else confirmed."""
    judged = []
    for claim in claims:
        checks = [_check(check, summary) for check in claim["checks"]]
        outcomes = [check["outcome"] for check in checks]
        verdict = REFUTED if REFUTED in outcomes else OPEN if OPEN in outcomes else CONFIRMED
        judged.append({**claim, "checks": checks, "verdict": verdict})
    return judged


def _check(check: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    left, right = (resolve(check[side], summary) for side in ("left", "right"))
    margin = max(float(check.get("margin", 0.0)), STANDARD_ERRORS * _standard_error(left, right))
    outcome, reason = decide(left, check["op"], right, margin, check.get("min_seeds", 1), check.get("min_steps", 0))
    return {
        "left": asdict(left),
        "op": check["op"],
        "right": asdict(right),
        "margin": margin,
        "outcome": outcome,
        "reason": reason,
        "command": next((side.command for side in (left, right) if _wanting(side, check.get("min_seeds", 1))), None),
    }


def _wanting(side: Quantity, min_seeds: int) -> bool:
    """Whether more runs of a side would help."""
    return side.value is None or (side.n is not None and side.n < min_seeds)


def decide(
    left: Quantity, op: str, right: Quantity, margin: float, min_seeds: int = 1, min_steps: int = 0
) -> tuple[str, str]:
    """(outcome, reason). ``>`` and ``<`` ask for a difference beyond the margin and are open within it; ``>=`` and
    ``<=`` fail only beyond the margin; ``==`` holds within it. Sides with fewer seeds or training steps than asked for,
    or a training that did not converge, decide nothing."""
    for side in (left, right):
        if side.value is None:
            return OPEN, "no source" if side.source in _FILES else "not run"
        if side.n is not None and side.n < min_seeds:
            return OPEN, "too few seeds"
        if side.source == "runs" and side.conditions["steps"] < min_steps:
            return OPEN, "training too short"
        if not side.converged:
            return OPEN, "not converged"
    difference = left.value - right.value
    if op == "==":
        return (CONFIRMED if abs(difference) <= margin else REFUTED), ""
    ahead = difference if op.startswith(">") else -difference
    if op.endswith("="):
        return (CONFIRMED if ahead >= -margin else REFUTED), ""
    if ahead > margin:
        return CONFIRMED, ""
    return (REFUTED, "") if ahead < -margin or margin == 0 else (OPEN, "within the margin")


def _standard_error(*sides: Quantity) -> float:
    return math.sqrt(sum(side.std**2 / side.n for side in sides if side.std is not None and side.n))


def resolve(spec: dict[str, Any], summary: dict[str, Any]) -> Quantity:
    """Look a quantity up in the summary; a run set that is not there gives a Quantity without a value."""
    source = next(s for s in _SOURCES if s in spec)
    where = spec[source] if isinstance(spec[source], dict) else {}
    times = float(spec.get("times", 1.0))
    common = {
        "source": source,
        "where": where,
        "metric": str(spec.get("metric", spec.get("column", ""))),
        "statistic": spec.get("statistic", "mean"),
        "label": spec.get("label"),
        "times": times,
    }
    if source == "value":
        return Quantity(**common, value=float(spec["value"]) * times)
    if source == "runs":
        return _from_runs(common, spec.get("max_loss"), summary)
    rows = [row for row in summary[source] if all(row.get(k) == v for k, v in where.items())]
    if source in ("course", "published", "log"):
        rows = [row for row in rows if row["metric"] == common["metric"]]
    if source == "speed":
        rows = [row for row in rows if row["statistic"] == common["statistic"]]
    if not rows:
        return Quantity(**common, value=None, command="make bench" if source == "bench" else None)
    row = rows[0]
    column = {"course": "value", "published": "mean", "log": common["statistic"]}.get(source, spec.get("column"))
    std, n = (row["std"], 5) if source == "published" else (None, None)  # published: five runs
    value = row[column]
    return Quantity(
        **common,
        value=None if value is None else value * times,
        std=None if std is None else std * times,
        n=n,
        unit=row.get("unit") if source == "bench" and column == "value" else None,
        conditions={"text": row["conditions"]} if source == "bench" else None,
    )


def _from_runs(common: dict[str, Any], max_loss: float | None, summary: dict[str, Any]) -> Quantity:
    """``max_loss``: a training that ends above it has not converged and decides nothing."""
    where, times = common["where"], common["times"]
    groups = [g for g in summary["groups"] if all(g.get(k) == v for k, v in where.items())]
    command = missing_command(where, summary)
    if not groups or common["metric"] not in groups[0]["values"]:
        return Quantity(**common, value=None, command=command)
    group, value = groups[0], groups[0]["values"][common["metric"]]
    loss = group["values"].get("loss-last", {}).get("mean")
    mean = common["statistic"] == "mean"
    return Quantity(
        **common,
        value=value[common["statistic"]] * times,
        std=value["std"] * times if mean and value["std"] is not None else None,
        n=value["n"],
        conditions={k: group[k] for k in ("epochs", "steps", "n", "device", "backbone")} | {"loss": loss},
        command=command,
        converged=max_loss is None or (loss is not None and loss <= max_loss),
    )


def missing_command(where: dict[str, Any], summary: dict[str, Any]) -> str | None:
    """The command of the first run of a set that is not there yet, or None when the profile's runs are all there."""
    keys = ("experiment", "dataset", "category", "beta")
    fitting = [c for c in summary["commands"] if all(c[k] == where[k] for k in keys if k in where)]
    return next((c["command"] for c in fitting if not c["there"]), None)
