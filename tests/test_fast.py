"""The fast training forward equals the plain one: outputs, every gradient, the noise's gradient, running statistics.

Mostly in float64. There the two forms differ by the rounding of the interpolation matrices alone (float32, about 1e-7),
whereas in float32 a value next to the kink of a ReLU may fall on either side of it in either form, which moves a
gradient of these tiny batches by more than rounding does. A test in float32 follows, on norms.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from support import ONE_OF_EACH, VARIANTS, enliven, relative, rng
from torch import Tensor, nn

from ssn_core.fast.masked import Masked
from ssn_core.fast.moments import Kept
from ssn_core.fast.response import map_windows, pooled_response
from ssn_core.fast.training_forward import FastForward
from ssn_core.models.detectors import Detector, GapCamNet
from ssn_core.models.losses import focal, map_loss

EXACT = 1e-9
SINGLE, KINKED = 1e-5, 5e-3  # float32: outputs, and gradients with a kink or two crossed
#: layer2, layer3: square, and odd as in KolektorSDD2 (640 x 232: 29 columns, then 15)
SQUARE, ODD = ((4, 4), (2, 2)), ((6, 5), (3, 3))
MASKS = ("regions", "none", "first copy only", "second copy only", "everywhere", "one position")


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trainable(model: Detector) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if not name.startswith("trunk")}


def make(name: str, backbone: str = "efficientnet_lite0") -> Detector:
    torch.manual_seed(0)
    return enliven(VARIANTS[name](backbone=backbone)).to(torch.get_default_dtype()).train()


def make_masks(kind: str, batch: int, size: tuple[int, int]) -> Tensor:
    """(2B, H, W) bool."""
    masks = torch.rand(2 * batch, *size, generator=rng(5)) > 0.8
    masks[1::3] = False
    if kind == "none":
        masks[:] = False
    elif kind == "first copy only":
        masks[batch:] = False
    elif kind == "second copy only":
        masks[:batch] = False
    elif kind == "everywhere":
        masks[batch:] = True
    elif kind == "one position":
        masks[:] = False
        masks[batch, -1, -1] = True
    return masks


class Case:
    """One batch, run through either form; the loss is a random linear functional, which sees every output alike."""

    def __init__(self, model: Detector, sizes: tuple = SQUARE, masks: str = "regions", batch: int = 3) -> None:
        size2, size3 = sizes
        c2, c3 = {152: (40, 112), 384: (128, 256)}[model.channels]
        self.model, self.sizes = model, sizes
        self.size = tuple(model.upscaling * side for side in size2)
        self.layer2 = torch.randn(batch, c2, *size2, generator=rng(1))
        self.layer3 = torch.randn(batch, c3, *size3, generator=rng(2))
        self.masks = make_masks(masks, batch, self.size)
        self.dense = 0.5 * torch.randn(2 * batch, model.channels, *self.size, generator=rng(3))
        self.weigh_map = torch.randn(2 * batch, *self.size, generator=rng(4))
        self.weigh_score = torch.randn(2 * batch, generator=rng(6))

    @property
    def layers(self) -> list[Tensor]:
        """Channels last, as the fast form takes them."""
        return [f.permute(0, 2, 3, 1).contiguous() for f in (self.layer2, self.layer3)]

    @property
    def rows(self) -> Tensor:
        """The noise at the masked positions (N, C)."""
        return self.dense.permute(0, 2, 3, 1).flatten(0, 2)[self.masks.flatten()]

    def loss(self, maps: Tensor | None, scores: Tensor, published: bool) -> Tensor:
        if published:
            on_map = map_loss(maps, self.masks) if maps is not None else 0.0
            return on_map + focal(scores, self.masks.flatten(1).any(1))
        return (scores * self.weigh_score).sum() + ((maps * self.weigh_map).sum() if maps is not None else 0.0)

    def plain(self, published: bool = False) -> tuple[Tensor | None, Tensor, Tensor]:
        """Map logits, scores and the gradient of the noise at the masked positions; no class activation map, which
        training does not read."""
        noise = self.dense.clone().requires_grad_()
        maps, scores = self.model.noisy_forward(self.layer2, self.layer3, self.masks[:, None].float(), noise)
        maps = None if isinstance(self.model, GapCamNet) else maps[:, 0]
        self.loss(maps, scores, published).backward()
        return maps, scores, noise.grad.permute(0, 2, 3, 1).flatten(0, 2)[self.masks.flatten()]

    def fast(self, published: bool = False, forward: FastForward | None = None) -> tuple[Tensor, Tensor, Tensor]:
        forward = forward or FastForward(self.model, *self.sizes)
        noise = self.rows.clone().requires_grad_()
        maps, scores = forward(*self.layers, Masked.of(self.masks), noise)
        self.loss(maps, scores, published).backward()
        return maps, scores, torch.zeros_like(noise) if noise.grad is None else noise.grad


def assert_equal_forms(name: str, backbone: str = "efficientnet_lite0", **case: object) -> None:
    first = make(name, backbone)
    second = copy.deepcopy(first)
    wanted = Case(first, **case).plain()
    found = Case(second, **case).fast()
    for what, a, b in zip(("map", "score", "noise gradient"), found, wanted, strict=True):
        assert (a is None) is (b is None) and (a is None or relative(a, b) < EXACT), what
    compare_gradients(second, first)
    compare_statistics(second, first)


def compare_gradients(fast: Detector, plain: Detector) -> None:
    """Every parameter's gradient, in float64.

    A bias that BatchNorm cancels has gradient zero: None in the fast form, rounding in the plain one. It is known by
    being many orders of magnitude below the gradient of the weight beside it.
    """
    wanted = {name: p.grad for name, p in trainable(plain).items()}
    compared = 0
    for name, parameter in trainable(fast).items():
        expected, found = wanted[name], parameter.grad
        if expected is None:
            assert found is None or not found.any(), name
            continue
        beside = wanted[name.removesuffix("bias") + "weight" if name.endswith("bias") else name].abs().max()
        if name.endswith("bias") and expected.abs().max() < 1e-10 * beside:
            assert found is None or found.abs().max() < 1e-6 * beside, name
            continue
        assert found is not None, name
        assert relative(found, expected) < EXACT, name
        compared += 1
    assert compared >= 4


def compare_statistics(fast: Detector, plain: Detector) -> None:
    wanted = {n: b for n, b in plain.named_buffers() if not n.startswith("trunk")}
    assert wanted
    for name, found in fast.named_buffers():
        if name in wanted:
            assert relative(found.float(), wanted[name].float()) < EXACT, name


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_equals_its_plain_form(name: str) -> None:
    assert_equal_forms(name, sizes=ODD)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize(
    "name",
    [
        "ssn-linear-raw-stopped",
        "ssn-linear-adapted-joined",
        "ssn-conv3x3_bn_relu-raw-stopped",
        "gap_cam-linear",
        "simplenet-linear",
    ],
)
def test_every_kind_of_mask(name: str, masks: str) -> None:
    assert_equal_forms(name, masks=masks)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_published_losses_in_single_precision(name: str) -> None:
    """float32, ResNet18's channels, real losses."""
    first = make(name, "resnet18")
    second = copy.deepcopy(first)
    sizes = ((8, 7), (4, 4))
    case = Case(first, sizes)
    wanted, found = case.plain(published=True), Case(second, sizes).fast(published=True)
    assert found[0] is None or relative(found[0], wanted[0]) < SINGLE
    assert relative(found[1], wanted[1]) < SINGLE
    assert relative(case.loss(*found[:2], True), case.loss(*wanted[:2], True)) < SINGLE
    pairs = {"noise": (found[2], wanted[2])}
    for name, parameter in trainable(first).items():
        if not name.endswith("bias"):
            pairs[name] = (trainable(second)[name].grad, parameter.grad)
    for name, (a, b) in pairs.items():
        assert (a - b).norm() < KINKED * b.norm(), name


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("batch", [1, 2, 9])
def test_batch_sizes(batch: int) -> None:
    assert_equal_forms("ssn-linear-raw-stopped", batch=batch, sizes=((9, 7), (5, 4)))


@pytest.mark.usefixtures("double")
def test_batches_of_different_size_through_one_forward() -> None:
    """Buffers are kept between steps; a smaller batch, then a larger one, must not read the last batch's values."""
    models = [make("ssn-linear-raw-stopped") for _ in range(2)]
    forward = FastForward(models[0], *SQUARE)
    for batch in (3, 1, 5):
        found = Case(models[0], batch=batch).fast(forward=forward)
        wanted = Case(models[1], batch=batch).plain()
        assert all(relative(a, b) < EXACT for a, b in zip(found, wanted, strict=True))
    compare_gradients(*models)  # accumulated over the three batches
    compare_statistics(*models)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["ssn-conv3x3_bn_relu-raw-stopped", "gap_cam-bn"])
def test_adapted_features_given_by_the_caller_are_used(name: str) -> None:
    model, again = make(name), make(name)
    case = Case(model)
    masked, forward = Masked.of(case.masks), FastForward(model, *case.sizes)
    given = forward(*case.layers, masked, case.rows, forward.adapted(*case.layers))
    own = FastForward(again, *case.sizes)(*case.layers, masked, case.rows)
    assert all(a is b or torch.equal(a, b) for a, b in zip(given, own, strict=True))
    compare_statistics(model, again)  # the adaptor's BatchNorm saw the batch once


@pytest.mark.usefixtures("double")
def test_backward_twice_through_one_forward_is_the_same() -> None:
    """The published learned-noise step runs two backward passes through one graph."""
    model = make("ssn-linear-raw-stopped")
    case = Case(model)
    noise = case.rows.clone().requires_grad_()
    maps, scores = FastForward(model, *case.sizes)(*case.layers, Masked.of(case.masks), noise)
    loss = case.loss(maps, scores, True)
    inputs = [noise, model.segmentation.conv.weight, model.adaptor[0].weight, model.classification.conv.weight]
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    second = torch.autograd.grad(loss, inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("double")
def test_a_second_forward_never_spoils_the_first_ones_gradients_silently() -> None:
    """Both forwards use the kept buffer: the gradients are right, or the backward pass refuses."""
    model = make("ssn-linear-raw-stopped")
    case = Case(model)
    forward, masked = FastForward(model, *case.sizes), Masked.of(case.masks)
    weight = model.segmentation.conv.weight
    alone = torch.autograd.grad(case.loss(*forward(*case.layers, masked, case.rows), False), weight)[0]
    loss = case.loss(*forward(*case.layers, masked, case.rows), False)
    forward(*(2 * f for f in case.layers), masked, case.rows)
    try:
        found = torch.autograd.grad(loss, weight)[0]
    except RuntimeError as error:
        assert "modified" in str(error)
    else:
        assert relative(found, alone) < EXACT


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("bound", [None, 43])
def test_pooled_response(kernel: int, count: int, bound: int | None) -> None:
    """Convolution, batch statistics, ReLU and pooling, with as many rows as masked positions and with more."""
    b, h, w, c, o = 2, 5, 7, 4, 6
    masks = torch.zeros(2 * b * h * w, dtype=torch.bool)
    masks[torch.randperm(len(masks), generator=rng())[:count]] = True
    masked = Masked.of(masks.view(-1, h, w), bound)
    conv, bn, plain_bn = nn.Conv2d(c + 1, o, kernel, padding=kernel // 2), nn.BatchNorm2d(o), nn.BatchNorm2d(o)
    bn.weight.data, bn.bias.data = torch.randn(2, o, generator=rng(2))
    plain_bn.weight, plain_bn.bias = bn.weight, bn.bias
    clean = torch.randn(b, h, w, o, generator=rng(3), requires_grad=True)
    rows = torch.randn(bound or count, c, generator=rng(1), requires_grad=True)
    seen = torch.randn(2 * b, 1, h, w, generator=rng(4), requires_grad=True)
    inputs = [clean, rows, seen, conv.weight, bn.weight, bn.bias]

    dense = torch.zeros(2 * b * h * w, c).index_put((masked.where[:count],), rows[:count]).view(2 * b, h, w, c)
    noisy = conv(torch.cat([dense.permute(0, 3, 1, 2), seen], 1))
    x = F.relu(plain_bn(noisy + torch.cat([clean, clean]).permute(0, 3, 1, 2)))
    wanted = (x.amax((2, 3)), x.mean((2, 3)))
    found = pooled_response(clean, rows, masked, conv, bn, Kept(), map_windows(seen[:, 0], kernel))
    cotangents = torch.randn(2, 2 * b, o, generator=rng(5))
    results = [
        [*outputs, *torch.autograd.grad(sum((x * y).sum() for x, y in zip(outputs, cotangents, strict=True)), inputs)]
        for outputs in (found, wanted)
    ]
    for ours, theirs in zip([*results[0], *bn.buffers()], [*results[1], *plain_bn.buffers()], strict=True):
        assert relative(ours, theirs) < 1e-10


def test_masked_positions_of_both_copies() -> None:
    masks = torch.zeros(4, 2, 3, dtype=torch.bool)
    masks[0, 0, 1] = masks[1, 1, 2] = masks[2, 0, 1] = masks[3, 1, 0] = True
    found = Masked.of(masks)
    assert found.where.tolist() == [1, 11, 13, 21]
    assert found.source.tolist() == [1, 11, 1, 9]
    assert found.counts.tolist() == [1] * 4
    assert found.clean_counts().tolist() == [2, 0, 2, 2, 2, 2, 2, 2, 2, 1, 2, 1]


def test_masked_positions_within_a_bound() -> None:
    """Rows left over stand in an image after the last and count nothing; positions beyond lose their mask."""
    masks = torch.rand(6, 5, 7, generator=rng()) > 0.8
    exact, wide, narrow = Masked.of(masks), Masked.of(masks, 80), Masked.of(masks, 20)
    n = len(exact.where)
    assert 20 < n < 80 and torch.equal(wide.masks, masks)
    for name in ("where", "source", "counts"):
        assert torch.equal(getattr(wide, name)[:n], getattr(exact, name))
        assert torch.equal(getattr(narrow, name), getattr(exact, name)[:20])
    assert (wide.where[n:] >= masks.numel()).all() and (wide.where[n:] < masks.numel() + 35).all()
    assert not wide.counts[n:].any() and (wide.source < 105).all()
    assert torch.equal(narrow.masks.flatten().nonzero().squeeze(1), narrow.where)
    assert torch.equal(wide.clean_counts(), exact.clean_counts())
