"""Had a training finished? What a metric still gained when it ended."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

RISE = 0.02  # a metric that gained more than this over the last third of its evaluations was still rising
_LEAST_EVALUATIONS = 3  # a line through fewer says nothing


def rise(evaluations: pd.Series) -> float | None:
    """What a metric gained over the last third of its evaluations, at least three of them: the slope of the
    least-squares line through them times its length. Index: epochs. None with fewer than three evaluations.

    A training whose metric still rises would have ended elsewhere had it gone on. A loss near one is no such sign: the
    map may order the images long before the loss falls (erratum 13).
    """
    seen = evaluations.dropna()
    if len(seen) < _LEAST_EVALUATIONS:
        return None
    late = seen.tail(max(_LEAST_EVALUATIONS, math.ceil(len(seen) / 3)))
    slope = np.polyfit(late.index, late, 1)[0]
    return float(slope * (late.index[-1] - late.index[0]))
