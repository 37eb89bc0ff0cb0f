"""Trunks: torchvision's activations, shapes, frozen state, and the ladder to the weights with its errors."""

from __future__ import annotations

import shutil
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssn_core.errors import InputError
from ssn_core.models import trunk as trunks
from ssn_core.models.names import BACKBONES
from ssn_core.models.trunk import ResNetTrunk, make_trunk, weights_path

HUB_NAME = "resnet18-f37072fd.pth"


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No weights folder and an empty hub cache; returns the cache's folder of checkpoints."""
    monkeypatch.delenv("SSN_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch_home" / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def random_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return ResNetTrunk("resnet18").state_dict()


def save(state: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


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


def test_efficientnet_weights_load_from_their_package(no_weights: Path) -> None:
    torch.manual_seed(0)
    net = make_trunk("efficientnet_lite0", pretrained=True)
    archive = torch.load(weights_path("efficientnet_lite0"), weights_only=True)
    assert torch.equal(net.stem[0].weight, archive["_conv_stem.weight"])
    assert torch.equal(net.stride16[5]._bn2.running_var, archive["_blocks.10._bn2.running_var"])
    with torch.no_grad():
        layers = net(torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)))
    for layer in layers:  # linear block outputs: large, and of both signs
        assert 1 < layer.std() < 30 and (layer < 0).float().mean() > 0.2


def test_weights_folder_comes_before_the_hub_cache(
    no_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_state: dict[str, torch.Tensor]
) -> None:
    cached = save({k: v + 1 for k, v in random_state.items()}, no_weights / HUB_NAME)
    assert weights_path("resnet18") == cached
    assert torch.equal(make_trunk("resnet18", True).conv1.weight, random_state["conv1.weight"] + 1)
    monkeypatch.setenv("SSN_WEIGHTS_DIR", str(tmp_path / "weights"))
    assert weights_path("resnet18") == cached  # the folder does not hold this backbone
    own = save(random_state, tmp_path / "weights" / "resnet18-imagenet1k-v1.pth")
    assert weights_path("resnet18") == own
    assert torch.equal(make_trunk("resnet18", True).conv1.weight, random_state["conv1.weight"])
    own.rename(own.with_name(HUB_NAME))
    assert weights_path("resnet18") == own.with_name(HUB_NAME)


def test_absent_weights_are_downloaded_into_the_hub_cache(
    no_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_state: dict[str, torch.Tensor]
) -> None:
    source = save({**random_state, "fc.bias": torch.zeros(3)}, tmp_path / "source.pth")

    def fetch(url: str, target: str, hash_prefix: str, **_: Any) -> None:
        assert url.endswith(f"/{HUB_NAME}") and hash_prefix == "f37072fd"
        shutil.copy(source, target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert weights_path("resnet18") is None
    net = make_trunk("resnet18", pretrained=True)
    assert torch.equal(net.layer3[1].conv2.weight, random_state["layer3.1.conv2.weight"])
    assert weights_path("resnet18") == no_weights / HUB_NAME


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("no route to host"),
        urllib.error.HTTPError("https://example.org", 403, "Forbidden", None, None),
        TimeoutError("timed out"),
        RuntimeError('invalid hash value (expected "f37072fd", got "00000000")'),
    ],
)
def test_failed_download_names_three_ways_out(
    no_weights: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError) as caught:
        make_trunk("resnet18", pretrained=True)
    text = str(caught.value)
    assert all(part in text for part in ("(1)", "SSN_WEIGHTS_DIR", "(2)", str(no_weights), "(3)", HUB_NAME))
    assert "resnet18-imagenet1k-v1.pth" in text and "efficientnet_lite0" in text


def test_hub_cache_that_cannot_be_made_names_the_ways_out(no_weights: Path) -> None:
    no_weights.parents[1].write_text("a file where the cache's folder should be")
    with pytest.raises(InputError, match="Three ways out"):
        make_trunk("resnet18", pretrained=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: {k: v for k, v in state.items() if not k.startswith("layer3.1")}, "first 'layer3.1.conv1.w"),
        (lambda state: {**state, "conv1.weight": torch.zeros(64, 3, 3, 3)}, "1 tensors are missing or have another"),
        (lambda state: {"state_dict": state}, "does not fit backbone 'resnet18'"),
        (lambda state: {**state, "conv1.weight": "text"}, "first 'conv1.weight'"),
        (lambda state: list(state.values()), "does not fit backbone 'resnet18'"),
    ],
)
def test_weights_of_another_network_are_refused(
    no_weights: Path, random_state: dict[str, torch.Tensor], spoil: Any, message: str
) -> None:
    path = save(spoil(random_state), no_weights / HUB_NAME)
    with pytest.raises(InputError) as caught:
        make_trunk("resnet18", pretrained=True)
    assert message in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_weights_are_refused(no_weights: Path, random_state: dict[str, torch.Tensor], keep: float) -> None:
    path = save(random_state, no_weights / HUB_NAME)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError, match="cannot be read") as caught:
        make_trunk("resnet18", pretrained=True)
    assert str(path) in str(caught.value)


def test_unknown_backbone() -> None:
    with pytest.raises(InputError, match="backbone='vgg16' is unknown; choose one of wide_resnet50_2"):
        make_trunk("vgg16", pretrained=False)


def test_weights_are_the_first_version() -> None:
    """IMAGENET1K_V2's features are about ten times larger, which breaks the scale of the noise."""
    assert {name: Path(w.url).name for name, w in trunks._RESNET_WEIGHTS.items()} == {
        "wide_resnet50_2": "wide_resnet50_2-95faca4d.pth",
        "resnet18": HUB_NAME,
    }
