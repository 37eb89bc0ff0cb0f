"""The seven metrics of the report, Youden's threshold and the curves behind them, exact at any number of pixels.

Scores and maps are raw logits: they are never normalised, per image or otherwise; higher means more anomalous.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ssn_core.errors import InputError
from ssn_core.metrics.ranking import Ranking, rank_images, rank_pixels

METRICS = ("I-AUROC", "AP-det", "seg-I-AUROC", "seg-AP-det", "P-AUROC", "AUPRO", "AP-loc")
PIXEL_METRICS = METRICS[4:]
NOT_AVAILABLE = "n/a"  # a class without positives, without negatives or without masks; never 0, which is a bad result
MAX_FPR = 0.3  # where AUPRO stops: beyond it a map marks so much that overlap says little

Metric = float | str
Curve = tuple[np.ndarray, np.ndarray]  # float64, equal lengths; both empty where the curve is not defined


class Youden(NamedTuple):
    """An operating point: predict defective when ``score >= threshold``."""

    threshold: Metric
    tpr: Metric
    fpr: Metric


def evaluate(scores: Any, maps: Any, labels: Any, masks: Any | None) -> dict[str, Metric]:
    """The seven metrics of ``METRICS``, in that order, as floats in [0, 1] or ``NOT_AVAILABLE``.

    scores: (N,) image scores (logits). maps: (N, H, W) anomaly maps (logits), float16, float32 or float64. labels:
    (N,) 0 normal, 1 defective. masks: (N, H, W) bool (or 0 and 1), true on defects, or None where the data set has
    none; the pixel metrics are then not available. Arrays or tensors.

    I-AUROC, AP-det: area under the ROC curve and step-wise average precision of ``scores``; seg-I-AUROC, seg-AP-det:
    the same of each map's maximum; P-AUROC, AP-loc: the same over all pixels; AUPRO: see :func:`aupro`.
    Raises InputError on shapes or types that do not fit together and on a non-finite value, naming the image's index.
    """
    labels, scores = _image_inputs(labels, scores)
    maps, masks, maxima = _pixel_inputs(maps, masks)
    if len(maps) != len(scores):
        raise InputError(f"maps holds {len(maps)} images but scores {len(scores)}: give one of each per image")
    image, seg, pixel = rank_images(labels, scores), rank_images(labels, maxima), rank_pixels(maps, masks)
    values: list[Metric] = []
    for ranking in (image, seg):
        values += [ranking.auroc(), ranking.average_precision()] if ranking else [NOT_AVAILABLE] * 2
    values += [pixel.auroc(), pixel.aupro(MAX_FPR), pixel.average_precision()] if pixel else [NOT_AVAILABLE] * 3
    return dict(zip(METRICS, values, strict=True))


def aupro(maps: Any, masks: Any | None, max_fpr: float = MAX_FPR) -> Metric:
    """Area under the per-region-overlap curve up to ``max_fpr``, divided by ``max_fpr``.

    In [0, 1], or ``NOT_AVAILABLE`` without masks, defective pixels or normal pixels. maps: (N, H, W) anomaly maps.
    masks: (N, H, W) bool. Definition of Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021: regions are
    the 8-connected components of each mask; thresholds are all distinct pixel scores of all images together (tied
    pixels enter at once); the abscissa is the false positive rate over all normal pixels of all images, the ordinate
    the share of a region's pixels found, averaged over regions. At ``max_fpr`` the curve is interpolated linearly.
    Raises InputError as :func:`evaluate` does.
    """
    if not 0 < max_fpr <= 1:
        raise InputError(f"max_fpr is {max_fpr}: give a false positive rate above 0 and at most 1")
    ranking = rank_pixels(*_pixel_inputs(maps, masks)[:2])
    return ranking.aupro(max_fpr) if ranking else NOT_AVAILABLE


def youden(labels: Any, scores: Any) -> Youden:
    """The operating point with the largest Youden index TPR - FPR (Youden, Cancer 1950).

    labels: (N,) 0 or 1. scores: (N,). The threshold is one of the scores; among equal indices the highest threshold is
    taken, which has the lowest false positive rate. All fields are ``NOT_AVAILABLE`` without positives or negatives.
    """
    ranking = rank_images(*_image_inputs(labels, scores))
    if ranking is None:
        return Youden(NOT_AVAILABLE, NOT_AVAILABLE, NOT_AVAILABLE)
    # In whole numbers, so that equal indices compare equal. Only a positive's score can win: others add false alarms.
    index = ranking.true_positives * ranking.negatives - ranking.false_positives * ranking.true_positives[-1]
    best = int(np.argmax(index))
    fpr = ranking.false_positives[best] / ranking.negatives
    return Youden(float(ranking.threshold[best]), float(ranking.recall[best]), float(fpr))


def roc_curve(labels: Any, scores: Any) -> Curve:
    """ROC curve of labels (N,) and scores (N,): false and true positive rates at its corners, from (0, 0) to (1, 1), to
    be joined by straight lines. Empty without positives or without negatives."""
    ranking = rank_images(*_image_inputs(labels, scores))
    return ranking.corners(ranking.recall) if ranking else (np.empty(0), np.empty(0))


def pr_curve(labels: Any, scores: Any) -> Curve:
    """Precision and recall of labels (N,) and scores (N,), at each rise of the recall from 0 to 1.

    A precision holds from the previous recall up to its own: draw with matplotlib's ``drawstyle="steps-pre"``; the area
    is then the average precision. Empty without positives or without negatives.
    """
    return _pr_points(rank_images(*_image_inputs(labels, scores)))


def pixel_pr_curve(maps: Any, masks: Any | None, points: int = 1000) -> Curve:
    """Precision and recall, see :func:`pr_curve`, over all pixels of maps (N, H, W) and masks (N, H, W), for plotting.

    At most ``points`` + 1 points of the exact curve, evenly spread over the recall, both ends among them; empty arrays
    where the metrics are not available.
    """
    if points < 2:
        raise InputError(f"points is {points}: a curve needs at least 2")
    return _pr_points(rank_pixels(*_pixel_inputs(maps, masks)[:2]), points)


def _pr_points(ranking: Ranking | None, points: int | None = None) -> Curve:
    if ranking is None:
        return np.empty(0), np.empty(0)
    precision, recall = ranking.precision, ranking.recall
    if points is not None:
        picked = np.unique(np.searchsorted(recall, np.linspace(recall[0], 1.0, points)))
        precision, recall = precision[picked], recall[picked]
    return np.append(precision[:1], precision), np.append(0.0, recall)


def _image_inputs(labels: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) bool and scores (N,) float64, checked."""
    scores, labels = _numbers(scores, "scores", 1).astype(np.float64), _binary(labels, "labels", 1)
    if len(scores) != len(labels):
        raise InputError(f"scores holds {len(scores)} images but labels {len(labels)}: give one of each per image")
    _refuse_non_finite(np.isfinite(scores), "scores")
    return labels, scores


def _pixel_inputs(maps: Any, masks: Any | None) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Maps (N, H, W) floating, masks (N, H, W) bool or None, and the maximum of each map (N,) float64, checked."""
    maps = _numbers(maps, "maps", 3)
    if maps.dtype.kind != "f":
        raise InputError(f"maps holds {maps.dtype} values: give the raw logits as float16, float32 or float64")
    extremes = np.array([(image.max(), image.min()) for image in maps], dtype=np.float64)  # NaN and infinity survive
    _refuse_non_finite(np.isfinite(extremes).all(axis=1), "maps")
    if masks is not None:
        masks = _binary(masks, "masks", 3)
        if masks.shape != maps.shape:
            raise InputError(f"masks is {masks.shape} but maps is {maps.shape}: resize the masks to the maps (nearest)")
    return maps, masks, extremes[:, 0]


def _numbers(values: Any, name: str, dimensions: int) -> np.ndarray:
    shape = {1: "(N,)", 3: "(N, H, W)"}[dimensions]
    try:
        if hasattr(values, "detach"):  # a tensor; torch itself is not needed for arrays
            values = values.detach().cpu()
            values = values.float() if str(values.dtype) == "torch.bfloat16" else values  # numpy has no bfloat16
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} is not an array: give one of shape {shape} ({error})") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} holds {array.dtype} values: give numbers in an array of shape {shape}")
    if array.ndim != dimensions or not array.size:
        raise InputError(f"{name} has shape {array.shape}: give {shape}, with at least one image")
    return array


def _binary(values: Any, name: str, dimensions: int) -> np.ndarray:
    array = _numbers(values, name, dimensions)
    if array.dtype != bool:
        if not ((array == 0) | (array == 1)).all():
            raise InputError(f"{name} holds values other than 0 and 1: give booleans, such as {name} > 0")
        array = array.astype(bool)
    return array


def _refuse_non_finite(finite: np.ndarray, name: str) -> None:
    if not finite.all():
        raise InputError(f"{name}: image {int(np.argmin(finite))} is not finite: check the model that computed it")
