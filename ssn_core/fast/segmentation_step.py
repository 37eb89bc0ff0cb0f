"""The segmentation head after its first convolution: BN with batch statistics, LeakyReLU, projection to one value.

Its hidden tensor, 1024 channels at full feature size for both copies, is what training spends its time on. Here it
is upscaled once per clean position into a buffer that is kept between steps, a band of rows at a time: a band reads few
rows of the small layers, and it fits a core's cache. Activations are recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssn_core.fast.masked import Masked
from ssn_core.fast.moments import Kept, Moments, blocks, track
from ssn_core.models.upscale import nonzero_columns, tap_matrix

LEAK = 0.2
CACHE_ROWS = 512  # rows of 1024 floats: 2 MB


class _Part(NamedTuple):
    """Some rows of some images, the same as ``block`` of the flattened positions (B*H*W,), and which rows of layer2 and
    of layer3 they are upscaled from."""

    images: slice
    rows: slice
    block: slice
    read: tuple[slice, slice]


class HiddenMap(nn.Module):
    """Callable form of the head; holds the upscaling matrices and the buffers."""

    def __init__(self, size2: tuple[int, int], size3: tuple[int, int], size_out: tuple[int, int], like: Tensor) -> None:
        """On the device and in the precision of ``like``."""
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
        self.kept = Kept()

    def forward(
        self,
        hidden: tuple[Tensor, ...],
        noise: Tensor,
        noise_weight: Tensor,
        masked: Masked,
        bn: nn.BatchNorm2d,
        bias: Tensor,
        v: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Projections of the clean positions (B*H*W,) and of the masked ones (N,).

        ``hidden``: the first convolution without its ``bias`` (K,), either at the size of (layer2, layer3), each
        (B, h, w, K), or upscaled already, one (B, H, W, K). Masked positions add ``noise_weight`` (K, C) times
        ``noise`` (N, C). The bias cancels in the batch statistics, so it only enters the running mean.
        """
        clean, noisy, mean, variance = _Function.apply(
            noise, noise_weight, bn.weight, bn.bias, v.flatten(), masked, self, *hidden
        )
        track(bn, mean + bias, variance, 2 * len(clean))
        return clean, noisy

    def parts(self, batch: int) -> list[_Part]:
        """On a processor a band of one image each, elsewhere all at once."""
        h, w = self.size
        if len(self.bands) == 1:
            return [_Part(slice(0, batch), self.bands[0], slice(0, batch * h * w), self.read[0])]
        return [
            _Part(slice(i, i + 1), band, slice((i * h + band.start) * w, (i * h + band.stop) * w), read)
            for i in range(batch)
            for band, read in zip(self.bands, self.read, strict=True)
        ]

    def fill(self, out: Tensor, part: _Part, layers: Sequence[Tensor], kept: Kept) -> None:
        """Upscale into ``out`` (positions of the part, K): along y, then both layers along x at once."""
        wide, sides = self._wide(part, layers, kept)  # (n, rows, w2 + w3, K)
        for layer, y, read, side in zip(layers, (self.y2, self.y3), part.read, sides, strict=True):
            y = y[part.rows, read].expand(len(wide), -1, -1)
            torch.bmm(y, layer[part.images, read].flatten(2), out=wide[:, :, side].flatten(2))
        wide = wide.flatten(0, 1)
        torch.bmm(self.along_x.expand(len(wide), -1, -1), wide, out=out.view(len(wide), self.size[1], -1))

    def unfill(self, grad: Tensor, part: _Part, totals: Sequence[Tensor]) -> None:
        """Transpose of :meth:`fill`: adds to ``totals``, (B, h, w, K) each."""
        wide, sides = self._wide(part, totals, self.kept)
        lines = wide.flatten(0, 1)
        torch.bmm(self.along_x.T.expand(len(lines), -1, -1), grad.view(len(lines), self.size[1], -1), out=lines)
        for total, y, read, side in zip(totals, (self.y2, self.y3), part.read, sides, strict=True):
            y = y[part.rows, read].T.expand(len(wide), -1, -1)
            total[part.images, read].flatten(2).baddbmm_(y, wide[:, :, side].flatten(2))

    def _wide(self, part: _Part, layers: Sequence[Tensor], kept: Kept) -> tuple[Tensor, tuple[slice, slice]]:
        w2, w = layers[0].shape[2], self.along_x.shape[1]
        images, rows = (s.stop - s.start for s in part[:2])
        return kept("wide", layers[0], images, rows, w, layers[0].shape[-1]), (slice(0, w2), slice(w2, w))


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        noise: Tensor,
        noise_weight: Tensor,
        gamma: Tensor,
        beta: Tensor,
        v: Tensor,
        masked: Masked,
        op: HiddenMap,
        *hidden: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (batch, *_, k), moments, counts = hidden[0].shape, Moments(), masked.clean_counts()
        parts = op.parts(batch)
        rows = hidden[0].reshape(-1, k) if len(hidden) == 1 else op.kept("rows", v, len(counts), k)
        for part in parts:
            if len(hidden) > 1:
                op.fill(rows[part.block], part, hidden, op.kept)
            moments.add(rows[part.block], counts[part.block])
        noisy = torch.index_select(rows, 0, masked.source, out=op.kept("noisy", v, len(noise), k))
        noisy.addmm_(noise, noise_weight.T)
        for block in blocks(noisy, CACHE_ROWS):
            moments.add(noisy[block], masked.counts[block])
        mean, variance = moments.result(2 * len(rows))
        scale = gamma * (variance + 1e-5).rsqrt()
        shift = beta - mean * scale
        outputs = []
        for x in (rows, noisy):
            out = x.new_empty(len(x))
            for block in blocks(x, CACHE_ROWS):
                y = torch.addcmul(shift, x[block], scale)
                torch.mv(F.leaky_relu_(y, LEAK), v, out=out[block])
            outputs.append(out)
        ctx.save_for_backward(rows, noisy, noise, noise_weight, counts, mean, variance, gamma, beta, v)
        ctx.masked, ctx.op, ctx.parts, ctx.sizes = masked, op, parts, [h.shape for h in hidden]
        ctx.mark_non_differentiable(mean, variance)
        return *outputs, mean, variance

    @staticmethod
    def backward(ctx: Any, grad_clean: Tensor, grad_noisy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        rows, noisy, noise, noise_weight, counts, mean, variance, gamma, beta, v = ctx.saved_tensors
        inverse = (variance + 1e-5).rsqrt()
        scale = gamma * inverse
        shift, unit, total = beta - mean * scale, scale.new_ones(1, 1), 2 * len(rows)

        def leaked(x: Tensor, g: Tensor) -> Tensor:
            """A gradient g, (n, 1) or one for all, after LeakyReLU (before the projection's weights)."""
            y = torch.addcmul(shift, x, scale)
            return torch.ops.aten.leaky_relu_backward(g.expand_as(y), y, LEAK, False)

        gated_sum, gated_dot = torch.zeros_like(v), torch.zeros_like(v)  # the latter with x - mean
        for x, g in ((rows, grad_clean), (noisy, grad_noisy)):
            for block in blocks(x, CACHE_ROWS):
                slope = leaked(x[block], unit)
                gated_sum += g[block] @ slope
                gated_dot += g[block] @ slope.mul_(x[block])
        gated_dot -= mean * gated_sum
        grad_v = scale * gated_dot + beta * gated_sum
        grad_beta, grad_gamma = v * gated_sum, v * gated_dot * inverse
        direct, slope = scale * v, scale * inverse * grad_gamma / total
        offset = scale * grad_beta / total - mean * slope

        def grad_rows(x: Tensor, g: Tensor, n: Tensor, out: Tensor) -> None:
            """Gradient of rows that count ``n`` times in the statistics."""
            through_statistics = torch.addcmul(offset, x, slope)
            torch.addcmul(leaked(x, g[:, None]).mul_(direct), n[:, None], through_statistics, value=-1, out=out)

        grad_rows_noisy = ctx.op.kept("grad noisy", v, *noisy.shape)
        for block in blocks(noisy, CACHE_ROWS):
            grad_rows(noisy[block], grad_noisy[block], ctx.masked.counts[block], grad_rows_noisy[block])
        grad_hidden = _grad_hidden(
            ctx, lambda b, out: grad_rows(rows[b], grad_clean[b], counts[b], out), grad_rows_noisy
        )
        grad_noise = grad_rows_noisy @ noise_weight if ctx.needs_input_grad[0] else None
        return grad_noise, grad_rows_noisy.T @ noise, grad_gamma, grad_beta, grad_v, None, None, *grad_hidden


def _grad_hidden(ctx: Any, grad_rows: Any, grad_noisy: Tensor) -> list[Tensor]:
    """Gradient of the first convolution's output: part by part, so that the full-size gradient never exists."""
    op, sizes, k = ctx.op, ctx.sizes, ctx.sizes[0][-1]
    spans = _spans(ctx.parts, ctx.masked)
    totals = [grad_noisy.new_zeros(size) for size in sizes]
    for part, masked in zip(ctx.parts, spans, strict=True):
        first, count = part.block.start, part.block.stop - part.block.start
        grad = totals[0].view(-1, k)[part.block] if len(sizes) == 1 else op.kept("grad", grad_noisy, count, k)
        for block in blocks(grad, CACHE_ROWS):
            grad_rows(slice(first + block.start, first + block.stop), grad[block])
        for span in masked:
            grad.index_add_(0, ctx.masked.source[span] - first, grad_noisy[span])
        if len(sizes) > 1:
            op.unfill(grad, part, totals)
    return totals


def _spans(parts: Sequence[_Part], masked: Masked) -> list[tuple[slice, ...]]:
    """Which masked rows lie in each part, in either copy."""
    if len(parts) == 1:
        return [(slice(None),)]
    copy = masked.masks.numel() // 2
    edges = torch.tensor([part.block.start for part in parts] + [copy])
    first, second = (torch.searchsorted(masked.where, edges + i * copy).tolist() for i in range(2))
    return [tuple(slice(c[i], c[i + 1]) for c in (first, second)) for i in range(len(parts))]
