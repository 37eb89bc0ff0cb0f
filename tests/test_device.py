"""A training step on its device: today's random stream on the CPU, and nothing that waits for the host elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import rng, tiny_config
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from training import CLOSE, learned, make_trainer, one, published

from ssn_core.fast.masked import Masked
from ssn_core.models.noise import masked_area, perlin_masks
from ssn_core.runs import trainer as train
from ssn_core.runs.features import Features
from ssn_core.runs.trainer import Trainer

GOLDEN = Path(__file__).parent / "golden" / "training_stream.json"
STEPS = 4
META = torch.device("meta")


TRAINERS: dict[str, Callable[[], Trainer]] = {
    "gaussian": lambda: make_trainer(tiny_config()),
    "scenario_b": lambda: make_trainer(tiny_config("scenario_b", noise_unit="adapted_std")),
    "simplenet": lambda: make_trainer(tiny_config("simplenet")),
    "gap_cam": lambda: make_trainer(tiny_config("weak_gap_cam", image_size=(64, 64))),
    "supervised": lambda: make_trainer(tiny_config("supervised", image_size=(64, 64)), defects=True),
    "mixed": lambda: make_trainer(tiny_config("mixed", image_size=(64, 64), masks=1), defects=True),
    "learned_v2": learned,
    "learned_v1_as_published": lambda: published("learned_v1"),
    "learned_v2_as_published": lambda: published("learned_v2"),
}


def digest(values: Tensor) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]


def stream(trainer: Trainer) -> list[dict[str, Any]]:
    """What the generator gave to each step, and what it was left with."""
    generator, rows, seen = rng(3), [], {}
    masks, losses = trainer._synthetic_masks, trainer._losses
    trainer._synthetic_masks = lambda *args: seen.setdefault("masks", masks(*args))
    trainer._losses = lambda layers, masked, noise, *rest: (
        seen.update(noise=noise.detach()) or losses(layers, masked, noise, *rest)
    )
    for _ in range(STEPS):
        seen.clear()
        loss = float(one(trainer, torch.tensor([0, 7, 3, 5]), generator)["loss"])
        rows.append(
            {
                "masks": digest(seen["masks"]),
                "state": digest(generator.get_state()),
                "masked": len(seen["noise"]),
                "noise": float(seen["noise"].double().square().mean().sqrt()),
                "loss": loss,
            }
        )
    return rows


@pytest.mark.parametrize("name", TRAINERS)
def test_the_random_stream_on_the_cpu_is_what_it_was(name: str) -> None:
    """Masks and the generator's state bit for bit; noise and losses up to rounding, which a processor may change."""
    found, wanted = stream(TRAINERS[name]()), json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    for step, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        for exact in ("masks", "state", "masked"):
            assert ours[exact] == theirs[exact], (step, exact)
        for rounded in ("noise", "loss"):
            assert ours[rounded] == pytest.approx(theirs[rounded], rel=1e-4), (step, rounded)


# --- as many rows as masked positions, or a bound of them


@pytest.mark.parametrize("name", TRAINERS)
def test_rows_beyond_the_masked_positions_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, every gradient and the running statistics, with noise where nothing is masked that would show."""
    exact, padded = TRAINERS[name](), TRAINERS[name]()
    exact.step = padded.step = exact.batch = padded.batch = 3  # the generator's turn
    index, randn, bound = torch.tensor([0, 7, 3, 5]), torch.randn, 8 * math.prod(exact.forward.size) - 11
    wanted, real = one(exact, index, rng(3)), Masked.of
    drawn: list[int] = []

    def of(masks: Tensor, bound: int | None) -> Masked:
        drawn.append(int(masks.sum()))
        return real(masks, bound)

    def with_rest(rows: int, columns: int, **options: Any) -> Tensor:
        values = randn(drawn[-1] if rows == bound else rows, columns, **options)
        return torch.cat([values, torch.full((rows - len(values), columns), 9.0)])

    monkeypatch.setattr(Masked, "of", of)
    monkeypatch.setattr(torch, "randn", with_rest)
    padded._bound = lambda copies: bound
    found = one(padded, index, rng(3))
    assert drawn[0] < bound
    for key, value in wanted.items():
        assert float(found[key]) == pytest.approx(float(value), rel=1e-5, abs=1e-9), key
    for ours, theirs in zip(modules(padded), modules(exact), strict=True):
        for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert (a.grad is None) is (b.grad is None)
            assert a.grad is None or (a.grad - b.grad).norm() <= CLOSE * b.grad.norm() + 1e-7, key
        for (key, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-6), key


def modules(trainer: Trainer) -> list[nn.Module]:
    return [trainer.model, *([trainer.generator] if trainer.generator is not None else [])]


def test_bound_of_masked_positions() -> None:
    """Enough for every batch seen, and not much more than they need."""
    trainer = make_trainer(tiny_config(perlin_threshold=0.2))
    assert trainer._bound(64) is None
    trainer.device = META
    assert trainer._bound(64) == 64 * math.prod(trainer.forward.size) // 2  # SimpleNet's: one copy of two
    trainer.area = masked_area((64, 64), 0.2, rng())
    trainer.forward.size = (64, 64)
    counts = [int(perlin_masks(64, (64, 64), 0.2, rng(seed)).sum()) for seed in range(20)]
    assert max(counts) < trainer._bound(64) < 2.5 * np.mean(counts)
    trainer.area = (4000.0, 100.0)
    assert trainer._bound(1) == 64 * 64  # never more than there are


# --- nothing waits for the host


class Unknown(torch.Generator):
    """Of the meta device, whose tensors have shapes and no values: what needs a value on the host raises there."""

    device = META


class NoTransfers(TorchDispatchMode):
    """Raises where a tensor goes from the host to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in args if isinstance(value, Tensor)]
        moved = (
            func is torch.ops.aten._to_copy.default and (kwargs.get("device") or META).type != tensors[0].device.type
        )
        assert not moved and len({t.device for t in tensors if t.dim()}) < 2, func
        return func(*args, **kwargs)


def moved(host: Trainer, features: Features, device: torch.device) -> Trainer:
    """The same anew on another device."""
    trainer = type(host)(host.config, host.model.to(device), features, host.training, device)
    trainer.defects = None if host.defects is None else host.defects.to(device)
    return trainer


@pytest.mark.parametrize("name", TRAINERS)
def test_no_step_needs_a_value_on_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_random_state", lambda self, seed: Unknown())
    monkeypatch.setattr(train, "masked_area", lambda *_: (10.0, 3.0))
    monkeypatch.setattr(Features, "standard_deviation", lambda self: 1.0)
    host = TRAINERS[name]()
    features = Features(host.features.layer2.to(META), host.features.layer3.to(META))
    trainer = moved(host, features, META)
    index = torch.zeros(4, dtype=torch.long, device=META)
    with NoTransfers():
        for _ in range(STEPS):
            losses = trainer.train_batch(index, features.batch(index, META), Unknown())
    assert {value.device for value in losses.values()} == {META}


def test_what_the_meta_device_refuses() -> None:
    """The test above is worth what these are."""
    values = torch.zeros(4, device=META)
    for wait in (Tensor.nonzero, Tensor.tolist, Tensor.cpu, lambda x: x[x > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait(values)
    for wait in (Tensor.item, float, bool):
        with pytest.raises(RuntimeError):
            wait(values.sum())
    with pytest.raises(AssertionError), NoTransfers():
        torch.zeros(4).to(META)


class StandIn:
    """A stream, or an event: it only tells when it was recorded and waited for."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def record_event(self) -> StandIn:
        self.told.append("sent")
        return self

    def wait_event(self, event: StandIn) -> None:
        self.told.append("waited")


def test_each_batch_is_sent_one_step_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a cache in main memory: in order, whole, and the second batch is under way before the first step begins."""
    features, told = make_trainer(tiny_config()).features, []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: StandIn(told))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: StandIn(told))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: told.append("held"))
    order, host = torch.randperm(8, generator=rng()), torch.device("cpu")
    for index, layers in zip(order.split(3), features._ahead(order.split(3), host), strict=True):
        told.append("step")
        assert all(torch.equal(a, b) for a, b in zip(layers, features.batch(index, host), strict=True))
    before = ["waited", "held", "held", "step"]
    assert told == ["sent", "sent", *before, "sent", *before, *before]


def test_features_move_to_a_gpu_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    features = make_trainer(tiny_config()).features
    size = 4 * (features.layer2.numel() + features.layer3.numel())
    monkeypatch.setattr(Tensor, "to", lambda self, device: self.clone())
    assert features.near(torch.device("cpu")) is features
    for free, moved in ((2 * size, False), (3 * size, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert (features.near(torch.device("cuda")) is not features) is moved


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on_cuda(name: str) -> Trainer:
    host, device = TRAINERS[name](), torch.device("cuda")
    features = host.features.near(device)
    return moved(host, features, device)


@cuda
@pytest.mark.parametrize("name", TRAINERS)
def test_no_step_synchronises(name: str) -> None:
    trainer = on_cuda(name)
    generator, index = trainer._random_state(0), torch.tensor([0, 7, 3, 5], device="cuda")

    def step() -> None:
        trainer.train_batch(index, trainer.features.batch(index, trainer.device), generator)

    step()  # kernels are loaded and buffers made
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(STEPS):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@cuda
@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_on_the_device_is_the_step_on_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal masks and noise, drawn on the host: equal losses and gradients up to rounding."""
    host, device = TRAINERS[name](), on_cuda(name)
    bound, index, randn, drawn = 8 * math.prod(host.forward.size), torch.tensor([0, 7, 3, 5]), torch.randn, {}
    host._bound = device._bound = lambda copies: bound
    synthetic, generator = host._synthetic_masks, rng(3)

    def masks(index: Tensor, generator: torch.Generator) -> Tensor:
        drawn.update(masks=synthetic(index, generator), state=generator.get_state())
        return drawn["masks"]

    host._synthetic_masks, device._synthetic_masks = masks, lambda *_: drawn["masks"].cuda()
    wanted = one(host, index, generator)
    monkeypatch.setattr(torch, "randn", lambda *size, generator, device: randn(*size, generator=generator).cuda())
    generator.set_state(drawn["state"])
    found = device.train_batch(index.cuda(), device.features.batch(index.cuda(), device.device), generator)
    for key, value in wanted.items():
        assert float(found[key]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), key
    for ours, theirs in zip(modules(device), modules(host), strict=True):
        for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert a.grad is None or (a.grad.cpu() - b.grad).norm() <= CLOSE * b.grad.norm() + 1e-6, key


@cuda
def test_features_that_stay_on_the_host_arrive_in_order() -> None:
    trainer, device = make_trainer(tiny_config()), torch.device("cuda")
    order = torch.randperm(8, generator=rng())
    far, near = (list(f.batches(order, 3, device)) for f in (trainer.features, trainer.features.near(device)))
    for (index, layers), (wanted, expected) in zip(far, near, strict=True):
        assert torch.equal(index, wanted) and all(torch.equal(a, b) for a, b in zip(layers, expected, strict=True))
