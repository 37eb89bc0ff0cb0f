"""Adaptor and heads of the detectors, and the pooling of a map. Features (B, C, h, w), channels second."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssn_core.errors import InputError
from ssn_core.models.names import ADAPTORS

SEGMENTATION_WIDTH, CLASSIFICATION_WIDTH = 1024, 128
LEAK = 0.2  # slope of the segmentation head's LeakyReLU below zero


def make_adaptor(kind: str, channels: int) -> nn.Module:
    """Feature adaptor C -> C. ``linear`` is the papers' 1x1 map; the others change one thing each (scenario B: all)."""
    if kind not in ADAPTORS:
        raise InputError(f"adaptor={kind!r} is unknown; choose one of {', '.join(ADAPTORS)}")
    kernel = 3 if kind.startswith("conv3x3") else 1
    layers: list[nn.Module] = [nn.Conv2d(channels, channels, kernel, padding=kernel // 2)]
    if "bn" in kind:
        layers.append(nn.BatchNorm2d(channels))
    if "relu" in kind:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class SegmentationHead(nn.Module):
    """1x1 convolution C -> 1024, BN, LeakyReLU(0.2), 1x1 -> 1 without bias (ICPR 2024, section 3.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, SEGMENTATION_WIDTH, 1)
        self.bn = nn.BatchNorm2d(SEGMENTATION_WIDTH)
        self.project = nn.Conv2d(SEGMENTATION_WIDTH, 1, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> map logits (B, 1, h, w)."""
        return self.project(F.leaky_relu(self.bn(self.conv(features)), LEAK))


class ClassificationHead(nn.Module):
    """5x5 convolution of [features, map] -> 128, BN, ReLU; global maxima and means of it and of the map -> score."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + 1, CLASSIFICATION_WIDTH, 5, padding=2)
        self.bn = nn.BatchNorm2d(CLASSIFICATION_WIDTH)
        self.score = nn.Linear(2 * CLASSIFICATION_WIDTH + 2, 1)

    def forward(self, features: Tensor, anomaly_map: Tensor) -> Tensor:
        """(B, C, h, w) and (B, 1, h, w) -> image logits (B,)."""
        x = F.relu(self.bn(self.conv(torch.cat([features, anomaly_map], dim=1))))
        return self.rate(x.amax((2, 3)), x.mean((2, 3)), anomaly_map)

    def rate(self, top: Tensor, average: Tensor, anomaly_map: Tensor) -> Tensor:
        """Maximum and mean of the 128 channels (B, 128) and the map (B, 1, h, w) -> image logits (B,)."""
        pooled = [top, average, anomaly_map.amax((2, 3)), anomaly_map.mean((2, 3))]
        return self.score(torch.cat(pooled, dim=1)).squeeze(1)


class CamHead(nn.Module):
    """5x5 convolution C -> 128, BN, ReLU; global average -> linear. The same weights over the channels give the map
    (class activation map, Zhou et al. 2016, equation 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, CLASSIFICATION_WIDTH, 5, padding=2)
        self.bn = nn.BatchNorm2d(CLASSIFICATION_WIDTH)
        self.score = nn.Linear(CLASSIFICATION_WIDTH, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> map (B, 1, h, w) and image logits (B,)."""
        x = F.relu(self.bn(self.conv(features)))
        cam = torch.einsum("bchw,c->bhw", x, self.score.weight[0])[:, None]
        return cam, self.score(x.mean((2, 3))).squeeze(1)


def smooth_maximum(low_map: Tensor) -> Tensor:
    """``log(mean(exp(m)))`` of each map m (B, h, w) -> (B,): between its mean and its maximum (Pinheiro and Collobert,
    CVPR 2015, equation 2), so that the cells near the top share the gradient."""
    cells = low_map.flatten(1)
    return torch.logsumexp(cells, 1) - math.log(cells.shape[1])
