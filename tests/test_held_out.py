"""Model selection without the test set: held-out normal images and their altered copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from support import tiny_config

import ssn_core as ssn
from ssn_core.data.images import read_image
from ssn_core.models.trunk import to_tensor
from ssn_core.runs.held_out import altered_copies


def test_held_out_images_get_defects_that_no_run_chooses(tiny_sets: Path) -> None:
    """Normal images, then altered copies: changed inside the masks alone, equal for every seed and noise."""
    held_out = list(ssn.open_dataset("synthetic", "ring", tiny_sets).train[:3])
    originals = torch.stack([to_tensor(read_image(s.image), (64, 64)) for s in held_out])

    class Pixels(torch.nn.Module):
        """A trunk that passes the pixels on."""

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, images[:, :, ::2, ::2]

    configs = tiny_config(), tiny_config("learned_noise_v2", seed=7, noise_std=2.0)
    made = [altered_copies(held_out, config, Pixels(), torch.device("cpu")) for config in configs]
    for features, truth in made:
        assert truth.labels.tolist() == [0, 0, 0, 1, 1, 1]
        normal, altered = features.layer2.permute(0, 3, 1, 2).split(3)
        masks = torch.from_numpy(truth.masks)
        assert not masks[:3].any() and all(0 < float(mask.float().mean()) < 0.3 for mask in masks[3:])
        assert torch.equal(normal, originals)
        assert 0.005 < float(masks[3:].float().mean()) < 0.2
        changed = (altered - normal).abs().amax(1) > 0
        assert not (changed & ~masks[3:]).any() and (changed.sum((1, 2)) > 0.9 * masks[3:].sum((1, 2))).all()
    (features, truth), (others, other_truth) = made
    assert np.array_equal(truth.masks, other_truth.masks)
    assert torch.equal(features.layer2, others.layer2)
    assert altered_copies([], configs[0], Pixels(), torch.device("cpu")) is None
