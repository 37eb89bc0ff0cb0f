"""Is there a difference? The 95 % interval of the difference of two quantities, and what it decides.

Seeds are a sample. Between two samples the interval is Welch's (B. L. Welch, Biometrika 34, 1947), with Student's
quantile at the Welch-Satterthwaite degrees of freedom; over seeds that both sides share it is Student's interval of the
differences seed by seed. A verdict needs the *whole* interval on one side of a limit, so a wide spread decides nothing.
One two-sided 95 % interval serves every question: an order is wrong in one of the two directions in less than 5 % of
cases where there is no difference, and equality (two one-sided tests, D. J. Schuirmann, 1987) is granted at 2.5 % on
either side, which is stricter than the usual 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from ssn_core.study.trend import RISE

CONFIRMED, REFUTED, OPEN = "confirmed", "refuted", "open"
OPERATORS = (">", ">=", "<", "<=", "==")
CONFIDENCE = 0.95
_ROUNDING = 1e-9  # a difference that equals the margin but for this lies inside it


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A number and how sure it is.

    ``n`` counts the runs behind a mean and is None for what is exact: a count, a log's entry, a printed figure.
    ``seeds``: the value of every seed where they are known (published means have none). ``low`` and ``high``: least and
    greatest of repeated timings. ``rise``: what a metric still gained when training ended
    (:func:`ssn_core.study.trend.rise`); None where that is not known.
    """

    value: float | None
    std: float | None = None
    n: int | None = None
    seeds: dict[str, float] | None = None
    low: float | None = None
    high: float | None = None
    rise: float | None = None


@dataclass(frozen=True)
class Difference:
    """Left minus right with its interval; ``pairs``: how many seeds were compared one by one, 0 where none were."""

    value: float
    low: float
    high: float
    exact: bool
    pairs: int = 0


def difference(left: Sample, right: Sample, paired: bool = False, least: int = 2) -> Difference | None:
    """The difference of two sides, or None where a side is one run: its spread is not known.

    ``paired``: the sides may be compared seed by seed; they are where they share ``least`` seeds (two at least).
    """
    shared = sorted(set(left.seeds or ()) & set(right.seeds or ())) if paired else []
    if len(shared) >= max(2, least):
        gaps = [left.seeds[s] - right.seeds[s] for s in shared]
        mean, half = float(np.mean(gaps)), half_width([(float(np.std(gaps, ddof=1)), len(gaps))])
        return Difference(mean, mean - half, mean + half, exact=False, pairs=len(gaps))
    samples = [side for side in (left, right) if side.n is not None]
    if any(side.n < 2 for side in samples):
        return None
    value, half = left.value - right.value, half_width([(side.std, side.n) for side in samples])
    (left_below, left_above), (right_below, right_above) = _reach(left), _reach(right)
    low, high = value - half - left_below - right_above, value + half + left_above + right_below
    return Difference(value, low, high, exact=not samples)


def open_ended(found: Difference, left: Sample, right: Sample) -> Difference:
    """The difference as far as it is known of sides whose training ended while they rose: they would have ended higher
    by who knows how much. A rising side can be ahead; it is never behind, and never equal."""
    left_rises, right_rises = ((side.rise or 0.0) > RISE for side in (left, right))
    high = math.inf if left_rises else found.high
    return replace(found, low=-math.inf if right_rises else found.low, high=high)


def half_width(samples: Sequence[tuple[float, int]]) -> float:
    """Half the interval of a sum or difference of means, from (sample standard deviation, count) of each; Welch."""
    parts = [(std**2 / n, n - 1) for std, n in samples]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return 0.0
    freedom = variance**2 / sum(part**2 / df for part, df in parts)
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)


def _reach(side: Sample) -> tuple[float, float]:
    """How far repeated timings reach below and above their median."""
    return (0.0, 0.0) if side.low is None or side.high is None else (side.value - side.low, side.high - side.value)


def place(found: Difference, margin: float) -> str:
    """``more``, ``less`` or ``same`` where the whole interval lies beyond the margin or inside it; else ``open``."""
    limit = margin + _ROUNDING
    if found.low > limit:
        return "more"
    if found.high < -limit:
        return "less"
    return "same" if -limit <= found.low and found.high <= limit else OPEN


def decide(found: Difference, op: str, margin: float) -> str:
    """The outcome of ``left op right``. ``margin`` is the difference that counts as none.

    ``==`` needs the interval inside the margin, ``>`` and ``<`` beyond it, ``>=`` and ``<=`` not beyond it on the wrong
    side (non-inferiority). Refuted needs the whole interval on the other side; everything between is open, but for an
    order of exact numbers that are equal, which does not hold.
    """
    where = place(found, margin)
    if op == "==":
        return {"same": CONFIRMED, OPEN: OPEN}.get(where, REFUTED)
    ahead, behind = ("more", "less") if op.startswith(">") else ("less", "more")
    if where in (ahead, behind):
        return CONFIRMED if where == ahead else REFUTED
    if op.endswith("="):
        worst = found.low if op.startswith(">") else -found.high
        return CONFIRMED if worst >= -margin - _ROUNDING else OPEN
    return REFUTED if found.exact and where == "same" and margin == 0 else OPEN
