"""The seven metrics, Youden's point and the curves, exact at any number of pixels. Imports nothing above it."""

from ssn_core.metrics.seven import (  # noqa: F401
    METRICS,
    NOT_AVAILABLE,
    PIXEL_METRICS,
    Youden,
    aupro,
    evaluate,
    pixel_pr_curve,
    pr_curve,
    roc_curve,
    youden,
)
