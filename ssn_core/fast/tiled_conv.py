"""Convolutions of upscaled features for inference: weights prepared once, outputs computed tile by tile.

The same algebra as :mod:`ssn_core.fast.upscaled_conv`, arranged for a processor's caches. An output reads few input
cells, so the interpolation matrices are banded: cut into bands of outputs they shrink to the cells that a band reads,
and everything between the 1x1 products and a finished tile stays in cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ssn_core.models.upscale import shifted_stack, upscale_matrix

BAND = 24  # outputs of a band on a processor; smaller ones would save little arithmetic and cost calls

Tile = tuple[slice, slice, Tensor]  # rows, columns, values (n, rows, columns, O)


class _Bands(nn.Module):
    """One axis of one layer: for every band of outputs, the window of cells it reads and the matrix from these to it.

    Matrices (k, outputs, cells), or with ``taps_last`` (outputs, cells * k) and windows that count taps.
    """

    def __init__(self, n_in: int, n_out: int, taps: int, whole: bool, taps_last: bool) -> None:
        super().__init__()
        stack = shifted_stack(upscale_matrix(n_in, n_out), taps)
        bands = 1 if whole else max(1, round(n_out / BAND))
        self.windows: list[slice] = []
        for i, band in enumerate(stack.split(-(-n_out // bands), dim=1)):
            read = band.flatten(0, 1).any(0).nonzero()
            first, last = int(read.min()), int(read.max()) + 1
            matrix = band[:, :, first:last].float()
            if taps_last:
                matrix, first, last = matrix.permute(1, 2, 0).flatten(1), first * taps, last * taps
            self.windows.append(slice(first, last))
            self.register_buffer(str(i), matrix.contiguous(), persistent=False)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        return ((window, getattr(self, str(i))) for i, window in enumerate(self.windows))


class Tiling(nn.Module):
    """The bands of both layers and axes for one kernel size (``taps``) and one pair of layer sizes; ``whole``: a single
    band an axis, and along y one matrix for all taps of both layers, (H, k * (h2 + h3))."""

    def __init__(
        self, size2: tuple[int, int], size3: tuple[int, int], size_out: tuple[int, int], taps: int, whole: bool
    ) -> None:
        super().__init__()
        up = []
        for layer, size in ((2, size2), (3, size3)):
            self.add_module(f"x{layer}", _Bands(size[1], size_out[1], taps, whole, taps_last=True))
            if whole:
                up.append(shifted_stack(upscale_matrix(size[0], size_out[0]), taps))
            else:
                self.add_module(f"y{layer}", _Bands(size[0], size_out[0], taps, whole, taps_last=False))
        up = torch.cat(up, dim=2).transpose(0, 1).flatten(1).float() if whole else None
        self.register_buffer("up", up, persistent=False)


class TiledConv(nn.Module):
    """``conv2d(upscale(layer2, layer3), weight, bias, padding=k // 2)`` with fixed weights, exact up to rounding."""

    def __init__(self, weight: Tensor, bias: Tensor, channels2: int) -> None:
        super().__init__()
        self.taps = weight.shape[-1]
        # one matrix for each row of taps, outputs (tap of the row, O): the order in which x is read below
        rows = weight.permute(2, 1, 3, 0).flatten(2).float()  # (k, C, k * O)
        self.register_buffer("weight2", rows[:, :channels2].contiguous())
        self.register_buffer("weight3", rows[:, channels2:].contiguous())
        self.register_buffer("bias", bias.float())

    def forward(self, layer2: Tensor, layer3: Tensor, tiling: Tiling) -> Iterator[Tile]:
        """(n, C2, h2, w2) and (n, C3, h3, w3), both in channels-last memory -> the output's tiles, column by column.

        A tile is handed over as soon as it is finished, so that whoever reduces it finds it in cache.
        """
        if tiling.up is not None:
            yield slice(None), slice(0, None), self._whole(layer2, layer3, tiling)
            return
        unfinished: dict[tuple[int, int], Tensor] = {}
        for dy in range(self.taps):
            columns2 = self._columns(layer2, self.weight2[dy], tiling.x2)
            columns3 = self._columns(layer3, self.weight3[dy], tiling.x3)
            left = 0
            for wide2, wide3 in zip(columns2, columns3, strict=True):
                width, top = wide2.shape[2] // len(self.bias), 0
                for (rows2, up2), (rows3, up3) in zip(tiling.y2, tiling.y3, strict=True):
                    tile = unfinished.pop((top, left), None)
                    if tile is None:
                        tile = torch.baddbmm(self.bias.repeat(width), _each(up2[dy], wide2), wide2[:, rows2])
                    else:
                        tile.baddbmm_(_each(up2[dy], wide2), wide2[:, rows2])
                    tile.baddbmm_(_each(up3[dy], wide3), wide3[:, rows3])
                    if dy < self.taps - 1:
                        unfinished[top, left] = tile
                    else:
                        yield slice(top, top + len(up2[dy])), slice(left, left + width), tile.unflatten(2, (width, -1))
                    top += len(up2[dy])
                left += width

    def _whole(self, layer2: Tensor, layer3: Tensor, tiling: Tiling) -> Tensor:
        """(n, H, W, O) in few large operations, of which one writes the output."""
        k, o, parts = self.taps, len(self.bias), []
        for layer, weight, x in ((layer2, self.weight2, tiling.x2), (layer3, self.weight3, tiling.x3)):
            (n, c, h, _), [(_, along)] = layer.shape, x
            rows = layer.permute(0, 2, 3, 1).reshape(-1, c)
            mixed = torch.bmm(rows.expand(k, -1, -1), weight).view(k * n * h, -1, o)  # (k n h, w k, O)
            parts.append(torch.bmm(_each(along, mixed), mixed).view(k, n, h, -1).transpose(0, 1))
        wide = torch.cat(parts, dim=2).flatten(1, 2)  # (n, k (h2 + h3), W O)
        out = torch.baddbmm(self.bias.repeat(wide.shape[2] // o), _each(tiling.up, wide), wide)
        return out.unflatten(2, (-1, o))

    def _columns(self, layer: Tensor, weight: Tensor, bands: _Bands) -> Iterator[Tensor]:
        """One row of taps of one layer, at full size along x: a band of columns at a time, (n, h, columns * O)."""
        (n, c, h, _), o = layer.shape, len(self.bias)
        # a product of rows: a 1x1 convolution falls to half of its rate at some sizes (128 channels of 32x32 on AVX2)
        mixed = (layer.permute(0, 2, 3, 1).reshape(-1, c) @ weight).view(n * h, -1, o)  # (n h, w k, O)
        for cells, along in bands:
            yield torch.bmm(_each(along, mixed), mixed[:, cells]).view(n, h, -1)


def _each(matrix: Tensor, batch: Tensor) -> Tensor:
    return matrix.expand(batch.shape[0], -1, -1)


def join(tiles: Iterable[Tile]) -> Tensor:
    """Tiles of (n, rows, columns, ...) in :class:`TiledConv`'s order -> one (n, H, W, ...)."""
    columns: dict[int, list[Tensor]] = {}
    for _, across, tile in tiles:
        columns.setdefault(across.start, []).append(tile)
    return torch.cat([torch.cat(column, dim=1) for column in columns.values()], dim=2)
