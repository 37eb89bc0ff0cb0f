"""The models in their plain form: what the papers write, module by module, and the reference of the fast path.

Shapes: layer2 (B, C2, H/8, W/8), layer3 (B, C3, H/16, W/16), features (B, C, H/4, W/4) with C = C2 + C3
(SimpleNet: H/8, W/8). A forward in eval mode maps images (B, 3, H, W), ImageNet-normalised, to
``(anomaly_map_logits (B, H, W), image_logits (B,))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ssn_core.data.images import read_image, to_rgb
from ssn_core.errors import InputError
from ssn_core.models.heads import CamHead, ClassificationHead, SegmentationHead, make_adaptor, smooth_maximum
from ssn_core.models.memory import nearest
from ssn_core.models.names import BACKBONES
from ssn_core.models.trunk import make_trunk, to_tensor
from ssn_core.models.upscale import map_matrices, upscale


@dataclass(frozen=True)
class Prediction:
    """One image's result. Scores are logits (``1 / (1 + exp(-score))`` is the probability), a memory's are distances;
    higher is more anomalous.

    ``score``: the classification head's output; ``map_score``: the maximum of ``anomaly_map`` (H, W) float32 logits,
    at the model's image size.
    """

    score: float
    map_score: float
    anomaly_map: np.ndarray


class Detector(nn.Module):
    """What every method shares: a frozen trunk, upscaling, an adaptor, the map's way to image size, ``predict``.

    ``pretrained=False`` leaves the trunk random, as torchvision does; :func:`ssn_core.run` loads weights. What is
    trained begins with Xavier-normal weights; biases keep torch's default.
    """

    upscaling = 2

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        adaptor: str = "linear",
        image_size: tuple[int, int] = (256, 256),
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.image_size = backbone, tuple(image_size)
        self.trunk = make_trunk(backbone, pretrained)
        self.channels = sum(BACKBONES[backbone])
        self.adaptor = make_adaptor(adaptor, self.channels)
        self.add_heads()
        for name, module in self.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and not name.startswith("trunk"):
                nn.init.xavier_normal_(module.weight)

    def add_heads(self) -> None:
        """Make what the method has beside trunk and adaptor."""

    def train(self, mode: bool = True) -> Detector:
        """The trunk stays in eval mode: its weights and its statistics are frozen."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) -> anomaly map logits (B, H, W) at image size, image logits (B,)."""
        raw = upscale(*self.trunk(images), self.upscaling)
        low_map, score = self.heads(raw, self.adaptor(raw))
        return resize_map(low_map, images.shape[-2:]), score

    def heads(self, raw: Tensor, adapted: Tensor) -> tuple[Tensor, Tensor]:
        """Features before and after the adaptor, (B, C, h, w) -> map logits (B, 1, h, w), image logits (B,)."""
        raise NotImplementedError

    def noisy_forward(self, layer2: Tensor, layer3: Tensor, masks: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The training forward (ICPR 2024, equations 1 to 3): two copies, ``P = A + M * eps``, and the heads.

        ``masks`` (2B, 1, h, w) in {0, 1}, ``noise`` (2B, C, h, w); -> map logits (2B, 1, h, w), image logits (2B,).
        The raw features that the classification head may read get the same noise.
        """
        raw = upscale(layer2, layer3, self.upscaling)
        adapted = self.adaptor(raw)
        return self.heads(*(torch.cat([f, f]) + masks * noise for f in (raw, adapted)))

    @torch.inference_mode()
    def predict(self, image: str | Path | Image.Image | np.ndarray) -> Prediction:
        """Anomaly map and both scores of one image: a path, a PIL image or an (H, W, 3) uint8 array."""
        if isinstance(image, (str, Path)):
            pixels = read_image(image)
        elif isinstance(image, Image.Image):
            pixels = to_rgb(image)
        else:
            pixels = np.asarray(image)
        if self.training:
            raise InputError("predict needs a model in eval mode; call model.eval() first")
        weight = next(self.parameters())
        batch = to_tensor(pixels, self.image_size)[None].to(weight.device, weight.dtype)
        anomaly_map, score = self(batch)
        return Prediction(float(score[0]), float(anomaly_map.max()), anomaly_map[0].float().cpu().numpy())


class SuperSimpleNet(Detector):
    """SuperSimpleNet (Rolih et al., ICPR 2024 and JIMS 2025): segmentation and classification head on noisy features.

    ``cls_features``: what the classification head reads, ``adapted`` (ICPR 2024) or ``raw`` (JIMS 2025).
    ``stop_gradient``: the classification loss does not reach the segmentation head (unsupervised training).
    """

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        adaptor: str = "linear",
        cls_features: str = "raw",
        image_size: tuple[int, int] = (256, 256),
        stop_gradient: bool = True,
        pretrained: bool = False,
    ) -> None:
        super().__init__(backbone, adaptor, image_size, pretrained)
        self.cls_features, self.stop_gradient = cls_features, stop_gradient

    def add_heads(self) -> None:
        self.segmentation = SegmentationHead(self.channels)
        self.classification = ClassificationHead(self.channels)

    def heads(self, raw: Tensor, adapted: Tensor) -> tuple[Tensor, Tensor]:
        low_map = self.segmentation(adapted)
        seen = low_map.detach() if self.stop_gradient else low_map
        return low_map, self.classification(raw if self.cls_features == "raw" else adapted, seen)


class GapCamNet(Detector):
    """The course report's weakly supervised variant (its section 7): no segmentation head, the class activation map
    of a global-average-pooling classifier is the anomaly map."""

    def add_heads(self) -> None:
        self.cam = CamHead(self.channels)

    def heads(self, raw: Tensor, adapted: Tensor) -> tuple[Tensor, Tensor]:
        return self.cam(adapted)


class MapScored(Detector):
    """Without a head of its own for the image score, which is the maximum of the map; features at layer2's size."""

    upscaling = 1

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        anomaly_map, _ = super().forward(images)
        return anomaly_map, anomaly_map.amax((1, 2))


class PooledMap(MapScored):
    """A two-layer discriminator of each position; in training ``pooled`` makes the image score of the map."""

    def add_heads(self) -> None:
        self.segmentation = SegmentationHead(self.channels)

    def heads(self, raw: Tensor, adapted: Tensor) -> tuple[Tensor, Tensor]:
        low_map = self.segmentation(adapted)
        return low_map, self.pooled(low_map[:, 0])

    def pooled(self, low_map: Tensor) -> Tensor:
        """Map logits (B, h, w) -> image logits (B,)."""
        return low_map.amax((1, 2))


class SimpleNet(PooledMap):
    """SimpleNet (Liu et al., CVPR 2023) on the same trunk: its discriminator tells noisy features from clean ones."""


class MilNet(PooledMap):
    """A map from image labels alone, as multiple-instance learning: what is trained against the label is the map's
    smooth maximum (after Pinheiro and Collobert, CVPR 2015, who pool segmentation maps so), and no noise is put on
    anything."""

    pooled = staticmethod(smooth_maximum)


class MemoryNet(MapScored):
    """A memory of ``memory_size`` features of normal images (after PatchCore, Roth et al., CVPR 2022): the map is
    each feature's distance to the nearest of them. Nothing in it is trained; :func:`ssn_core.run` fills it."""

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        memory_size: int = 4096,
        image_size: tuple[int, int] = (256, 256),
        pretrained: bool = False,
    ) -> None:
        super().__init__(backbone, image_size=image_size, pretrained=pretrained)
        self.adaptor = nn.Identity()
        self.memory = nn.Parameter(torch.zeros(memory_size, self.channels), requires_grad=False)

    def heads(self, raw: Tensor, adapted: Tensor) -> tuple[Tensor, Tensor]:
        rows = adapted.permute(0, 2, 3, 1)
        low_map = nearest(rows.flatten(0, 2), self.memory).view(rows.shape[:3])
        return low_map[:, None], low_map.amax((1, 2))


def resize_map(low_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Map logits (B, 1, h, w) -> (B, H, W): bilinear, then Gaussian blur of sigma 4 pixels, mirrored at the border."""
    along_y, along_x = (m.to(low_map) for m in map_matrices(tuple(low_map.shape[-2:]), tuple(size)))
    return along_y @ low_map[:, 0] @ along_x.T


def build_model(
    method: str,
    backbone: str,
    adaptor: str,
    image_size: tuple[int, int],
    cls_features: str = "raw",
    stop_gradient: bool = True,
    memory_size: int | None = None,
    equal_brightness: bool = False,
    pretrained: bool = True,
) -> Detector:
    """The untrained model of a method; ``cls_features`` and ``stop_gradient`` are SuperSimpleNet's alone.
    ``equal_brightness``: see :class:`ssn_core.models.trunk.Trunk`."""
    if method == "memory":
        model = MemoryNet(backbone, memory_size, image_size, pretrained)
    elif method == "supersimplenet":
        model = SuperSimpleNet(backbone, adaptor, cls_features, image_size, stop_gradient, pretrained)
    else:
        kinds = {"gap_cam": GapCamNet, "mil": MilNet, "simplenet": SimpleNet}
        model = kinds[method](backbone, adaptor, image_size, pretrained)
    model.trunk.equal_brightness = equal_brightness
    return model
