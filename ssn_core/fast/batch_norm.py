"""BatchNorm in eval mode, folded into the convolution before it."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of a convolution and the BN that follows it, if any."""
    weight, bias = conv.weight.double(), conv.bias.double()
    if bn is None:
        return weight, bias
    scale = bn.weight.double() * (bn.running_var.double() + bn.eps).rsqrt()
    return weight * scale[:, None, None, None], (bias - bn.running_mean.double()) * scale + bn.bias.double()


def fold_trunk(trunk: nn.Module) -> nn.Module:
    """A copy of the trunk with every BN folded into the convolution that precedes it, in place, channels last."""
    trunk = copy.deepcopy(trunk)
    for parent in trunk.modules():
        previous: tuple[str, nn.Module] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and previous is not None:
                setattr(parent, previous[0], _pad_inside(fuse_conv_bn_eval(previous[1], child)))
                setattr(parent, name, nn.Identity())
            if isinstance(child, (nn.ReLU, nn.ReLU6)):
                child.inplace = True  # its input is a convolution's output, which nothing else reads
            previous = (name, child) if isinstance(child, nn.Conv2d) else None
    return trunk.to(memory_format=torch.channels_last)


def _pad_inside(conv: nn.Conv2d) -> nn.Conv2d:
    """Let the convolution itself pad where EfficientNet pads in a pass of its own before it."""
    outer = getattr(conv, "static_padding", None)
    if isinstance(outer, nn.ZeroPad2d):
        left, right, top, bottom = outer.padding
        # a kernel with leading zeros and symmetric padding reads what the kernel with less padding there reads
        conv.weight = nn.Parameter(F.pad(conv.weight, (right - left, 0, bottom - top, 0)))
        conv.padding, conv.static_padding = (bottom, right), nn.Identity()
    return conv
