"""Where synthetic anomalies lie (Perlin masks) and what they are (Gaussian or learned noise)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_OCTAVE = 5  # lattices of 2^0 .. 2^5 cells per axis
LATENT_CHANNELS = 32


def perlin_noise(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """``count`` fields of Perlin noise (count, h, w) on the generator's device, each with its own lattice of 2^0..2^5
    cells per axis.

    A field is made at the next power of two of each side, where cells are whole numbers of positions, and resized to
    ``size`` (bilinear), as published with SuperSimpleNet (ICPR 2024, section 3.2). One gradient lattice serves
    every scale, so there is no loop over images. Amplitude: sqrt(2) times the classical noise, about [-1, 1].
    """
    spans, here = [1 << (side - 1).bit_length() for side in size], generator.device
    cells = 2 ** torch.randint(0, MAX_OCTAVE + 1, (2, count, 1), generator=generator, device=here)
    lattice = 2**MAX_OCTAVE + 1
    angle = 2 * math.pi * torch.rand(count, lattice * lattice, generator=generator, device=here)
    y, x = (torch.arange(span, device=here) * cells[i] / span for i, span in enumerate(spans))  # (count, h), (count, w)
    y0, x0 = y.floor().long(), x.floor().long()
    fy, fx = (y - y0)[:, :, None], (x - x0)[:, None, :]

    def corner(dy: int, dx: int) -> Tensor:
        """Dot product of the gradient at one corner of the cell with the offset from it."""
        index = ((y0 + dy)[:, :, None] * lattice + (x0 + dx)[:, None, :]).flatten(1)
        at = angle.gather(1, index).view(count, *spans)
        return torch.cos(at) * (fy - dy) + torch.sin(at) * (fx - dx)

    ty, tx = (f**3 * (f * (f * 6 - 15) + 10) for f in (fy, fx))
    top = torch.lerp(corner(0, 0), corner(0, 1), tx)
    bottom = torch.lerp(corner(1, 0), corner(1, 1), tx)
    field = math.sqrt(2) * torch.lerp(top, bottom, ty)
    if spans == list(size):
        return field
    return F.interpolate(field[None], size, mode="bilinear", align_corners=False)[0]


def perlin_masks(count: int, size: tuple[int, int], threshold: float, generator: torch.Generator) -> Tensor:
    """Binarised Perlin noise, bool (count, h, w): where synthetic noise goes. Each mask is emptied with probability
    one half, so that the classification head sees normal images too (ICPR 2024, section 3.2)."""
    masks = perlin_noise(count, size, generator) > threshold
    kept = torch.rand(count, generator=generator, device=generator.device) > 0.5
    return masks & kept[:, None, None]


def masked_area(size: tuple[int, int], threshold: float, generator: torch.Generator) -> tuple[float, float]:
    """Mean and standard deviation of the positions that one Perlin mask covers, from a thousand of them."""
    areas = perlin_masks(1024, size, threshold, generator).flatten(1).sum(1).float()
    return float(areas.mean()), float(areas.std())


class NoiseGenerator(nn.Module):
    """Learned noise of the course report (its section 6): 1x1 convolutions C [+ 32] -> C/2 -> C/2 -> C with ReLU.

    It sees one position at a time, so it works on rows (N, C) of the masked positions and nothing else.
    v1: no latent, no bound. v2: latent z ~ N(0, 1) of 32 channels and ``beta * tanh`` (equations 2 and 5).
    """

    def __init__(self, channels: int, beta: float | None) -> None:
        super().__init__()
        self.beta = beta
        self.latent = LATENT_CHANNELS if beta is not None else 0
        half = channels // 2
        self.layers = nn.Sequential(
            nn.Linear(channels + self.latent, half),
            nn.ReLU(),
            nn.Linear(half, half),
            nn.ReLU(),
            nn.Linear(half, channels),
        )
        for layer in self.layers[::2]:
            nn.init.xavier_normal_(layer.weight)

    def forward(self, adapted: Tensor, latent: Tensor | None = None) -> Tensor:
        """Adapted features (N, C), and for v2 a latent (N, 32) -> noise (N, C)."""
        if self.beta is None:
            return self.layers(adapted)
        return torch.tanh(self.layers(torch.cat([adapted, latent], dim=1))) * self.beta
