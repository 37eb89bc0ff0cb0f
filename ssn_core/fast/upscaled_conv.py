"""The k x k convolution of upscaled features, without forming them: what training and the folded model share.

Per tap a 1x1 convolution at low resolution, then the k shifted copies of ``U``, first along x, then along y (see
:mod:`ssn_core.models.upscale`). An output reads few inputs, so a processor multiplies by bands of these matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssn_core.fast.moments import Kept, blocks
from ssn_core.models.product import product
from ssn_core.models.upscale import nonzero_columns, tap_matrix

_BAND = 16  # rows or columns of a band on a processor, whichever are fewer


class _Banded(nn.Module):
    """A matrix (M, N) as bands of rows, each with the columns that it reads."""

    def __init__(self, matrix: Tensor, like: Tensor) -> None:
        super().__init__()
        bands = round(min(matrix.shape) / _BAND) if like.device.type == "cpu" else 1
        height = -(-len(matrix) // max(1, bands))
        self.bands: list[tuple[slice, slice]] = []
        for first in range(0, len(matrix), height):
            rows = slice(first, min(first + height, len(matrix)))
            read = nonzero_columns(matrix[rows])
            self.register_buffer(str(len(self.bands)), matrix[rows, read].to(like).contiguous(), persistent=False)
            self.bands.append((rows, read))

    def forward(self, x: Tensor, out: Tensor, add: bool = False) -> None:
        """Multiply matrices (n, N, K) from the left, into or onto (n, M, K)."""
        for (rows, read), band in zip(self.bands, self.buffers(), strict=True):
            target = out[:, rows]
            torch.baddbmm(target, band.expand(len(x), -1, -1), x[:, read], beta=int(add), out=target)


class UpscaledConv(nn.Module):
    """k x k convolution (zero padding) of the upscaled, concatenated layers.

    Exact up to rounding: ``conv2d(upscale(layer2, layer3), weight, padding=k // 2)``. Holds the matrices of one pair of
    sizes, on the device and in the precision of ``like``; the weight stays an argument and stays trainable. The layers
    are data: a frozen trunk takes no gradient.
    """

    def __init__(
        self, size2: tuple[int, int], size3: tuple[int, int], size_out: tuple[int, int], taps: int, like: Tensor
    ) -> None:
        super().__init__()
        self.taps, self.size_out = taps, size_out
        pairs = [[tap_matrix(i, o, taps) for i, o in zip(size, size_out, strict=True)] for size in (size2, size3)]
        self.matrices = nn.ModuleList(nn.ModuleList(_Banded(m, like) for m in (y, x, y.T, x.T)) for y, x in pairs)
        # for `whole`: along x as it is, along y both layers at once, (H, k * (h2 + h3)) with the tap slow
        y2, y3 = (y.unflatten(1, (-1, taps)) for y, _ in pairs)
        whole = {"x2": pairs[0][1], "x3": pairs[1][1], "y": torch.cat([y2, y3], dim=1).transpose(1, 2).flatten(1)}
        for name, matrix in whole.items():
            self.register_buffer(name, matrix.to(like), persistent=False)

    def forward(self, layer2: Tensor, layer3: Tensor, weight: Tensor, kept: Kept) -> Tensor:
        """(B, h2, w2, C2), (B, h3, w3, C3) and weight (O, C2 + C3, k, k) -> (B, H, W, O)."""
        return _Function.apply(weight, layer2, layer3, self, kept)

    def banded(self, layers: tuple[Tensor, ...], taps: tuple[Tensor, ...], kept: Kept) -> Tensor:
        """The same with ``taps``, see :func:`tap_rows`, of either layer's part of the weight."""
        k, o = self.taps, taps[0].shape[-1] // self.taps
        out = layers[0].new_empty(len(layers[0]), *self.size_out, o)
        for images in blocks(out):
            for i, (layer, rows, (y, x, *_)) in enumerate(zip(layers, taps, self.matrices, strict=True)):
                part = layer[images]
                wide = self.wide(part, o, kept)
                for dy in range(k):
                    low = product(part.flatten(0, 1), rows[dy]).unflatten(2, (k, o)).flatten(1, 2)  # (n h, w k, O)
                    x(low, wide.unflatten(1, (-1, k))[:, :, dy].flatten(0, 1))
                y(wide.flatten(2), out[images].flatten(2), add=i > 0)
        return out

    def whole(self, layers: tuple[Tensor, ...], taps: tuple[Tensor, ...], bias: Tensor) -> Tensor:
        """The same, with a bias, in few large operations, one of which writes the output: for a GPU or a compiler."""
        k, parts = self.taps, []
        for layer, rows, x in zip(layers, taps, (self.x2, self.x3), strict=True):
            n, h, w, c = layer.shape
            mixed = torch.bmm(layer.reshape(-1, c).expand(k, -1, -1), rows).view(k * n * h, w * k, -1)
            parts.append(torch.bmm(x.expand(k * n * h, -1, -1), mixed).view(k, n, h, -1).transpose(0, 1))
        wide = torch.cat(parts, dim=2).flatten(1, 2)  # (n, k (h2 + h3), W O)
        out = torch.baddbmm(bias.repeat(self.size_out[1]), self.y.expand(wide.shape[0], -1, -1), wide)
        return out.unflatten(2, (self.size_out[1], -1))

    def wide(self, part: Tensor, o: int, kept: Kept) -> Tensor:
        """A buffer for the products of images (n, h, w, C), upscaled along x: (n, h k, W, O)."""
        return kept("wide", part, len(part), part.shape[1] * self.taps, self.size_out[1], o)


def tap_rows(weight: Tensor) -> Tensor:
    """Weight (O, C, k, k) as one matrix per row of taps, (k, C, k * O): every product lands where the next reads it."""
    return weight.permute(2, 1, 3, 0).flatten(2).contiguous()


class Composed(nn.Module):
    """The fixed weights of a convolution of the upscaled layers, see :func:`tap_rows`."""

    def __init__(self, weight: Tensor, bias: Tensor, channels2: int) -> None:
        super().__init__()
        self.taps = weight.shape[-1]
        self.register_buffer("rows2", tap_rows(weight[:, :channels2]).float())
        self.register_buffer("rows3", tap_rows(weight[:, channels2:]).float())
        self.register_buffer("bias", bias.float())

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        return self.rows2, self.rows3


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, layer2: Tensor, layer3: Tensor, op: UpscaledConv, kept: Kept) -> Tensor:
        ctx.save_for_backward(layer2, layer3)
        ctx.op, ctx.kept, ctx.shape, c2 = op, kept, weight.shape, layer2.shape[-1]
        return op.banded((layer2, layer3), (tap_rows(weight[:, :c2]), tap_rows(weight[:, c2:])), kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        op, (o, channels, k, _) = ctx.op, ctx.shape
        layers, grad = ctx.saved_tensors, grad.contiguous()
        totals = [grad.new_zeros(k, layer.shape[-1], k * o) for layer in layers]
        for images in blocks(grad):
            for layer, total, (*_, y, x) in zip(layers, totals, op.matrices, strict=True):
                part = layer[images]
                wide, (n, h, w, _) = op.wide(part, o, ctx.kept), part.shape
                low = ctx.kept("low", part, n * h, w * k, o)
                y(grad[images].flatten(2), wide.flatten(2))
                for dy in range(k):
                    x(wide.unflatten(1, (-1, k))[:, :, dy].flatten(0, 1), low)
                    total[dy] += product(part.flatten(0, 2).T, low.view(-1, k * o))
        grad_weight = torch.cat(totals, dim=1).view(k, channels, k, o).permute(3, 1, 0, 2)
        return grad_weight, None, None, None, None
