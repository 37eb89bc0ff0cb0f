"""AUPRO and the other pixel metrics: their definition in exact fractions for any ties, regions, the limit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ranking_cases import EXACT, flood_regions, large_case
from sklearn import metrics as sk

from ssn_core.errors import InputError
from ssn_core.metrics import aupro, evaluate


def slow_aupro(maps: np.ndarray, masks: np.ndarray, max_fpr: str) -> Fraction:
    """AUPRO by its definition: a threshold at every distinct value, plain loops, exact fractions."""
    regions = [
        [float(image[pixel]) for pixel in region]
        for image, mask in zip(maps, masks, strict=True)
        for region in flood_regions(mask)
    ]
    normal = [float(value) for value in maps[~masks]]
    curve = [(Fraction(0), Fraction(0))]
    for threshold in sorted({float(value) for value in maps.ravel()}, reverse=True):
        shares = [Fraction(sum(value >= threshold for value in region), len(region)) for region in regions]
        found = sum(value >= threshold for value in normal)
        curve.append((Fraction(found, len(normal)), sum(shares) / len(regions)))
    limit, area = Fraction(max_fpr), Fraction(0)
    for (x0, y0), (x1, y1) in zip(curve[:-1], curve[1:], strict=True):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def test_regions_touching_at_a_corner_are_one() -> None:
    masks = np.zeros((1, 6, 10), bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 2, 0] = True  # one region through two corners: three pixels
    masks[0, 5, 9] = True
    maps = np.zeros(masks.shape)
    maps[0, 0, 0] = maps[0, 5, 9] = 1.0
    # Found at FPR 0: 1/3 of the one and all of the other, 2/3 on average (4-connected: 2/4). Then up to 1 at FPR 1.
    at_limit = 2 / 3 + 0.3 / 3
    assert aupro(maps, masks) == pytest.approx((2 / 3 + at_limit) / 2, abs=EXACT)


def test_regions_one_pixel_apart_and_in_neighbouring_images_are_separate() -> None:
    masks = np.zeros((2, 5, 8), bool)
    masks[0, 1:3, 1] = masks[0, 1:3, 3] = True  # a column of normal pixels between them
    masks[1, 1:3, 3] = True  # the same place in the next image
    maps = np.zeros(masks.shape)
    maps[0, 1:3, 1] = 1.0
    at_limit = 1 / 3 + 0.3 * 2 / 3
    assert aupro(maps, masks) == pytest.approx((1 / 3 + at_limit) / 2, abs=EXACT)


def test_aupro_interpolates_at_the_limit() -> None:
    maps = np.array([[[9.0, 8.0, 7.0, 7.0, 7.0, 1.0]]])  # defective: 9 and one of the tied 7s; normal: 8, 7, 7, 1
    masks = np.array([[[True, False, False, True, False, False]]])
    # Two regions. Curve: (0, 1/2), (1/4, 1/2), (3/4, 1), (1, 1); at 1/2 the slanted piece is at 3/4.
    assert aupro(maps, masks, max_fpr=0.25) == pytest.approx(1 / 2, abs=EXACT)
    by_hand = (1 / 4 * 1 / 2 + 1 / 4 * (1 / 2 + 3 / 4) / 2) / 0.5
    assert aupro(maps, masks, max_fpr=0.5) == pytest.approx(by_hand, abs=EXACT)


@pytest.mark.parametrize("max_fpr", [0.0, -0.3, 1.5, float("nan")])
def test_a_limit_that_is_no_rate_is_refused(max_fpr: float) -> None:
    with pytest.raises(InputError, match="max_fpr"):
        aupro(*large_case(6, (20, 20)), max_fpr)


@st.composite
def _pixel_cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Maps (n, h, w) float32 of few levels and masks, with a defective and a normal pixel somewhere."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(2, 5)))
    maps = draw(arrays.arrays(np.int8, shape, elements=st.integers(-3, 3))).astype(np.float32)
    masks = draw(arrays.arrays(bool, shape))
    masks[0, 0, 0], masks[-1, -1, -1] = True, False
    return maps, masks


@settings(max_examples=60, deadline=None)
@given(case=_pixel_cases(), limit=st.sampled_from(["0.05", "0.3", "1"]))
def test_pixel_metrics_are_the_definition_for_any_ties(case: tuple[np.ndarray, np.ndarray], limit: str) -> None:
    maps, masks = case
    found = evaluate(np.zeros(len(maps)), maps, np.zeros(len(maps), int), masks)
    assert aupro(maps, masks, float(limit)) == pytest.approx(float(slow_aupro(maps, masks, limit)), abs=EXACT)
    assert found["P-AUROC"] == pytest.approx(sk.roc_auc_score(masks.ravel(), maps.ravel()), abs=EXACT)
    assert found["AP-loc"] == pytest.approx(sk.average_precision_score(masks.ravel(), maps.ravel()), abs=EXACT)
