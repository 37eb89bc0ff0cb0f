"""Whether the light alone tells normal from defective test images, which no detector should be credited with."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.metrics import roc_auc_score

from ssn_core.data.images import read_image
from ssn_core.data.layouts import Sample

_TELLING, _ENOUGH = 0.9, 10  # an AUROC that is worth a word, and of how many images of each kind


def brightness(train: Sequence[Sample], test: Sequence[Sample]) -> dict[str, float]:
    """Mean grey value, 0 to 255, of the good ``training`` images, the ``normal`` and the ``defective`` test images, and
    the ``auroc`` of the test images ranked by it (0.5: it says nothing; near 0 or 1: it says all). A kind without
    images is left out, and then the AUROC too."""
    kinds = {
        "training": [sample for sample in train if not sample.label],
        "normal": [sample for sample in test if not sample.label],
        "defective": [sample for sample in test if sample.label],
    }
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
        greys = {kind: list(pool.map(_mean_grey, samples)) for kind, samples in kinds.items() if samples}
    values = {kind: float(np.mean(grey)) for kind, grey in greys.items()}
    if {"normal", "defective"} <= greys.keys():
        labels = np.repeat([0, 1], [len(greys["normal"]), len(greys["defective"])])
        values["auroc"] = float(roc_auc_score(labels, [*greys["normal"], *greys["defective"]]))
    return values


def _mean_grey(sample: Sample) -> float:
    return float(read_image(sample.image).mean())


def remark(train: Sequence[Sample], test: Sequence[Sample]) -> str:
    """A clause about a set whose light tells its test images apart; "" where it does not or too few images would say
    so."""
    defective = sum(sample.label for sample in test)
    if min(defective, len(test) - defective) < _ENOUGH:
        return ""
    found = brightness(train, test)
    if max(found["auroc"], 1 - found["auroc"]) < _TELLING:
        return ""
    normal, other, auroc = found["normal"], found["defective"], found["auroc"]
    return (
        f"; its light alone tells the test images apart (mean grey value {normal:.0f} of good ones, {other:.0f} of "
        f"defective ones, AUROC {auroc:.2f}): compare with equal_brightness=true"
    )
