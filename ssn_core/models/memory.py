"""What a memory of features needs: distances to the nearest of them, and which ones are worth keeping."""

from __future__ import annotations

import torch
from torch import Tensor

from ssn_core.models.product import product

_PART = 1024  # features of the memory compared at a time, which bounds the products


def nearest(rows: Tensor, memory: Tensor) -> Tensor:
    """Euclidean distance of each row (N, C) to the nearest one of the memory (M, C): (N,), computed in float32.

    Squared distances come from products, ``|x - m|^2 = |x|^2 + (|m|^2 - 2 x m)``, a part of the memory at a time.
    """
    dtype, rows, memory = rows.dtype, rows.float(), memory.float()
    least = [product(rows, -2 * m.T).add_(m.square().sum(1)).amin(1) for m in memory.split(_PART)]
    return (torch.stack(least).amin(0) + rows.square().sum(1)).clamp(min=0).sqrt().to(dtype)


def greedy_coreset(rows: Tensor, count: int, first: int) -> Tensor:
    """``count`` different indices of rows (N, D), beginning with ``first``: each lies farthest from all before it.

    The greedy k-centre choice of PatchCore (Roth et al., CVPR 2022, section 3.2). Rare features stay in it, which a
    random choice would lose.
    """
    squares, index = rows.square().sum(1), torch.tensor([first], device=rows.device)
    distance, chosen = torch.full_like(squares, float("inf")), []
    gap = torch.empty_like(squares)  # one for all: a fresh one each time costs more than what is computed in it
    for _ in range(count):
        chosen.append(index)
        torch.add(squares, squares[index], out=gap).addmv_(rows, rows[index][0], alpha=-2)
        torch.minimum(distance, gap, out=distance)
        # equal rows are still different ones
        index = distance.index_fill_(0, index, -float("inf")).argmax(keepdim=True)
    return torch.cat(chosen)
