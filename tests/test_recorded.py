"""Recorded detectors: the same logits call after call, on a CPU through the detector itself, on a GPU as a graph."""

from __future__ import annotations

import pytest
import torch
from support import SIZE, images, lively

from ssn_core import InputError, fold
from ssn_core.fast.recorded import Recorded
from ssn_core.models.detectors import Detector

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


@pytest.fixture(scope="module")
def model() -> Detector:
    return lively("ssn-linear-raw-stopped", "resnet18")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.float16, 5e-2)])
def test_every_call_gives_the_logits_of_its_images(
    model: Detector, device: str, dtype: torch.dtype, close: float
) -> None:
    """Half precision: within a few hundredths of logits whose deviation is about 1."""
    recorded = Recorded(fold(model).to(device, dtype), 3, SIZE)
    for seed in range(3):
        with torch.no_grad():
            wanted = model(images(3, seed=seed))
        found = recorded(images(3, seed=seed).to(dtype))
        for a, b in zip(found, wanted, strict=True):
            assert a.device.type == "cpu" and a.dtype == dtype
            assert (a.float() - b).abs().max() < close * max(1.0, float(b.std()))


@pytest.mark.parametrize("device", DEVICES)
def test_two_under_way_do_not_disturb_each_other(model: Detector, device: str) -> None:
    first, second = (Recorded(fold(model).to(device), 3, SIZE) for _ in range(2))
    alone = [[x.clone() for x in first(images(3, seed=seed))] for seed in (0, 1)]
    first.start(images(3, seed=0))
    second.start(images(3, seed=1))
    for found, wanted in zip((first.finish(), second.finish()), alone, strict=True):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def test_another_shape_is_refused(model: Detector) -> None:
    with pytest.raises(InputError, match=r"recorded for images of shape \(3, 3, 64, 48\), got \(2, 3, 64, 48\)"):
        Recorded(fold(model), 3, SIZE)(images(2))
