"""Learned noise: a generator makes what the detector has to find, by the adversarial rule or by the published one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssn_core.fast.masked import Masked
from ssn_core.models.noise import LATENT_CHANNELS, NoiseGenerator, perlin_masks
from ssn_core.models.upscale import upscale
from ssn_core.runs.trainer import Trainer

GENERATOR_LR = 1e-4
MAGNITUDE_WEIGHT = 10.0
_FIELD_SEED = 7
#: one generator step closes a cycle of this many batches. Adversarial: v1 takes turns, v2 has three discriminator steps
#: to one, counted over the whole training. As published: counted within an epoch.
GENERATOR_EVERY = {
    "adversarial": {"learned_v1": 2, "learned_v2": 4},
    "as_published": {"learned_v1": 1, "learned_v2": 4},
}


class LearnedNoiseTrainer(Trainer):
    """A training whose noise is made by a generator with an optimiser of its own, whose rate never decays, as in the
    published schedule."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        bound = None if self.config.beta is None else self.config.beta * self.unit
        self.generator = NoiseGenerator(self.model.channels, bound).to(self.device)
        fused = self.device.type == "cuda"
        self.optimizers["generator"] = torch.optim.AdamW(self.generator.parameters(), lr=GENERATOR_LR, fused=fused)
        self._update = self._adversarial if self.config.noise_rule == "adversarial" else self._as_published
        self.cycle = GENERATOR_EVERY[self.config.noise_rule][self.config.noise]

    def _latent(self, count: int, rng: torch.Generator) -> Tensor | None:
        """z (count, 32) ~ N(0, 1) for v2; v1 knows none."""
        if not self.generator.latent:
            return None
        return torch.randn(count, LATENT_CHANNELS, generator=rng, device=rng.device)

    def _adversarial(
        self, layers: tuple[Tensor, ...], masked: Masked, targets: dict[str, Any], rng: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One batch of adversarial training: either side steps alone, with the other one frozen."""
        with torch.no_grad(), _frozen_statistics(self.model):  # the generator reads the adapted features as data
            rows = self.forward.adapted(*layers).flatten(0, 2).index_select(0, masked.source)
        noise = self.generator(rows, self._latent(len(rows), rng))
        if self.step % self.cycle:
            losses = self._losses(layers, masked, noise.detach(), targets)
            self._step_model(losses["loss"])
            return losses, noise
        with _frozen_statistics(self.model):
            losses = self._losses(layers, masked, noise, targets)
        losses["loss_generator"] = self._generator_loss(losses["loss"], noise, masked)
        optimizer = self.optimizers["generator"]
        optimizer.zero_grad(set_to_none=True)
        losses["loss_generator"].backward(inputs=list(self.generator.parameters()))
        optimizer.step()
        return losses, noise

    def _as_published(
        self, layers: tuple[Tensor, ...], masked: Masked, targets: dict[str, Any], rng: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One batch of the published update (erratum 1). The generator makes noise for every position, the same for
        both copies, from adapted features that keep their gradient: so the adaptor also learns through the noise.
        """
        adapted = self.forward.adapted(*layers)
        rows = adapted.flatten(0, 2)
        latent, turn = self._latent(len(rows), rng), self.batch % self.cycle == 0
        everywhere = turn and latent is not None  # v2's magnitude is the mean over all positions, masked or not
        if not everywhere:
            rows = rows.index_select(0, masked.source)
            latent = None if latent is None else latent.index_select(0, masked.source)
        made = self.generator(rows, latent)
        noise = made.index_select(0, masked.source) if everywhere else made
        losses = self._losses(layers, masked, noise, targets, adapted)
        if turn:
            losses["loss_generator"] = self._generator_loss(losses["loss"], made)
            self._published_step(losses["loss"], losses["loss_generator"])
        else:
            self._step_model(losses["loss"])
        return losses, noise

    def _generator_loss(self, loss: Tensor, noise: Tensor, masked: Masked | None = None) -> Tensor:
        """v1: ``-L``. v2: ``-L + 10 mean(eps^2)``, the mean over the masked positions' noise, or over all of it where
        none are given, in the noise's unit."""
        if self.config.noise == "learned_v1":
            return -loss
        squares = (noise / self.unit).square().mean(1)
        return MAGNITUDE_WEIGHT * (squares.mean() if masked is None else masked.mean(squares)) - loss

    def _published_step(self, loss: Tensor, generator_loss: Tensor) -> None:
        """What two backward passes leave when hardly anything is cleared between them, and then both optimisers step.

        v1 clears the generator's gradients: it keeps -grad L. v2 clears nothing: the generator keeps
        10 grad(mean eps^2), and so does the adaptor, whose features it reads. Either way grad L - grad L = 0 is left
        for everything else, and the optimiser moves it by momentum and weight decay alone.
        """
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        if self.config.noise == "learned_v1":
            self.optimizers["generator"].zero_grad(set_to_none=True)
        generator_loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()


@contextlib.contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch statistics normalise but leave the running ones alone: what the generator reads or learns from is not a
    step of the model."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


@torch.no_grad()
def noise_field(trainer: LearnedNoiseTrainer) -> dict[str, np.ndarray]:
    """What a run keeps of its generator: ``image`` name of the first training image; per position (h, w) ``features``,
    the root mean square of its adapted features over the channels, and ``mask``; for Gaussian and for learned noise,
    per position (2, h, w), ``rms`` of the masked noise over the channels and its first ``channel``. Both have the same
    RMS inside the mask, which is the Perlin mask, of 64, whose area comes nearest to a quarter of the map."""
    model, config = trainer.model.eval(), trainer.config
    layers = trainer.features.batch(slice(0, 1), trainer.device)
    adapted = model.adaptor(upscale(*(layer.permute(0, 3, 1, 2) for layer in layers), model.upscaling))[0].cpu()
    rng = torch.Generator().manual_seed(_FIELD_SEED)
    masks = perlin_masks(64, tuple(adapted.shape[1:]), config.perlin_threshold, rng)
    mask = masks[(masks.flatten(1).float().mean(1) - 0.25).abs().argmin()]
    rows = adapted.flatten(1).T.to(trainer.device)  # (h w, C)
    latent = torch.randn(len(rows), trainer.generator.latent, generator=rng).to(rows)
    learned = trainer.generator(rows, latent).T.reshape(adapted.shape).cpu()
    level = learned[:, mask].square().mean().sqrt()
    noises = torch.stack([level * torch.randn(adapted.shape, generator=rng), learned]) * mask
    features, rms = (values.square().mean(-3).sqrt() for values in (adapted, noises))
    arrays = {"features": features, "rms": rms, "channel": noises[:, 0], "mask": mask}
    kept = {name: values.numpy() for name, values in arrays.items()}
    return kept | {"image": np.array(trainer.training.entries[0][0].name)}
