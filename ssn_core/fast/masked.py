"""Where a doubled batch carries synthetic noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Masked:
    """The masked positions of a doubled batch: sorted indices ``where`` (N,) into the flattened (2B, H, W), of which
    the first ``split`` lie in the first copy. ``source`` are the same positions as indices into (B, H, W)."""

    where: Tensor
    split: int
    source: Tensor

    @classmethod
    def of(cls, masks: Tensor, device: torch.device | str = "cpu") -> Masked:
        """From masks (2B, H, W) bool on the CPU: counting there spares the GPU a synchronisation."""
        half = masks.numel() // 2
        where = masks.flatten().nonzero().squeeze(1)
        split = int((where < half).sum())
        source = torch.cat([where[:split], where[split:] - half])
        return cls(where.to(device, non_blocking=True), split, source.to(device, non_blocking=True))
