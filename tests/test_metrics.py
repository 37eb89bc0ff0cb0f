"""The seven metrics against scikit-learn, their bounds, what cannot be measured, bad input, memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranking_cases import EXACT, large_case, scikit_learn_form
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


_levels = st.integers(-3, 3)  # few, so that scores tie


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
