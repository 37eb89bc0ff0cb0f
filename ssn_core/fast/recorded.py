"""A detector recorded for batches of one shape: on a CUDA device its operations are one graph, replayed by each call.

A small batch costs a GPU less than the host needs to launch a hundred operations; a graph is launched at once.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from ssn_core.errors import InputError

_WARM_UP = 3  # calls before recording: kernels are chosen, compiled and loaded, constants made


class Recorded:
    """Callable form of a detector in eval mode, usually ``fold(model).to("cuda", torch.half)``.

    Images (B, 3, H, W) and both logits lie in main memory, in the detector's precision; images in pinned memory travel
    while something else runs. With two of them in turns, :meth:`start` before the other's :meth:`finish`, transfers of
    one hide behind the operations of the other. On a CPU the detector itself is called.
    """

    def __init__(self, model: nn.Module, batch: int, size: tuple[int, int]) -> None:
        weight = next(model.parameters())
        self.model, self.on_cuda = model, weight.device.type == "cuda"
        self.images = torch.zeros(batch, 3, *size, dtype=weight.dtype, device=weight.device)
        self.stream = torch.cuda.Stream(weight.device) if self.on_cuda else None
        with self._here(), torch.no_grad():
            if self.on_cuda:
                self.stream.wait_stream(torch.cuda.default_stream(weight.device))  # where the model was made
            for _ in range(_WARM_UP if self.on_cuda else 1):
                outputs = model(self.images)
            self.results = [torch.empty(x.shape, dtype=x.dtype, pin_memory=self.on_cuda) for x in outputs]
            if self.on_cuda:
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph, stream=self.stream):
                    self.outputs = model(self.images)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly map logits (B, H, W) and image logits (B,); the next call overwrites them."""
        self.start(images)
        return self.finish()

    def start(self, images: Tensor) -> None:
        """Let a batch begin, and return; raises :class:`InputError` for another shape."""
        if images.shape != self.images.shape:
            raise InputError(f"recorded for images of shape {tuple(self.images.shape)}, got {tuple(images.shape)}")
        with self._here(), torch.no_grad():
            self.images.copy_(images, non_blocking=True)
            if self.on_cuda:
                self.graph.replay()
            else:
                self.outputs = self.model(self.images)
            for result, output in zip(self.results, self.outputs, strict=True):
                result.copy_(output, non_blocking=True)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Wait for what was started."""
        if self.on_cuda:
            self.stream.synchronize()
        return tuple(self.results)

    def _here(self) -> Any:
        return torch.cuda.stream(self.stream) if self.on_cuda else contextlib.nullcontext()
