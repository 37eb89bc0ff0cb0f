"""The folded twin: same logits as the plain form for every variant and size, accepted by torch's compilers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import ONE_OF_EACH, SIZE, VARIANTS, images, lively
from torch import Tensor, nn

from ssn_core import fold
from ssn_core.errors import InputError
from ssn_core.models.detectors import Detector, SuperSimpleNet

LOGITS = 1e-4
#: KolektorSDD2's width: layer2 has 29 columns, an odd number
WIDE = (80, 232)


def assert_equal_logits(model: Detector, folded: nn.Module, batch: Tensor) -> None:
    with torch.no_grad():
        wanted, found = model(batch), folded(batch)
    assert found[0].shape == (len(batch), *batch.shape[2:]) and found[1].shape == (len(batch),)
    for a, b in zip(found, wanted, strict=True):
        assert b.std() > 1e-3 if b.numel() > 1 else True  # logits that say something
        assert (a - b).abs().max() < LOGITS


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.endswith("joined")])
def test_every_variant_equals_its_plain_form(name: str) -> None:
    model = lively(name)
    assert_equal_logits(model, fold(model), images(2))


@pytest.mark.parametrize("backbone", ["resnet18", "wide_resnet50_2", "efficientnet_lite0"])
def test_every_trunk_on_an_odd_number_of_columns(backbone: str) -> None:
    model = lively("ssn-linear-raw-stopped", backbone, WIDE)
    assert_equal_logits(model, fold(model), images(1, WIDE))


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_with_equal_brightness_light_changes_nothing(backbone: str) -> None:
    model, batch = lively("ssn-linear-raw-stopped", backbone), images(2)
    mean, std = model.trunk.mean, model.trunk.std
    darker = (0.6 * (batch * std + mean) - mean) / std
    with torch.no_grad():
        as_it_is = model(batch)[0]
        assert (model(darker)[0] - as_it_is).abs().max() > 0.01
        model.trunk.equal_brightness = True
        equal = model(batch)[0]
        assert (model(darker)[0] - equal).abs().max() < LOGITS < (equal - as_it_is).abs().max()
        black = -mean / std
        assert model(black.expand_as(batch))[0].isfinite().all()
    assert_equal_logits(model, fold(model), batch)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_any_batch_and_any_size(name: str) -> None:
    model = lively(name, "resnet18")
    folded = fold(model)
    for batch, size in ((1, SIZE), (5, SIZE), (2, WIDE), (32, (32, 32)), (2, SIZE)):
        assert_equal_logits(model, folded, images(batch, size))


@pytest.mark.real_data
@pytest.mark.parametrize("size", [(256, 256), (640, 232)])
def test_on_imagenet_weights(size: tuple[int, int], weights_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet18 as it is used, at the sizes of MVTec AD and KolektorSDD2."""
    monkeypatch.setenv("SSN_WEIGHTS_DIR", str(weights_dir))
    torch.manual_seed(0)
    model = SuperSimpleNet("resnet18", image_size=size, pretrained=True).train()
    with torch.no_grad():
        for step in range(8):  # statistics of the heads, at a size that costs little; the trunk keeps its own
            model(images(2, seed=step))
    assert_equal_logits(model.eval(), fold(model), images(1, size))


def test_the_model_is_left_alone() -> None:
    model = lively("ssn-linear-raw-stopped")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold(model)
    folded(images(1))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not folded.training and not any(p.requires_grad for p in folded.parameters())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_training_the_model_on_does_not_reach_its_twin(name: str) -> None:
    model = lively(name)
    folded, batch = fold(model), images(1)
    with torch.no_grad():
        wanted = [x.clone() for x in folded(batch)]
        for value in model.state_dict().values():
            value.zero_()
        assert all(torch.equal(a, b) for a, b in zip(folded(batch), wanted, strict=True))


def test_no_batch_norm_is_left() -> None:
    for backbone in ("resnet18", "efficientnet_lite0"):
        folded = fold(lively("ssn-conv3x3_bn_relu-raw-stopped", backbone))
        assert not [m for m in folded.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_a_folded_model_is_not_folded_again() -> None:
    with pytest.raises(InputError, match="this one is folded already; use it as it is"):
        fold(fold(VARIANTS["simplenet-linear"](image_size=(32, 32)).eval()))


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(InputError, match="call model.eval"):
        fold(lively("ssn-linear-raw-stopped").train())


def test_folding_and_predicting_leaves_training_possible() -> None:
    """Matrices are cached and shared; those that prediction made must not be inference tensors."""
    size = (40, 72)  # no other test uses it, so that prediction is what fills the cache
    model = lively("ssn-linear-raw-stopped", size=(64, 64))
    with torch.inference_mode():
        fold(model)(images(1, size))
        model(images(1, size))
    maps, _ = model.train()(images(2, size))
    maps.sum().backward()
    assert model.segmentation.conv.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_torch_export_accepts_it(name: str) -> None:
    model = lively(name)
    program = torch.export.export(fold(model), (images(2),))
    assert_equal_logits(model, program.module(), images(2, seed=5))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile_accepts_it(backend: str) -> None:
    torch._dynamo.reset()
    model = lively("ssn-linear-raw-stopped")
    compiled = torch.compile(fold(model), backend=backend, fullgraph=True)
    assert_equal_logits(model, compiled, images(2))
