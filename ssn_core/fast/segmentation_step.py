"""The segmentation head after its first convolution: BN with batch statistics, LeakyReLU, projection to one value.

Its hidden tensor, 1024 channels at full feature size for both copies, is what training spends its time on. Here it
is upscaled once per clean position into a buffer that is kept between steps, and every elementwise pass runs over
blocks of rows that fit a core's cache. Activations are recomputed in the backward pass; nothing else is stored.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssn_core.fast.masked import Masked
from ssn_core.models.upscale import UpscaledConv, batch_slices

LEAK = 0.2
_CACHE_ROWS = 512  # rows of 1024 floats: 2 MB


class HiddenMap:
    """Callable form of the head; holds the upscaling matrices and the buffer."""

    def __init__(self, up: UpscaledConv) -> None:
        self.up = up
        self.buffer: Tensor | None = None

    def __call__(
        self, hidden: tuple[Tensor, ...], noise: Tensor, masked: Masked, bn: nn.BatchNorm2d, bias: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Projections of the clean positions (B*H*W,) and of the masked ones (N,).

        ``hidden``: the first convolution without its ``bias`` (K,), either at the size of (layer2, layer3), each
        (B, h, w, K), or upscaled already, one (B, H, W, K). ``noise`` (N, K): the convolution of the noise.
        The bias cancels in the batch statistics, so it only enters the running mean.
        """
        clean, noisy, mean, variance = _Function.apply(noise, bn.weight, bn.bias, v.flatten(), masked, self, *hidden)
        count = 2 * len(clean)
        with torch.no_grad():
            bn.num_batches_tracked += 1
            bn.running_mean.lerp_(mean + bias, bn.momentum)
            bn.running_var.lerp_(variance * (count / (count - 1)), bn.momentum)
        return clean, noisy

    def fill(self, hidden: tuple[Tensor, ...]) -> Tensor:
        """The upscaled hidden tensor as rows (B*H*W, K), in the kept buffer."""
        if len(hidden) == 1:
            return hidden[0].reshape(-1, hidden[0].shape[-1])
        layer2, layer3 = hidden
        k = layer2.shape[-1]
        (h, w), b = self.up.size_out, len(layer2)
        if self.buffer is None or self.buffer.numel() < b * h * w * k or self.buffer.device != layer2.device:
            self.buffer = layer2.new_empty(b * h * w * k)
        out = self.buffer[: b * h * w * k].view(b, h, w * k)
        for images in batch_slices(layer2, h * w * k):
            n = images.stop - images.start
            for layer, y, x, beta in ((layer2, self.up.y2, self.up.x2, 0), (layer3, self.up.y3, self.up.x3, 1)):
                part = layer[images]
                wide = torch.bmm(x.expand(n * part.shape[1], -1, -1), part.reshape(-1, *part.shape[2:]))
                wide = wide.view(n, part.shape[1], w * k)
                torch.baddbmm(out[images], y.expand(n, -1, -1), wide, beta=beta, out=out[images])
        return out.view(-1, k)

    def unfill(self, grad: Tensor, size: torch.Size, layer: int) -> Tensor:
        """Transpose of one layer's upscaling: (n, H, W, K) -> (n, h, w, K)."""
        y, x = getattr(self.up, f"y{layer}"), getattr(self.up, f"x{layer}")
        n, (_, h, w, k) = len(grad), size
        tall = torch.bmm(y.T.expand(n, -1, -1), grad.view(n, y.shape[0], -1)).view(n * h, -1, k)
        return torch.bmm(x.T.expand(n * h, -1, -1), tall).view(n, h, w, k)


def _blocks(rows: Tensor) -> list[slice]:
    step = _CACHE_ROWS if rows.device.type == "cpu" else max(len(rows), 1)
    return [slice(i, i + step) for i in range(0, len(rows), step)]


def _statistics(clean: Tensor, weight: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (K,) of clean rows, each counted ``weight`` times, and noisy rows.

    One pass over moments about a provisional mean, which keeps the float32 sums free of cancellation.
    """
    provisional = clean[:_CACHE_ROWS].mean(0)
    first, second = torch.zeros_like(provisional), torch.zeros_like(provisional)
    for block in _blocks(clean):
        centred = clean[block] - provisional
        first += weight[block] @ centred
        second += weight[block] @ centred.square_()
    for block in _blocks(noisy):
        centred = noisy[block] - provisional
        first += centred.sum(0)
        second += centred.square_().sum(0)
    count = 2 * len(clean)
    offset = first / count
    return provisional + offset, (second / count - offset * offset).clamp_(min=0)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, noise: Tensor, gamma: Tensor, beta: Tensor, v: Tensor, masked: Masked, op: HiddenMap, *hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = op.fill(hidden)
        noisy = noise + rows.index_select(0, masked.source)
        # how often a clean position occurs in the two copies: 2, less one for each copy that masks it
        weight = rows.new_full((len(rows),), 2.0)
        for part in (masked.source[: masked.split], masked.source[masked.split :]):
            weight.index_add_(0, part, weight.new_full((len(part),), -1.0))
        mean, variance = _statistics(rows, weight, noisy)
        scale = gamma * (variance + 1e-5).rsqrt()
        shift = beta - mean * scale
        outputs = []
        for x in (rows, noisy):
            out = x.new_empty(len(x))
            for block in _blocks(x):
                y = torch.addcmul(shift, x[block], scale)
                torch.mv(F.leaky_relu_(y, LEAK), v, out=out[block])
            outputs.append(out)
        ctx.save_for_backward(noisy, weight, mean, variance, gamma, beta, v)
        ctx.rows, ctx.masked, ctx.op, ctx.sizes = rows, masked, op, [h.shape for h in hidden]
        ctx.version = rows._version
        ctx.mark_non_differentiable(mean, variance)
        return *outputs, mean, variance

    @staticmethod
    def backward(ctx: Any, grad_clean: Tensor, grad_noisy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        noisy, weight, mean, variance, gamma, beta, v = ctx.saved_tensors
        rows = ctx.rows
        if rows._version != ctx.version:
            raise RuntimeError("a later forward modified this one's kept rows; call backward before the next forward")
        inverse = (variance + 1e-5).rsqrt()
        scale = gamma * inverse

        def centred_and_gated(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
            """x - mean, and the incoming gradient after LeakyReLU's slope (before the projection's weights)."""
            centred = x - mean
            slope = torch.addcmul(beta, centred, scale).sign_().mul_((1 - LEAK) / 2).add_((1 + LEAK) / 2)
            return centred, slope.mul_(g[:, None])

        gated_sum, gated_dot = torch.zeros_like(v), torch.zeros_like(v)
        for x, g in ((rows, grad_clean), (noisy, grad_noisy)):
            for block in _blocks(x):
                centred, gated = centred_and_gated(x[block], g[block])
                gated_sum += gated.sum(0)
                gated_dot += gated.mul_(centred).sum(0)
        grad_v = scale * gated_dot + beta * gated_sum
        grad_beta, grad_gamma = v * gated_sum, v * gated_dot * inverse
        count = 2 * len(rows)
        direct, constant, slope = scale * v, scale * grad_beta / count, scale * inverse * grad_gamma / count

        def grad_rows(x: Tensor, g: Tensor, n: Tensor | None) -> Tensor:
            """Gradient of rows that count ``n`` times in the statistics (None: once)."""
            centred, gated = centred_and_gated(x, g)
            through_statistics = torch.addcmul(constant, centred, slope)
            if n is not None:
                through_statistics *= n[:, None]
            return gated.mul_(direct).sub_(through_statistics)

        grad_noise = torch.empty_like(noisy)
        for block in _blocks(noisy):
            grad_noise[block] = grad_rows(noisy[block], grad_noisy[block], None)
        grad_hidden = _grad_hidden(ctx, lambda b: grad_rows(rows[b], grad_clean[b], weight[b]), grad_noise)
        return grad_noise, grad_gamma, grad_beta, grad_v, None, None, *grad_hidden


def _grad_hidden(ctx: Any, grad_rows: Any, grad_noise: Tensor) -> list[Tensor]:
    """Gradient of the first convolution's output: image by image, so that the full-size gradient never exists."""
    op, masked, sizes = ctx.op, ctx.masked, ctx.sizes
    batch, k = sizes[0][0], sizes[0][-1]
    per_image = len(ctx.rows) // batch
    parts: list[list[Tensor]] = []
    halves = [(masked.source[: masked.split], grad_noise[: masked.split])]
    halves.append((masked.source[masked.split :], grad_noise[masked.split :]))
    bounds = [torch.searchsorted(s, torch.arange(batch + 1, device=s.device) * per_image).tolist() for s, _ in halves]
    for images in batch_slices(ctx.rows.view(batch, -1), per_image * k):
        first, last = images.start * per_image, images.stop * per_image
        grad = ctx.rows.new_empty(last - first, k)
        for block in _blocks(grad):
            grad[block] = grad_rows(slice(first + block.start, min(first + block.stop, last)))
        for (source, noise), bound in zip(halves, bounds, strict=True):
            part = slice(bound[images.start], bound[images.stop])
            grad.index_add_(0, source[part] - first, noise[part])
        grad = grad.view(images.stop - images.start, *op.up.size_out, k)
        parts.append([grad] if len(sizes) == 1 else [op.unfill(grad, sizes[i], 2 + i) for i in range(2)])
    return [torch.cat(p) for p in zip(*parts, strict=True)]
