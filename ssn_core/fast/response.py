"""The classification heads from their 5x5 convolution to what is pooled: noise, map, BN with batch statistics, ReLU.

``conv(A + M eps) = conv(A) + conv(M eps)``: the clean part serves both copies, and the noise adds products of rows.
Every elementwise pass runs image by image on a processor, and the backward pass has a single one: what its sums need is
counted on the way forward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssn_core.fast.masked import Masked
from ssn_core.fast.moments import Kept, Moments, blocks, track
from ssn_core.fast.upscaled_conv import tap_rows
from ssn_core.models.product import summed, varying


def pooled_response(
    clean: Tensor,
    noise: Tensor,
    masked: Masked,
    conv: nn.Conv2d,
    bn: nn.BatchNorm2d,
    kept: Kept,
    windows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Maximum and mean over the positions of each image of both copies, (2B, O) both.

    ``clean`` (B, H, W, O): the convolution of the clean features without its bias, which only enters the running
    mean. ``noise`` (N, C) at the masked positions. ``windows`` (2B, H*W, k*k): what the convolution's last channel
    reads of the map, see :func:`map_windows`.
    """
    weights = (conv.weight, bn.weight, bn.bias)
    top, average, mean, variance = _Function.apply(clean, noise, *weights, windows, masked, kept)
    track(bn, mean + conv.bias.detach(), variance, masked.masks.numel())
    return top, average


def map_windows(low_map: Tensor, k: int) -> Tensor:
    """What a k x k convolution (zero padding) of a map (n, H, W) reads at each position: (n, H*W, k*k)."""
    return F.pad(low_map, 4 * (k // 2,)).unfold(1, k, 1).unfold(2, k, 1).flatten(3).flatten(1, 2)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        clean: Tensor,
        noise: Tensor,
        weight: Tensor,
        gamma: Tensor,
        beta: Tensor,
        windows: Tensor | None,
        masked: Masked,
        kept: Kept,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (b, h, w, o), k = clean.shape, weight.shape[-1]
        # the image after the last takes what leaves the others, and the noise that stands nowhere
        with_nowhere = kept("response", clean, 2 * b + 1, h * w, o)
        response, where = with_nowhere[:-1], _reached(masked, k)
        response.view(2, *clean.shape).copy_(clean)
        rows, taps = _matrices(weight, noise.shape[1])
        for row, reached in zip(rows, where, strict=True):
            with_nowhere.view(-1, o).index_add_(0, reached, varying(noise, row).view(-1, o))
        moments, ones = Moments(), clean.new_ones(h * w)
        for part in blocks(response):
            if windows is not None:
                response[part].baddbmm_(windows[part], taps.expand(2 * b, -1, -1)[part])
            cells = response[part].flatten(0, 1)
            moments.add(cells, ones.expand(len(response[part]), -1).flatten())
        mean, variance = moments.result(len(response) * h * w)
        scale = gamma * (variance + 1e-5).rsqrt()
        parts = [_pooled(response[part], w, scale, beta - mean * scale) for part in blocks(response)]
        pooled = [torch.cat(values) for values in zip(*parts, strict=True)]
        ctx.save_for_backward(response, noise, weight, gamma, beta, windows, mean, variance, where, *pooled)
        ctx.kept, ctx.size = kept, (h, w)
        ctx.mark_non_differentiable(mean, variance)
        return *pooled[:2], mean, variance

    @staticmethod
    def backward(ctx: Any, grad_top: Tensor, grad_average: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        response, noise, weight, gamma, beta, windows, mean, variance, where, *pooled = ctx.saved_tensors
        top, _, peak, positive, sums = pooled
        (copies, cells, o), inverse = response.shape, (variance + 1e-5).rsqrt()
        scale, total = gamma * inverse, copies * cells
        spread, live = grad_average / cells, grad_top * (top > 0)  # of every positive value; of the largest
        at_peak = response.gather(1, peak[:, None])[:, 0]
        grad_beta = (spread * positive + live).sum(0)
        grad_gamma = (spread * (sums - mean * positive) + live * (at_peak - mean)).sum(0) * inverse
        slope = scale * inverse * grad_gamma / total
        offset = scale * grad_beta / total - mean * slope
        with_nowhere = ctx.kept("gradient", response, copies + 1, cells, o)
        grad = with_nowhere[:-1]
        for part in blocks(response):
            x = response[part]
            y = torch.addcmul(beta - mean * scale, x, scale)
            gated = torch.ops.aten.threshold_backward((spread[part] * scale)[:, None].expand_as(x), y, 0)
            torch.sub(gated, torch.addcmul(offset, x, slope, out=y), out=grad[part])
        grad.scatter_add_(1, peak[:, None], (live * scale)[:, None])
        with_nowhere[-1].zero_()
        rows, taps = _matrices(weight, noise.shape[1])
        grad_weight, grad_windows = torch.empty_like(weight), None
        grad_noise = torch.zeros_like(noise) if ctx.needs_input_grad[1] else None
        for dy, (row, reached) in enumerate(zip(rows, where, strict=True)):
            seen = ctx.kept("product", noise, len(noise), row.shape[1])  # (N, k * O)
            torch.index_select(with_nowhere.view(-1, o), 0, reached, out=seen.view(-1, o))
            grad_weight[:, : len(row), dy] = summed(noise, seen).view(len(row), -1, o).permute(2, 0, 1)
            if grad_noise is not None:
                grad_noise += varying(seen, row.T)
        if windows is not None:
            grad_weight[:, -1] = torch.bmm(windows.transpose(1, 2), grad).sum(0).T.view(o, *weight.shape[2:])
            grad_windows = grad @ taps.T if ctx.needs_input_grad[5] else None
        grad_clean = (grad[: copies // 2] + grad[copies // 2 :]).unflatten(1, ctx.size)
        return grad_clean, grad_noise, grad_weight, grad_gamma, grad_beta, grad_windows, None, None


def _matrices(weight: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Weight (O, C or C + 1, k, k) as one matrix per row of taps, (k, C, k * O), and the last channel's (k * k, O)."""
    return tap_rows(weight[:, :channels]), weight[:, -1].flatten(1).T


def _reached(masked: Masked, k: int) -> Tensor:
    """Where a k x k convolution carries the masked positions, row of taps by row of taps: (k, N * k). What leaves its
    image, and what stands nowhere, goes to the image after the last."""
    copies, h, w = masked.masks.shape
    image, place = masked.where // (h * w), masked.where % (h * w)
    shift = k // 2 - torch.arange(k, device=place.device)
    y, x = (place // w)[:, None] + shift, (place % w)[:, None] + shift  # (N, k)
    inside = ((y >= 0) & (y < h))[:, :, None] & ((x >= 0) & (x < w))[:, None]
    reached = (image[:, None] * h + y)[:, :, None] * w + x[:, None]  # (N, k, k)
    reached = torch.where(inside & (image < copies)[:, None, None], reached, (copies * h * w + place)[:, None, None])
    return reached.transpose(0, 1).flatten(1)


def _pooled(x: Tensor, width: int, scale: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
    """Of responses (n, H * W, O) after BN and ReLU: maximum, mean, where the maximum is, how many are positive, and the
    sum of those before BN; (n, O) each."""
    y = torch.addcmul(shift, x, scale).relu_()
    lines = y.unflatten(1, (-1, width)).amax(2)  # in two steps: a maximum with its index costs ten times one without
    row = lines.argmax(1)
    line = y.unflatten(1, (-1, width)).gather(1, row[:, None, None].expand(-1, 1, width, -1))[:, 0]
    top, average, peak = lines.amax(1), y.mean(1), row * width + line.argmax(1)
    gate = y.sign_()
    return top, average, peak, gate.sum(1), gate.mul_(x).sum(1)
