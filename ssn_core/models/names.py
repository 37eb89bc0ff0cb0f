"""What can be chosen by name, without torch: configurations are checked by these tables, models are built from them."""

from __future__ import annotations

#: backbone -> channels of its stride-8 and its stride-16 stage; all but EfficientNet-Lite0 are ResNets of torchvision
BACKBONES: dict[str, tuple[int, int]] = {
    "wide_resnet50_2": (512, 1024),
    "resnet18": (128, 256),
    "efficientnet_lite0": (40, 112),
}
#: the one that the report has not: on real data it is looked up by its name alone
EDGE = "efficientnet_lite0"
#: what maps C features to C: the papers' linear 1x1, and what scenario B changes, one thing each or all
ADAPTORS = ("linear", "conv3x3", "bn", "relu", "conv3x3_bn_relu")
#: noise of a fixed shape and unit variance -> the sampler of a tensor that draws it, and its arguments
FIXED_NOISES: dict[str, tuple[str, tuple[float, ...]]] = {
    "gaussian": ("normal_", ()),
}
