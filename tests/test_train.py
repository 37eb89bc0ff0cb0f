"""The training loop on random features: what is trained, by which losses, and how it goes on."""

from __future__ import annotations

import copy

import pytest
import torch
from support import rng, tiny_config
from torch import Tensor
from training import (
    NORMAL,
    SIZE2,
    learned,
    make_trainer,
    one,
    steps,
)

from ssn_core.fast.masked import Masked
from ssn_core.models.detectors import GapCamNet
from ssn_core.models.losses import focal, map_loss, truncated_l1
from ssn_core.runs import trainer as train
from ssn_core.runs.features import Features
from ssn_core.runs.learned_noise import LearnedNoiseTrainer
from ssn_core.runs.trainer import NonFiniteLoss, Trainer


def test_optimizer_groups_are_the_published_ones() -> None:
    trainer = make_trainer(tiny_config())
    adaptor, heads = trainer.optimizers["model"].param_groups
    assert [(g["lr"], g["weight_decay"]) for g in (adaptor, heads)] == [(1e-4, 1e-2), (2e-4, 1e-5)]
    assert {id(p) for p in adaptor["params"]} == {id(p) for p in trainer.model.adaptor.parameters()}
    everything = {id(p) for p in trainer.model.parameters() if p.requires_grad}
    assert {id(p) for g in (adaptor, heads) for p in g["params"]} == everything


@pytest.mark.parametrize("supervision", ["unsupervised", "weak", "full"])
def test_gradients_are_clipped_in_supervised_training_only(supervision: str) -> None:
    trainer = make_trainer(tiny_config("scenario_a", supervision=supervision, noise_std=5.0), supervision == "full")
    seen = []
    original = trainer.optimizers["model"].step
    trainer.optimizers["model"].step = lambda: (
        seen.append(float(torch.stack([p.grad.norm() for p in trainer.parameters if p.grad is not None]).norm())),
        original(),
    )
    steps(trainer, 2)
    assert all(norm > 1.5 for norm in seen) if supervision == "unsupervised" else max(seen) <= 1.0001


def test_training_lowers_the_loss_and_a_row_has_its_parts_and_the_noises_loudness() -> None:
    trainer = make_trainer(tiny_config(epochs=12, head_lr=2e-3, adaptor_lr=1e-3, noise_std=2.0))
    losses = [trainer.epoch() for _ in range(12)]
    assert [row["epoch"] for row in losses] == list(range(1, 13)) and losses[-1]["step"] == 24
    assert losses[-1]["loss"] < 0.8 * losses[0]["loss"]
    for row in losses:
        assert row["loss"] == pytest.approx(row["loss_map"] + row["loss_image"], rel=1e-5)
        assert row["noise_rms"] == pytest.approx(trainer.sigma, rel=0.05)


def test_noise_units() -> None:
    deviation = make_trainer(tiny_config()).features.standard_deviation()
    assert deviation == pytest.approx(1.0, abs=0.02)  # the features here are standard normal
    assert make_trainer(tiny_config(noise_unit="absolute", noise_std=0.015)).sigma == 0.015
    assert make_trainer(tiny_config(noise_std=0.4)).sigma == pytest.approx(0.4 * deviation)
    trainer = make_trainer(tiny_config("scenario_b", noise_unit="adapted_std", noise_std=0.25))
    with torch.no_grad():
        adapted = trainer.forward.adapted(*trainer.features.batch(torch.arange(4), trainer.device))
    trainer.forward.adapted(*trainer.features.batch(torch.arange(4), trainer.device))
    row = one(trainer, torch.arange(4), rng())
    assert float(row["noise_rms"]) == pytest.approx(0.25 * float(adapted.std()), rel=0.05)


def test_every_copy_draws_its_own_noise_scale_where_asked() -> None:
    trainer = make_trainer(tiny_config(noise_unit="absolute", noise_std=0.1, noise_std_high=10.0))
    index, masks = torch.arange(NORMAL), torch.ones(2 * NORMAL, *trainer.forward.size, dtype=torch.bool)
    noise, _ = trainer._fixed_noise(trainer.features.batch(index, trainer.device), Masked.of(masks), rng())
    scales = noise.view(len(masks), -1).std(1)
    assert 0.09 < scales.min() < 0.5 < 2 < scales.max() < 10.1  # the whole range, each copy apart
    assert scales.log().mean().abs() < 1  # uniform in the logarithm: as often below 1 as above
    halves = noise.view(len(masks), 2, -1).std(2)
    assert torch.allclose(*halves.unbind(1), rtol=0.1)  # one for the whole copy
    bounded = Masked.of(masks, masks.numel() + 5)
    padded, _ = trainer._fixed_noise(trainer.features.batch(index, trainer.device), bounded, rng())
    assert padded.isfinite().all() and len(padded) == len(noise) + 5


def test_learned_noise_is_bounded_in_the_features_unit() -> None:
    """Features five times as large: five times the bound, the same price of the noise."""
    small, large = (learned(noise_unit="feature_std") for _ in range(2))
    factor = 5.0
    scaled = Features(*(factor * layer for layer in (large.features.layer2, large.features.layer3)))
    large = LearnedNoiseTrainer(large.config, large.model, scaled, large.training, large.device)
    assert large.generator.beta == pytest.approx(factor * small.generator.beta, rel=1e-4)
    assert small.generator.beta == pytest.approx(0.3 * small.feature_std)
    noise, loss = torch.randn(5, 3, generator=rng()), torch.tensor(0.0)
    assert float(large._generator_loss(loss, factor * noise)) == pytest.approx(
        float(small._generator_loss(loss, noise)), rel=1e-4
    )


def test_standard_deviation_weighs_layers_by_their_channels() -> None:
    layer2, layer3 = torch.full((2, 4, 4, 10), 3.0), torch.randn(2, 2, 2, 30, generator=rng()) * 2
    per_position = torch.cat([layer2.double(), layer3.double().mean((1, 2), keepdim=True).expand(2, 4, 4, 30)], -1)
    mean = float(per_position.mean())
    second = 0.25 * 9 + 0.75 * float(layer3.double().square().mean())
    assert Features(layer2, layer3).standard_deviation() == pytest.approx((second - mean**2) ** 0.5)


def test_simplenet_learns_from_a_clean_and_a_noisy_copy_by_truncated_l1_alone() -> None:
    trainer = make_trainer(tiny_config("simplenet"))
    index = torch.arange(4)
    masks = trainer._synthetic_masks(index, rng())
    assert masks.shape == (8, *SIZE2) and not masks[:4].any() and masks[4:].all()
    maps = torch.randn(8, *SIZE2, generator=rng(1))
    trainer.forward = lambda *_: (maps, maps.amax((1, 2)))
    losses = trainer._losses((), None, None, trainer._targets(index, masks))
    assert float(losses["loss"]) == pytest.approx(float(truncated_l1(maps, masks)))
    assert float(losses["loss_image"]) == 0


def test_class_activation_maps_learn_from_image_labels_alone() -> None:
    trainer = make_trainer(tiny_config("weak_gap_cam", image_size=(64, 64)))
    assert isinstance(trainer.model, GapCamNet) and trainer.defects is None
    index = torch.tensor([0, 1, NORMAL])
    synthetic = torch.zeros(6, *trainer.forward.size, dtype=torch.bool)
    synthetic[0, 1:3] = True
    targets = trainer._targets(index, synthetic)
    assert targets["image"].tolist() == [True, False, True, False, False, True]
    scores = torch.randn(6, generator=rng())
    trainer.forward = lambda *_: (torch.zeros(6, *SIZE2), scores)
    losses = trainer._losses((), None, None, targets)
    assert float(losses["loss_map"]) == 0
    assert float(losses["loss"]) == pytest.approx(float(focal(scores, targets["image"])))


def test_weakly_labelled_images_give_no_map_loss() -> None:
    """SuperSimpleNet without masks: normal images teach the map, defective ones the score only."""
    trainer = make_trainer(tiny_config("scenario_a", supervision="weak"))
    index = torch.tensor([0, NORMAL, 3])
    synthetic = torch.zeros(6, *trainer.forward.size, dtype=torch.bool)
    targets = trainer._targets(index, synthetic)
    known = targets["known"].flatten()
    assert known.tolist() == [True, False, True, True, False, True] and targets["weights"] is None
    maps, scores = torch.randn(6, *trainer.forward.size, generator=rng()), torch.randn(6, generator=rng(1))
    trainer.forward = lambda *_: (maps, scores)
    losses = trainer._losses((), None, None, targets)
    assert float(losses["loss_map"]) == pytest.approx(float(map_loss(maps[known], synthetic[known])))


def test_a_batch_of_weakly_labelled_defective_images_only_trains_the_score() -> None:
    trainer = make_trainer(tiny_config("scenario_a", supervision="weak"))
    row = one(trainer, torch.tensor([NORMAL, NORMAL + 1]), rng())
    assert torch.isfinite(row["loss"]) and float(row["loss_map"]) == 0 and float(row["loss_image"]) > 0
    assert all(p.isfinite().all() for p in trainer.parameters)


def test_full_supervision_targets_real_and_synthetic_regions_with_weights() -> None:
    trainer = make_trainer(tiny_config("supervised", image_size=(64, 64)), defects=True)
    index = torch.tensor([0, NORMAL])
    synthetic = torch.zeros(4, *trainer.forward.size, dtype=torch.bool)
    synthetic[2, 0, :2] = True
    targets = trainer._targets(index, synthetic)
    real = trainer.defects.masks[NORMAL]
    assert targets["map"].sum((1, 2)).tolist() == [0, int(real.sum()), 2, int(real.sum())]
    assert targets["image"].tolist() == [False, True, True, True] and targets["known"] is None
    assert torch.equal(targets["weights"][1], torch.where(real, 2.5, 1.0))
    assert (targets["weights"][0] == 1).all()


def test_mixed_supervision_teaches_the_map_where_it_is_known() -> None:
    """The defective image without a mask has its label alone, in both copies."""
    trainer = make_trainer(tiny_config("mixed", image_size=(64, 64), masks=1), defects=True)
    synthetic = torch.zeros(6, *trainer.forward.size, dtype=torch.bool)
    targets = trainer._targets(torch.tensor([0, NORMAL, NORMAL + 1]), synthetic)
    assert targets["known"].flatten().tolist() == [True, True, False] * 2
    assert targets["image"].tolist() == [False, True, True] * 2
    assert [bool(mask.any()) for mask in targets["map"]] == [False, True, False] * 2


def test_synthetic_noise_stays_off_real_defects_where_asked() -> None:
    inside = {}
    for region in ("outside_defects", "anywhere"):
        config = tiny_config("supervised", image_size=(64, 64), noise_region=region, perlin_threshold=-0.2)
        trainer = make_trainer(config, defects=True)
        index = torch.tensor([NORMAL, NORMAL + 1] * 8)
        masks = trainer._synthetic_masks(index, rng())
        inside[region] = int((masks & trainer.defects.masks[index].repeat(2, 1, 1)).sum())
        assert masks.any()
    assert inside["outside_defects"] == 0 < inside["anywhere"]


@pytest.mark.parametrize("name", ["gaussian", "learned", "supervised"])
def test_a_restored_trainer_continues_bit_for_bit(name: str) -> None:
    def make() -> Trainer:
        if name == "supervised":
            return make_trainer(tiny_config("supervised", image_size=(64, 64), epochs=5), defects=True)
        return learned(epochs=5) if name == "learned" else make_trainer(tiny_config(epochs=5))

    whole = make()
    rows = [whole.epoch() for _ in range(4)]
    first = make()
    assert [first.epoch() for _ in range(2)] == rows[:2]
    state = copy.deepcopy(first.state_dict())
    second = make()
    for value in second.model.parameters():
        value.data += 0.1 * value.requires_grad  # whatever was there is replaced
    second.load_state_dict(state)
    assert [second.epoch() for _ in range(2)] == rows[2:]
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("where", ["loss", "weights"])
def test_non_finite_training_is_noticed_in_its_epoch(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when only the epoch's last step spoiled the weights, after every loss was finite."""
    trainer = make_trainer(tiny_config())
    trainer.epoch()
    if where == "loss":
        monkeypatch.setattr(train, "focal", lambda *_: torch.tensor(float("inf")))
    else:
        step = trainer._step_model

        def spoil(loss: Tensor) -> None:
            step(loss)
            if trainer.step == 4:
                trainer.model.segmentation.conv.weight.data[0, 0] = float("nan")

        monkeypatch.setattr(trainer, "_step_model", spoil)
    with pytest.raises(NonFiniteLoss, match="epoch 2"):
        trainer.epoch()
