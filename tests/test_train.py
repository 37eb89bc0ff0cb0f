"""The training loop on random features: who gets which gradient, what an epoch sees, how a batch is put together."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import relative, tiny_config
from torch import Tensor, nn

from ssn_core.data.datasets import Dataset, Sample
from ssn_core.errors import InputError
from ssn_core.fast.masked import Masked
from ssn_core.models.detectors import GapCamNet, build_model
from ssn_core.models.losses import focal, map_loss, truncated_l1
from ssn_core.models.upscale import upscale
from ssn_core.runs import trainer as train
from ssn_core.runs.config import RunConfig
from ssn_core.runs.features import FLIPS, Features
from ssn_core.runs.learned_noise import GENERATOR_EVERY, LearnedNoiseTrainer
from ssn_core.runs.runner import trainer_of
from ssn_core.runs.trainer import NonFiniteLoss, Trainer
from ssn_core.runs.training_set import RealDefects, TrainingSet, real_defects, region_weights

NORMAL, DEFECTIVE = 8, 2
SIZE2, SIZE3 = (6, 6), (3, 3)
CLOSE = 1e-3  # float32, two forms of one forward: a kink crossed by rounding moves a gradient by this much


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


# --- learned noise: who learns from what


@pytest.mark.parametrize("adaptor", ["linear", "conv3x3_bn_relu"])
@pytest.mark.parametrize(("noise", "cycle"), [("learned_v2", "dddg"), ("learned_v1", "dg")])
def test_adversarial_steps_alternate_and_leave_the_other_side_alone(noise: str, cycle: str, adaptor: str) -> None:
    """v2: three discriminator steps, then one of the generator; nothing else moves, running statistics included."""
    trainer = learned(noise, adaptor=adaptor)
    generator = rng()
    for kind in 2 * cycle:
        model, noise_maker = values(trainer.model), values(trainer.generator)
        one(trainer, torch.arange(4), generator)
        assert unchanged(trainer.generator, noise_maker) is (kind == "d")
        assert unchanged(trainer.model, model) is (kind == "g")


@pytest.mark.parametrize("noise", ["gaussian", "learned_v2"])
def test_running_statistics_see_each_training_batch_once(noise: str) -> None:
    trainer = learned(noise, adaptor="conv3x3_bn_relu")
    steps(trainer, 3)
    counts = {n: int(b) for n, b in trainer.model.named_buffers() if "num_batches" in n and "trunk" not in n}
    assert len(counts) == 3 and set(counts.values()) == {3}


def plain_losses(trainer: Trainer, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Trainer]:
    """The loss and the learned noise of one batch through the plain form, on a copy with fresh gradients."""
    twin = copy.deepcopy(trainer)
    twin.model.zero_grad(set_to_none=True)
    twin.generator.zero_grad(set_to_none=True)
    layers = [f[index].permute(0, 3, 1, 2) for f in (twin.features.layer2, twin.features.layer3)]
    masks = twin._synthetic_masks(index, generator)
    with torch.no_grad():
        adapted = twin.model.adaptor(upscale(*layers)).permute(0, 2, 3, 1)
        both = torch.cat([adapted, adapted]).flatten(0, 2)
    rows = both[masks.flatten()]
    if twin.generator.beta is None:
        noise = twin.generator(rows)
    else:
        noise = twin.generator(rows, torch.randn(len(rows), 32, generator=generator))
    dense = torch.zeros(len(both), twin.model.channels)
    dense = dense.index_put((masks.flatten().nonzero().squeeze(1),), noise)
    dense = dense.view(*masks.shape, -1).permute(0, 3, 1, 2)
    maps, scores = twin.model.noisy_forward(*layers, masks[:, None].float(), dense)
    loss = map_loss(maps[:, 0], masks) + focal(scores, masks.flatten(1).any(1))
    return loss, noise, twin


@pytest.mark.parametrize("noise", ["learned_v1", "learned_v2"])
def test_adversarial_generator_gradient_is_that_of_its_loss(noise: str) -> None:
    """v1: -L. v2: -L + 10 mean(eps^2). Computed by the plain form from equal weights and equal draws."""
    trainer = learned(noise)
    wait = GENERATOR_EVERY["adversarial"][noise] - 1
    steps(trainer, wait)
    index = torch.arange(4)
    loss, eps, twin = plain_losses(trainer, index, rng(7))
    wanted = -loss if noise == "learned_v1" else -loss + 10 * eps.square().mean()
    wanted.backward()
    found = one(trainer, index, rng(7))
    assert float(found["loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    assert float(found["loss_generator"]) == pytest.approx(float(wanted.detach()), rel=1e-4)
    assert float(found["noise_rms"]) == pytest.approx(float(eps.detach().square().mean().sqrt()), rel=1e-4)
    for a, b in zip(trainer.generator.parameters(), twin.generator.parameters(), strict=True):
        assert b.grad.abs().max() > 0 and relative(a.grad, b.grad) < CLOSE


def test_adversarial_generator_feels_the_loss_not_only_the_magnitude() -> None:
    trainer = learned()
    steps(trainer, 3)
    _, eps, twin = plain_losses(trainer, torch.arange(4), rng(7))
    (10 * eps.square().mean()).backward()
    one(trainer, torch.arange(4), rng(7))
    gaps = [
        relative(a.grad, b.grad)
        for a, b in zip(trainer.generator.parameters(), twin.generator.parameters(), strict=True)
    ]
    assert max(gaps) > 0.05


def test_discriminator_step_takes_noise_as_data() -> None:
    """Its gradient is the loss's alone, and none reaches the generator."""
    trainer = learned()
    loss, _, twin = plain_losses(trainer, torch.arange(4), rng(7))
    loss.backward()
    one(trainer, torch.arange(4), rng(7))
    assert all(p.grad is None for p in trainer.generator.parameters())
    for name in ("adaptor.0.weight", "segmentation.conv.weight", "classification.conv.weight"):
        found, wanted = (dict(t.model.named_parameters())[name].grad for t in (trainer, twin))
        assert (found - wanted).norm() < CLOSE * wanted.norm(), name


def published(noise: str, adaptor: str = "linear") -> Trainer:
    return learned(noise, noise_rule="as_published", adaptor=adaptor)


def literal_batch(trainer: Trainer, index: Tensor, generator: torch.Generator) -> tuple[Trainer, bool]:
    """One batch of the published loops (02ae5e3 for v1, c977e14 for v2) in the plain form, backward pass by backward
    pass, up to the optimisers: -> a copy that holds the gradients, and whether its generator steps."""
    twin = copy.deepcopy(trainer)
    model, maker, v1 = twin.model, twin.generator, trainer.config.noise == "learned_v1"
    model.zero_grad(), maker.zero_grad()
    masks = twin._synthetic_masks(index, generator)
    layers = [f[index].permute(0, 3, 1, 2) for f in (twin.features.layer2, twin.features.layer3)]
    raw = upscale(*layers)
    adapted = model.adaptor(raw)
    rows = adapted.permute(0, 2, 3, 1).flatten(0, 2)
    latent = () if v1 else (torch.randn(len(rows), 32, generator=generator),)
    eps = maker(rows, *latent).view(len(index), *raw.shape[2:], -1).permute(0, 3, 1, 2)
    eps = torch.cat([eps, eps])
    where = masks[:, None].float()
    maps, scores = model.heads(*(torch.cat([f, f]) + where * eps for f in (raw, adapted)))
    loss = map_loss(maps[:, 0], masks) + focal(scores, masks.flatten(1).any(1))
    loss.backward(retain_graph=True)
    if v1:
        maker.zero_grad()
        (-loss).backward()
        return twin, True
    turn = (trainer.batch + 1) % 4 == 0
    if turn:
        (-loss + 10 * torch.mean(eps**2)).backward()
    return twin, turn


@pytest.mark.parametrize("adaptor", ["linear", "conv3x3_bn_relu"])
@pytest.mark.parametrize("noise", ["learned_v1", "learned_v2"])
def test_as_published_every_gradient_is_that_of_the_published_loop(noise: str, adaptor: str) -> None:
    trainer, index = published(noise, adaptor), torch.arange(4)
    for batch in range(5):
        twin, turn = literal_batch(trainer, index, rng(batch))
        before = values(trainer.generator)
        one(trainer, index, rng(batch))
        assert unchanged(trainer.generator, before) is not turn
        wanted = dict(twin.model.named_parameters())
        largest = max(float(p.grad.norm()) for p in wanted.values() if p.grad is not None)
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None:
                gap = float((parameter.grad - wanted[name].grad).norm())
                assert gap <= CLOSE * float(wanted[name].grad.norm()) + 1e-5 * largest, (batch, name)
        for ours, theirs in zip(trainer.generator.parameters(), twin.generator.parameters(), strict=True):
            assert not turn or relative(ours.grad, theirs.grad) < CLOSE


def test_as_published_v1_leaves_the_detector_to_its_weight_decay() -> None:
    """Erratum 1: grad L - grad L = 0 on every batch, so nothing is ever learned from the loss."""
    trainer = published("learned_v1")
    start = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    steps(trainer, 6)
    for group in trainer.optimizers["model"].param_groups:
        kept = (1 - group["lr"] * group["weight_decay"]) ** 6
        for parameter in (p for p in group["params"] if p.grad is not None):
            assert not parameter.grad.any()
            name = next(n for n, p in trainer.model.named_parameters() if p is parameter)
            assert torch.allclose(parameter, kept * start[name], rtol=1e-6, atol=0), name


def test_as_published_v2_leaves_the_adaptor_the_magnitudes_gradient_on_the_generators_batch() -> None:
    """Its generator reads features that keep their gradient; only the heads' gradients cancel."""
    trainer = published("learned_v2")
    steps(trainer, 4)
    heads = [p for n, p in trainer.model.named_parameters() if n.startswith(("segmentation", "classification"))]
    assert not any(p.grad.any() for p in heads if p.grad is not None)
    assert all(p.grad.any() for p in trainer.model.adaptor.parameters())


def test_as_published_v2_counts_its_batches_anew_every_epoch() -> None:
    """Five batches an epoch: the generator steps once in each, not every fourth batch of the training."""
    trainer = published("learned_v2")
    trainer.training = TrainingSet([(sample(i), 0) for i in range(20)], 20, [])
    trainer.seen, trainer.labels = torch.zeros(20), trainer.training.labels
    trainer.features = Features(
        *(f.repeat(3, 1, 1, 1)[:20] for f in (trainer.features.layer2, trainer.features.layer3))
    )
    turns = []
    original = trainer.optimizers["generator"].step
    trainer.optimizers["generator"].step = lambda: (turns.append(trainer.step), original())
    for _ in range(3):
        trainer.epoch()
    assert trainer.step == 15 and turns == [4, 9, 14]


@pytest.mark.parametrize("rule", ["adversarial", "as_published"])
def test_published_copies_share_one_noise(rule: str) -> None:
    trainer = published("learned_v2") if rule == "as_published" else learned()
    trainer._synthetic_masks = lambda index, _: torch.ones(2 * len(index), *trainer.forward.size, dtype=torch.bool)
    seen = []
    losses = trainer._losses
    trainer._losses = lambda layers, masked, noise, *rest: seen.append(noise) or losses(layers, masked, noise, *rest)
    steps(trainer, 1)
    first, second = seen[0].chunk(2)
    assert torch.equal(first, second) is (rule == "as_published")


def test_generator_is_no_part_of_the_model() -> None:
    """Nothing of it in what is saved, nothing of it in an eval forward."""
    trainer, plain = learned(), make_trainer(tiny_config())
    assert train.trained_state(trainer.model).keys() == train.trained_state(plain.model).keys()
    counts = [sum(p.numel() for p in t.model.parameters()) for t in (trainer, plain)]
    assert counts[0] == counts[1]
    trainer.model.eval()
    images = torch.randn(1, 3, 64, 64, generator=rng())
    with torch.no_grad():
        wanted = trainer.model(images)
        trainer.generator.forward = None  # calling it would be a TypeError
        found = trainer.model(images)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert [m for m in trainer.model.modules() if m is trainer.generator] == []


def test_published_schedule_never_touches_the_generators_rate() -> None:
    trainer = learned(epochs=20)
    rates = []
    for epoch in range(20):
        trainer.epochs_done = epoch
        trainer._set_learning_rates()
        rates.append(
            [group["lr"] for name in ("model", "generator") for group in trainer.optimizers[name].param_groups]
        )
    base = [trainer.config.adaptor_lr, trainer.config.head_lr]
    for epoch, (adaptor, head, generator) in enumerate(rates):
        factor = 1.0 if epoch < 16 else 0.4 if epoch < 18 else 0.16
        assert (adaptor, head) == pytest.approx((factor * base[0], factor * base[1]))
        assert generator == 1e-4


# --- what is trained, how and on what


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


def test_batch_normalisation_sees_doubled_batches_and_training_lowers_the_loss() -> None:
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


# --- an epoch


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


# --- real defects


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


# --- state


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
