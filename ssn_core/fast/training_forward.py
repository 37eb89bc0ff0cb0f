"""The training forward without its waste: the same losses and gradients as ``Detector.noisy_forward``.

What the plain form computes twice or for nothing:

- both copies of the batch share the clean features: the heads' first convolutions are linear, so
  ``conv(A + M eps) = conv(A) + conv(M eps)`` and the clean part serves both copies;
- noise exists on masked positions only (about 13 % of them), so its part is a product of rows;
- a clean position has the same hidden vector in both copies: it is normalised and projected once, and counts in
  the batch statistics as often as it occurs;
- 1x1 convolutions commute with upscaling, the 5x5 one splits into taps (``ssn_core.models.upscale``).

Channels come last: layer2 (B, h2, w2, C2), layer3 (B, h3, w3, C3), adapted features (B, H, W, C).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssn_core.fast.masked import Masked
from ssn_core.fast.segmentation_step import HiddenMap
from ssn_core.models.detectors import Detector, GapCamNet, SimpleNet
from ssn_core.models.upscale import UpscaledConv, border_bias


class FastForward:
    """The fast training forward of one model at one feature size; holds matrices and buffers, no parameters."""

    def __init__(self, model: Detector, size2: tuple[int, int], size3: tuple[int, int]) -> None:
        self.model = model
        self.size = tuple(model.upscaling * side for side in size2)
        self.linear = len(model.adaptor) == 1 and model.adaptor[0].kernel_size == (1, 1)
        device = next(model.parameters()).device
        kernels = {1, 5, model.adaptor[0].kernel_size[0]}
        self.up = {k: UpscaledConv(size2, size3, self.size, k).to(device) for k in kernels}
        self.hidden_map = HiddenMap(self.up[1])

    def adapted(self, layer2: Tensor, layer3: Tensor) -> Tensor:
        """Adapted features (B, H, W, C)."""
        conv = self.model.adaptor[0]
        rows = self.up[conv.kernel_size[0]](layer2, layer3, conv.weight) + conv.bias
        return self.model.adaptor[1:](rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def __call__(
        self, layer2: Tensor, layer3: Tensor, masked: Masked, noise: Tensor, adapted: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map logits (2B, H, W) and image logits (2B,), with ``noise`` (N, C) at the masked positions.

        ``adapted``: what :meth:`adapted` gave for this batch, where the caller needed it already.
        """
        if self.linear:
            adapted = None  # its products with the heads' weights are cheaper at low resolution
        elif adapted is None:
            adapted = self.adapted(layer2, layer3)
        model = self.model
        if isinstance(model, GapCamNet):
            response = self._response(layer2, layer3, adapted, model.cam.conv, masked, noise)
            low_map, score = model.cam.pool(response)
            return low_map[:, 0], score
        low_map = self._segmentation(layer2, layer3, adapted, masked, noise)
        if isinstance(model, SimpleNet):
            return low_map, low_map.amax((1, 2))
        seen = (low_map.detach() if model.stop_gradient else low_map)[:, None]
        source = None if model.cls_features == "raw" else adapted
        conv = model.classification.conv
        response = self._response(layer2, layer3, source, conv, masked, noise, raw=model.cls_features == "raw")
        taps = conv.weight[:, -1].flatten(1)  # the map's channel of the 5x5 convolution, (128, 25)
        windows = F.unfold(seen, conv.kernel_size, padding=conv.padding).transpose(1, 2)  # (2B, HW, 25)
        response = response + (windows @ taps.T).view(len(seen), *self.size, -1).permute(0, 3, 1, 2)
        return low_map, model.classification.pool(response, seen)

    def _segmentation(
        self, layer2: Tensor, layer3: Tensor, adapted: Tensor | None, masked: Masked, noise: Tensor
    ) -> Tensor:
        """The segmentation head's map logits (2B, H, W)."""
        head, conv = self.model.segmentation, self.model.adaptor[0]
        weight = head.conv.weight[:, :, 0, 0]  # (1024, C)
        bias = head.conv.bias
        if self.linear:  # adaptor and first convolution are one matrix
            weight2, weight3 = (weight @ conv.weight[:, :, 0, 0]).split((layer2.shape[-1], layer3.shape[-1]), dim=1)
            hidden: tuple[Tensor, ...] = (layer2 @ weight2.T, layer3 @ weight3.T)
            bias = bias + weight @ conv.bias
        else:
            hidden = (adapted @ weight.T,)
        clean, noisy = self.hidden_map(hidden, noise @ weight.T, masked, head.bn, bias.detach(), head.project.weight)
        return torch.cat([clean, clean]).index_put((masked.where,), noisy).view(-1, *self.size)

    def _response(
        self,
        layer2: Tensor,
        layer3: Tensor,
        adapted: Tensor | None,
        conv: nn.Conv2d,
        masked: Masked,
        noise: Tensor,
        raw: bool = False,
    ) -> Tensor:
        """A head's 5x5 convolution of the noisy features, (2B, 128, H, W): clean part + noise part."""
        weight = conv.weight[:, : self.model.channels]
        if adapted is not None:
            clean = F.conv2d(adapted.permute(0, 3, 1, 2), weight, padding=conv.padding).permute(0, 2, 3, 1)
        elif raw:
            clean = self.up[5](layer2, layer3, weight)
        else:
            linear = self.model.adaptor[0]
            clean = self.up[5](layer2, layer3, torch.einsum("ocyx,cd->odyx", weight, linear.weight[:, :, 0, 0]))
            clean = clean + border_bias(weight, linear.bias, self.size)
        noisy = ScatteredConv.apply(noise, weight, masked.where, (2 * len(layer2), *self.size))
        both = (noisy.view(2, *clean.shape) + (clean + conv.bias)).flatten(0, 1)
        return both.permute(0, 3, 1, 2)


class ScatteredConv(torch.autograd.Function):
    """k x k convolution (zero padding) of features that are zero but at N positions: per tap, a product of rows that is
    added at the shifted positions. (N, C), weight (O, C, k, k), positions (N,) in (B, H, W) -> (B, H, W, O)."""

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, where: Tensor, size: tuple[int, int, int]) -> Tensor:
        b, h, w = size
        o, _, k, _ = weight.shape
        taps = weight.permute(2, 3, 1, 0).flatten(0, 1).contiguous()  # (k*k, C, O)
        shifted = _shifted_positions(where, h, w, k)
        out = rows.new_zeros(b, h + k - 1, w + k - 1, o)
        flat = out.view(-1, o)
        for position, tap in zip(shifted, taps, strict=True):
            flat.index_add_(0, position, rows @ tap)
        ctx.save_for_backward(rows, taps, shifted)
        ctx.kernel, ctx.margin = k, k // 2
        return out[:, k // 2 : k // 2 + h, k // 2 : k // 2 + w]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        rows, taps, shifted = ctx.saved_tensors
        k, m = ctx.kernel, ctx.margin
        padded = F.pad(grad, (0, 0, m, m, m, m)).flatten(0, 2)
        grad_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        grad_taps = torch.empty_like(taps)
        for t, position in enumerate(shifted):
            seen = padded.index_select(0, position)  # (N, O)
            torch.mm(rows.T, seen, out=grad_taps[t])
            if grad_rows is not None:
                grad_rows.addmm_(seen, taps[t].T)
        return grad_rows, grad_taps.view(k, k, *taps.shape[1:]).permute(3, 2, 0, 1), None, None


def _shifted_positions(where: Tensor, h: int, w: int, k: int) -> Tensor:
    """Where each tap of a k x k convolution carries each position, in the padded image: (k*k, N)."""
    image, rest = where // (h * w), where % (h * w)
    y, x = rest // w, rest % w
    far = torch.arange(k - 1, -1, -1, device=where.device)
    rows = (image * (h + k - 1) + y)[None] + far[:, None]  # (k, N)
    return (rows[:, None] * (w + k - 1) + (x[None] + far[:, None])[None]).flatten(0, 1)
