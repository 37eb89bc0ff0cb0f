"""What a learned-noise run keeps of its generator, which inference does not need: its noise on one training image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssn_core.models.noise import perlin_masks
from ssn_core.models.upscale import upscale
from ssn_core.runs.learned_noise import LearnedNoiseTrainer

_SEED = 7


@torch.no_grad()
def noise_field(trainer: LearnedNoiseTrainer) -> dict[str, np.ndarray]:
    """``image`` name of the first training image; per position (h, w) ``features``, the root mean square of its adapted
    features over the channels, and ``mask``; for Gaussian and for learned noise, per position (2, h, w), ``rms`` of the
    masked noise over the channels and its first ``channel``. Both have the same RMS inside the mask."""
    model, config = trainer.model.eval(), trainer.config
    layers = trainer.features.batch(slice(0, 1), trainer.device)
    adapted = model.adaptor(upscale(*(layer.permute(0, 3, 1, 2) for layer in layers), model.upscaling))[0].cpu()
    rng = torch.Generator().manual_seed(_SEED)
    mask = _some_mask(tuple(adapted.shape[1:]), config.perlin_threshold, rng)
    rows = adapted.flatten(1).T.to(trainer.device)  # (h w, C)
    latent = torch.randn(len(rows), trainer.generator.latent, generator=rng).to(rows)
    learned = trainer.generator(rows, latent).T.reshape(adapted.shape).cpu()
    level = learned[:, mask].square().mean().sqrt()
    noises = torch.stack([level * torch.randn(adapted.shape, generator=rng), learned]) * mask
    arrays = {"features": _rms(adapted), "rms": _rms(noises), "channel": noises[:, 0]}
    kept = {name: values.numpy() for name, values in arrays.items()}
    return kept | {"mask": mask.numpy(), "image": np.array(trainer.training.entries[0][0].name)}


def _some_mask(size: tuple[int, int], threshold: float, rng: torch.Generator) -> Tensor:
    """The Perlin mask, of 64, whose area comes nearest to a quarter of the map."""
    masks = perlin_masks(64, size, threshold, rng)
    return masks[(masks.flatten(1).float().mean(1) - 0.25).abs().argmin()]


def _rms(values: Tensor) -> Tensor:
    """(..., C, h, w) -> (..., h, w)."""
    return values.square().mean(-3).sqrt()
