"""Learned noise on random features: which side learns from which loss, under either rule."""

from __future__ import annotations

import copy

import pytest
import torch
from support import relative, rng, tiny_config
from torch import Tensor
from training import (
    CLOSE,
    learned,
    make_trainer,
    one,
    published,
    sample,
    steps,
    unchanged,
    values,
)

from ssn_core.models.losses import focal, map_loss
from ssn_core.models.upscale import upscale
from ssn_core.runs import trainer as train
from ssn_core.runs.features import Features
from ssn_core.runs.learned_noise import GENERATOR_EVERY
from ssn_core.runs.trainer import Trainer
from ssn_core.runs.training_set import TrainingSet


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
    of_loss = torch.autograd.grad(loss, list(twin.generator.parameters()), retain_graph=True)
    wanted.backward()
    found = one(trainer, index, rng(7))
    assert float(found["loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    assert float(found["loss_generator"]) == pytest.approx(float(wanted.detach()), rel=1e-4)
    assert float(found["noise_rms"]) == pytest.approx(float(eps.detach().square().mean().sqrt()), rel=1e-4)
    for a, b in zip(trainer.generator.parameters(), twin.generator.parameters(), strict=True):
        assert b.grad.abs().max() > 0 and relative(a.grad, b.grad) < CLOSE
    pairs = zip(of_loss, twin.generator.parameters(), strict=True)
    assert max(part.abs().max() / b.grad.abs().max() for part, b in pairs) > 0.05  # so its absence would be noticed


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
        draws = batch + 10  # these come near no kink, where rounding decides which way a gradient goes
        twin, turn = literal_batch(trainer, index, rng(draws))
        before = values(trainer.generator)
        one(trainer, index, rng(draws))
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
