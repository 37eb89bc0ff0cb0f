"""Upscaling as matrices: interpolation, pooling, resizing and blur are linear and separable per channel.

With R the interpolation matrix of one axis and P its pooling matrix, the upscaled feature is
``Y = U_y X U_x^T`` with ``U = P R`` (SuperSimpleNet, section 3.1). A k x k convolution of Y is then a 1x1
convolution per tap at low resolution, followed by the k shifted copies of ``U``, first along x, then along y:
about six times fewer operations than convolving Y itself. Channels come last throughout: (B, H, W, C).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def interpolation_matrix(n_in: int, n_out: int, align_corners: bool) -> Tensor:
    """Bilinear interpolation of one axis as a matrix (n_out, n_in), float64; torch's conventions."""
    position = torch.arange(n_out, dtype=torch.float64)
    if align_corners:
        position = position * ((n_in - 1) / max(n_out - 1, 1))
    else:
        position = ((position + 0.5) * (n_in / n_out) - 0.5).clamp(min=0)
    low = position.floor().long().clamp(max=n_in - 1)
    high = (low + 1).clamp(max=n_in - 1)
    weight = position - low
    matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
    rows = torch.arange(n_out)
    matrix[rows, low] += 1 - weight
    matrix[rows, high] += weight
    return matrix


def pooling_matrix(n: int) -> Tensor:
    """3-tap average of one axis, stride 1, zero padding counted: a tridiagonal matrix (n, n) of thirds."""
    ones = torch.ones(n, dtype=torch.float64)
    return (torch.diag(ones) + torch.diag(ones[:-1], 1) + torch.diag(ones[:-1], -1)) / 3


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


def gaussian_blur_matrix(n: int, sigma: float) -> Tensor:
    """Gaussian blur of one axis, kernel 2*ceil(3 sigma)+1, mirrored at the border: a matrix (n, n)."""
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel = kernel / kernel.sum()
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        source = (i + offsets).remainder(max(2 * (n - 1), 1))  # reflection without repeating the edge has this period
        source = torch.minimum(source, 2 * (n - 1) - source) if n > 1 else torch.zeros_like(source)
        matrix[i].index_add_(0, source, kernel)
    return matrix


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # they outlive a prediction that asked for them first
def _tap_matrices(size_in: tuple[int, int], size_out: tuple[int, int], taps: int) -> tuple[Tensor, Tensor]:
    """(H_out, taps * H_in) along y and (W_out, W_in * taps) along x, float32, for one layer."""
    along_y, along_x = (shifted_stack(upscale_matrix(i, o), taps) for i, o in zip(size_in, size_out, strict=True))
    y = along_y.permute(1, 2, 0).reshape(size_out[0], -1)  # (H_out, H_in * taps): input row slow, tap fast
    x = along_x.permute(1, 2, 0).reshape(size_out[1], -1)  # (W_out, W_in * taps)
    return y.float().contiguous(), x.float().contiguous()


class UpscaledConv(nn.Module):
    """k x k convolution (zero padding) of the upscaled, concatenated layers, without forming them.

    Exact up to rounding: ``conv2d(upscale(layer2, layer3), weight, padding=k // 2)``. Holds only the
    interpolation matrices of one pair of sizes, so the weight stays an argument and stays trainable.
    """

    def __init__(self, size2: tuple[int, int], size3: tuple[int, int], size_out: tuple[int, int], taps: int) -> None:
        super().__init__()
        self.taps, self.size_out = taps, size_out
        for layer, size in ((2, size2), (3, size3)):
            y, x = _tap_matrices(size, size_out, taps)
            self.register_buffer(f"y{layer}", y, persistent=False)
            self.register_buffer(f"x{layer}", x, persistent=False)

    def forward(self, layer2: Tensor, layer3: Tensor, weight: Tensor) -> Tensor:
        """(B, h2, w2, C2), (B, h3, w3, C3) and weight (O, C2 + C3, k, k) -> (B, H, W, O)."""
        c2, k = layer2.shape[-1], self.taps
        # One (C, k * O) matrix per row of taps, so that every product lands where the next one reads it.
        taps2, taps3 = (w.permute(2, 1, 3, 0).flatten(2).contiguous() for w in (weight[:, :c2], weight[:, c2:]))
        parts = []
        for images in batch_slices(layer2, layer2[0].numel() // c2 * len(weight) * 2 * k):
            part = self._layer(layer2[images], taps2, self.y2, self.x2)
            parts.append(part + self._layer(layer3[images], taps3, self.y3, self.x3))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _layer(self, features: Tensor, taps: Tensor, along_y: Tensor, along_x: Tensor) -> Tensor:
        b, h, w, c = features.shape
        k, o = self.taps, taps.shape[-1] // self.taps
        rows = features.reshape(b * h * w, c)
        along_x = along_x.expand(b * h, -1, -1)
        stages = [torch.bmm(along_x, (rows @ taps[dy]).view(b * h, w * k, o)) for dy in range(k)]
        stacked = stages[0] if k == 1 else torch.stack([s.view(b, h, -1) for s in stages], dim=2)  # (B, h, k, W O)
        return torch.bmm(along_y.expand(b, -1, -1), stacked.view(b, h * k, -1)).view(b, *self.size_out, o)


def batch_slices(batch: Tensor, values_per_image: int) -> list[slice]:
    """Slices of a batch whose temporary tensors of ``values_per_image`` floats stay small on a CPU.

    Beyond about 32 MB the C library's allocator returns memory to the system after each use, and faulting the
    pages in again costs more than the arithmetic. Other devices take the batch whole.
    """
    step = max(1, 2**22 // max(values_per_image, 1)) if batch.device.type == "cpu" else max(len(batch), 1)
    return [slice(i, min(i + step, len(batch))) for i in range(0, len(batch), step)]


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
def map_matrices(size_in: tuple[int, int], size_out: tuple[int, int], sigma: float) -> tuple[Tensor, Tensor]:
    """Resize (bilinear) and Gaussian blur as one matrix an axis: ``map_out = Y map_in X^T``."""
    y, x = (
        (gaussian_blur_matrix(o, sigma) @ interpolation_matrix(i, o, align_corners=False)).float()
        for i, o in zip(size_in, size_out, strict=True)
    )
    return y, x
