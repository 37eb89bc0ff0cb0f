"""What an epoch sees: its order, the images held out, and real defects with their masks and weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import rng, tiny_config
from training import (
    sample,
)

from ssn_core.data.datasets import Dataset
from ssn_core.errors import InputError
from ssn_core.runs.features import FLIPS
from ssn_core.runs.training_set import TrainingSet, real_defects, region_weights


def test_unsupervised_epoch_is_every_image_once_in_random_order() -> None:
    training = TrainingSet([(sample(i), 0) for i in range(30)], 30, [])
    seen = torch.zeros(30)
    first, second = (training.epoch_order(seen, rng(seed)) for seed in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(30))
    assert first.tolist() != second.tolist() != list(range(30))


def test_supervised_epoch_is_balanced_and_gives_every_normal_image_its_turn() -> None:
    """All defective entries and as many normal images, those seen least first (JIMS 2025)."""
    normal, defective = 23, 6
    training = TrainingSet([(sample(i, int(i >= normal)), 0) for i in range(normal + defective)], normal, [])
    seen, counts = torch.zeros(normal), np.zeros(normal, int)
    for epoch in range(23):
        order = training.epoch_order(seen, rng(epoch))
        chosen = order[order < normal]
        assert sorted(order[order >= normal].tolist()) == list(range(normal, normal + defective))
        assert len(set(chosen.tolist())) == len(chosen) == defective
        counts[chosen.numpy()] += 1
        assert counts.max() - counts.min() <= 1  # nobody comes twice before everybody came once
    assert counts.tolist() == seen.tolist() == [6] * normal
    assert order[:defective].max() >= normal and order[:defective].min() < normal  # mixed, not sorted by class


def dataset(normal: int, defective: int, mask: Path | None = None) -> Dataset:
    train_samples = [sample(i) for i in range(normal)] + [sample(100 + i, 1, mask) for i in range(defective)]
    return Dataset("synthetic", "plates", "ksdd", Path("plates"), tuple(train_samples), ())


def test_entries_of_a_supervised_run_are_every_defect_in_every_version() -> None:
    config = tiny_config("weak_gap_cam", flips=3)
    training = TrainingSet.of(config, dataset(9, 2))
    assert (training.normal, len(training.entries)) == (9, 15)
    assert [flip for _, flip in training.entries] == [0] * 9 + [0, 1, 2, 0, 1, 2]
    assert training.labels.tolist() == [False] * 9 + [True] * 6
    unsupervised = TrainingSet.of(tiny_config("unsupervised"), dataset(9, 2))
    assert len(unsupervised.entries) == 9 and not unsupervised.labels.any()


def test_held_out_images_are_chosen_by_the_seed_and_never_trained_on() -> None:
    made = [TrainingSet.of(tiny_config(validation_fraction=0.3, seed=s), dataset(20, 0)) for s in (0, 0, 1)]
    for training in made:
        names = {s.name for s, _ in training.entries}, {s.name for s in training.held_out}
        assert (len(names[0]), len(names[1])) == (14, 6) and not names[0] & names[1]
    assert made[0] == made[1] and made[0].held_out != made[2].held_out
    with pytest.raises(InputError, match="validation_fraction=0.01 of 20 images holds none out"):
        TrainingSet.of(tiny_config(validation_fraction=0.01), dataset(20, 0))


@pytest.mark.parametrize(
    ("config", "data", "message"),
    [
        (
            {"flips": 4},
            (7, 2),
            "flips=4: 2 defective images in 4 versions need as many normal images, and plates has 7",
        ),
        ({"flips": 4}, (7, 2), "choose flips=3 or fewer"),
        ({"flips": 1}, (3, 5), "add normal images, 5 at least"),
        ({}, (7, 0), "needs defective training images and plates has none; use supervision='unsupervised'"),
    ],
)
def test_data_that_cannot_serve_the_supervision(config: dict[str, Any], data: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainingSet.of(tiny_config("weak_gap_cam", **config), dataset(*data))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["supervised", "weak_gap_cam_as_published"])
def test_runs_that_read_training_masks_say_so_when_there_are_none(name: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainingSet.of(tiny_config(name), dataset(9, 2))
    text = str(caught.value)
    assert "reads 2 training masks" in text and "train/100.png" in text and "supervision='weak'" in text


def test_mixed_supervision_reads_the_masks_it_was_given_and_no_other(tmp_path: Path) -> None:
    """More masks contain the fewer, another seed chooses others, and images without a mask are never counted on."""
    masked = [sample(100 + i, 1, tmp_path / f"{i}.png") for i in range(5)]
    data = replace(dataset(20, 2), train=(*dataset(20, 2).train, *masked))

    def outlined(masks: int, seed: int = 0) -> set[str]:
        training = TrainingSet.of(tiny_config("mixed", masks=masks, seed=seed, flips=2), data)
        assert len(training.entries) == 20 + 2 * 7 and len(training.outlined) == masks
        return {s.name for s in training.outlined}

    assert outlined(2) < outlined(4) < outlined(5) == {s.name for s in masked}
    assert outlined(2, seed=1) != outlined(2)
    with pytest.raises(InputError, match="reads 6 training masks, and plates has 5 for its 7 .* set masks to what"):
        outlined(6)


def test_masks_that_were_not_read_are_not_looked_for(tmp_path: Path) -> None:
    """The others' files may be broken; their maps are unknown and empty."""
    Image.fromarray(np.full((64, 32), 255, np.uint8)).save(tmp_path / "mask.png")
    read, unread = sample(1, 1, tmp_path / "mask.png"), sample(2, 1, tmp_path / "absent.png")
    training = TrainingSet([(sample(0), 0), (read, 0), (read, 1), (unread, 0)], 1, [], [read])
    real = real_defects(training, (64, 32), (16, 8))
    assert real.known.tolist() == [True, True, True, False]
    assert [int(mask.sum()) for mask in real.masks] == [0, 128, 128, 0]


def test_flips_turn_an_image_as_they_are_named() -> None:
    image = torch.tensor([[1, 2], [3, 4]])
    assert [image.flip(flip).tolist() for flip in FLIPS] == [
        [[1, 2], [3, 4]],
        [[3, 4], [1, 2]],
        [[2, 1], [4, 3]],
        [[4, 3], [2, 1]],
    ]


def test_region_weights_by_hand() -> None:
    """3 (d / d_max)^2 per region: a 5 x 5 square has distances 1, 2, 3 from its edge inwards; a line has 1 only."""
    mask = np.zeros((9, 14), bool)
    mask[2:7, 1:6] = True
    mask[4, 8:13] = True
    weights = region_weights(mask)
    assert weights[4, 3] == pytest.approx(3) and weights[4, 2] == pytest.approx(3 * 4 / 9)
    assert weights[2, 1] == pytest.approx(3 / 9) and weights[2, 3] == pytest.approx(3 / 9)
    assert np.allclose(weights[4, 8:13], 3) and (weights[~mask] == 1).all()
    assert weights.dtype == np.float32 and (region_weights(np.zeros((4, 4), bool)) == 1).all()


def test_regions_that_touch_at_a_corner_are_one() -> None:
    mask = np.zeros((12, 12), bool)
    mask[1:6, 1:6] = mask[6, 6] = True
    assert region_weights(mask)[6, 6] < 1.5  # its distance is measured against the square's


def test_real_defects_are_dilated_flipped_and_sampled_as_published(tmp_path: Path) -> None:
    """At the file's own size, nearest to the image size, then bilinear with aligned corners; half is defective."""
    pixels = np.zeros((128, 64), np.uint8)
    pixels[40:60, 18:40] = 255  # 7 x 7 dilation makes it 26 rows of 28 pixels
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    defect = sample(1, 1, tmp_path / "mask.png")
    training = TrainingSet([(sample(0), 0), *((defect, flip) for flip in range(4))], 1, [], [defect])
    real = real_defects(training, (64, 32), (16, 8))
    assert real.masks.shape == real.weights.shape == (5, 16, 8)
    assert not real.masks[0].any() and (real.weights[0] == 1).all()
    wide = np.zeros((128, 64), bool)
    wide[37:63, 15:43] = True
    weights = region_weights(wide)
    for flip, dims in enumerate(FLIPS):
        for found, full in ((real.masks[1 + flip], wide.astype(np.float32)), (real.weights[1 + flip], weights)):
            small = np.flip(full, dims)[::2, ::2]
            for y in range(16):
                for x in range(8):
                    r, c = y * 63 / 15, x * 31 / 7
                    i, j = min(int(r), 62), min(int(c), 30)
                    top, bottom = (small[i + k, j] * (j + 1 - c) + small[i + k, j + 1] * (c - j) for k in (0, 1))
                    value = top * (i + 1 - r) + bottom * (r - i)
                    wanted = value >= 0.5 if found.dtype == torch.bool else value
                    assert float(found[y, x]) == pytest.approx(float(wanted), abs=1e-4)
    assert 0 < real.weights.min() < 1 < real.weights.max() <= 3
