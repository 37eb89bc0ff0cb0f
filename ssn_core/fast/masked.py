"""The masked positions of a doubled batch, as rows of a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Masked:
    """Masks (2B, H, W) bool and their positions ``where`` (N,): sorted indices into the flattened masks.

    Where N is a bound and not a count, the rows left over stand nowhere: in an image after the last one, with
    ``counts`` (N,) 0 instead of 1. ``source`` (N,) are the same positions as indices into (B, H, W).
    """

    masks: Tensor
    where: Tensor
    source: Tensor
    counts: Tensor

    @classmethod
    def of(cls, masks: Tensor, bound: int | None = None) -> Masked:
        """As many rows as masked positions, which a GPU's host would have to wait for; or ``bound`` rows, whatever the
        masks hold: positions beyond are masked no more."""
        flat, total = masks.flatten(), masks.numel()
        if bound is None:
            where = flat.nonzero().squeeze(1)
        else:
            rank = flat.cumsum(0)
            flat = flat & (rank <= bound)
            nowhere = total + torch.arange(bound + 1, device=masks.device) % masks[0].numel()
            slots = torch.where(flat, rank - 1, bound)  # the last slot takes all that are not masked
            where = nowhere.scatter(0, slots, torch.arange(total, device=masks.device))[:bound]
        counts = (where < total).to(torch.get_default_dtype())
        return cls(flat.view_as(masks), where, where % (total // 2), counts)

    def clean_counts(self) -> Tensor:
        """How often each clean position (B*H*W,) occurs in the two copies: 2, less one for each copy that masks it."""
        counts = self.counts.new_full((self.masks.numel() // 2,), 2.0)
        return counts.index_add_(0, self.source, -self.counts)

    def mean(self, rows: Tensor) -> Tensor:
        """Mean of values (N,) over the masked positions; 0 without."""
        return self.counts @ rows / self.counts.sum().clamp(min=1)
