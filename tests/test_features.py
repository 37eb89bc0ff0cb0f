"""The feature cache: the trunk's own features of every flipped image, within a bound of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import quiet, tiny_config

import ssn_core as ssn
from ssn_core.data.images import read_image
from ssn_core.errors import InputError
from ssn_core.models.trunk import make_trunk, to_tensor
from ssn_core.runs.features import FLIPS, extract
from ssn_core.runs.store import run


def test_cached_features_are_the_trunks_of_each_flipped_image(tiny_sets: Path) -> None:
    net = make_trunk("efficientnet_lite0", pretrained=False)
    samples = ssn.open_dataset("synthetic", "ring", tiny_sets).train[:3]
    entries = [(s, flip) for s in samples for flip in range(4)]
    lines: list[str] = []
    found = extract(net, entries, (64, 40), torch.device("cpu"), lines.append)
    images = torch.stack([to_tensor(read_image(s.image), (64, 40)).flip(FLIPS[flip]) for s, flip in entries])
    with torch.no_grad():
        layers = net(images)
    for cached, layer in zip((found.layer2, found.layer3), layers, strict=True):
        assert (cached.permute(0, 3, 1, 2) - layer).abs().max() < 1e-4 * layer.abs().max()
        assert not cached.is_inference()
    assert found.sizes == ((8, 5), (4, 2)) and len(found) == 12
    assert lines == ["feature cache: 12 images, 0.00 GB float32 in memory"]


def test_cache_beyond_its_bound_is_halved_then_mapped(tiny_sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_trunk("efficientnet_lite0", pretrained=True)
    entries = [(s, 0) for s in ssn.open_dataset("synthetic", "ring", tiny_sets).train]
    values = 8 * (8 * 8 * 40 + 4 * 4 * 112)
    whole = extract(net, entries, (64, 64), torch.device("cpu"), quiet)
    for bytes_, where in (
        (4 * values, "float32 in memory"),
        (2 * values, "float16 in memory"),
        (values, "memory-mapped"),
    ):
        monkeypatch.setenv("SSN_CACHE_GB", repr(bytes_ / 1e9 * (1 + 1e-9)))
        lines: list[str] = []
        found = extract(net, entries, (64, 64), torch.device("cpu"), lines.append)
        assert where in lines[0], lines
        part = found.batch(torch.tensor([5, 2]), torch.device("cpu"))
        for layer, wanted in zip(part, whole.batch(torch.tensor([5, 2]), torch.device("cpu")), strict=True):
            assert layer.dtype == torch.float32 and (layer - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("text", ["0", "-1", "much", "nan", "inf"])
def test_bad_cache_bound_is_refused(
    text: str, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSN_CACHE_GB", text)
    with pytest.raises(InputError, match=f"SSN_CACHE_GB='{text}' must be a number of gigabytes > 0"):
        run(tiny_config(), tmp_path, tiny_sets, log=quiet)
