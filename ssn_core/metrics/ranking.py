"""Where positives stand among the negatives: the counts from which AUROC, average precision and AUPRO follow exactly.

A ranking metric changes only where a *positive* is passed, so it is enough to know, for each distinct score of a
positive, how many positives lie at or above it and how many negatives lie above it and at it. Positives (defective
pixels) are few and are sorted once, with the region each belongs to; negatives (149 million normal pixels on
KolektorSDD2) are sorted chunk by chunk and only counted, so no copy of all maps is ever made. There are no bins and
no approximation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_CHUNK_PIXELS = 2**23  # normal pixels sorted at a time: 32 MB of float32
_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Ranking:
    """Counts at the D distinct scores of the positives, highest first. All arrays (D,); all metrics in [0, 1]."""

    threshold: np.ndarray  # the score itself
    true_positives: np.ndarray  # int64, positives >= threshold
    overlap: np.ndarray  # float64, mean over regions of the part of a region's pixels >= threshold
    false_positives: np.ndarray  # int64, negatives >= threshold
    tied: np.ndarray  # int64, negatives == threshold
    negatives: int

    @property
    def recall(self) -> np.ndarray:
        return self.true_positives / self.true_positives[-1]

    @property
    def precision(self) -> np.ndarray:
        return self.true_positives / (self.true_positives + self.false_positives)

    def corners(self, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """False positive rates and ``height`` (D,) as a polyline (2 D + 2,): the curve over *all* distinct scores.

        Before each positive score the line runs level, over the negatives above it; then it rises, upright, or slanted
        when negatives share the score. Points on the level parts are left out, since they change no area.
        """
        x, y = np.zeros(2 * len(height) + 2), np.zeros(2 * len(height) + 2)
        x[1:-1:2] = (self.false_positives - self.tied) / self.negatives
        x[2:-1:2] = self.false_positives / self.negatives
        y[2:-1:2] = height
        y[3:-1:2] = height[:-1]
        x[-1] = y[-1] = 1.0
        return x, y

    def auroc(self) -> float:
        return _area(*self.corners(self.recall), limit=1.0)

    def average_precision(self) -> float:
        # Weighted by whole numbers, divided at the end: a perfect ranking gives exactly 1.
        gained = np.diff(self.true_positives, prepend=0)
        return float(np.sum(gained * self.precision) / self.true_positives[-1])

    def aupro(self, max_fpr: float) -> float:
        return _area(*self.corners(self.overlap), limit=max_fpr) / max_fpr


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Trapezoids under the polyline from 0 to ``limit``, where it is interpolated linearly; heights are at most 1."""
    inside = int(np.searchsorted(x, limit, side="right"))
    y_limit = np.interp(limit, x[inside - 1 : inside + 1], y[inside - 1 : inside + 1])
    x, y = np.append(x[:inside], limit), np.append(y[:inside], y_limit)
    return min(limit, float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2))  # rounding may pass it by an ulp or so


def rank(positives: np.ndarray, weights: np.ndarray, negatives: Iterable[np.ndarray]) -> Ranking | None:
    """Count ``negatives`` (chunks of any length) against the scores (P,) and weights (P,) of the positives.

    The weights sum to 1. None if there are no positives or no negatives.
    """
    if not len(positives):
        return None
    order = np.argsort(positives)[::-1]
    positives, weights = positives[order], weights[order]
    last = np.flatnonzero(np.append(positives[1:] != positives[:-1], True))  # the end of each run of equal scores
    ascending = positives[last][::-1]
    below, not_above, total = np.zeros(len(last), np.int64), np.zeros(len(last), np.int64), 0
    for chunk in negatives:
        chunk = np.sort(chunk)
        below += np.searchsorted(chunk, ascending, side="left")
        not_above += np.searchsorted(chunk, ascending, side="right")
        total += len(chunk)
    if not total:
        return None
    overlap = np.cumsum(weights, dtype=np.float64)[last]
    return Ranking(positives[last], last + 1, overlap, (total - below)[::-1], (not_above - below)[::-1], total)


def rank_images(labels: np.ndarray, scores: np.ndarray) -> Ranking | None:
    """Rank images by scores (N,) with labels (N,) bool; every positive weighs the same."""
    positives = scores[labels]
    return rank(positives, np.full(len(positives), 1 / max(1, len(positives))), [scores[~labels]])


def rank_pixels(maps: np.ndarray, masks: np.ndarray | None) -> Ranking | None:
    """Rank all pixels of maps (N, H, W) and masks (N, H, W); a region's pixels weigh 1 / (their number * regions).

    Beyond its inputs it needs a chunk and about 100 bytes per defective pixel.
    """
    if masks is None:
        return None
    scores, weights, regions = [np.empty(0, np.float32)], [np.empty(0)], 0
    for image, mask in zip(maps, masks, strict=True):
        if not mask.any():
            continue
        region, count = ndimage.label(mask, structure=_EIGHT_CONNECTED)
        region = region[mask]
        scores.append(_sortable(image[mask]))
        weights.append(1 / np.bincount(region)[region])
        regions += count
    positives = np.concatenate(scores)
    # Each chunk looks every positive up: longer chunks when there are many, so that look-ups stay below the pixels.
    chunk = max(_CHUNK_PIXELS, 4 * len(positives))
    return rank(positives, np.concatenate(weights) / max(1, regions), _normal_pixels(maps, masks, chunk))


def _normal_pixels(maps: np.ndarray, masks: np.ndarray, chunk_pixels: int) -> Iterator[np.ndarray]:
    step = max(1, chunk_pixels // maps[0].size)
    for start in range(0, len(maps), step):
        yield _sortable(maps[start : start + step][~masks[start : start + step]])


def _sortable(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype == np.float16 else values  # numpy sorts half precision slowly
