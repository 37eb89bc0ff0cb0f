"""The memory of normal features: distances, what is kept, the folded twin, a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import assert_same_bits, halt, quiet, relative, rng, tiny_config
from torch import Tensor

import ssn_core as ssn
from ssn_core.data.datasets import Dataset, Sample
from ssn_core.errors import InputError
from ssn_core.models.memory import greedy_coreset, nearest
from ssn_core.models.upscale import upscale
from ssn_core.runs.features import ROTATIONS, Features, version_of
from ssn_core.runs.memory_trainer import MemoryTrainer
from ssn_core.runs.store import run
from ssn_core.runs.training_set import TrainingSet
from ssn_core.study.run_values import run_values

SIZES = ((6, 5), (3, 3))


def tiny_memory(name: str = "memory", **changes: object) -> ssn.RunConfig:
    return tiny_config(name, **{"epochs": 1, "memory_size": 40} | changes)


def make_trainer(config: ssn.RunConfig, images: int = 5) -> MemoryTrainer:
    layers = [torch.randn(images, *size, c, generator=rng(c)) for size, c in zip(SIZES, (40, 112), strict=True)]
    entries = [(Sample(f"{i}.png", Path(f"{i}.png"), None, 0, "good"), 0) for i in range(images)]
    model = ssn.build_model(**config.model_arguments(), pretrained=False)
    return MemoryTrainer(config, model, Features(*layers), TrainingSet(entries, images, []), torch.device("cpu"))


def positions(features: Features) -> Tensor:
    layers = [layer.permute(0, 3, 1, 2) for layer in (features.layer2, features.layer3)]
    return upscale(*layers, 1).permute(0, 2, 3, 1).flatten(0, 2)


def filled(choice: str, **changes: object) -> tuple[MemoryTrainer, Tensor]:
    """A trainer after its epoch, and all that it could have kept."""
    trainer = make_trainer(tiny_memory(memory_choice=choice, **changes))
    assert trainer.epoch() == {"epoch": 1, "step": 0} and trainer.epochs_done == 1
    return trainer, positions(trainer.features)


def test_nearest_is_the_least_distance() -> None:
    rows, memory = torch.randn(7, 5, generator=rng()), 2 * torch.randn(2500, 5, generator=rng(1))
    assert relative(nearest(rows, memory), torch.cdist(rows, memory).amin(1)) < 1e-5
    assert nearest(memory[-3:], memory).max() < 2e-3  # rounding of |x|^2 - |x|^2


def test_greedy_coreset_by_hand() -> None:
    rows = torch.tensor([[0.0], [1.0], [4.5], [10.0], [10.1]])
    assert greedy_coreset(rows, 4, first=1).tolist() == [1, 4, 2, 0]
    assert sorted(greedy_coreset(torch.ones(4, 2), 4, first=2).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("choice", ["coreset", "random"])
def test_a_memory_holds_as_many_different_training_features(choice: str) -> None:
    trainer, rows = filled(choice)
    memory = trainer.model.memory
    distance = torch.cdist(memory.double(), rows.double())
    assert memory.shape == (40, 152) and distance.amin(1).max() < 1e-3
    assert len(set(distance.argmin(1).tolist())) == 40
    again, _ = filled(choice)
    other, _ = filled(choice, seed=1)
    assert torch.equal(memory, again.model.memory) and not torch.equal(memory, other.model.memory)


def test_a_coreset_leaves_no_feature_far_from_it() -> None:
    far = {}
    for choice in ("coreset", "random"):
        trainer, rows = filled(choice)
        rows[3] *= 5  # what a random choice loses
        trainer.features.layer2[0, 0, 3] *= 5
        trainer.features.layer3[0, 0] *= 5
        trainer.epoch()
        far[choice] = float(nearest(positions(trainer.features), trainer.model.memory).max())
    assert far["coreset"] < far["random"]


def test_more_features_than_there_are_is_refused_before_anything_is_filled() -> None:
    with pytest.raises(InputError, match="memory_size=151: 5 training images of .* have 150 positions"):
        make_trainer(tiny_memory(memory_size=151))


def test_half_precision_keeps_the_distances() -> None:
    trainer, _ = filled("coreset")
    twin, images = ssn.fold(trainer.model.eval()), torch.randn(1, 3, 64, 64, generator=rng())
    wanted, found = twin(images)[0], twin.bfloat16()(images.bfloat16())[0]
    assert found.dtype == torch.bfloat16 and relative(found.float(), wanted) < 0.05


@pytest.mark.parametrize("batch", [1, 6])
def test_the_folded_twin_gives_the_same_distances(batch: int) -> None:
    trainer, _ = filled("random")
    model, images = trainer.model.eval(), torch.randn(batch, 3, 64, 64, generator=rng())
    with torch.no_grad():
        wanted, found = model(images), ssn.fold(model)(images)
    assert wanted[0].shape == (batch, 64, 64) and torch.equal(wanted[1], wanted[0].amax((1, 2)))
    assert all(relative(a, b) < 1e-4 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", ["memory", "memory_rotated", "memory_equal"])
def test_a_run_fills_evaluates_and_loads(name: str, tiny_sets: Path, tmp_path: Path) -> None:
    result = run(tiny_memory(name), tmp_path, tiny_sets, log=quiet)
    assert result.history[["epoch", "step"]].values.tolist() == [[1, 0]] and result.history["loss"].isna().all()
    assert (result.info["steps"], result.info["data"]["train_used"]) == (0, 32 if name == "memory_rotated" else 8)
    model = ssn.load_model(result.path)
    assert model.trunk.equal_brightness == (name == "memory_equal")
    for row in result.scores.itertuples():
        prediction = ssn.fold(model).predict(tiny_sets / "ring" / row.image)
        assert prediction.score == prediction.map_score == pytest.approx(row.score, rel=1e-3)
    assert result.metrics["I-AUROC"] == result.metrics["seg-I-AUROC"]
    assert {"brightness training", "brightness normal", "brightness auroc"} <= run_values(result).keys()


@pytest.mark.parametrize("at", ["epoch 0 of 1", "epoch 1/1"])
def test_a_run_that_was_stopped_goes_on_with_its_memory_or_fills_it(at: str, tiny_sets: Path, tmp_path: Path) -> None:
    whole = run(tiny_memory(), tmp_path / "whole", tiny_sets, log=quiet)
    folder = halt(tiny_memory(), tmp_path / "stopped", tiny_sets, at=at)
    assert (folder / "checkpoint.pt").is_file() == (at == "epoch 1/1")
    resumed = run(tiny_memory(), tmp_path / "stopped", tiny_sets, log=quiet)
    assert_same_bits(resumed.path, whole.path)


def test_rotations_take_every_normal_image_at_four_angles() -> None:
    images = tuple(Sample(name, Path(name), None, 0, "good") for name in "ab")
    training = TrainingSet.of(
        tiny_memory("memory_rotated"), Dataset("synthetic", "ring", "mvtec", Path("ring"), images, ())
    )
    assert training.normal == 8
    assert [(s.name, version) for s, version in training.entries] == [(n, v) for n in "ab" for v in ROTATIONS]
    image = torch.tensor([[1, 2], [3, 4]])
    assert [version_of(image, version).tolist() for version in ROTATIONS] == [
        [[1, 2], [3, 4]],
        [[2, 4], [1, 3]],
        [[4, 3], [2, 1]],
        [[3, 1], [4, 2]],
    ]
