"""Four procedural scenes, with and without a defect: a ring, a weave, a screw and a brushed plate.

Each scene function maps pixel coordinates to brightness in [0, 1]. It takes two random generators: ``rng`` decides the
object, its pose, light and texture, ``marks`` the defect. Drawn twice with equal ``rng``, once without the defect, the
two pictures differ by the defect alone; that difference is the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy import ndimage

Array = np.ndarray


def _ring(x: Array, y: Array, rng: Generator, defect: str | None, marks: Generator) -> Array:
    """A glass neck seen from above, lit from behind: rim with highlights around a dark opening."""
    x, y = x - rng.uniform(-0.06, 0.06), y - rng.uniform(-0.06, 0.06)
    radius = np.hypot(x, y * rng.uniform(0.98, 1.02)) / rng.uniform(0.76, 0.84)
    angle = np.arctan2(y, x) + rng.uniform(0, 2 * np.pi)
    glass = np.array([0.30, 0.19, 0.09]) * rng.uniform(0.85, 1.15)
    picture = np.ones((*x.shape, 3)) * rng.uniform(0.84, 0.92)
    swirl = _clouds(rng, x.shape, 0.06)
    body = 0.7 + 0.5 * _bump(radius, 0.95, 0.06) + 0.12 * np.cos(2 * angle) + 0.08 * swirl
    picture = _paint(picture, _tint(body, glass), _inside(1 - radius))
    for centre, spread, strength in ((0.86, 0.025, 0.5), (0.75, 0.04, 0.35), (0.66, 0.02, 0.6)):
        arcs = 0.65 + 0.35 * np.cos(rng.integers(2, 5) * angle + rng.uniform(0, 2 * np.pi))
        picture += _tint(strength * arcs * _bump(radius, centre, spread), (1.0, 0.9, 0.72))
    opening = 0.35 + 0.5 * _bump(radius, 0, 0.35) + 0.06 * swirl
    picture = _paint(picture, _tint(opening, glass), _inside(0.6 - radius))
    u, v = radius * np.cos(angle), radius * np.sin(angle)
    if defect == "contamination":
        for _ in range(marks.integers(1, 4)):
            at, where = marks.uniform(0, 0.45), marks.uniform(0, 2 * np.pi)
            blob = _blob(u, v, at * np.cos(where), at * np.sin(where), marks.uniform(0.07, 0.16), marks)
            tint = marks.uniform(0.35, 0.75) * np.array([1.0, 0.93, marks.uniform(0.6, 0.9)])
            picture = _paint(picture, _tint(0.9 + 0.2 * _clouds(marks, x.shape, 0.02), tint), _inside(blob))
    elif defect is not None:
        size = marks.uniform(0.22, 0.34) if defect == "broken_large" else marks.uniform(0.09, 0.13)
        at, where = marks.uniform(0.68, 0.88), marks.uniform(0, 2 * np.pi)
        blob = _blob(u, v, at * np.cos(where), at * np.sin(where), size, marks)
        blob = np.minimum(blob, np.minimum(1.0 - radius, radius - 0.57))  # glass only: neither opening nor background
        shards = _shards(x, y, blob > 0, marks) * (1 - 0.7 * _bump(blob, 0, 0.02))
        picture = _paint(picture, _tint(shards, (1.0, 0.94, 0.82)), _inside(blob))
    return picture


def _weave(x: Array, y: Array, rng: Generator, defect: str | None, marks: Generator) -> Array:
    """Plain weave: warp and weft threads passing over each other in turn, slightly distorted."""
    turned = _turn(x, y, rng.uniform(-0.2, 0.2))
    picture = _fabric(*(a + 0.012 * _clouds(rng, x.shape, 0.12) + rng.uniform(0, 2) for a in turned), rng)
    if defect == "cut":
        along, across = _stroke(x, y, marks, bend=0.25)
        length, gap = marks.uniform(0.25, 0.5), marks.uniform(0.02, 0.035)
        opening = gap * np.sqrt(np.clip(1 - (along / length) ** 2, 0, None))
        cut = _dash(along, across + 0.012 * _clouds(marks, x.shape, 0.02), length, opening)
        picture = _paint(picture, 0.07, _inside(cut))
        picture += (0.22 * _bump(cut, -0.025, 0.012) * (np.abs(along) < length))[:, :, None]
    elif defect == "hole":
        hole = _blob(x, y, *marks.uniform(-0.7, 0.7, 2), marks.uniform(0.1, 0.2), marks)
        fringe = _bump(hole, -0.02, 0.025) * (0.6 + 0.4 * _clouds(marks, x.shape, 0.015))
        picture = _paint(picture, 0.06, _inside(hole)) + 0.15 * fringe[:, :, None]
    elif defect == "colour":
        spot = _blob(x, y, *marks.uniform(-0.65, 0.65, 2), marks.uniform(0.15, 0.3), marks)
        stain = np.array([(0.85, 0.35, 0.35), (0.4, 0.55, 0.95), (0.45, 0.75, 0.4), (0.8, 0.6, 0.3)][marks.integers(4)])
        picture = _paint(picture, picture * stain, np.clip(0.5 + spot / 0.08, 0, 1) * marks.uniform(0.7, 1.0))
    elif defect == "thread":
        along, across = _stroke(x, y, marks, bend=0.7)
        length = marks.uniform(0.35, 0.65)
        across = across + 0.03 * np.sin(along * marks.uniform(6, 12) + marks.uniform(0, 6))
        picture = _paint(picture, picture * 0.6, _inside(_dash(along, across - 0.025, length, 0.02)))  # its shadow
        tone = marks.choice([0.92, 0.15]) * np.array([1.0, 0.97, 0.9])
        picture = _paint(picture, tone, _inside(_dash(along, across, length, 0.018)))
    return picture


def _fabric(u: Array, v: Array, rng: Generator) -> Array:
    pitch = rng.uniform(0.098, 0.106)  # about 20 threads a side
    warp_tone, weft_tone = rng.uniform(0.50, 0.58), rng.uniform(0.40, 0.48)
    i, j = np.floor(u / pitch).astype(int), np.floor(v / pitch).astype(int)
    tones = rng.normal(1, 0.05, (2, 256))  # each thread is dyed a little differently
    p, q = u / pitch - i - 0.5, v / pitch - j - 0.5  # position in the crossing, -0.5 .. 0.5
    over = (i + j) % 2 == 0
    warp = warp_tone * tones[0, i % 256] * np.cos(2.4 * p) * (0.75 + 0.25 * np.cos(2.6 * q))
    weft = weft_tone * tones[1, j % 256] * np.cos(2.4 * q) * (0.75 + 0.25 * np.cos(2.6 * p))
    fibres = 1 + 0.08 * _clouds(rng, u.shape, 0.008) + 0.06 * _clouds(rng, u.shape, 0.3)
    tint = np.array([1.0, rng.uniform(0.96, 1.0), rng.uniform(0.88, 0.96)])
    return _tint(np.where(over, warp, weft) * fibres, tint)


def _thread(x: Array, y: Array, rng: Generator, defect: str | None, marks: Generator) -> Array:
    """A countersunk screw from the side, at any angle, on light ground; grey."""
    turn = rng.uniform(0, 2 * np.pi)
    x, y = x - rng.uniform(-0.06, 0.06), y - rng.uniform(-0.06, 0.06)
    s, t = (a / rng.uniform(0.97, 1.03) for a in _turn(x, y, turn))  # along (tip at +), across
    ground = rng.uniform(0.76, 0.84) + 0.012 * _clouds(rng, x.shape, 0.15)
    roll = rng.uniform(0, 1)  # of the thread about its axis
    if defect == "bent_front":
        start, side = marks.uniform(0.42, 0.55), marks.choice([-1, 1])
        t = t - side * marks.uniform(0.4, 0.9) * np.clip(s - start, 0, None) ** 1.5
    crest = np.ones_like(s)
    if defect == "flat_thread":
        middle, extent, side = marks.uniform(-0.05, 0.5), marks.uniform(0.06, 0.11), marks.choice([-1, 1])
        worn = np.clip(1.5 - np.abs(s - middle) / extent, 0, 1) * (t * side > -0.04)
        crest = 1 - worn
    metal, edge = _screw(s, t, crest, roll, rng)
    if defect in ("scratch_head", "scratch_neck"):
        place = marks.uniform(-0.72, -0.66) if defect == "scratch_head" else marks.uniform(-0.48, -0.25)
        reach = 0.16 if defect == "scratch_head" else 0.07
        along, across = _stroke(s, t, marks, bend=0.8, at=(place, marks.uniform(-0.5, 0.5) * reach))
        length = marks.uniform(0.06, 0.13)
        line = _dash(along, across, length, marks.uniform(0.012, 0.018), 0.3)
        line = np.minimum(line, edge - 0.01)  # on the metal only
        metal = _paint(metal, marks.choice([0.95, 0.08]), _inside(line))
    shadow = 1 - 0.25 * np.clip(1 + edge / 0.08, 0, 1)
    return _paint(ground * shadow, metal, _inside(edge))


def _screw(s: Array, t: Array, crest: Array, roll: float, rng: Generator) -> tuple[Array, Array]:
    """Brightness of the metal and the signed distance to its outline (positive inside)."""
    pitch, core = 0.085, 0.075
    wave = np.abs(2 * ((s / pitch + roll + 0.25 * np.sign(t) + 0.25) % 1) - 1)  # opposite sides half a turn apart
    threaded = np.clip((s + 0.16) / 0.05, 0, 1) * np.clip((0.78 - s) / 0.1, 0, 1)
    half = core + 0.035 * wave * crest * threaded
    half = np.where(s < -0.55, core + 0.16 * np.clip((-0.55 - s) / 0.14, 0, 1), half)  # the countersunk head
    half = half * np.clip((0.86 - s) / 0.22, 0, 1) ** 0.7  # the tip
    edge = np.minimum(half - np.abs(t), np.minimum(s + 0.76, 0.86 - s))
    around = np.clip(t / np.maximum(half, 1e-6), -1, 1)
    gloss = rng.uniform(-0.35, 0.35)
    metal = 0.30 + 0.42 * _bump(around, gloss, 0.28) + 0.14 * _bump(around, gloss - 0.75, 0.15)
    helix = np.cos(2 * np.pi * (s / pitch + roll + 0.25 * around))
    metal = metal + 0.20 * helix * threaded * crest + 0.05 * (1 - crest)
    metal = metal + 0.25 * _bump(s, -0.74, 0.015) - 0.12 * _bump(s, -0.55, 0.02)
    return metal + 0.02 * _clouds(rng, s.shape, 0.02), edge


def _plate(x: Array, y: Array, rng: Generator, defect: str | None, marks: Generator) -> Array:
    """A brushed grey plate; its grain runs along the short side."""
    grain = ndimage.gaussian_filter(rng.normal(size=x.shape), (0.8, 25), truncate=2)
    bands = ndimage.gaussian_filter1d(rng.normal(size=x.shape[0]), 6)[:, None]
    picture = rng.uniform(0.40, 0.52) + 0.035 * grain / grain.std() + 0.02 * bands / bands.std()
    picture = picture + 0.03 * _clouds(rng, x.shape, 0.3) + 0.015 * _clouds(rng, x.shape, 0.02)
    picture = picture - rng.uniform(0.03, 0.09) * x**2  # light falls off towards the long edges
    for _ in range(rng.integers(0, 4)):  # smudges are normal
        blob = _blob(x, y, rng.uniform(-0.9, 0.9), rng.uniform(-2.5, 2.5), rng.uniform(0.1, 0.25), rng)
        picture = picture - 0.04 * np.clip(0.5 + blob / 0.2, 0, 1)
    if defect is not None:
        tone = marks.choice([-1, 1]) * marks.uniform(0.16, 0.3)
        along, across = _stroke(x, y, marks, bend=0.4, at=(marks.uniform(-0.5, 0.5), marks.uniform(-2.0, 2.0)))
        across = across + 0.012 * _clouds(marks, x.shape, 0.05)
        depth = np.clip(0.9 + 0.25 * _clouds(marks, x.shape, 0.06), 0.3, 1.2)  # pressed unevenly
        for _ in range(marks.integers(1, 3)):  # a second one runs beside the first
            length, middle, aside = marks.uniform(0.3, 0.9), marks.uniform(-0.2, 0.2), marks.uniform(-0.12, 0.12)
            taper = np.clip(1.3 * (1 - np.abs(along - middle) / length), 0, 1) ** 0.5
            line = _bump(across + marks.uniform(-0.2, 0.2) * along, aside, marks.uniform(0.010, 0.018))
            picture = picture + tone * depth * taper * line
    return picture


SCENES: dict[str, Callable[[Array, Array, Generator, str | None, Generator], Array]] = {
    "ring": _ring,
    "weave": _weave,
    "thread": _thread,
    "plates": _plate,
}


def _clouds(rng: Generator, shape: tuple[int, int], scale: float) -> Array:
    """Smooth noise of mean 0 and standard deviation 1; ``scale`` in half-widths of the picture."""
    sigma = scale * min(shape) / 2
    step = max(1, int(sigma / 2))  # broad clouds are drawn small and enlarged, which is far cheaper
    small = tuple(-(-side // step) + 4 for side in shape)
    noise = ndimage.gaussian_filter(rng.normal(size=small), sigma / step, mode="wrap", truncate=3)
    if step > 1:
        enlarged = Image.fromarray(noise.astype(np.float32)).resize(
            (small[1] * step, small[0] * step), Image.Resampling.BICUBIC
        )
        noise = np.asarray(enlarged, dtype=np.float64)
    noise = noise[: shape[0], : shape[1]]
    return (noise - noise.mean()) / noise.std()


def _shards(x: Array, y: Array, where: Array, rng: Generator) -> Array:
    """Broken glass: flat facets, bright or dark by how they face the light (the cells of random points)."""
    rows, columns = np.nonzero(where)
    picks = rng.integers(0, max(len(rows), 1), 14)
    if len(rows) == 0:
        return np.zeros_like(x)
    points = np.stack([x[rows[picks], columns[picks]], y[rows[picks], columns[picks]]], axis=1)
    nearest = np.argmin([np.hypot(x - u, y - v) for u, v in points], axis=0)
    return rng.choice([0.15, 0.35, 0.6, 0.95], len(points))[nearest]


def _bump(value: Array, centre: float, spread: float) -> Array:
    return np.exp(-0.5 * ((value - centre) / spread) ** 2)


def _inside(distance: Array) -> Array:
    """Opacity 0..1 of a shape from its signed distance (positive inside), with a soft edge of a pixel or so."""
    return np.clip(0.5 + distance / 0.012, 0, 1)


def _tint(brightness: Array, colour: Array | Sequence[float]) -> Array:
    return brightness[:, :, None] * np.asarray(colour)  # (H, W, 3)


def _paint(below: Array, above: Array | float, opacity: Array) -> Array:
    if below.ndim == 3:
        opacity = opacity[:, :, None]
    return below * (1 - opacity) + above * opacity


def _blob(x: Array, y: Array, at_x: float, at_y: float, size: float, rng: Generator) -> Array:
    """Signed distance to an irregular outline of about ``size`` radius around a point."""
    turns = np.linspace(-np.pi, np.pi, 361)
    outline = sum(rng.normal(0, 0.5 / k) * np.cos(k * turns + rng.uniform(0, 2 * np.pi)) for k in range(2, 8))
    outline = np.interp(np.arctan2(y - at_y, x - at_x), turns, outline)
    stretch = rng.uniform(0.75, 1.3)
    return size * (1 + 0.45 * outline) - np.hypot((x - at_x) * stretch, (y - at_y) / stretch)


def _stroke(
    x: Array, y: Array, rng: Generator, bend: float, at: tuple[float, float] | None = None
) -> tuple[Array, Array]:
    """Coordinates along and across a slightly bent line of random direction, through ``at`` or a random point."""
    at_x, at_y = rng.uniform(-0.6, 0.6, 2) if at is None else at
    turn, curve = rng.uniform(0, np.pi), rng.uniform(-bend, bend)
    along, across = _turn(x - at_x, y - at_y, turn)
    return along, across + curve * along**2


def _turn(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """Coordinates along and across the direction of ``angle``."""
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _dash(along: Array, across: Array, length: float, width: Array | float, taper: float = 0.2) -> Array:
    """Signed distance to a line of half ``length`` and half ``width``, pointed at its ends."""
    return np.minimum(width - np.abs(across), taper * (length - np.abs(along)))
