"""Perlin masks against a plain generator written here, one image at a time; learned noise's bounds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from support import rng
from torch.nn import functional as F

from ssn_core.models.noise import NoiseGenerator, perlin_masks, perlin_noise


def plain_perlin(size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """One field by Perlin's recipe (gradients at lattice corners, dot products, quintic fade, bilinear mix) at the next
    powers of two, then resized with pixel centres."""
    spans = [1 << (side - 1).bit_length() for side in size]
    cells = [2 ** int(random.integers(0, 6)) for _ in size]
    angle = random.uniform(0, 2 * math.pi, (cells[0] + 1, cells[1] + 1))
    y, x = (np.arange(span) * count / span for span, count in zip(spans, cells, strict=True))
    r, c = y.astype(int), x.astype(int)
    y, x = (y - r)[:, None], x - c  # places within the cell, (h, 1) and (w,)
    ty, tx = (6 * f**5 - 15 * f**4 + 10 * f**3 for f in (y, x))
    field = np.zeros(spans)
    for dr, dc in itertools.product((0, 1), (0, 1)):
        a = angle[np.ix_(r + dr, c + dc)]
        dot = np.cos(a) * (y - dr) + np.sin(a) * (x - dc)
        field += math.sqrt(2) * (ty if dr else 1 - ty) * (tx if dc else 1 - tx) * dot
    for axis, (side, span) in enumerate(zip(size, spans, strict=True)):
        at = ((np.arange(side) + 0.5) * span / side - 0.5).clip(0, span - 1)
        low = at.astype(int)
        part = (at - low).reshape(-1, 1) if axis == 0 else at - low
        field = field.take(low, axis) * (1 - part) + field.take(np.minimum(low + 1, span - 1), axis) * part
    return field


def statistics(fields: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of each mask, and the sizes of all regions of all masks."""
    masks = fields > threshold
    sizes = []
    for mask in masks:
        labels, count = ndimage.label(mask)
        sizes += list(ndimage.sum_labels(mask, labels, np.arange(1, count + 1)))
    return masks.mean((1, 2)), np.array(sizes)


@pytest.fixture(scope="module", params=[(32, 32), (40, 15)], ids=["square", "odd"])
def samples(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Fields by the package and by the plain generator."""
    random = np.random.default_rng(1)
    plain = np.stack([plain_perlin(request.param, random) for _ in range(250)])
    return perlin_noise(4000, request.param, rng()).numpy(), plain


@pytest.mark.parametrize("threshold", [0.2, 0.6])
def test_masks_are_distributed_as_the_plain_generators(
    samples: tuple[np.ndarray, np.ndarray], threshold: float
) -> None:
    (coverage, sizes), (plain_coverage, plain_sizes) = (statistics(f, threshold) for f in samples)
    error = math.hypot(coverage.std() / len(coverage) ** 0.5, plain_coverage.std() / len(plain_coverage) ** 0.5)
    assert abs(coverage.mean() - plain_coverage.mean()) < 4 * error
    assert 0.0 < coverage.mean() < (0.45 if threshold == 0.2 else 0.15)
    # two-sample Kolmogorov-Smirnov distances, critical at about 1 in 1000
    for a, b in ((coverage, plain_coverage), (sizes, plain_sizes)):
        grid = np.unique(np.concatenate([a, b]))
        gap = np.abs(
            np.searchsorted(np.sort(a), grid, "right") / len(a) - np.searchsorted(np.sort(b), grid, "right") / len(b)
        )
        effective = min(len(b), 250) if a is sizes else len(b)  # regions of one field are not independent
        assert gap.max() < 1.95 / effective**0.5
    for quantile in (0.25, 0.5, 0.9):
        assert np.quantile(coverage, quantile) == pytest.approx(np.quantile(plain_coverage, quantile), abs=0.08)


def test_masks_on_ksdd2s_features_are_the_published_generators() -> None:
    """Statistics of 3000 masks by the published generator at 160 x 58, threshold 0.6: area 1.857 % +- 0.032 %, of the
    4-connected regions a quarter has up to 2 cells, half up to 4, a tenth 32 or more, 8.9 % of the masks are empty."""
    generator = rng()
    masks = np.concatenate([perlin_noise(600, (160, 58), generator).numpy() > 0.6 for _ in range(5)])  # little memory
    assert masks.mean() == pytest.approx(0.01857, abs=0.0014)
    _, sizes = statistics(masks, 0.5)
    assert np.quantile(sizes, [0.25, 0.5, 0.75, 0.9]) == pytest.approx([2, 4, 12, 32], rel=0.15)
    assert np.mean(~masks.any((1, 2))) == pytest.approx(0.089, abs=0.02)


def test_amplitude_is_that_of_the_plain_generator(samples: tuple[np.ndarray, np.ndarray]) -> None:
    fields, plain = samples
    assert fields.std() == pytest.approx(plain.std(), rel=0.06)
    assert 0.8 < np.abs(fields).max() <= 1.01 and 0.8 < np.abs(plain).max() <= 1.01
    assert abs(fields.mean()) < 0.02


def test_every_lattice_size_occurs_on_each_axis_apart() -> None:
    """Zero crossings lie on lattice lines: at row 0 of a field the noise vanishes at every lattice corner."""
    fields = perlin_noise(300, (64, 64), rng())
    assert (fields[:, 0, 0].abs() < 1e-6).all()
    rough = (
        (fields[:, :, 1:] - fields[:, :, :-1]).abs().mean((1, 2)),
        (fields[:, 1:] - fields[:, :-1]).abs().mean((1, 2)),
    )
    ratio = (rough[0] / rough[1]).log2()
    assert ratio.max() > 2.5 and ratio.min() < -2.5  # axes have lattices of their own


def test_the_fade_leaves_no_kink_at_lattice_lines() -> None:
    """Perlin's quintic has no slope at the corners: second differences are of second order there as elsewhere."""
    line = perlin_noise(300, (1, 1024), rng())[:, 0].double()  # 32 positions a cell, at least
    assert (line[:, 2:] - 2 * line[:, 1:-1] + line[:, :-2]).abs().max() < 0.02
    assert line.abs().max() > 0.4


def test_a_lattice_finer_than_the_positions_gives_nothing_but_is_no_error() -> None:
    assert perlin_noise(200, (8, 8), rng()).isfinite().all()


@pytest.mark.parametrize("size", [(64, 64), (160, 58)])
def test_half_of_the_masks_are_emptied(size: tuple[int, int]) -> None:
    masks = perlin_masks(600, size, -10.0, rng())  # a threshold that every field passes
    covered = masks.flatten(1).float().mean(1)
    assert masks.dtype == torch.bool and masks.shape == (600, *size)
    assert set(covered.tolist()) == {0.0, 1.0}
    assert 0.42 < covered.mean() < 0.58


def test_masks_follow_the_generator() -> None:
    first, again, other = (perlin_masks(8, (32, 32), 0.2, rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("beta", [0.5, 0.015])
def test_bounded_noise_of_version_two(beta: float) -> None:
    torch.manual_seed(0)
    generator = NoiseGenerator(24, beta)
    rows, latent = 50 * torch.randn(100, 24, generator=rng()), torch.randn(100, 32, generator=rng(1))
    noise = generator(rows, latent)
    assert noise.shape == (100, 24) and noise.abs().max() <= beta
    assert noise.abs().max() > 0.9 * beta  # the bound is reached with inputs this large
    assert not torch.allclose(noise, generator(rows, -latent))


def test_version_two_is_the_published_network() -> None:
    torch.manual_seed(0)
    generator = NoiseGenerator(24, 0.1)
    rows, latent = torch.randn(5, 24, generator=rng()), torch.randn(5, 32, generator=rng(1))
    x = torch.cat([rows, latent], 1)
    for i, layer in enumerate(linears := list(generator.layers[::2])):
        x = F.linear(x, layer.weight, layer.bias)
        x = x.clamp(min=0) if i < 2 else x
    assert [tuple(layer.weight.shape) for layer in linears] == [(12, 56), (12, 12), (24, 12)]
    assert torch.allclose(generator(rows, latent), 0.1 * torch.tanh(x), atol=1e-6)


def test_version_one_has_no_latent_and_no_bound() -> None:
    torch.manual_seed(0)
    generator = NoiseGenerator(24, None)
    assert generator.latent == 0 and generator.layers[0].in_features == 24
    rows = torch.randn(10, 24, generator=rng())
    assert torch.equal(generator(rows), generator(rows))
    assert generator(1e4 * rows).abs().max() > 100


def test_no_masked_position_gives_no_noise() -> None:
    assert NoiseGenerator(24, 0.1)(torch.zeros(0, 24), torch.zeros(0, 32)).shape == (0, 24)
