"""The feature cache: the frozen trunk sees every image once, training and evaluation read from here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssn_core.data.datasets import Sample
from ssn_core.data.images import read_image, to_tensor
from ssn_core.errors import InputError

#: as is, flipped vertically, flipped horizontally, rotated by 180 degrees: dimensions of (..., H, W) to flip
FLIPS: tuple[tuple[int, ...], ...] = ((), (-2,), (-1,), (-2, -1))
_BATCH = 8
CACHE_VARIABLE = "SSN_CACHE_GB"


@dataclass(frozen=True)
class Features:
    """Trunk features of n images, channels last: layer2 (n, h2, w2, C2), layer3 (n, h3, w3, C3)."""

    layer2: Tensor
    layer3: Tensor

    def __len__(self) -> int:
        return len(self.layer2)

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(h2, w2), (h3, w3)."""
        return tuple(self.layer2.shape[1:3]), tuple(self.layer3.shape[1:3])

    def batch(self, index: Tensor | slice, device: torch.device) -> tuple[Tensor, Tensor]:
        """The chosen images' features as float32 on the device."""
        return tuple(layer[index].to(device, torch.float32, non_blocking=True) for layer in (self.layer2, self.layer3))

    def standard_deviation(self) -> float:
        """Standard deviation of all values of both layers, each weighted by its channels: what noise is relative to."""
        moments = []
        for layer in (self.layer2, self.layer3):
            total = square = 0.0
            for images in layer.split(_BATCH):  # float64 sums over blocks: a mapped cache is never read whole
                values = images.double()
                total, square = total + float(values.sum()), square + float(values.square().sum())
            moments.append((total / layer.numel(), square / layer.numel(), layer.shape[-1]))
        channels = sum(c for *_, c in moments)
        mean, square = (sum(m[i] * m[2] for m in moments) / channels for i in (0, 1))
        return float(np.sqrt(max(square - mean * mean, 0.0)))


def cache_limit() -> int:
    """Bytes that one cache may take in memory: SSN_CACHE_GB gigabytes, 4 unless set."""
    text = os.environ.get(CACHE_VARIABLE, "4")
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if limit <= 0:
        raise InputError(f"{CACHE_VARIABLE}={text!r} must be a number of gigabytes > 0")
    return int(limit * 1e9)


@torch.inference_mode()
def extract(
    trunk: nn.Module,
    entries: Sequence[tuple[Sample, int]],
    image_size: tuple[int, int],
    device: torch.device,
    log: Callable[[str], None],
) -> Features:
    """Features of every (sample, flip) entry, ``flip`` being an index into :data:`FLIPS`.

    float32 in memory below the bound, float16 in memory below twice the bound, a memory-mapped float16 file in the
    temporary folder beyond; the choice is logged.
    """
    store: list[Tensor] = []
    for start in range(0, len(entries), _BATCH):
        part = entries[start : start + _BATCH]
        images = [to_tensor(read_image(sample.image), image_size).flip(FLIPS[flip]) for sample, flip in part]
        layers = trunk(torch.stack(images).to(device, memory_format=torch.channels_last))
        if not store:
            store = _allocate(len(entries), [layer.shape[1:] for layer in layers], log)
        for cache, layer in zip(store, layers, strict=True):
            cache[start : start + len(part)] = layer.permute(0, 2, 3, 1).to("cpu", cache.dtype)
    return Features(*(layer.clone() if layer.is_inference() else layer for layer in store))


def _allocate(count: int, shapes: list[torch.Size], log: Callable[[str], None]) -> list[Tensor]:
    sizes = [(count, h, w, c) for c, h, w in shapes]
    values, limit = sum(int(np.prod(size)) for size in sizes), cache_limit()
    dtype = torch.float32 if 4 * values <= limit else torch.float16
    mapped = 2 * values > limit
    gigabytes = values * (4 if dtype == torch.float32 else 2) / 1e9
    place = "memory-mapped file" if mapped else "memory"
    log(f"feature cache: {count} images, {gigabytes:.2f} GB {str(dtype).removeprefix('torch.')} in {place}")
    with torch.inference_mode(False):  # training needs ordinary tensors
        if not mapped:
            return [torch.empty(size, dtype=dtype) for size in sizes]
        tensors = []
        for size in sizes:
            with tempfile.NamedTemporaryFile(prefix="ssn-features-", delete=False) as handle:
                path = Path(handle.name)
            tensors.append(torch.from_numpy(np.memmap(path, dtype=np.float16, mode="w+", shape=size)))
            path.unlink()  # the mapping keeps the file alive, and nothing is left behind after a crash
        return tensors
