"""Training losses: truncated L1 and focal on the map, focal on the image score."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

MARGIN = 0.5
FOCAL_GAMMA = 4.0


def focal(logits: Tensor, targets: Tensor, weights: Tensor | None = None, known: Tensor | None = None) -> Tensor:
    """Focal loss with gamma 4 and no class weight (Lin et al. 2017, equation 4), averaged over all cells; 0 without.

    ``weights`` multiply the values; ``known``, broadcast to the logits, is 0 where a cell has no target at all.
    """
    values = sigmoid_focal_loss(logits, targets.to(logits.dtype), alpha=-1, gamma=FOCAL_GAMMA, reduction="none")
    values = values if weights is None else values * weights
    if known is None:
        return values.sum() / max(values.numel(), 1)
    known = known.to(values.dtype).expand_as(values)
    return (values * known).sum() / known.sum().clamp(min=1)


def truncated_l1(logits: Tensor, targets: Tensor, weights: Tensor | None = None, known: Tensor | None = None) -> Tensor:
    """Mean over normal cells of ``max(0, th + logit)`` plus mean over anomalous cells of ``max(0, th - logit)``.

    th = 0.5 (SimpleNet, equation 6; SuperSimpleNet, equation 4). A side without cells contributes 0. The masks
    weigh the sums, rather than select cells, so nothing waits for their count on a GPU. ``weights`` and ``known`` as
    in :func:`focal`.
    """
    anomalous = targets.to(logits.dtype)
    hinge = torch.where(targets.bool(), MARGIN - logits, MARGIN + logits).clamp(min=0)
    if weights is not None:
        hinge = hinge * weights
    sides = (1 - anomalous, anomalous) if known is None else (known * (1 - anomalous), known * anomalous)
    means = ((hinge * side).sum() / side.sum().clamp(min=1) for side in sides)
    return sum(means, start=logits.new_zeros(()))


def map_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None, known: Tensor | None = None) -> Tensor:
    """Truncated L1 + focal on map logits (B, h, w) with targets {0, 1}; ``weights`` (B, h, w) for real regions,
    ``known`` (B, 1, 1) for images whose map is known."""
    return truncated_l1(logits, targets, weights, known) + focal(logits, targets, weights, known)
