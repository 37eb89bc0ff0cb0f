"""The feature cache: the frozen trunk sees every image once, training and evaluation read from here."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ssn_core.data.datasets import Sample
from ssn_core.data.images import read_image
from ssn_core.errors import InputError
from ssn_core.files import reserve, writing
from ssn_core.models.trunk import to_tensor

#: as is, flipped vertically, flipped horizontally, rotated by 180 degrees: dimensions of (..., H, W) to flip
FLIPS: tuple[tuple[int, ...], ...] = ((), (-2,), (-1,), (-2, -1))
ROTATIONS = (0, 4, 3, 5)  # the versions of an image that are turned by 0, 90, 180 and 270 degrees, see version_of
_BLOCK = 8  # images whose float64 copy suits a processor's memory
#: part of a GPU's free memory that one cache may take there; the rest is for its sisters and for training
DEVICE_SHARE = 0.4
CACHE_VARIABLE = "SSN_CACHE_GB"
#: a GPU's convolutions would otherwise round their operands to ten bits; decorates what has to be float32
single_precision = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


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
        return tuple(layer[index].to(device, torch.float32) for layer in (self.layer2, self.layer3))

    def parts(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in order, as many at a time as :func:`batch_size` says, like :meth:`batch`."""
        step = batch_size(device)
        for start in range(0, len(self), step):
            yield self.batch(slice(start, start + step), device)

    def batches(self, order: Tensor, size: int, device: torch.device) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
        """Batch by batch of ``order`` (n,): indices and features, both on the device; it never waits for the host where
        the cache lies on the device, nor while a step lasts longer than the next batch needs to get there."""
        indices, here = order.to(device).split(size), self.layer2.device
        chosen = order.to(here).split(size)
        if device.type != "cuda" or here.type == "cuda":
            layers: Iterator = (self.batch(index, device) for index in chosen)
        else:
            layers = self._ahead(chosen, device)
        yield from zip(indices, layers, strict=True)

    def _ahead(self, chosen: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch starts for the GPU one step early, from pinned memory, on a stream of its own."""
        stream = torch.cuda.Stream(device)

        def send(index: Tensor) -> tuple[tuple[Tensor, ...], torch.cuda.Event]:
            with torch.cuda.stream(stream):
                pinned = (layer[index].pin_memory() for layer in (self.layer2, self.layer3))
                layers = tuple(layer.to(device, non_blocking=True).float() for layer in pinned)
                return layers, stream.record_event()

        following = send(chosen[0])
        for index in [*chosen[1:], None]:
            (layers, sent), following = following, None if index is None else send(index)
            current = torch.cuda.current_stream(device)
            current.wait_event(sent)
            for layer in layers:
                layer.record_stream(current)  # its memory is not to be reused before the step is over
            yield layers

    def near(self, device: torch.device) -> Features:
        """On a GPU while they take at most :data:`DEVICE_SHARE` of its free memory, else where they are."""
        if device.type != "cuda":
            return self
        size = sum(layer.numel() * layer.element_size() for layer in (self.layer2, self.layer3))
        free, _ = torch.cuda.mem_get_info(device)
        if size > DEVICE_SHARE * free:
            return self
        with torch.inference_mode(False):  # training needs ordinary tensors
            return Features(self.layer2.to(device), self.layer3.to(device))

    def standard_deviation(self) -> float:
        """Standard deviation of all values of both layers, each weighted by its channels: what noise is relative to."""
        moments = []
        for layer in (self.layer2, self.layer3):
            total = square = 0.0
            for images in layer.split(_BLOCK):  # float64 sums over blocks: a mapped cache is never read whole
                values = images.double()
                total, square = total + float(values.sum()), square + float(values.square().sum())
            moments.append((total / layer.numel(), square / layer.numel(), layer.shape[-1]))
        channels = sum(c for *_, c in moments)
        mean, square = (sum(m[i] * m[2] for m in moments) / channels for i in (0, 1))
        return float(np.sqrt(max(square - mean * mean, 0.0)))


def batch_size(device: torch.device) -> int:
    """Images that trunk and folded heads take at a time: few suit a processor's caches, many fill a GPU."""
    return 8 if device.type == "cpu" else 64


def cache_limit() -> int:
    """Bytes that one cache may take in memory: SSN_CACHE_GB gigabytes, 4 unless set."""
    text = os.environ.get(CACHE_VARIABLE, "4")
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not 0 < limit < math.inf:  # no NaN either
        raise InputError(f"{CACHE_VARIABLE}={text!r} must be a number of gigabytes > 0")
    return int(limit * 1e9)


def version_of(images: Tensor, version: int) -> Tensor:
    """Images (..., H, W) flipped by :data:`FLIPS`, or, as versions 4 and 5, turned by 90 and 270 degrees."""
    return images.flip(FLIPS[version]) if version < len(FLIPS) else images.rot90(2 * version - 7, (-2, -1))


@single_precision
@torch.inference_mode()
def extract(
    trunk: nn.Module,
    entries: Sequence[tuple[Sample, int]],
    image_size: tuple[int, int],
    device: torch.device,
    log: Callable[[str], None],
) -> Features:
    """Features of every (sample, version) entry, see :func:`version_of`.

    float32 in memory below the bound, float16 in memory below twice the bound, a memory-mapped float16 file in the
    temporary folder beyond; the choice is logged. On a GPU they move there where they fit, see :meth:`Features.near`.
    """
    store: list[Tensor] = []
    step = batch_size(device)
    for start in tqdm(range(0, len(entries), step), "features", leave=False, disable=None):
        part = entries[start : start + step]
        images = [version_of(to_tensor(read_image(sample.image), image_size), version) for sample, version in part]
        layers = trunk(torch.stack(images).to(device, memory_format=torch.channels_last))
        if not store:
            store = _allocate(len(entries), [layer.shape[1:] for layer in layers], log)
        for cache, layer in zip(store, layers, strict=True):
            cache[start : start + len(part)] = layer.permute(0, 2, 3, 1).to("cpu", cache.dtype)
    return Features(*store).near(device)


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
            with writing(f"feature cache in {os.environ.get('TMPDIR', 'the temporary folder')} (set by TMPDIR)"):
                with tempfile.NamedTemporaryFile(prefix="ssn-features-") as handle:  # the mapping outlives its name
                    reserve(Path(handle.name), 2 * int(np.prod(size)))
                    cache = np.memmap(handle.name, dtype=np.float16, mode="r+", shape=size)
            tensors.append(torch.from_numpy(cache))
        return tensors
