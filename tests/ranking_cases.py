"""Maps and masks to rank, and what scikit-learn makes of them, for the tests of the metrics."""

from __future__ import annotations

import numpy as np
from sklearn import metrics as sk

#: sums in float64
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
