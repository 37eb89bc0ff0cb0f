"""The metrics against scikit-learn and, for AUPRO, against a slow implementation in exact fractions."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as sk

from ssn_core.errors import InputError
from ssn_core.metrics import (
    METRICS,
    NOT_AVAILABLE,
    PIXEL_METRICS,
    aupro,
    evaluate,
    pixel_pr_curve,
    pr_curve,
    ranking,
    roc_curve,
    youden,
)

EXACT = 1e-12


def large_case(images: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian maps (images, *size) float32 and masks with a raised rectangle in 11 % of them, as in KolektorSDD2."""
    rng = np.random.default_rng(0)
    maps, masks = np.empty((images, *size), np.float32), np.zeros((images, *size), bool)
    for index, image in enumerate(maps):
        rng.standard_normal(out=image, dtype=np.float32)
        if index < max(1, round(0.11 * images)):
            y, x = rng.integers(0, size[0] * 3 // 4), rng.integers(0, size[1] * 3 // 4)
            masks[index, y : y + size[0] // 10, x : x + size[1] // 4] = True
            image[masks[index]] += 1.5
    return maps, masks


def scikit_learn_form(maps: np.ndarray, masks: np.ndarray, max_fpr: float = 0.3) -> tuple[float, float, float]:
    """P-AUROC, AUPRO and AP-loc from scikit-learn: a region's share found is a weighted true positive rate."""
    weights = np.ones(maps.shape)
    for index, mask in enumerate(masks):
        for region in flood_regions(mask):
            rows, columns = zip(*region, strict=True)
            weights[index, rows, columns] = 1 / len(region)
    truth, scores = masks.ravel(), maps.ravel()
    fpr, pro, _ = sk.roc_curve(truth, scores, sample_weight=weights.ravel(), drop_intermediate=False)
    inside = fpr <= max_fpr
    x, y = np.append(fpr[inside], max_fpr), np.append(pro[inside], np.interp(max_fpr, fpr, pro))
    return sk.roc_auc_score(truth, scores), sk.auc(x, y) / max_fpr, sk.average_precision_score(truth, scores)


def flood_regions(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The 8-connected regions of one mask (H, W) as lists of pixels, by flood fill."""
    waiting = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    regions = []
    while waiting:
        stack, region = [waiting.pop()], []
        while stack:
            y, x = stack.pop()
            region.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & waiting
            waiting -= near
            stack.extend(near)
        regions.append(region)
    return regions


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


def image_case(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.append(rng.random(38) < 0.4, [True, False])
    scores = rng.normal(size=40) * 2 + labels
    return labels, np.round(scores) if ties else scores


@pytest.mark.parametrize("decimals", [None, 0], ids=["distinct", "ties"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_all_seven_agree_with_scikit_learn(decimals: int | None, dtype: type) -> None:
    maps, masks = large_case(20, (40, 30))
    maps = (maps if decimals is None else np.round(maps, decimals)).astype(dtype)
    labels, scores = masks.any(axis=(1, 2)), np.random.default_rng(1).normal(size=20).round(1)
    measured = evaluate(scores, maps, labels, masks)
    tops = maps.max(axis=(1, 2)).astype(float)
    p_auroc, pro, ap_loc = scikit_learn_form(maps.astype(float), masks)
    expected = {
        "I-AUROC": sk.roc_auc_score(labels, scores),
        "AP-det": sk.average_precision_score(labels, scores),
        "seg-I-AUROC": sk.roc_auc_score(labels, tops),
        "seg-AP-det": sk.average_precision_score(labels, tops),
        "P-AUROC": p_auroc,
        "AUPRO": pro,
        "AP-loc": ap_loc,
    }
    assert list(measured) == list(METRICS) == list(expected)
    assert all(type(value) is float for value in measured.values())
    assert measured == pytest.approx(expected, abs=EXACT)


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


def test_perfect_inverted_and_constant_maps() -> None:
    _, masks = large_case(9, (20, 20))
    share = float(masks.mean())
    labels = masks.any(axis=(1, 2))
    assert aupro(masks.astype(np.float32), masks) == pytest.approx(1.0, abs=EXACT)
    assert aupro(-masks.astype(np.float32), masks) == 0.0
    constant = evaluate(np.zeros(9), np.full(masks.shape, -3.5, np.float32), labels, masks)
    assert constant["AUPRO"] == pytest.approx(0.15, abs=EXACT)  # the diagonal
    assert constant["I-AUROC"] == constant["seg-I-AUROC"] == constant["P-AUROC"] == 0.5
    assert constant["AP-loc"] == pytest.approx(share, abs=EXACT)


def test_rounding_never_passes_one() -> None:
    for size in range(2, 60):
        masks = np.zeros((2, 2 * size, 3), bool)
        masks[0, :size, 0] = masks[1, ::2, 1] = True  # a region of many pixels and many of one
        maps = np.where(masks, np.arange(masks.size).reshape(masks.shape) + 1.0, 0.0)
        perfect = evaluate(np.arange(2 * size), np.zeros((2 * size, 1, 1)), np.arange(2 * size) >= size, None)
        found = evaluate([1, 0], maps, [1, 0], masks)
        assert perfect["AP-det"] == perfect["I-AUROC"] == 1.0
        assert all(1 - EXACT < found[name] <= 1 for name in PIXEL_METRICS)


def test_scores_are_compared_as_given() -> None:
    """No normalisation and no rounding: a bright normal image counts, and so does a difference of 1e-12."""
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 0, 0] = True
    maps = np.zeros(masks.shape)
    maps[0, 0, 0], maps[1] = 1.0, 5.0  # normalised per image, the defect would rank first
    assert evaluate([1.0, 5.0], maps, [1, 0], masks)["P-AUROC"] == pytest.approx(15 / 31, abs=EXACT)
    close = np.full(masks.shape, 1.0)
    close[0, 0, 0] += 1e-12
    assert evaluate([1 + 1e-12, 1.0], close, [1, 0], masks) == dict.fromkeys(METRICS, 1.0)


def test_tensors_and_integer_masks_give_the_same() -> None:
    maps, masks = large_case(9, (24, 16))
    labels, scores = masks.any(axis=(1, 2)), maps.max(axis=(1, 2))
    expected = evaluate(scores, maps, labels, masks)
    as_tensors = evaluate(
        torch.tensor(scores, requires_grad=True), torch.tensor(maps), torch.tensor(labels), torch.tensor(masks)
    )
    assert as_tensors == expected
    assert evaluate(list(scores), maps, labels.astype(int), masks.astype(np.uint8)) == expected
    half = torch.tensor(maps).bfloat16()
    assert aupro(half, masks) == aupro(half.float().numpy(), masks)


def test_what_cannot_be_measured_is_not_available() -> None:
    maps, masks = large_case(9, (24, 16))
    labels, scores, none = masks.any(axis=(1, 2)), maps.max(axis=(1, 2)), np.zeros_like(masks)
    without_masks = evaluate(scores, maps, labels, None)
    assert {name for name in METRICS if without_masks[name] == NOT_AVAILABLE} == set(PIXEL_METRICS)
    assert without_masks["I-AUROC"] == sk.roc_auc_score(labels, scores)
    empty_masks = evaluate(scores, maps, labels, none)
    assert empty_masks == without_masks
    full_masks = evaluate(scores, maps, labels, ~none)  # no normal pixel anywhere
    assert full_masks == without_masks
    for only in (0, 1):
        one_class = evaluate(scores, maps, np.full(9, only), masks)
        assert {name for name in METRICS if one_class[name] == NOT_AVAILABLE} == set(METRICS) - set(PIXEL_METRICS)
    assert evaluate(scores, maps, np.zeros(9), none) == dict.fromkeys(METRICS, "n/a")
    assert aupro(maps, none) == aupro(maps, None) == aupro(maps, ~none) == NOT_AVAILABLE
    assert youden(np.zeros(9), scores) == youden(np.ones(9), scores) == (NOT_AVAILABLE,) * 3
    curves = (roc_curve(np.zeros(9), scores), pr_curve(np.ones(9), scores), pixel_pr_curve(maps, none))
    assert all(len(axis) == 0 for curve in curves for axis in curve)


def test_youden_prefers_the_highest_of_equal_thresholds() -> None:
    # J is 1/2 at 4 (one of two, no false alarm) and again at 2 (all, one false alarm of two).
    assert youden([1, 0, 1, 0], [4.0, 3.0, 2.0, 1.0]) == (4.0, 0.5, 0.0)
    assert youden([0, 0, 1, 1], [4.0, 3.0, 2.0, 1.0]) == (1.0, 1.0, 1.0)  # useless scores: J is 0 at best


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_roc_and_pr_curves_lie_on_scikit_learns(seed: int, ties: bool) -> None:
    labels, scores = image_case(seed, ties)
    fpr, tpr = roc_curve(labels, scores)
    theirs = sk.roc_curve(labels, scores, drop_intermediate=False)
    points = {(round(x, 12), round(y, 12)) for x, y in zip(*theirs[:2], strict=True)}
    assert {(round(x, 12), round(y, 12)) for x, y in zip(fpr, tpr, strict=True)} <= points
    assert sk.auc(fpr, tpr) == pytest.approx(sk.roc_auc_score(labels, scores), abs=EXACT)

    precision, recall = pr_curve(labels, scores)
    theirs = sk.precision_recall_curve(labels, scores)
    points = {(round(p, 12), round(r, 12)) for p, r in zip(*theirs[:2], strict=True)}
    assert {(round(p, 12), round(r, 12)) for p, r in zip(precision[1:], recall[1:], strict=True)} <= points
    assert recall[0] == 0 and recall[-1] == 1 and np.all(np.diff(recall) > 0)
    area = np.sum(np.diff(recall) * precision[1:])
    assert area == pytest.approx(sk.average_precision_score(labels, scores), abs=EXACT)


def test_pixel_pr_curve_thins_the_exact_curve() -> None:
    maps, masks = large_case(9, (40, 30))
    full = pr_curve(masks.ravel(), maps.ravel())
    everything = pixel_pr_curve(maps, masks, points=10**6)
    assert np.array_equal(everything, full)
    thin = precision, recall = pixel_pr_curve(maps, masks, points=20)
    assert len(recall) == len(precision) == 21
    assert set(zip(*thin, strict=True)) <= set(zip(*full, strict=True))
    assert recall[0] == 0 and recall[-1] == 1
    assert np.max(np.diff(recall)) < 2 / 19


def broken(maps: np.ndarray, value: float) -> np.ndarray:
    maps = maps.copy()
    maps[4, 3, 2] = value
    return maps


MAPS, MASKS = large_case(6, (20, 20))
LABELS, SCORES = MASKS.any(axis=(1, 2)), MAPS.max(axis=(1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": broken(MAPS, np.nan)}, "maps: image 4 is not finite"),
        ({"maps": broken(MAPS, -np.inf)}, "maps: image 4 is not finite"),
        ({"maps": broken(MAPS, np.inf).astype(np.float16), "masks": None}, "maps: image 4 is not finite"),
        ({"scores": np.array([0, 1, np.nan, 3, np.inf, 5])}, "scores: image 2 is not finite"),
        ({"scores": SCORES[:5]}, "scores holds 5 images but labels 6"),
        ({"scores": SCORES[:5], "labels": LABELS[:5]}, "maps holds 6 images but scores 5"),
        ({"scores": SCORES[:, None]}, r"scores has shape \(6, 1\)"),
        ({"scores": np.array(["a"] * 6)}, "scores holds <U1 values"),
        ({"labels": np.arange(6)}, "labels holds values other than 0 and 1"),
        ({"maps": MAPS[:, None]}, r"maps has shape \(6, 1, 20, 20\): give \(N, H, W\)"),
        ({"maps": [[[1.0, 2.0]], [[1.0]]]}, "maps is not an array"),
        ({"maps": MAPS.astype(int)}, "maps holds int64 values"),
        ({"maps": MAPS[:0], "masks": MASKS[:0], "scores": [], "labels": []}, "at least one image"),
        ({"masks": MASKS[:, ::2, ::2]}, r"masks is \(6, 10, 10\) but maps is \(6, 20, 20\)"),
        ({"masks": MASKS.astype(np.uint8) * 255}, "masks holds values other than 0 and 1"),
    ],
)
def test_bad_input_is_one_clear_error(change: dict, message: str) -> None:
    given = {"scores": SCORES, "maps": MAPS, "labels": LABELS, "masks": MASKS} | change
    with pytest.raises(InputError, match=message):
        evaluate(**given)


@pytest.mark.parametrize("max_fpr", [0.0, -0.3, 1.5, float("nan")])
def test_a_limit_that_is_no_rate_is_refused(max_fpr: float) -> None:
    with pytest.raises(InputError, match="max_fpr"):
        aupro(MAPS, MASKS, max_fpr)


def test_a_curve_of_one_point_is_refused() -> None:
    with pytest.raises(InputError, match="points is 1"):
        pixel_pr_curve(MAPS, MASKS, points=1)


def test_memory_is_bounded_by_the_chunk_not_by_the_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_CHUNK_PIXELS", 2**17)
    maps, masks = large_case(80, (160, 116))
    labels, scores = masks.any(axis=(1, 2)), maps.max(axis=(1, 2))
    tracemalloc.start()
    chunked = evaluate(scores, maps, labels, masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < maps.nbytes / 2  # a single copy of the maps would double that
    monkeypatch.setattr(ranking, "_CHUNK_PIXELS", maps.size)
    assert evaluate(scores, maps, labels, masks) == chunked
    p_auroc, pro, ap_loc = scikit_learn_form(maps, masks)
    assert [chunked[name] for name in PIXEL_METRICS] == pytest.approx([p_auroc, pro, ap_loc], abs=1e-9)


# --- properties, on small cases with many ties

_levels = st.integers(-3, 3)  # few, so that scores tie


@st.composite
def _pixel_cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Maps (n, h, w) float32 of few levels and masks, with a defective and a normal pixel somewhere."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(2, 5)))
    maps = draw(arrays.arrays(np.int8, shape, elements=_levels)).astype(np.float32)
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


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(st.booleans(), _levels), min_size=2, max_size=20), shift=st.floats(-5, 5))
def test_image_metrics_are_scikit_learns_and_know_only_the_order(pairs: list[tuple[bool, int]], shift: float) -> None:
    labels, scores = (np.array(values) for values in zip(*pairs, strict=True))
    labels[:2] = True, False
    maps = scores[:, None, None].astype(np.float64)
    found = evaluate(scores, maps, labels, None)
    assert found["I-AUROC"] == pytest.approx(sk.roc_auc_score(labels, scores), abs=EXACT)
    assert found["AP-det"] == pytest.approx(sk.average_precision_score(labels, scores), abs=EXACT)
    assert found["seg-I-AUROC"] == found["I-AUROC"] and found["seg-AP-det"] == found["AP-det"]
    assert evaluate(np.exp(scores) + shift, maps, labels, None)["I-AUROC"] == found["I-AUROC"]
    best = youden(labels, scores)
    assert best.threshold in scores
    above = scores >= best.threshold
    assert (best.tpr, best.fpr) == pytest.approx((above[labels].mean(), above[~labels].mean()))
    assert best.tpr - best.fpr == pytest.approx(
        max((scores >= t)[labels].mean() - (scores >= t)[~labels].mean() for t in scores)
    )
