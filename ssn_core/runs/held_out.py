"""Model selection without the test set: held-out normal images, and copies of them with pasted defects."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ssn_core.data.datasets import Sample
from ssn_core.data.images import read_image
from ssn_core.models.noise import perlin_noise
from ssn_core.models.trunk import to_tensor
from ssn_core.runs.config import RunConfig
from ssn_core.runs.evaluation import Truth
from ssn_core.runs.features import Features, batch_size, single_precision

_THRESHOLD = 0.55  # of Perlin noise: a few small regions an image
_SEED = 20_240_917  # the same defects for every seed and every noise, so that runs compare


@single_precision
@torch.inference_mode()
def altered_copies(
    held_out: list[Sample], config: RunConfig, trunk: nn.Module, device: torch.device
) -> tuple[Features, Truth] | None:
    """Features of n held-out images and of n altered copies, and where they were altered; None without such images.

    The defects are made in image space (texture of another held-out image, turned by 180 degrees, inside Perlin
    regions; after Zavrtanik et al., DRAEM, ICCV 2021, section 3.2), so they favour no kind of feature noise.
    """
    if not held_out:
        return None
    rng = torch.Generator().manual_seed(_SEED)
    images = torch.stack([to_tensor(read_image(s.image), config.image_size) for s in held_out])
    masks = perlin_noise(len(images), config.image_size, rng) > _THRESHOLD
    masks[:, 0, 0] |= ~masks.flatten(1).any(1)  # an altered copy is altered somewhere
    donors = images.roll(1, 0).flip((-2, -1))
    altered = torch.where(masks[:, None], donors, images)
    layers = [trunk(part.to(device)) for part in torch.cat([images, altered]).split(batch_size(device))]
    layer2, layer3 = (torch.cat([f.permute(0, 2, 3, 1).cpu() for f in part]) for part in zip(*layers, strict=True))
    truth = Truth(np.repeat([0, 1], len(images)), torch.cat([torch.zeros_like(masks), masks]).numpy())
    return Features(layer2, layer3).near(device), truth
