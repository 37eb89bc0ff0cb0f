"""``fold``: the inference twin of a model, with the same outputs from fewer operations.

BatchNorm is folded into the convolution before it, in the trunk too; adaptor and first segmentation convolution
become one matrix; 1x1 convolutions act before upscaling; the 5x5 one runs tap by tap at low resolution; resize and
blur of the map are one matrix an axis. Everything is composed once, in float64, when the model is folded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssn_core.errors import InputError
from ssn_core.fast.batch_norm import fold_bn, fold_trunk
from ssn_core.fast.moments import Kept
from ssn_core.fast.row_bands import RowBands
from ssn_core.fast.upscaled_conv import Composed, UpscaledConv
from ssn_core.models.detectors import Detector, GapCamNet, MapScored, MemoryNet
from ssn_core.models.heads import LEAK
from ssn_core.models.memory import nearest
from ssn_core.models.product import product
from ssn_core.models.upscale import border_bias, map_matrices, upscale

_PART = 4  # images whose activations still suit a processor's caches and allocator, and share the cost of a call


def fold(model: Detector) -> FoldedDetector:
    """The folded twin of a trained model, in eval mode, for images of the model's size and any other.

    Same interface: ``forward(images)`` gives ``(anomaly_map_logits (B, H, W), image_logits (B,))`` and ``predict``
    takes one image. The model itself is left unchanged. The twin is a plain module: it can be compiled, exported (at
    the model's image size) and cast with ``.half()`` or ``.bfloat16()``.
    """
    if isinstance(model, FoldedDetector):
        raise InputError("fold takes a model in its plain form, and this one is folded already; use it as it is")
    if model.training:
        raise InputError("fold needs a model in eval mode, since it freezes the batch statistics; call model.eval()")
    with torch.no_grad():
        return FoldedDetector(model).eval().requires_grad_(False)


class FoldedDetector(nn.Module):
    """See :func:`fold`. Weights as they act at low resolution, and the matrices of the image size that came last."""

    predict = Detector.predict

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.image_size, self.upscaling = model.image_size, model.upscaling
        self.trunk = fold_trunk(model.trunk)
        blank = torch.zeros(1, 3, *self.image_size, device=next(model.parameters()).device)
        layers = [layer.permute(0, 2, 3, 1) for layer in self.trunk(blank)]
        self.channels2 = layers[0].shape[-1]
        self.adaptor = self.hidden = self.response = None
        for name in ("border_weight", "memory"):
            self.register_buffer(name, None)
        if isinstance(model, MemoryNet):
            self._put(memory=model.memory)
        else:
            self._fold_heads(model)
        self.sizes = _Sizes(self, layers, self.image_size)

    def _fold_heads(self, model: Detector) -> None:
        conv, *rest = model.adaptor
        adaptor = fold_bn(conv, next((layer for layer in rest if isinstance(layer, nn.BatchNorm2d)), None))
        self.adaptor_relu = isinstance(model.adaptor[-1], nn.ReLU)
        if self.adaptor_relu or conv.kernel_size != (1, 1):  # any other is one matrix with what follows it
            self.adaptor = Composed(*adaptor, self.channels2)
        if not isinstance(model, GapCamNet):
            self._fold_segmentation(model, *adaptor)
        if not isinstance(model, MapScored):
            self._fold_response(model, *adaptor)

    def _fold_segmentation(self, model: Detector, adaptor: Tensor, adaptor_bias: Tensor) -> None:
        weight, bias = fold_bn(model.segmentation.conv, model.segmentation.bn)
        if self.adaptor is None:
            bias = bias + weight[:, :, 0, 0] @ adaptor_bias
        self.hidden = self._conv(weight, bias, adaptor)
        self._put(hidden_out=model.segmentation.project.weight.flatten())

    def _fold_response(self, model: Detector, adaptor: Tensor, adaptor_bias: Tensor) -> None:
        cam = isinstance(model, GapCamNet)
        head = model.cam if cam else model.classification
        weight, bias = fold_bn(head.conv, head.bn)
        weight, map_taps = weight[:, : model.channels], weight[:, model.channels :]
        self._put(score_weight=head.score.weight[0], score_bias=head.score.bias)
        if not cam:
            self._put(map_taps=map_taps)
        if not cam and model.cls_features == "raw":
            self.response = Composed(weight, bias, self.channels2)
            return
        self.response = self._conv(weight, bias, adaptor)
        if self.adaptor is None:  # the adaptor's bias is padded with zeros like the features: it fades at the border
            self._put(border_weight=weight, border_input=adaptor_bias)

    def _conv(self, weight: Tensor, bias: Tensor, adaptor: Tensor) -> nn.Module:
        """A convolution of the adapted features: composed with a linear adaptor, on its own after any other."""
        if self.adaptor is None:
            return Composed(torch.einsum("ocyx,cd->odyx", weight, adaptor[:, :, 0, 0]), bias, self.channels2)
        conv = nn.Conv2d(*weight.shape[1::-1], weight.shape[-1], padding=weight.shape[-1] // 2)
        conv.weight.data, conv.bias.data = weight.float().contiguous(memory_format=torch.channels_last), bias.float()
        return conv

    def _put(self, **tensors: Tensor) -> None:
        for name, value in tensors.items():
            self.register_buffer(name, value.float().clone(memory_format=torch.contiguous_format))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) -> anomaly map logits (B, H, W), image logits (B,)."""
        outputs = []
        for part in _parts(images, _PART):
            layers = self.trunk(part.contiguous(memory_format=torch.channels_last))
            outputs.append(self.heads(*(f.permute(0, 2, 3, 1) for f in layers), images.shape[-2:]))
        return _cat(outputs)

    def heads(self, layer2: Tensor, layer3: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """From the trunk's layers, (B, h2, w2, C2) and (B, h3, w3, C3), channels last."""
        if tuple(image_size) != self.sizes.image_size:
            self.sizes = _Sizes(self, (layer2, layer3), tuple(image_size))
        kept = Kept()
        return _cat([self._heads(pair, kept) for pair in zip(_parts(layer2), _parts(layer3), strict=True)])

    def _heads(self, layers: tuple[Tensor, ...], kept: Kept) -> tuple[Tensor, Tensor]:
        """(n, h2, w2, C2), (n, h3, w3, C3) -> map logits (n, H, W), image logits (n,)."""
        adapted = None
        if self.adaptor is not None:
            adapted = self._convolved(self.adaptor, layers, None, kept)
            adapted = F.relu_(adapted) if self.adaptor_relu else adapted
        if self.memory is not None:
            rows = upscale(*(layer.permute(0, 3, 1, 2) for layer in layers), self.upscaling).permute(0, 2, 3, 1)
            low_map = nearest(rows.flatten(0, 2), self.memory).view(rows.shape[:3])
        elif self.hidden is not None:
            low_map = self._segmentation(layers, adapted, kept)
        else:
            response = F.relu_(self._convolved(self.response, layers, adapted, kept))
            cam = response @ self.score_weight
            return self.sizes.resize(cam), response.mean((1, 2)) @ self.score_weight + self.score_bias
        anomaly_map = self.sizes.resize(low_map)
        if self.response is None:
            return anomaly_map, anomaly_map.amax((1, 2))
        from_map = F.conv2d(low_map[:, None], self.map_taps, padding=2).permute(0, 2, 3, 1)
        response = F.relu_(self._convolved(self.response, layers, adapted, kept).add_(from_map))
        pooled = [response.amax((1, 2)), response.mean((1, 2)), low_map.amax((1, 2))[:, None]]
        pooled = torch.cat([*pooled, low_map.mean((1, 2))[:, None]], dim=1)
        return anomaly_map, pooled @ self.score_weight + self.score_bias

    def _segmentation(self, layers: tuple[Tensor, ...], adapted: Tensor | None, kept: Kept) -> Tensor:
        """Map logits (n, H, W); on a processor only a few rows of the hidden channels exist at a time."""
        if adapted is not None or _whole(layers[0]):
            return F.leaky_relu_(self._convolved(self.hidden, layers, adapted, kept), LEAK) @ self.hidden_out
        op, (h, w) = self.sizes.bands, self.sizes.feature_size
        low = [product(layer, taps[0]) for layer, taps in zip(layers, self.hidden.rows, strict=True)]
        low_map = layers[0].new_empty(len(layers[0]) * h * w)
        for part in op.parts(len(layers[0])):
            rows = kept("rows", low_map, part.block.stop - part.block.start, len(self.hidden_out))
            op.fill(rows, part, low, kept)
            torch.mv(F.leaky_relu_(rows.add_(self.hidden.bias), LEAK), self.hidden_out, out=low_map[part.block])
        return low_map.view(-1, h, w)

    def _convolved(self, conv: nn.Module, layers: tuple[Tensor, ...], adapted: Tensor | None, kept: Kept) -> Tensor:
        """(n, H, W, O) of the upscaled layers, or of the adapted features (n, H, W, C)."""
        if not isinstance(conv, Composed):
            return conv(adapted.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        op = self.sizes.up[str(conv.taps)]
        if _whole(layers[0]):
            out = op.whole(layers, conv.rows, conv.bias)
        else:
            out = op.banded(layers, conv.rows, kept).add_(conv.bias)
        return out.add_(self.sizes.border) if conv is self.response and self.sizes.border is not None else out


class _Sizes(nn.Module):
    """A folded model's upscaling and resizing matrices for one image size."""

    def __init__(self, model: FoldedDetector, layers: Sequence[Tensor], image_size: tuple[int, int]) -> None:
        super().__init__()
        size2, size3 = (tuple(layer.shape[1:3]) for layer in layers)
        self.image_size, self.feature_size = image_size, tuple(model.upscaling * side for side in size2)
        shapes, like = (size2, size3, self.feature_size), torch.zeros(1)
        kernels = {conv.taps for conv in model.modules() if isinstance(conv, Composed)}
        self.up = nn.ModuleDict({str(k): UpscaledConv(*shapes, k, like) for k in sorted(kernels)})
        self.bands = RowBands(*shapes, like)
        along_y, along_x = map_matrices(self.feature_size, image_size)
        border = None
        if model.border_weight is not None:
            border = border_bias(model.border_weight.float(), model.border_input.float(), self.feature_size)
        for name, value in (("along_y", along_y), ("along_x", along_x), ("border", border)):
            self.register_buffer(name, value, persistent=False)
        self.to(layers[0].device, layers[0].dtype)

    def resize(self, low_map: Tensor) -> Tensor:
        """(B, h, w) -> (B, H, W): bilinear and Gaussian blur."""
        return torch.bmm(self.along_y.expand(low_map.shape[0], -1, -1), low_map @ self.along_x.T)


def _whole(batch: Tensor) -> bool:
    """A GPU, a compiler and an exporter want few large operations; a processor wants small ones, whose operands fit
    its caches: a few images through the trunk and single ones through the heads, band by band."""
    return batch.device.type != "cpu" or torch.compiler.is_compiling()


def _parts(batch: Tensor, step: int = 1) -> tuple[Tensor, ...]:
    return (batch,) if _whole(batch) else batch.split(step)


def _cat(outputs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return outputs[0] if len(outputs) == 1 else tuple(torch.cat(part) for part in zip(*outputs, strict=True))
