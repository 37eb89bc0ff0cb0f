"""Gaussian against learned noise on one feature map: a generator trained for a few steps, and what it adds where.

Run folders keep no generator (it is no part of inference), so the picture comes from a short training of its own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from ssn_core.data.datasets import Dataset
from ssn_core.models.detectors import build_model
from ssn_core.models.noise import LATENT_CHANNELS, perlin_masks
from ssn_core.models.upscale import upscale
from ssn_core.runs.config import RunConfig
from ssn_core.runs.features import extract
from ssn_core.runs.trainer import Trainer
from ssn_core.runs.training_set import TrainingSet
from ssn_core.study.labels import data_label, pick


@dataclass(frozen=True)
class NoiseView:
    """One training image's adapted features and the two noises, per position (h, w): root mean square over channels,
    and the values of one channel. Both noises have the same RMS inside ``mask``; ``steps`` of training were made."""

    config: RunConfig
    name: str
    steps: int
    features: np.ndarray
    mask: np.ndarray
    rms: dict[str, np.ndarray]
    channel: dict[str, np.ndarray]


def view_noise(config: RunConfig, dataset: Dataset, epochs: int = 2, images: int = 32) -> NoiseView:
    """Train a learned-noise configuration on its first ``images`` images for a few epochs and look at its noise."""
    config = config.replace(epochs=epochs, eval_every=0, validation_fraction=0.0)
    device = torch.device("cpu")
    training = TrainingSet.of(config, dataclasses.replace(dataset, train=dataset.train[:images]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(**config.model_arguments())
        features = extract(model.trunk, training.entries, config.image_size, device, lambda text: None)
        trainer = Trainer(config, model, features, training, None, device)
    for _ in range(epochs):
        trainer.epoch()
    return _look(config, model, trainer, features.batch(slice(0, 1), device), training.entries[0][0].name)


@torch.no_grad()
def _look(config: RunConfig, model: torch.nn.Module, trainer: Trainer, layers: tuple, name: str) -> NoiseView:
    model.eval()
    channels_first = (layer.permute(0, 3, 1, 2) for layer in layers)
    adapted = model.adaptor(upscale(*channels_first, model.upscaling))[0]  # (C, h, w)
    channels, height, width = adapted.shape
    rng = torch.Generator().manual_seed(7)
    mask = _some_mask((height, width), config.perlin_threshold, rng)
    rows = adapted.flatten(1).T  # (h w, C)
    latent = torch.randn(len(rows), LATENT_CHANNELS, generator=rng)
    learned = trainer.generator(rows, latent) if config.beta is not None else trainer.generator(rows)
    learned = learned.T.reshape(channels, height, width)
    level = learned[:, mask].square().mean().sqrt()
    noises = {"gaussian": level * torch.randn(adapted.shape, generator=rng), "learned": learned}
    return NoiseView(
        config=config,
        name=name,
        steps=trainer.step,
        features=_rms(adapted),
        mask=mask.numpy(),
        rms={kind: _rms(noise * mask) for kind, noise in noises.items()},
        channel={kind: (noise * mask)[0].numpy() for kind, noise in noises.items()},
    )


def _some_mask(size: tuple[int, int], threshold: float, rng: torch.Generator) -> torch.Tensor:
    """A Perlin mask that covers between a tenth and a half of the map."""
    while True:
        for mask in perlin_masks(16, size, threshold, rng):
            if 0.1 < mask.float().mean() < 0.5:
                return mask


def _rms(values: torch.Tensor) -> np.ndarray:
    """(C, h, w) -> (h, w)."""
    return values.square().mean(0).sqrt().numpy()


def noise_fields(views: list[NoiseView], language: str = "en") -> Figure:
    """Figure 13: features and mask, then either noise of the same RMS, over all channels and in one of them."""
    view = views[0]
    figure, axes = plt.subplots(2, 4, figsize=(6.3, 3.4), width_ratios=[1.15, 1, 1, 1])
    top, limit = max(v.max() for v in view.rms.values()), max(np.abs(v).max() for v in view.channel.values())
    kinds = {"gaussian": pick(language, "Gaussian", "gaussiano"), "learned": pick(language, "learned", "appreso")}
    features = axes[0, 0].imshow(view.features, cmap="viridis")
    axes[0, 0].set_title(
        pick(language, "adapted features A\n(RMS over channels)", "feature adattate A\n(RMS sui canali)")
    )
    figure.colorbar(features, ax=axes[0, 0], shrink=0.8).ax.tick_params(labelsize=6)
    axes[1, 0].imshow(view.mask, cmap="gray")
    axes[1, 0].set_title(pick(language, "Perlin mask M", "maschera di Perlin M"))
    for row, (kind, label) in zip(axes, kinds.items(), strict=True):
        shown = row[1].imshow(view.rms[kind], cmap="viridis", vmin=0, vmax=top)
        row[1].set_title(f"{label}:\nRMS(M·ε)")
        one = row[2].imshow(view.channel[kind], cmap="RdBu_r", vmin=-limit, vmax=limit)
        row[2].set_title(pick(language, f"{label}:\none channel of M·ε", f"{label}:\nun canale di M·ε"))
        for picture, ax in ((shown, row[1]), (one, row[2])):
            figure.colorbar(picture, ax=ax, shrink=0.8).ax.tick_params(labelsize=6)
        _scatter(row[3], view, kind, language)
    for ax in axes[:, :3].ravel():
        ax.set_axis_off()
        ax.title.set_fontsize(7)
    text = pick(language, f"after {view.steps} steps of training", f"dopo {view.steps} passi di training")
    figure.suptitle(f"{data_label(view.config, language)}, {text}", fontsize=7.5)
    return figure


def _scatter(ax: plt.Axes, view: NoiseView, kind: str, language: str) -> None:
    """Does the noise follow the features? Its RMS against theirs, position by position."""
    ax.plot(view.features[view.mask], view.rms[kind][view.mask], ".", ms=1.5, color="#0072B2", rasterized=True)
    ax.set(ylim=(0, None))
    ax.tick_params(labelsize=6)
    ax.set_xlabel("RMS(A)", fontsize=6.5)
    ax.set_ylabel("RMS(ε)", fontsize=6.5)
