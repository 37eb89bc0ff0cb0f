"""The published formulas by hand on a few numbers."""

from __future__ import annotations

import math

import pytest
import torch

from ssn_core.models.losses import focal, map_loss, truncated_l1


def focal_by_hand(logit: float, target: int) -> float:
    """Lin et al. 2017, equation 4, with gamma 4 and alpha_t = 1: -(1 - p_t)^4 log p_t."""
    p = 1 / (1 + math.exp(-logit))
    p = p if target else 1 - p
    return -((1 - p) ** 4) * math.log(p)


def test_focal_is_the_published_formula() -> None:
    logits, targets = [-3.0, -0.2, 0.0, 0.7, 2.5], [0, 1, 1, 0, 1]
    wanted = [focal_by_hand(x, t) for x, t in zip(logits, targets, strict=True)]
    assert wanted[2] == pytest.approx(math.log(2) / 16)
    found = focal(torch.tensor(logits), torch.tensor(targets))
    assert float(found) == pytest.approx(sum(wanted) / 5, rel=1e-5)
    weights = torch.tensor([1.0, 3.0, 0.0, 0.5, 2.0])
    weighed = sum(w * x for w, x in zip(weights.tolist(), wanted, strict=True)) / 5
    assert float(focal(torch.tensor(logits), torch.tensor(targets), weights)) == pytest.approx(weighed, rel=1e-5)


def test_focal_takes_booleans_and_far_logits() -> None:
    assert float(focal(torch.tensor([100.0, -100.0]), torch.tensor([True, False]))) == 0
    assert float(focal(torch.tensor([-100.0]), torch.tensor([True]))) == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize(
    ("normal", "anomalous", "weights", "wanted"),
    [
        # max(0, 0.5 + logit) of the normal cells, max(0, 0.5 - logit) of the anomalous ones
        ([-2.0, -0.5, -0.1, 0.4], [0.9, 0.5, 0.3, -1.0], None, (0 + 0 + 0.4 + 0.9) / 4 + (0 + 0 + 0.2 + 1.5) / 4),
        ([0.5, 0.5, 0.5], [-0.5], None, 1.0 + 1.0),  # sides of unequal size
        # JIMS 2025 multiplies each cell's loss by its weight and then averages over the cells of its side
        ([0.0], [0.0, 0.0], [1.0, 3.0, 0.75], 0.5 + (1.5 + 0.375) / 2),
    ],
)
def test_truncated_l1_is_a_mean_over_normal_plus_a_mean_over_anomalous_cells(
    normal: list[float], anomalous: list[float], weights: list[float] | None, wanted: float
) -> None:
    logits, targets = torch.tensor(normal + anomalous), torch.tensor([0] * len(normal) + [1] * len(anomalous))
    found = truncated_l1(logits, targets, None if weights is None else torch.tensor(weights))
    assert float(found) == pytest.approx(wanted)


@pytest.mark.parametrize("side", [0, 1])
def test_truncated_l1_with_one_side_empty(side: int) -> None:
    logits = torch.tensor([0.2, -0.4], requires_grad=True)
    found = truncated_l1(logits, torch.full((2,), side))
    wanted = (0.3 + 0.9) / 2 if side else (0.7 + 0.1) / 2
    assert float(found.detach()) == pytest.approx(wanted)
    found.backward()
    assert logits.grad.tolist() == pytest.approx([-0.5, -0.5] if side else [0.5, 0.5])


def test_map_loss_is_the_sum_of_both_and_passes_the_weights_on() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, generator=generator)
    targets = torch.rand(2, 3, 4, generator=generator) > 0.6
    weights = torch.rand(2, 3, 4, generator=generator)
    for w in (None, weights):
        assert float(map_loss(logits, targets, w)) == pytest.approx(
            float(truncated_l1(logits, targets, w) + focal(logits, targets, w))
        )
    assert float(map_loss(logits, targets, weights)) != pytest.approx(float(map_loss(logits, targets)))


def test_no_cells_give_no_loss() -> None:
    """A batch of weakly labelled defective images has no cell with a known target."""
    logits = torch.zeros(0, 3, 4, requires_grad=True)
    assert float(map_loss(logits, torch.zeros(0, 3, 4, dtype=torch.bool)).detach()) == 0
