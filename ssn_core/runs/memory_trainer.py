"""Filling a memory: what takes the trainer's place for ``method="memory"``, which has nothing to learn by gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ssn_core.errors import InputError
from ssn_core.models.detectors import MemoryNet
from ssn_core.models.memory import greedy_coreset
from ssn_core.models.upscale import upscale
from ssn_core.runs.config import RunConfig
from ssn_core.runs.features import Features, batch_size, single_precision
from ssn_core.runs.trainer import trained_state
from ssn_core.runs.training_set import TrainingSet

#: the greedy choice compares random projections to so few dimensions (Roth et al., CVPR 2022, section 3.2)
PROJECTED = 32


class MemoryTrainer:
    """Chooses what a memory keeps of the training features, in one epoch without a step. To its runner it is a
    :class:`ssn_core.runs.trainer.Trainer`."""

    step, generator, sigma = 0, None, None

    def __init__(
        self, config: RunConfig, model: MemoryNet, features: Features, training: TrainingSet, device: torch.device
    ) -> None:
        self.config, self.model, self.features, self.device = config, model, features, device
        self.feature_std, self.epochs_done = features.standard_deviation(), 0
        self.positions = features.layer2[..., 0].numel()
        if len(model.memory) > self.positions:
            raise InputError(
                f"memory_size={len(model.memory)}: {len(training.entries)} training images of {config.image_size} have "
                f"{self.positions} positions; choose fewer"
            )

    @single_precision
    @torch.no_grad()
    def epoch(self) -> dict[str, Any]:
        """Fill the memory and return the only history row."""
        rng = torch.Generator().manual_seed(self.config.seed)
        kept, order = len(self.model.memory), torch.randperm(self.positions, generator=rng)
        if self.config.memory_choice == "coreset":
            directions = torch.randn(self.model.channels, PROJECTED, generator=rng).to(self.device)
            projected = torch.cat([rows @ directions for rows in self._rows()])
            chosen = greedy_coreset(projected, kept, int(order[0])).cpu()
        else:
            chosen = order[:kept]
        mask = torch.zeros(self.positions, dtype=torch.bool).index_fill(0, chosen, True)
        parts = mask.split(self.positions // len(self.features) * batch_size(self.device))
        self.model.memory.copy_(torch.cat([rows[part] for rows, part in zip(self._rows(), parts, strict=True)]))
        self.epochs_done = 1
        return {"epoch": 1, "step": 0}

    def _rows(self) -> Iterator[Tensor]:
        """Upscaled features of all training positions, some images at a time, (n h w, C)."""
        for layers in self.features.parts(self.device):
            raw = upscale(*(layer.permute(0, 3, 1, 2) for layer in layers), self.model.upscaling)
            yield raw.permute(0, 2, 3, 1).flatten(0, 2)

    def state_dict(self) -> dict[str, Any]:
        """Whether the memory is filled, and the memory."""
        return {"epochs_done": self.epochs_done, "model": trained_state(self.model)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.epochs_done = state["epochs_done"]
        self.model.load_state_dict(state["model"], strict=False)
