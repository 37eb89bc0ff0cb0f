"""Trunks: torchvision's activations, shapes, frozen state, and weights from their package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssn_core.errors import InputError
from ssn_core.models.names import BACKBONES
from ssn_core.models.trunk import make_trunk
from ssn_core.models.weights import weights_path


@pytest.mark.real_data
def test_activations_equal_the_reference(weights_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = weights_dir / "resnet18-reference-activations.npz"
    if not archive.is_file():
        pytest.skip(f"no resnet18-reference-activations.npz in {weights_dir}")
    monkeypatch.setenv("SSN_WEIGHTS_DIR", str(weights_dir))
    net = make_trunk("resnet18", pretrained=True)
    with np.load(archive) as reference:
        images, *wanted = (torch.from_numpy(reference[name]) for name in ("input", "layer2", "layer3"))
    with torch.no_grad():
        found = net(images)
    for layer, expected in zip(found, wanted, strict=True):
        assert layer.shape == expected.shape and expected.abs().max() > 0.5
        assert (layer - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(64, 64), (80, 40)])
def test_shapes_strides_and_channels(name: str, size: tuple[int, int]) -> None:
    net = make_trunk(name, pretrained=False)
    with torch.no_grad():
        layers = net(torch.zeros(2, 3, *size))
    up = 0 if name == "efficientnet_lite0" else 8  # where a side is an odd number of strides
    sizes = (tuple(side // 8 for side in size), tuple((side + up) // 16 for side in size))
    assert [tuple(f.shape) for f in layers] == [(2, c, *s) for c, s in zip(BACKBONES[name], sizes, strict=True)]


def test_frozen_and_in_eval_mode() -> None:
    net = make_trunk("resnet18", pretrained=False)
    assert not net.training and not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_efficientnet_weights_load_from_their_package() -> None:
    torch.manual_seed(0)
    net = make_trunk("efficientnet_lite0", pretrained=True)
    archive = torch.load(weights_path("efficientnet_lite0"), weights_only=True)
    assert torch.equal(net.stem[0].weight, archive["_conv_stem.weight"])
    assert torch.equal(net.stride16[5]._bn2.running_var, archive["_blocks.10._bn2.running_var"])
    with torch.no_grad():
        layers = net(torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)))
    for layer in layers:  # linear block outputs: large, and of both signs
        assert 1 < layer.std() < 30 and (layer < 0).float().mean() > 0.2


def test_unknown_backbone() -> None:
    with pytest.raises(InputError, match="backbone='vgg16' is unknown; choose one of wide_resnet50_2"):
        make_trunk("vgg16", pretrained=False)
