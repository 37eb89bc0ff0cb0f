"""From scores to a decision: a quantile of good images that trained nothing, and how often it is wrong on others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from ssn_core.errors import InputError
from ssn_core.metrics import NOT_AVAILABLE
from ssn_core.runs.result import RunResult

QUANTILE, CONFIDENCE = 0.99, 0.95
_MARGIN = 1e-3


@dataclass(frozen=True)
class Rate:
    """``count`` of ``total`` with its Clopper-Pearson interval."""

    count: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high end; 0 to 1 where nothing was counted."""
        if not self.total:
            return 0.0, 1.0
        return tuple(binomtest(self.count, self.total).proportion_ci(CONFIDENCE, method="exact"))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.count} of {self.total} ({CONFIDENCE:.0%} interval {low:.1%} to {high:.1%})"


@dataclass(frozen=True)
class Threshold:
    """An image is defective, and a pixel marked, where the map's logit is above ``value``.

    ``value`` lies just above the score of one of the held-out good images, the smallest that no more than 1 % of them
    exceed: by what another batch or device may change in that very image's score. The
    share of future good images above such an order statistic follows a beta distribution, whose quantiles lie in the
    Clopper-Pearson interval of ``false_alarms``: it holds although the threshold was chosen on the same images.
    """

    value: float
    false_alarms: Rate

    @classmethod
    def of(cls, run: RunResult) -> Threshold:
        """From the scores of a run's good test images, which its training has not seen."""
        good = run.scores.map_score[run.scores.label == 0].to_numpy()
        if not len(good):
            raise InputError(f"{run.path / 'scores.csv'} holds no good image, so there is no threshold; run it again")
        value = float(np.quantile(good, QUANTILE, method="higher")) + _MARGIN
        return cls(value, Rate(int((good > value).sum()), len(good)))

    def __str__(self) -> str:
        kind = f"{QUANTILE:.0%} quantile of the map scores of {self.false_alarms.total} held-out good images"
        return f"threshold {self.value:.6g}, the {kind}; false alarms among them: {self.false_alarms}"


def decide(map_scores: np.ndarray, labels: np.ndarray, threshold: float) -> tuple[Rate, Rate]:
    """Of images with these maxima of their maps (n,) and labels (n,), 0 good, 1 defective: how many of the defective
    ones are found, and how many of the good ones are false alarms."""
    above = map_scores > threshold
    found, false_alarms = (Rate(int(above[labels == label].sum()), int((labels == label).sum())) for label in (1, 0))
    return found, false_alarms


def not_available(metrics: Mapping[str, Any], labels: Iterable[int]) -> str:
    """Why some of the ``metrics`` of images with these ``labels`` are "n/a", or ""."""
    if NOT_AVAILABLE not in metrics.values():
        return ""
    there = set(labels)
    absent = [kind for label, kind in enumerate(("good", "defective")) if label not in there]
    return f"no {absent[0]} image to compare with" if absent else "defective images without masks"
