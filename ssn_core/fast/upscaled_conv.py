"""The k x k convolution of upscaled features that training needs, without forming them.

Per tap a 1x1 convolution at low resolution, then the k shifted copies of ``U``, first along x, then along y (see
:mod:`ssn_core.models.upscale`). An output reads few inputs, so a processor multiplies by bands of these matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssn_core.fast.moments import Kept
from ssn_core.models.upscale import nonzero_columns, tap_matrix

_BAND = 16  # rows or columns of a band on a processor, whichever are fewer


class _Banded:
    """A matrix (M, N) as bands of rows, each with the columns that it reads."""

    def __init__(self, matrix: Tensor, like: Tensor) -> None:
        bands = round(min(matrix.shape) / _BAND) if like.device.type == "cpu" else 1
        height = -(-len(matrix) // max(1, bands))
        self.bands = []
        for first in range(0, len(matrix), height):
            rows = slice(first, min(first + height, len(matrix)))
            read = nonzero_columns(matrix[rows])
            self.bands.append((rows, read, matrix[rows, read].to(like).contiguous()))

    def __call__(self, x: Tensor, out: Tensor, add: bool = False) -> None:
        """Multiply matrices (n, N, K) from the left, into or onto (n, M, K)."""
        for rows, read, band in self.bands:
            target = out[:, rows]
            torch.baddbmm(target, band.expand(len(x), -1, -1), x[:, read], beta=int(add), out=target)


class UpscaledConv:
    """k x k convolution (zero padding) of the upscaled, concatenated layers.

    Exact up to rounding: ``conv2d(upscale(layer2, layer3), weight, padding=k // 2)``. Holds the matrices of one pair of
    sizes, on the device and in the precision of ``like``; the weight stays an argument and stays trainable. The layers
    are data: a frozen trunk takes no gradient.
    """

    def __init__(
        self, size2: tuple[int, int], size3: tuple[int, int], size_out: tuple[int, int], taps: int, like: Tensor
    ) -> None:
        self.taps, self.size_out, self.kept = taps, size_out, Kept()
        pairs = [[tap_matrix(i, o, taps) for i, o in zip(size, size_out, strict=True)] for size in (size2, size3)]
        self.matrices = [tuple(_Banded(m, like) for m in (y, x, y.T, x.T)) for y, x in pairs]

    def __call__(self, layer2: Tensor, layer3: Tensor, weight: Tensor) -> Tensor:
        """(B, h2, w2, C2), (B, h3, w3, C3) and weight (O, C2 + C3, k, k) -> (B, H, W, O)."""
        return _Function.apply(weight, layer2, layer3, self)

    def slices(self, batch: Tensor) -> list[slice]:
        """One image at a time on a processor, whose temporary tensors stay in its caches; elsewhere the whole batch."""
        step = 1 if batch.device.type == "cpu" else len(batch)
        return [slice(i, i + step) for i in range(0, len(batch), step)]

    def buffers(self, part: Tensor, o: int) -> tuple[Tensor, Tensor]:
        """For images (n, h, w, C): at low resolution (n h, w k, O), and upscaled along x (n, h k, W, O)."""
        (n, h, w, _), k = part.shape, self.taps
        low = self.kept("low", part, n * h, w * k, o)
        return low, self.kept("wide", part, n, h * k, self.size_out[1], o)


def _taps(weight: Tensor, channels2: int) -> list[Tensor]:
    """For either layer one (C, k * O) matrix per row of taps: every product lands where the next one reads it."""
    return [w.permute(2, 1, 3, 0).flatten(2).contiguous() for w in (weight[:, :channels2], weight[:, channels2:])]


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, layer2: Tensor, layer3: Tensor, op: UpscaledConv) -> Tensor:
        o, k = len(weight), op.taps
        out = layer2.new_empty(len(layer2), *op.size_out, o)
        taps = _taps(weight, layer2.shape[-1])
        for images in op.slices(layer2):
            for i, (layer, (y, x, *_)) in enumerate(zip((layer2, layer3), op.matrices, strict=True)):
                part = layer[images]
                low, wide = op.buffers(part, o)
                for dy in range(k):
                    torch.mm(part.flatten(0, 2), taps[i][dy], out=low.view(-1, k * o))
                    x(low, wide.unflatten(1, (-1, k))[:, :, dy].flatten(0, 1))
                y(wide.flatten(2), out[images].flatten(2), add=i > 0)
        ctx.save_for_backward(layer2, layer3)
        ctx.op, ctx.shape = op, weight.shape
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        op, (o, channels, k, _) = ctx.op, ctx.shape
        layers, grad = ctx.saved_tensors, grad.contiguous()
        totals = [grad.new_zeros(k, layer.shape[-1], k * o) for layer in layers]
        for images in op.slices(grad):
            for layer, total, (*_, y, x) in zip(layers, totals, op.matrices, strict=True):
                part = layer[images]
                low, wide = op.buffers(part, o)
                y(grad[images].flatten(2), wide.flatten(2))
                for dy in range(k):
                    x(wide.unflatten(1, (-1, k))[:, :, dy].flatten(0, 1), low)
                    total[dy].addmm_(part.flatten(0, 2).T, low.view(-1, k * o))
        grad_weight = torch.cat(totals, dim=1).view(k, channels, k, o).permute(3, 1, 0, 2)
        return grad_weight, None, None, None
