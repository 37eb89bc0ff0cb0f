"""Training losses: truncated L1 and focal on the map, focal on the image score."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

MARGIN = 0.5
FOCAL_GAMMA = 4.0


def focal(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Focal loss with gamma 4 and no class weight (Lin et al. 2017, equation 4), averaged over all cells; 0 without."""
    values = sigmoid_focal_loss(logits, targets.to(logits.dtype), alpha=-1, gamma=FOCAL_GAMMA, reduction="none")
    return (values if weights is None else values * weights).sum() / max(values.numel(), 1)


def truncated_l1(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over normal cells of ``max(0, th + logit)`` plus mean over anomalous cells of ``max(0, th - logit)``.

    th = 0.5 (SimpleNet, equation 6; SuperSimpleNet, equation 4). A side without cells contributes 0. The masks
    weigh the sums, rather than select cells, so nothing waits for their count on a GPU.
    """
    anomalous = targets.to(logits.dtype)
    hinge = torch.where(targets.bool(), MARGIN - logits, MARGIN + logits).clamp(min=0)
    if weights is not None:
        hinge = hinge * weights
    sides = ((hinge * side).sum() / side.sum().clamp(min=1) for side in (1 - anomalous, anomalous))
    return sum(sides, start=logits.new_zeros(()))


def map_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Truncated L1 + focal on map logits (B, h, w) with targets {0, 1}; ``weights`` (B, h, w) for real regions."""
    return truncated_l1(logits, targets, weights) + focal(logits, targets, weights)
