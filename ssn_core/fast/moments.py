"""Blocks of rows, batch statistics over them, and buffers that are kept between steps: what the fast forms share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def blocks(rows: Tensor, step: int = 1) -> list[slice]:
    """Along the first dimension: ``step`` at a time on a processor, whose caches then hold what is made of them;
    elsewhere all at once."""
    step = step if rows.device.type == "cpu" else max(len(rows), 1)
    return [slice(i, min(i + step, len(rows))) for i in range(0, len(rows), step)]


class Moments:
    """Mean and biased variance (K,) of rows (n, K) that come block by block and count several times or not at all.

    One pass over moments about a provisional mean, which keeps the float32 sums free of cancellation.
    """

    def __init__(self) -> None:
        self.centre: Tensor | None = None

    def add(self, rows: Tensor, counts: Tensor) -> None:
        """``counts`` (n,): how often each row counts."""
        if self.centre is None:
            self.centre = rows.mean(0)
            self.first, self.second = torch.zeros_like(self.centre), torch.zeros_like(self.centre)
        centred = rows - self.centre
        self.first += counts @ centred
        self.second += counts @ centred.square_()

    def result(self, count: int) -> tuple[Tensor, Tensor]:
        """``count``: the sum of all counts."""
        offset = self.first / count
        return self.centre + offset, (self.second / count - offset * offset).clamp_(min=0)


@torch.no_grad()
def track(bn: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Running statistics from those of a batch; the variance is the biased one."""
    bn.num_batches_tracked += 1
    bn.running_mean.lerp_(mean, bn.momentum)
    bn.running_var.lerp_(variance * (count / (count - 1)), bn.momentum)


class Kept:
    """Buffers by name that live from step to step: beyond 32 MB the C library's allocator would give the memory back to
    the system and fault its pages in again."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, like: Tensor, *size: int) -> Tensor:
        """An uninitialised tensor of ``size``, of the kind of ``like``; it holds until the same name is asked for.
        What a backward pass reads goes through ``save_for_backward``, which notices when it did not hold."""
        count, buffer = math.prod(size), self._buffers.get(name)
        if buffer is None or buffer.numel() < count or (buffer.device, buffer.dtype) != (like.device, like.dtype):
            buffer = self._buffers[name] = like.new_empty(count)
        return buffer[:count].view(size)
