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
from ssn_core.fast.moments import Kept
from ssn_core.fast.response import map_windows, pooled_response
from ssn_core.fast.row_bands import RowBands
from ssn_core.fast.segmentation_step import projected
from ssn_core.fast.upscaled_conv import UpscaledConv
from ssn_core.models.detectors import Detector, GapCamNet, PooledMap
from ssn_core.models.product import Product
from ssn_core.models.upscale import border_bias


class FastForward:
    """The fast training forward of one model at one feature size; holds matrices and buffers, no parameters."""

    def __init__(self, model: Detector, size2: tuple[int, int], size3: tuple[int, int]) -> None:
        self.model = model
        self.size = tuple(model.upscaling * side for side in size2)
        self.linear = len(model.adaptor) == 1 and model.adaptor[0].kernel_size == (1, 1)
        kernel, weight = model.adaptor[0].kernel_size[0], model.adaptor[0].weight
        self.up = {k: UpscaledConv(size2, size3, self.size, k, like=weight) for k in {5, kernel}}
        self.bands = RowBands(size2, size3, self.size, like=weight)
        self.kept = Kept()

    def adapted(self, layer2: Tensor, layer3: Tensor) -> Tensor:
        """Adapted features (B, H, W, C)."""
        conv = self.model.adaptor[0]
        rows = self.up[conv.kernel_size[0]](layer2, layer3, conv.weight, self.kept) + conv.bias
        return self.model.adaptor[1:](rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def __call__(
        self, layer2: Tensor, layer3: Tensor, masked: Masked, noise: Tensor, adapted: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """Map logits (2B, H, W) and image logits (2B,), with ``noise`` (N, C) at the masked positions.

        Class activation maps are None: no training reads them.
        ``adapted``: what :meth:`adapted` gave for this batch, where the caller needed it already.
        """
        if self.linear:
            adapted = None  # its products with the heads' weights are cheaper at low resolution
        elif adapted is None:
            adapted = self.adapted(layer2, layer3)
        model = self.model
        if isinstance(model, GapCamNet):
            clean = self._clean_response(layer2, layer3, adapted, model.cam.conv)
            _, average = pooled_response(clean, noise, masked, model.cam.conv, model.cam.bn, self.kept)
            return None, model.cam.score(average).squeeze(1)
        low_map = self._segmentation(layer2, layer3, adapted, masked, noise)
        if isinstance(model, PooledMap):
            return low_map, model.pooled(low_map)
        head, seen = model.classification, low_map.detach() if model.stop_gradient else low_map
        clean = self._clean_response(layer2, layer3, adapted, head.conv, raw=model.cls_features == "raw")
        windows = map_windows(seen, head.conv.kernel_size[0])
        top, average = pooled_response(clean, noise, masked, head.conv, head.bn, self.kept, windows)
        return low_map, head.rate(top, average, seen[:, None])

    def _segmentation(
        self, layer2: Tensor, layer3: Tensor, adapted: Tensor | None, masked: Masked, noise: Tensor
    ) -> Tensor:
        """The segmentation head's map logits (2B, H, W)."""
        head, conv = self.model.segmentation, self.model.adaptor[0]
        weight, bias = head.conv.weight.flatten(1), head.conv.bias  # (1024, C)
        if self.linear:  # adaptor and first convolution are one matrix
            weight2, weight3 = (weight @ conv.weight.flatten(1)).split((layer2.shape[-1], layer3.shape[-1]), dim=1)
            hidden: tuple[Tensor, ...] = (Product.apply(layer2, weight2), Product.apply(layer3, weight3))
            bias = bias + weight @ conv.bias
        else:
            hidden = (Product.apply(adapted, weight),)
        clean, noisy = projected(hidden, noise, masked, head, bias.detach(), self.bands, self.kept)
        nowhere = clean.new_zeros(clean.numel() // len(layer2))  # one image more, see Masked
        both = torch.cat([clean, clean, nowhere]).index_put((masked.where,), noisy)
        return both[: 2 * len(clean)].view(-1, *self.size)

    def _clean_response(
        self, layer2: Tensor, layer3: Tensor, adapted: Tensor | None, conv: nn.Conv2d, raw: bool = False
    ) -> Tensor:
        """A head's 5x5 convolution of the clean features, raw or adapted, without its bias: (B, H, W, 128)."""
        weight = conv.weight[:, : self.model.channels]
        if raw:
            return self.up[5](layer2, layer3, weight, self.kept)
        if adapted is not None:
            return F.conv2d(adapted.permute(0, 3, 1, 2), weight, padding=conv.padding).permute(0, 2, 3, 1)
        linear = self.model.adaptor[0]
        composed = torch.einsum("ocyx,cd->odyx", weight, linear.weight[:, :, 0, 0])
        return self.up[5](layer2, layer3, composed, self.kept) + border_bias(weight, linear.bias, self.size)
