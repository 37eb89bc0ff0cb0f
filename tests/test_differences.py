"""Intervals of differences and what they decide; simulated seeds hold the rate of false verdicts."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import stats

from ssn_core.study.differences import CONFIRMED, OPEN, REFUTED, Difference, Sample, decide, difference, place

TRIALS = 2000


def seeds_of(values: np.ndarray) -> Sample:
    """What the summary keeps of the runs of one group."""
    seeds = {str(i): float(v) for i, v in enumerate(values)}
    return Sample(value=float(values.mean()), std=float(values.std(ddof=1)), n=len(values), seeds=seeds)


def spread(value: float, std: float, n: int) -> Sample:
    return Sample(value=value, std=std, n=n)


def exact(value: float) -> Sample:
    return Sample(value=value)


# Intervals


def test_welchs_interval_is_scipys() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.normal(0.8, 0.02, 3), rng.normal(0.7, 0.1, 5)
    found = difference(seeds_of(left), seeds_of(right))
    wanted = stats.ttest_ind(left, right, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert (found.exact, found.pairs) == (False, 0)


def test_shared_seeds_are_compared_as_pairs() -> None:
    rng = np.random.default_rng(2)
    common = rng.normal(0.6, 0.2, 4)  # a hard seed is hard for both
    left, right = seeds_of(common + 0.05 + rng.normal(0, 0.002, 4)), seeds_of(common)
    paired = difference(left, right, paired=True)
    wanted = stats.ttest_rel(list(left.seeds.values()), list(right.seeds.values())).confidence_interval(0.95)
    assert (paired.low, paired.high, paired.pairs) == (pytest.approx(wanted.low), pytest.approx(wanted.high), 4)
    assert decide(paired, ">", 0.01) == CONFIRMED
    assert decide(difference(left, right), ">", 0.01) == OPEN  # unpaired, the seeds' own spread hides it


def test_pairs_need_seeds_that_both_sides_have() -> None:
    left, right = seeds_of(np.array([0.9, 0.8, 0.7])), seeds_of(np.array([0.6, 0.5, 0.45]))
    others = Sample(**{**vars(right), "seeds": {"2": 0.6, "7": 0.5, "8": 0.45}})
    assert difference(left, others, paired=True).pairs == 0
    assert difference(left, right, paired=True, least=4).pairs == 0
    assert difference(left, right, paired=True, least=3).pairs == 3


def test_a_constant_has_no_spread_and_one_run_no_known_one() -> None:
    values = np.array([0.9, 0.92, 0.97])
    found = difference(seeds_of(values), exact(0.9))
    wanted = stats.ttest_1samp(values, 0.9).confidence_interval(0.95)  # of the mean
    assert (found.low + 0.9, found.high + 0.9) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    assert difference(exact(4), exact(3)) == Difference(1, 1, 1, exact=True)
    one = Sample(value=0.9, n=1, seeds={"0": 0.9})
    assert difference(one, exact(0.5)) is None
    assert difference(one, one, paired=True) is None
    assert difference(exact(0.5), one) is None


def test_repeated_timings_count_with_their_whole_range() -> None:
    left, right = Sample(value=10, low=9, high=12), Sample(value=4, low=3, high=5)
    found = difference(left, right)
    assert (found.value, found.low, found.high) == (6, 4, 9)
    overlapping = difference(Sample(value=10, low=4, high=12), right)
    assert (decide(found, ">", 0), decide(overlapping, ">", 0)) == (CONFIRMED, OPEN)


# Decisions


@pytest.mark.parametrize(
    ("low", "high", "margin", "outcomes"),
    [
        (0.06, 0.10, 0.05, {">": CONFIRMED, ">=": CONFIRMED, "<": REFUTED, "<=": REFUTED, "==": REFUTED}),
        (-0.10, -0.06, 0.05, {">": REFUTED, ">=": REFUTED, "<": CONFIRMED, "<=": CONFIRMED, "==": REFUTED}),
        (-0.04, 0.05, 0.05, {">": OPEN, ">=": CONFIRMED, "<": OPEN, "<=": CONFIRMED, "==": CONFIRMED}),
        (0.04, 0.10, 0.05, {">": OPEN, ">=": CONFIRMED, "<": OPEN, "<=": OPEN, "==": OPEN}),
        (-0.10, 0.04, 0.05, {">": OPEN, ">=": OPEN, "<": OPEN, "<=": CONFIRMED, "==": OPEN}),
        (-0.20, 0.20, 0.05, dict.fromkeys((">", ">=", "<", "<=", "=="), OPEN)),
    ],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, margin: float, outcomes: dict[str, str]) -> None:
    found = Difference((low + high) / 2, low, high, exact=False)
    assert {op: decide(found, op, margin) for op in outcomes} == outcomes


@pytest.mark.parametrize(
    ("op", "outcome"), [(">", REFUTED), ("<", REFUTED), (">=", CONFIRMED), ("<=", CONFIRMED), ("==", CONFIRMED)]
)
def test_equal_exact_numbers_are_in_no_order(op: str, outcome: str) -> None:
    assert decide(difference(exact(3), exact(3)), op, 0) == outcome
    if op in "<>":  # seeds that all agree are still seeds
        assert decide(Difference(0, 0, 0, exact=False), op, 0) == OPEN


def test_a_difference_of_exactly_the_margin_is_inside_it() -> None:
    """0.61 - 0.6 is a little more than 0.01 in floating point."""
    found = difference(exact(0.61), exact(0.6))
    assert {op: decide(found, op, 0.01) for op in (">", ">=", "<", "<=", "==")} == {
        **{">": OPEN, "<": OPEN},
        **{">=": CONFIRMED, "<=": CONFIRMED, "==": CONFIRMED},
    }


def test_a_wide_spread_is_no_equality() -> None:
    found = difference(spread(0.70, 0.20, 3), spread(0.50, 0.20, 3))
    assert decide(found, "==", 0.02) == OPEN
    assert decide(difference(spread(0.50, 0.20, 3), spread(0.50, 0.20, 3)), "==", 0.02) == OPEN  # not even then
    assert decide(difference(spread(0.501, 0.001, 3), spread(0.50, 0.001, 3)), "==", 0.02) == CONFIRMED


def test_sentences_choose_by_the_same_interval() -> None:
    sides = [(0.06, 0.1), (-0.1, -0.06), (-0.01, 0.02), (0.01, 0.1)]
    assert [place(Difference(0, *s, exact=False), 0.05) for s in sides] == ["more", "less", "same", OPEN]


# Simulated seeds


@functools.cache
def simulated(gap: float, deviations: tuple[float, float], counts: tuple[int, int], paired: bool) -> list[Difference]:
    """Differences of ``TRIALS`` pairs of groups of seeds whose true means differ by ``gap``."""
    rng, found = np.random.default_rng(0), []
    for _ in range(TRIALS):
        right = rng.normal(0.7, deviations[1], counts[1])
        left = rng.normal(0.7 + gap, deviations[0], counts[0])
        if paired:  # what a seed makes hard or easy is common to both sides
            left = left - 0.7 + right
        found.append(difference(seeds_of(left), seeds_of(right), paired=paired))
    return found


SETTINGS = [
    ((0.05, 0.05), (3, 3), False),
    ((0.05, 0.05), (5, 5), False),
    ((0.01, 0.10), (3, 5), False),
    ((0.02, 0.05), (2, 3), False),
    ((0.03, 0.10), (3, 3), True),
    ((0.03, 0.10), (5, 5), True),
]


@pytest.mark.parametrize(("deviations", "counts", "paired"), SETTINGS)
@pytest.mark.parametrize("op", [">", "<"])
def test_without_a_difference_an_order_is_rarely_decided(
    deviations: tuple[float, float], counts: tuple[int, int], paired: bool, op: str
) -> None:
    found = simulated(0.0, deviations, counts, paired)
    decided = np.mean([decide(d, op, 0.01) != OPEN for d in found])
    assert decided < 0.05
    without_margin = np.mean([decide(d, op, 0.0) != OPEN for d in found])
    assert without_margin < 0.05 + 3 * np.sqrt(0.05 * 0.95 / TRIALS)  # five per cent, but for the luck of the draw


@pytest.mark.parametrize(("deviations", "counts", "paired"), SETTINGS)
def test_a_difference_as_large_as_the_margin_is_rarely_called_equal(
    deviations: tuple[float, float], counts: tuple[int, int], paired: bool
) -> None:
    found = simulated(0.1, deviations, counts, paired)
    assert np.mean([decide(d, "==", 0.1) == CONFIRMED for d in found]) < 0.05
    assert np.mean([decide(d, "<=", 0.1) == REFUTED for d in found]) < 0.05


def test_a_difference_that_is_there_is_found() -> None:
    found = simulated(0.2, (0.02, 0.02), (3, 3), paired=False)
    assert np.mean([decide(d, ">", 0.01) == CONFIRMED for d in found]) > 0.95
    assert not [d for d in found if decide(d, ">", 0.01) == REFUTED]
    same = simulated(0.0, (0.005, 0.005), (5, 5), paired=False)
    assert np.mean([decide(d, "==", 0.02) == CONFIRMED for d in same]) > 0.95
