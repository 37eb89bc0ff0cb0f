"""The claims ledger: what the course report says, the check that decides it, and the verdict that follows.

``report/claims.yaml`` states every claim in both languages and its checks; a check compares two quantities.
``report/comparisons.yaml`` states in the same way what sentences of the report compare. No verdict is written in
either: it is computed from the summary (:mod:`report.summary`) by the rules of :mod:`ssn_core.study.differences`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from report.quantities import FILES, SOURCES, TERMS, Quantity, resolve
from ssn_core.errors import InputError
from ssn_core.metrics import METRICS
from ssn_core.study.differences import (
    CONFIRMED,
    OPEN,
    OPERATORS,
    REFUTED,
    Difference,
    decide,
    difference,
    open_ended,
    place,
)

_CLAIM_KEYS, _TEXTS = {"id", "section", "erratum", "claim", "test", "checks"}, ("claim", "test")
_CHECK_KEYS = {"left", "op", "right", "margin", "min_seeds", "min_steps", "terms"}
_COMPARISON_KEYS = {"left", "right", "margin"}
_QUANTITY_KEYS = {*SOURCES, "metric", "statistic", "column", "label", "times", "plus"}


def load_claims(path: Path) -> list[dict[str, Any]]:
    """Read and check a ledger; every problem is an :class:`InputError` that names the claim."""
    claims = yaml.safe_load(path.read_text(encoding="utf-8"))
    problems = [f"{c.get('id', '?')}: {text}" for c in claims for text in _problems(c)]
    ids = [c.get("id") for c in claims]
    problems += [f"{name}: used twice" for name in sorted({i for i in ids if ids.count(i) > 1})]
    if problems:
        raise InputError(f"{path}: " + "; ".join(problems))
    return claims


def load_comparisons(path: Path) -> dict[str, dict[str, Any]]:
    """Read and check the comparisons of the report's sentences, by name; every problem is one :class:`InputError`."""
    comparisons = yaml.safe_load(path.read_text(encoding="utf-8"))
    problems = []
    for name, comparison in comparisons.items():
        if wrong := sorted(set(comparison) ^ _COMPARISON_KEYS):
            problems.append(f"{name}: keys {', '.join(wrong)} are unknown or missing")
        else:
            problems += [f"{name}: {text}" for text in _side_problems(comparison)]
    if problems:
        raise InputError(f"{path}: " + "; ".join(problems))
    return comparisons


def _problems(claim: dict[str, Any]) -> Iterable[str]:
    if wrong := sorted(set(claim) ^ _CLAIM_KEYS):
        yield f"keys {', '.join(wrong)} are unknown or missing"
        return
    yield from (f"{name} needs the languages en and it" for name in _TEXTS if set(claim[name]) != {"en", "it"})
    for check in claim["checks"]:
        if wrong := sorted(set(check) - _CHECK_KEYS) or sorted({"left", "op", "right"} - set(check)):
            yield f"check has unknown or missing {', '.join(wrong)}"
            continue
        if check["op"] not in OPERATORS:
            yield f"op={check['op']!r} must be one of {' '.join(OPERATORS)}"
        if wrong := sorted(set(check.get("terms", ())) - set(TERMS)):
            yield f"terms has unknown {', '.join(wrong)}"
        yield from _side_problems(check)


def _side_problems(check: dict[str, Any]) -> Iterable[str]:
    for side in ("left", "right"):
        if wrong := sorted(set(check[side]) - _QUANTITY_KEYS):
            yield f"{side} has unknown {', '.join(wrong)}"
        elif len([s for s in SOURCES if s in check[side]]) != 1:
            yield f"{side} needs exactly one of {', '.join(SOURCES)}"


def judge(claims: list[dict[str, Any]], summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Every claim with its checks resolved and its verdict: refuted if one check fails, else open if one is
    undecided, else confirmed."""
    judged = []
    for claim in claims:
        checks = [_judged(check, summary) for check in claim["checks"]]
        outcomes = [check["outcome"] for check in checks]
        verdict = REFUTED if REFUTED in outcomes else OPEN if OPEN in outcomes else CONFIRMED
        judged.append({**claim, "checks": checks, "verdict": verdict})
    return judged


def compare(comparisons: dict[str, dict[str, Any]], summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Per comparison its outcome, ``more``, ``same``, ``less``, ``open`` or ``absent`` (a side is not there), and why
    it is open, with the difference so far."""
    outcomes = {}
    for name, comparison in comparisons.items():
        left, right = (resolve(comparison[side], summary) for side in ("left", "right"))
        found, reason = weigh(left, right)
        known = found and open_ended(found, left, right)
        outcome = place(known, comparison["margin"]) if known else OPEN
        if found and outcome == OPEN:
            reason = "not separated" if place(found, comparison["margin"]) == OPEN else "still rising"
        outcome = "absent" if reason in ("not run", "no source") else outcome
        outcomes[name] = {"outcome": outcome, "reason": reason, "difference": asdict(found) if found else None}
    return outcomes


def _judged(check: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    left, right = (resolve(check[side], summary) for side in ("left", "right"))
    margin, least = float(check.get("margin", 0.0)), max(2, check.get("min_seeds", 2))
    limits = {name: check[name] for name in ("min_seeds", "min_steps", "terms") if name in check}
    found, reason = weigh(left, right, **limits)
    known = found and open_ended(found, left, right)
    outcome = decide(known, check["op"], margin) if known else OPEN
    if found and outcome == OPEN:
        reason = "within the margin" if place(found, margin) == "same" else "not separated"
        reason = reason if decide(found, check["op"], margin) == OPEN else "still rising"
    wanting = [side for side in (left, right) if side.value is None or (side.n is not None and side.n < least)]
    return {
        "left": asdict(left),
        "op": check["op"],
        "right": asdict(right),
        "margin": margin,
        "difference": asdict(found) if found else None,
        "outcome": outcome,
        "reason": reason,
        "command": wanting[0].command if wanting else None,
    }


def weigh(
    left: Quantity, right: Quantity, min_seeds: int = 2, min_steps: int = 0, terms: dict[str, Any] | None = None
) -> tuple[Difference | None, str]:
    """The difference of two sides, or None and why they decide nothing: a side is missing, is one run or too few, was
    trained or evaluated too briefly, or the two were measured on other terms than each other or than ``terms``."""
    sides = sorted((left, right), key=lambda side: side.value is not None)  # what is missing is said first
    if reason := next(filter(None, (_lacking(side, min_seeds, min_steps) for side in sides)), ""):
        return None, reason
    measured = [side.conditions for side in (left, right) if side.source == "bench"]
    wanted = {**{name: measured[0][name] for name in TERMS}, **(terms or {})} if measured else {}
    if any(conditions[name] != value for conditions in measured for name, value in wanted.items()):
        return None, "not comparable"
    paired = left.setting is not None and left.setting == right.setting
    return difference(left, right, paired, min_seeds), ""


def _lacking(side: Quantity, min_seeds: int, min_steps: int) -> str:
    """Why one side decides nothing, or an empty text."""
    if side.value is None:
        return "no source" if side.source in FILES else "not run"
    if side.n is not None and side.n < max(2, min_seeds):
        return "one run" if side.n == 1 else "too few seeds"
    if side.source == "runs" and side.conditions["steps"] < min_steps:
        return "training too short"
    learnt = side.source == "runs" and side.metric in METRICS and side.statistic == "mean"
    return "too few evaluations" if learnt and side.rise is None else ""
