"""Trainers on random features, for tests of the training loop: no images, no trunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support import rng, tiny_config
from torch import Tensor, nn

from ssn_core.data.datasets import Sample
from ssn_core.models.detectors import build_model
from ssn_core.runs.config import RunConfig
from ssn_core.runs.features import Features
from ssn_core.runs.runner import trainer_of
from ssn_core.runs.trainer import Trainer
from ssn_core.runs.training_set import RealDefects, TrainingSet

NORMAL, DEFECTIVE = 8, 2
SIZE2, SIZE3 = (6, 6), (3, 3)
CLOSE = 1e-3  # float32, two forms of one forward: a kink crossed by rounding moves a gradient by this much


def sample(i: int, label: int = 0, mask: Path | None = None) -> Sample:
    return Sample(f"train/{i}.png", Path(f"{i}.png"), mask, label, "defect" if label else "good")


def make_trainer(config: RunConfig, defects: bool = False) -> Trainer:
    """On random features of a tiny feature size; supervised runs get two defective images, the first of them with a
    mask when ``config.masks`` is 1."""
    torch.manual_seed(config.seed)
    some = DEFECTIVE if config.supervision != "unsupervised" else 0
    entries = [(sample(i, int(i >= NORMAL)), 0) for i in range(NORMAL + some)]
    layers = [torch.randn(len(entries), *s, c, generator=rng(c)) for s, c in ((SIZE2, 40), (SIZE3, 112))]
    model = build_model(**config.model_arguments(), pretrained=False)
    training, device = TrainingSet(entries, NORMAL, []), torch.device("cpu")
    trainer = trainer_of(config)(config, model, Features(*layers), training, device)
    if defects:
        masks = torch.zeros(len(entries), *(2 * s for s in SIZE2), dtype=torch.bool)
        masks[NORMAL:, 2:6, 3:9] = True
        known = torch.arange(len(entries)) < NORMAL + (config.masks or some)
        masks &= known[:, None, None]
        trainer.defects = RealDefects(masks, torch.where(masks, 2.5, 1.0), known)
    return trainer


def learned(noise: str = "learned_v2", **changes: Any) -> Trainer:
    fields = {"experiment": "learned", "noise": noise, "beta": 0.3 if noise == "learned_v2" else None}
    fields |= {"perlin_threshold": -0.1, "noise_unit": "absolute"}
    return make_trainer(tiny_config("scenario_a", **fields | changes))


def values(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, running statistics and counters."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def steps(trainer: Trainer, count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = rng(seed)
    return [one(trainer, torch.arange(4), generator) for _ in range(count)]


def one(trainer: Trainer, index: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """One step."""
    return trainer.train_batch(index, trainer.features.batch(index, trainer.device), generator)


def published(noise: str, adaptor: str = "linear") -> Trainer:
    return learned(noise, noise_rule="as_published", adaptor=adaptor)
