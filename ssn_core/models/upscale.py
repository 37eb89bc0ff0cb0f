"""Upscaling as matrices: interpolation, pooling, resizing and blur are linear and separable per channel.

With R the interpolation matrix of one axis and P its pooling matrix, the upscaled feature is
``Y = U_y X U_x^T`` with ``U = P R`` (SuperSimpleNet, section 3.1). A k x k convolution of Y is then a 1x1
convolution per tap at low resolution, followed by the k shifted copies of ``U``, first along x, then along y:
about six times fewer operations than convolving Y itself.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

BLUR_SIGMA = 4.0  # pixels of the image


def interpolation_matrix(n_in: int, n_out: int, align_corners: bool) -> Tensor:
    """Bilinear interpolation of one axis as a matrix (n_out, n_in), float64: torch's own, of every unit vector."""
    units = torch.eye(n_in, dtype=torch.float64)[None]
    return F.interpolate(units, n_out, mode="linear", align_corners=align_corners)[0].T.contiguous()


def pooling_matrix(n: int) -> Tensor:
    """3-tap average of one axis, stride 1, zero padding counted: a tridiagonal matrix (n, n) of thirds."""
    return F.avg_pool1d(torch.eye(n, dtype=torch.float64)[None], 3, stride=1, padding=1)[0]


def upscale_matrix(n_in: int, n_out: int) -> Tensor:
    """``U = P R`` (n_out, n_in): interpolate with aligned corners, then average over 3."""
    return pooling_matrix(n_out) @ interpolation_matrix(n_in, n_out, align_corners=True)


def shifted_stack(matrix: Tensor, taps: int) -> Tensor:
    """The ``taps`` shifted copies of a matrix (n_out, n_in), zero outside: (taps, n_out, n_in).

    Copy t has row i equal to row ``i + t - taps // 2``, which is what tap t of a zero-padded convolution reads.
    """
    half = taps // 2
    padded = F.pad(matrix, (0, 0, half, half))
    return torch.stack([padded[t : t + matrix.shape[0]] for t in range(taps)])


def gaussian_blur_matrix(n: int) -> Tensor:
    """Gaussian blur of one axis, kernel 2*ceil(3 sigma)+1, mirrored at the border: a matrix (n, n)."""
    return torch.from_numpy(gaussian_filter1d(np.eye(n), BLUR_SIGMA, axis=0, mode="mirror", truncate=3))


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # they outlive a prediction that asked for them first
def tap_matrix(n_in: int, n_out: int, taps: int) -> Tensor:
    """The shifted copies of ``U`` side by side, (n_out, n_in * taps), input slow and tap fast, float64."""
    return shifted_stack(upscale_matrix(n_in, n_out), taps).permute(1, 2, 0).flatten(1)


def nonzero_columns(matrix: Tensor) -> slice:
    """The columns from the first to the last that hold anything."""
    columns = matrix.any(0).nonzero()
    return slice(int(columns.min()), int(columns.max()) + 1)


def upscale(layer2: Tensor, layer3: Tensor, factor: int = 2) -> Tensor:
    """The plain form: both layers to ``factor`` times layer2's size, concatenated, 3x3-averaged.

    (B, C2, h, w), (B, C3, h3, w3) -> (B, C2 + C3, factor h, factor w). SuperSimpleNet upscales by 2
    (ICPR 2024, section 3.1); SimpleNet keeps layer2's size (factor 1).
    """
    size = (layer2.shape[2] * factor, layer2.shape[3] * factor)
    layers = [F.interpolate(f, size, mode="bilinear", align_corners=True) for f in (layer2, layer3)]
    return F.avg_pool2d(torch.cat(layers, dim=1), 3, stride=1, padding=1)


def border_bias(weight: Tensor, bias: Tensor, size: tuple[int, int]) -> Tensor:
    """What a constant ``bias`` (C,) of the input adds to a zero-padded convolution: (H, W, O).

    Taps outside the image see padding, not the bias, so the border differs from the interior.
    """
    k = weight.shape[-1]
    y, x = (shifted_stack(torch.ones(n, 1, device=bias.device), k)[:, :, 0] for n in size)  # (k, n)
    return torch.einsum("ocyx,c,yh,xw->hwo", weight, bias, y, x)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def map_matrices(size_in: tuple[int, int], size_out: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize (bilinear) and Gaussian blur as one matrix an axis: ``map_out = Y map_in X^T``."""
    y, x = (
        (gaussian_blur_matrix(o) @ interpolation_matrix(i, o, align_corners=False)).float()
        for i, o in zip(size_in, size_out, strict=True)
    )
    return y, x
