"""Upscaling of many channels by bands of rows: a band reads few rows of the small layers, and fits a core's cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssn_core.fast.moments import Kept
from ssn_core.models.upscale import nonzero_columns, tap_matrix

CACHE_ROWS = 512  # rows of 1024 floats: 2 MB


class Part(NamedTuple):
    """Some rows of some images, the same as ``block`` of the flattened positions (B*H*W,), and which rows of layer2 and
    of layer3 they are upscaled from."""

    images: slice
    rows: slice
    block: slice
    read: tuple[slice, slice]


class RowBands(nn.Module):
    """The upscaling matrices of one pair of sizes, on the device and in the precision of ``like``."""

    def __init__(self, size2: tuple[int, int], size3: tuple[int, int], size_out: tuple[int, int], like: Tensor) -> None:
        super().__init__()
        along_y, along_x = (
            [tap_matrix(size[axis], size_out[axis], taps=1) for size in (size2, size3)] for axis in range(2)
        )
        h, w = self.size = size_out
        height = max(1, CACHE_ROWS // w) if like.device.type == "cpu" else h
        self.bands = [slice(i, min(i + height, h)) for i in range(0, h, height)]
        self.read = [tuple(nonzero_columns(y[band]) for y in along_y) for band in self.bands]
        matrices = {"y2": along_y[0], "y3": along_y[1], "along_x": torch.cat(along_x, dim=1)}  # (W, w2 + w3)
        for name, matrix in matrices.items():
            self.register_buffer(name, matrix.to(like), persistent=False)

    def parts(self, batch: int) -> list[Part]:
        """On a processor a band of one image each, elsewhere all at once."""
        h, w = self.size
        if len(self.bands) == 1:
            return [Part(slice(0, batch), self.bands[0], slice(0, batch * h * w), self.read[0])]
        return [
            Part(slice(i, i + 1), band, slice((i * h + band.start) * w, (i * h + band.stop) * w), read)
            for i in range(batch)
            for band, read in zip(self.bands, self.read, strict=True)
        ]

    def fill(self, out: Tensor, part: Part, layers: Sequence[Tensor], kept: Kept) -> None:
        """Upscale into ``out`` (positions of the part, K): along y, then both layers along x at once."""
        wide, sides = self._wide(part, layers, kept)  # (n, rows, w2 + w3, K)
        for layer, y, read, side in zip(layers, (self.y2, self.y3), part.read, sides, strict=True):
            y = y[part.rows, read].expand(len(wide), -1, -1)
            torch.bmm(y, layer[part.images, read].flatten(2), out=wide[:, :, side].flatten(2))
        wide = wide.flatten(0, 1)
        torch.bmm(self.along_x.expand(len(wide), -1, -1), wide, out=out.view(len(wide), self.size[1], -1))

    def unfill(self, grad: Tensor, part: Part, totals: Sequence[Tensor], kept: Kept) -> None:
        """Transpose of :meth:`fill`: adds to ``totals``, (B, h, w, K) each."""
        wide, sides = self._wide(part, totals, kept)
        lines = wide.flatten(0, 1)
        torch.bmm(self.along_x.T.expand(len(lines), -1, -1), grad.view(len(lines), self.size[1], -1), out=lines)
        for total, y, read, side in zip(totals, (self.y2, self.y3), part.read, sides, strict=True):
            y = y[part.rows, read].T.expand(len(wide), -1, -1)
            total[part.images, read].flatten(2).baddbmm_(y, wide[:, :, side].flatten(2))

    def _wide(self, part: Part, layers: Sequence[Tensor], kept: Kept) -> tuple[Tensor, tuple[slice, slice]]:
        w2, w = layers[0].shape[2], self.along_x.shape[1]
        images, rows = (s.stop - s.start for s in part[:2])
        return kept("wide", layers[0], images, rows, w, layers[0].shape[-1]), (slice(0, w2), slice(w2, w))
