"""ROC and precision-recall curves, and Youden's point on them."""

from __future__ import annotations

import numpy as np
import pytest
from ranking_cases import EXACT, large_case
from sklearn import metrics as sk

from ssn_core.errors import InputError
from ssn_core.metrics import pixel_pr_curve, pr_curve, roc_curve, youden


def image_case(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.append(rng.random(38) < 0.4, [True, False])
    scores = rng.normal(size=40) * 2 + labels
    return labels, np.round(scores) if ties else scores


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


def test_a_curve_of_one_point_is_refused() -> None:
    with pytest.raises(InputError, match="points is 1"):
        pixel_pr_curve(*large_case(6, (20, 20)), points=1)
