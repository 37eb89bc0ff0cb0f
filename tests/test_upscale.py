"""Upscaling, convolution of upscaled features, resizing and blur as matrices against torch's own operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support import relative, rng
from torchvision.transforms.functional import gaussian_blur

from ssn_core.fast.moments import Kept
from ssn_core.fast.upscaled_conv import UpscaledConv
from ssn_core.models.upscale import (
    border_bias,
    gaussian_blur_matrix,
    interpolation_matrix,
    map_matrices,
    pooling_matrix,
    shifted_stack,
    upscale,
    upscale_matrix,
)

#: layer2, layer3: even, odd (KolektorSDD2's 640 x 232 has 29 -> 15), and one row only
SIZES = [((8, 8), (4, 4)), ((10, 29), (5, 15)), ((7, 3), (4, 2)), ((4, 6), (2, 3)), ((2, 4), (1, 2))]


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize(("n_in", "n_out"), [(5, 10), (15, 58), (8, 8), (29, 58), (1, 4), (10, 3), (16, 1), (64, 256)])
def test_interpolation_matrix_is_torchs(n_in: int, n_out: int, align: bool) -> None:
    signal = torch.randn(1, 2, n_in, dtype=torch.float64, generator=rng())
    wanted = F.interpolate(signal, n_out, mode="linear", align_corners=align)
    assert (signal @ interpolation_matrix(n_in, n_out, align).T - wanted).abs().max() < 1e-12


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_pooling_matrix_is_torchs(n: int) -> None:
    signal = torch.randn(1, 2, n, dtype=torch.float64, generator=rng())
    wanted = F.avg_pool1d(signal, 3, stride=1, padding=1)
    assert torch.allclose(signal @ pooling_matrix(n).T, wanted, atol=1e-14)


@pytest.mark.parametrize(("size2", "size3"), SIZES)
@pytest.mark.parametrize("factor", [1, 2])
def test_plain_upscale_is_interpolation_then_pooling(
    size2: tuple[int, int], size3: tuple[int, int], factor: int
) -> None:
    layer2 = torch.randn(2, 3, *size2, dtype=torch.float64, generator=rng())
    layer3 = torch.randn(2, 4, *size3, dtype=torch.float64, generator=rng(1))
    size = tuple(factor * side for side in size2)
    found = upscale(layer2, layer3, factor)
    assert found.shape == (2, 7, *size)
    for part, layer in ((found[:, :3], layer2), (found[:, 3:], layer3)):
        y, x = (upscale_matrix(i, o) for i, o in zip(layer.shape[2:], size, strict=True))
        assert (y @ layer @ x.T - part).abs().max() < 1e-12
    one = upscale(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2))[0, 0]  # zero padding counts in the average
    assert one[3, 3] == pytest.approx(1) and one[0, 3] == pytest.approx(2 / 3) and one[0, 0] == pytest.approx(4 / 9)


def test_shifted_stack_reads_what_a_tap_reads() -> None:
    matrix = torch.arange(1.0, 13).view(4, 3)
    stack = shifted_stack(matrix, 5)
    assert stack.shape == (5, 4, 3) and torch.equal(stack[2], matrix)
    assert torch.equal(stack[0][2:], matrix[:2]) and not stack[0][:2].any()
    assert torch.equal(stack[4][:2], matrix[2:]) and not stack[4][2:].any()


@pytest.mark.parametrize("taps", [1, 3, 5])
@pytest.mark.parametrize(("size2", "size3"), SIZES)
def test_upscaled_convolution_equals_the_plain_one(size2: tuple[int, int], size3: tuple[int, int], taps: int) -> None:
    """Outputs and the weight's gradient."""
    layer2, layer3 = torch.randn(3, 5, *size2, generator=rng()), torch.randn(3, 7, *size3, generator=rng(1))
    weight = torch.randn(6, 12, taps, taps, generator=rng(2), requires_grad=True)
    wanted = F.conv2d(upscale(layer2, layer3), weight, padding=taps // 2)
    size = tuple(wanted.shape[2:])
    layers = (layer.permute(0, 2, 3, 1) for layer in (layer2, layer3))
    found = UpscaledConv(size2, size3, size, taps, like=weight)(*layers, weight, Kept()).permute(0, 3, 1, 2)
    assert relative(found, wanted) < 1e-5
    cotangent = torch.randn(wanted.shape, generator=rng(3))
    gradients = (torch.autograd.grad(x, weight, cotangent)[0] for x in (found, wanted))
    assert relative(*gradients) < 1e-5


@pytest.mark.parametrize("taps", [1, 3, 5])
def test_upscaled_convolution_of_a_batch_cut_into_slices(taps: int) -> None:
    layer2, layer3 = torch.randn(5, 4, 6, 3, generator=rng()), torch.randn(5, 2, 3, 4, generator=rng(1))
    weight = torch.randn(6, 7, taps, taps, generator=rng(2))
    conv = UpscaledConv((4, 6), (2, 3), (8, 12), taps, like=weight)
    kept = Kept()
    whole = conv(layer2, layer3, weight, kept)
    single = torch.cat([conv(layer2[i : i + 1], layer3[i : i + 1], weight, kept) for i in range(5)])
    assert whole.shape == (5, 8, 12, 6) and relative(whole, single) < 1e-6


@pytest.mark.parametrize("taps", [1, 3, 5])
@pytest.mark.parametrize("size", [(6, 9), (3, 2), (1, 5)])
def test_border_bias_is_the_convolution_of_a_constant(taps: int, size: tuple[int, int]) -> None:
    weight, bias = torch.randn(4, 3, taps, taps, generator=rng()), torch.randn(3, generator=rng(1))
    wanted = F.conv2d(bias[None, :, None, None].expand(1, 3, *size), weight, padding=taps // 2)
    assert relative(border_bias(weight, bias, size).permute(2, 0, 1)[None], wanted) < 1e-5


@pytest.mark.parametrize(("size_in", "size_out"), [((16, 16), (64, 64)), ((20, 58), (80, 232)), ((32, 16), (128, 64))])
def test_map_matrices_are_resize_then_blur(size_in: tuple[int, int], size_out: tuple[int, int]) -> None:
    low = torch.randn(2, 1, *size_in, generator=rng())
    resized = F.interpolate(low, size_out, mode="bilinear", align_corners=False)
    wanted = gaussian_blur(resized, [25, 25], [4.0, 4.0])[:, 0]
    y, x = map_matrices(size_in, size_out)
    assert relative(y @ low[:, 0] @ x.T, wanted) < 1e-5


@pytest.mark.parametrize("n", [1, 2, 5, 12, 40])
def test_blur_keeps_a_constant_also_where_the_kernel_is_longer_than_the_image(n: int) -> None:
    matrix = gaussian_blur_matrix(n)
    assert torch.allclose(matrix.sum(1), torch.ones(n, dtype=torch.float64)) and (matrix >= 0).all()


def test_matrices_first_made_in_inference_mode_serve_training_later() -> None:
    """The cached matrices are shared by prediction and training; an inference tensor cannot be saved for backward."""
    with torch.inference_mode():
        UpscaledConv((3, 11), (2, 6), (6, 22), 3, like=torch.zeros(1))
        map_matrices((6, 22), (24, 88))
    conv = UpscaledConv((3, 11), (2, 6), (6, 22), 3, like=torch.zeros(1))
    weight = torch.randn(2, 5, 3, 3, requires_grad=True)
    conv(torch.randn(1, 3, 11, 2), torch.randn(1, 2, 6, 3), weight, Kept()).sum().backward()
    low = torch.randn(1, 6, 22, requires_grad=True)
    y, x = map_matrices((6, 22), (24, 88))
    (y @ low @ x.T).sum().backward()
    assert weight.grad.abs().sum() > 0 and low.grad.abs().sum() > 0
