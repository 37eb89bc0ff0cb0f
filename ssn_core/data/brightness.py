"""Whether brightness alone tells normal from defective test images, which no detector should be credited with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import roc_auc_score

from ssn_core.data.layouts import Sample

TELLING = 0.9  # an AUROC, or one minus it, that is worth a word
_ENOUGH = 10  # images of each kind to say so


def brightness(train: Sequence[Sample], test: Sequence[Sample]) -> dict[str, float]:
    """Mean grey value, 0 to 255, of the good ``training`` images, the ``normal`` and the ``defective`` test images, and
    the ``auroc`` of the test images ranked by it (0.5: it says nothing; near 0 or 1: it says all). A kind without
    images is left out, and then the AUROC too."""
    kinds = {
        "training": [sample.grey for sample in train if not sample.label],
        "normal": [sample.grey for sample in test if not sample.label],
        "defective": [sample.grey for sample in test if sample.label],
    }
    values = {kind: float(np.mean(greys)) for kind, greys in kinds.items() if greys}
    if {"normal", "defective"} <= values.keys():
        values["auroc"] = float(roc_auc_score([s.label for s in test], [s.grey for s in test]))
    return values


def remark(test: Sequence[Sample]) -> str:
    """A clause about a set whose brightness tells its test images apart; "" where it does not or too few images would
    say so."""
    defective = sum(sample.label for sample in test)
    if min(defective, len(test) - defective) < _ENOUGH:
        return ""
    found = brightness([], test)
    if max(found["auroc"], 1 - found["auroc"]) < TELLING:
        return ""
    return (
        "; the mean grey value alone tells its test images apart ({normal:.0f} of good ones, {defective:.0f} of "
        "defective ones, AUROC {auroc:.2f}): where that is the light and not the defects, compare with "
        "equal_brightness=true".format(**found)
    )
