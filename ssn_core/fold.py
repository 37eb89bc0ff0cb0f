"""``fold``: the inference twin of a model, with the same outputs from fewer operations.

BatchNorm is folded into the convolution before it, in the trunk too; adaptor and first segmentation convolution
become one matrix; 1x1 convolutions act before upscaling; the 5x5 one runs tap by tap at low resolution; resize and
blur of the map are one matrix an axis. Everything is composed once, in float64, when the model is folded.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .errors import InputError
from .models import BLUR_SIGMA, Detector, GapCamNet, SimpleNet
from .upscale import UpscaledConv, border_bias, map_matrices

_BLOCK = 256  # hidden channels at a time: their values at feature size stay in a core's cache


def fold(model: Detector) -> FoldedDetector:
    """The folded twin of a trained model, in eval mode, for images of the model's size and any other.

    Same interface: ``forward(images)`` gives ``(anomaly_map_logits (B, H, W), image_logits (B,))`` and ``predict``
    takes one image. The model itself is left unchanged.
    """
    if model.training:
        raise InputError("fold needs a model in eval mode, since it freezes the batch statistics; call model.eval()")
    with torch.no_grad():
        return FoldedDetector(model).eval().requires_grad_(False)


class FoldedDetector(nn.Module):
    """See :func:`fold`. Weights at low resolution, matrices of the model's image size as buffers."""

    predict = Detector.predict

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.image_size, self.upscaling = model.image_size, model.upscaling
        self.trunk = _fold_trunk(model.trunk)
        self.linear, adaptor_weight, adaptor_bias = _fold_adaptor(model.adaptor)
        self.adaptor_relu = isinstance(model.adaptor[-1], nn.ReLU)
        self.segmentation = self.response = None
        if not self.linear:
            self._put(adaptor_weight=adaptor_weight, adaptor_bias=adaptor_bias)
        if not isinstance(model, GapCamNet):
            weight, bias = _fold_bn(model.segmentation.conv, model.segmentation.bn)
            weight = weight[:, :, 0, 0]
            if self.linear:
                weight, bias = weight @ adaptor_weight[:, :, 0, 0], bias + weight @ adaptor_bias
            self._put(hidden_weight=weight, hidden_bias=bias, hidden_out=model.segmentation.project.weight.flatten())
        self.kind = "cam" if isinstance(model, GapCamNet) else "max" if isinstance(model, SimpleNet) else "two_heads"
        if self.kind != "max":
            self._fold_response(model, adaptor_weight, adaptor_bias)
        blank = torch.zeros(1, 3, *self.image_size, device=next(model.parameters()).device)
        shapes = [tuple(layer.shape[-2:]) for layer in self.trunk(blank)]
        self.sizes = _Sizes(*shapes, self.image_size, self.upscaling, self.kernels).to(blank.device)

    @property
    def kernels(self) -> tuple[int, ...]:
        """Kernel sizes that read upscaled features without forming them."""
        reads_adapted = not self.linear
        needed = {1} if self.linear else {self.adaptor_weight.shape[-1]}
        if self.kind != "max" and not (reads_adapted and self.response_reads_adapted):
            needed.add(5)
        return tuple(sorted(needed))

    def _put(self, **tensors: Tensor) -> None:
        for name, value in tensors.items():
            self.register_buffer(name, value.float().contiguous())

    def _fold_response(self, model: Detector, adaptor_weight: Tensor, adaptor_bias: Tensor) -> None:
        head = model.cam if self.kind == "cam" else model.classification
        weight, bias = _fold_bn(head.conv, head.bn)
        features, taps = weight[:, : model.channels], weight[:, model.channels :].flatten(1)
        self.response_reads_adapted = self.kind == "cam" or model.cls_features == "adapted"
        self._put(score_weight=head.score.weight[0], score_bias=head.score.bias, response_bias=bias, map_taps=taps)
        if self.response_reads_adapted and self.linear:
            # the adaptor's bias is padded with zeros like the features, so it differs at the border
            self._put(border_weight=features, border_bias_in=adaptor_bias)
            features = torch.einsum("ocyx,cd->odyx", features, adaptor_weight[:, :, 0, 0])
        self._put(response_weight=features)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) -> anomaly map logits (B, H, W), image logits (B,)."""
        layers = self.trunk(images.contiguous(memory_format=torch.channels_last))
        return self.heads(*(f.permute(0, 2, 3, 1).contiguous() for f in layers), images.shape[-2:])

    def heads(self, layer2: Tensor, layer3: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """From the trunk's layers, (B, h2, w2, C2) and (B, h3, w3, C3), channels last."""
        sizes = self.sizes
        if tuple(image_size) != sizes.image_size:
            shapes = [tuple(layer.shape[1:3]) for layer in (layer2, layer3)]
            sizes = _Sizes(*shapes, tuple(image_size), self.upscaling, self.kernels).to(layer2.device)
        adapted = None if self.linear else self._adapted(layer2, layer3, sizes)
        if self.kind == "cam":
            x = F.relu(self._response(layer2, layer3, adapted, sizes) + self.response_bias)
            score = x.mean((1, 2)) @ self.score_weight + self.score_bias
            return sizes.resize(x @ self.score_weight), score
        low_map = self._segmentation(layer2, layer3, adapted, sizes)
        anomaly_map = sizes.resize(low_map)
        if self.kind == "max":
            return anomaly_map, anomaly_map.amax((1, 2))
        x = self._response(layer2, layer3, adapted, sizes)
        windows = F.unfold(low_map[:, None], 5, padding=2).transpose(1, 2)  # (B, HW, 25)
        x = F.relu(x.flatten(1, 2) + torch.matmul(windows, self.map_taps.T) + self.response_bias)
        pooled = [x.amax(1), x.mean(1), low_map.amax((1, 2))[:, None], low_map.mean((1, 2))[:, None]]
        return anomaly_map, torch.cat(pooled, dim=1) @ self.score_weight + self.score_bias

    def _adapted(self, layer2: Tensor, layer3: Tensor, sizes: _Sizes) -> Tensor:
        out = sizes.up(self.adaptor_weight.shape[-1])(layer2, layer3, self.adaptor_weight) + self.adaptor_bias
        return F.relu(out) if self.adaptor_relu else out

    def _segmentation(self, layer2: Tensor, layer3: Tensor, adapted: Tensor | None, sizes: _Sizes) -> Tensor:
        """Map logits (B, h, w): hidden channels block by block, so that the full hidden tensor never exists."""
        total: Tensor | float = 0.0
        for start in range(0, len(self.hidden_weight), _BLOCK):
            block = slice(start, start + _BLOCK)
            weight = self.hidden_weight[block]
            if adapted is None:
                hidden = sizes.up(1)(layer2, layer3, weight[:, :, None, None])
            else:
                hidden = adapted @ weight.T
            total = total + F.leaky_relu(hidden + self.hidden_bias[block], 0.2) @ self.hidden_out[block]
        return total

    def _response(self, layer2: Tensor, layer3: Tensor, adapted: Tensor | None, sizes: _Sizes) -> Tensor:
        """The 5x5 convolution of the features (B, h, w, 128), without its own bias."""
        if self.response_reads_adapted and adapted is not None:
            return F.conv2d(adapted.permute(0, 3, 1, 2), self.response_weight, padding=2).permute(0, 2, 3, 1)
        out = sizes.up(5)(layer2, layer3, self.response_weight)
        if self.response_reads_adapted:
            out = out + border_bias(self.border_weight, self.border_bias_in, sizes.feature_size)
        return out


class _Sizes(nn.Module):
    """Upscaling and resizing matrices of one image size."""

    def __init__(
        self,
        size2: tuple[int, int],
        size3: tuple[int, int],
        image_size: tuple[int, int],
        upscaling: int,
        kernels: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.feature_size = tuple(upscaling * side for side in size2)
        self.ups = nn.ModuleDict({str(k): UpscaledConv(size2, size3, self.feature_size, k) for k in kernels})
        along_y, along_x = map_matrices(self.feature_size, image_size, BLUR_SIGMA)
        self.register_buffer("along_y", along_y, persistent=False)
        self.register_buffer("along_x", along_x, persistent=False)

    def up(self, kernel: int) -> UpscaledConv:
        return self.ups[str(kernel)]

    def resize(self, low_map: Tensor) -> Tensor:
        """(B, h, w) -> (B, H, W): bilinear and Gaussian blur."""
        return self.along_y @ low_map @ self.along_x.T


def _fold_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of a convolution followed by BN in eval mode."""
    scale = bn.weight.double() * (bn.running_var.double() + bn.eps).rsqrt()
    bias = (conv.bias.double() - bn.running_mean.double()) * scale + bn.bias.double()
    return conv.weight.double() * scale[:, None, None, None], bias


def _fold_adaptor(adaptor: nn.Sequential) -> tuple[bool, Tensor, Tensor]:
    """(acts as one 1x1 linear map, weight, bias); weight and bias in float64."""
    conv = adaptor[0]
    norm = [layer for layer in adaptor if isinstance(layer, nn.BatchNorm2d)]
    weight, bias = _fold_bn(conv, norm[0]) if norm else (conv.weight.double(), conv.bias.double())
    linear = conv.kernel_size == (1, 1) and not isinstance(adaptor[-1], nn.ReLU)
    return linear, weight, bias


def _fold_trunk(trunk: nn.Module) -> nn.Module:
    """A copy of the trunk with every BN folded into the convolution that precedes it, channels last."""
    trunk = copy.deepcopy(trunk)
    for parent in trunk.modules():
        previous: tuple[str, nn.Module] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and previous is not None:
                setattr(parent, previous[0], fuse_conv_bn_eval(previous[1], child))
                setattr(parent, name, nn.Identity())
            previous = (name, child) if isinstance(child, nn.Conv2d) else None
    return trunk.to(memory_format=torch.channels_last)
