"""The segmentation head after its first convolution: BN with batch statistics, LeakyReLU, projection to one value.

Its hidden tensor, 1024 channels at full feature size for both copies, is what training spends its time on. Here it
is upscaled once per clean position, band by band, into a buffer that is kept between steps. Activations are recomputed
in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssn_core.fast.masked import Masked
from ssn_core.fast.moments import Kept, Moments, blocks, track
from ssn_core.fast.row_bands import CACHE_ROWS, Part, RowBands
from ssn_core.models.heads import LEAK, SegmentationHead
from ssn_core.models.product import summed, varying


def projected(
    hidden: tuple[Tensor, ...],
    noise: Tensor,
    masked: Masked,
    head: SegmentationHead,
    bias: Tensor,
    bands: RowBands,
    kept: Kept,
) -> tuple[Tensor, Tensor]:
    """Map logits of the clean positions (B*H*W,) and of the masked ones (N,), which ``noise`` (N, C) is added to.

    ``hidden``: the first convolution without its ``bias`` (K,), either at the size of (layer2, layer3), each
    (B, h, w, K), or upscaled already, one (B, H, W, K). The bias, composed with the adaptor's, cancels in the batch
    statistics, so it only enters the running mean.
    """
    weights = (head.conv.weight.flatten(1), head.bn.weight, head.bn.bias, head.project.weight.flatten())
    clean, noisy, mean, variance = _Function.apply(noise, *weights, masked, bands, kept, *hidden)
    track(head.bn, mean + bias, variance, 2 * len(clean))
    return clean, noisy


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
        bands: RowBands,
        kept: Kept,
        *hidden: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (batch, *_, k), moments, counts = hidden[0].shape, Moments(), masked.clean_counts()
        parts = bands.parts(batch)
        rows = hidden[0].reshape(-1, k) if len(hidden) == 1 else kept("rows", v, len(counts), k)
        for part in parts:
            if len(hidden) > 1:
                bands.fill(rows[part.block], part, hidden, kept)
            moments.add(rows[part.block], counts[part.block])
        noisy = torch.index_select(rows, 0, masked.source, out=kept("noisy", v, len(noise), k))
        for block in blocks(noisy, CACHE_ROWS):
            noisy[block] += varying(noise[block], noise_weight.T)
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
        ctx.masked, ctx.bands, ctx.kept, ctx.parts, ctx.sizes = masked, bands, kept, parts, [h.shape for h in hidden]
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

        grad_rows_noisy = ctx.kept("grad noisy", v, *noisy.shape)
        for block in blocks(noisy, CACHE_ROWS):
            grad_rows(noisy[block], grad_noisy[block], ctx.masked.counts[block], grad_rows_noisy[block])
        grad_hidden = _grad_hidden(
            ctx, lambda b, out: grad_rows(rows[b], grad_clean[b], counts[b], out), grad_rows_noisy
        )
        grad_noise = varying(grad_rows_noisy, noise_weight) if ctx.needs_input_grad[0] else None
        grad_noise_weight = summed(noise, grad_rows_noisy).T
        return grad_noise, grad_noise_weight, grad_gamma, grad_beta, grad_v, None, None, None, *grad_hidden


def _grad_hidden(ctx: Any, grad_rows: Any, grad_noisy: Tensor) -> list[Tensor]:
    """Gradient of the first convolution's output: part by part, so that the full-size gradient never exists."""
    sizes, k = ctx.sizes, ctx.sizes[0][-1]
    spans = _spans(ctx.parts, ctx.masked)
    fresh = grad_noisy.new_empty if len(sizes) == 1 else grad_noisy.new_zeros  # a single one is written part by part
    totals = [fresh(size) for size in sizes]
    for part, masked in zip(ctx.parts, spans, strict=True):
        first, count = part.block.start, part.block.stop - part.block.start
        grad = totals[0].view(-1, k)[part.block] if len(sizes) == 1 else ctx.kept("grad", grad_noisy, count, k)
        for block in blocks(grad, CACHE_ROWS):
            grad_rows(slice(first + block.start, first + block.stop), grad[block])
        for span in masked:
            grad.index_add_(0, ctx.masked.source[span] - first, grad_noisy[span])
        if len(sizes) > 1:
            ctx.bands.unfill(grad, part, totals, ctx.kept)
    return totals


def _spans(parts: Sequence[Part], masked: Masked) -> list[tuple[slice, ...]]:
    """Which masked rows lie in each part, in either copy."""
    if len(parts) == 1:
        return [(slice(None),)]
    copy = masked.masks.numel() // 2
    edges = torch.tensor([part.block.start for part in parts] + [copy])
    first, second = (torch.searchsorted(masked.where, edges + i * copy).tolist() for i in range(2))
    return [tuple(slice(c[i], c[i + 1]) for c in (first, second)) for i in range(len(parts))]
