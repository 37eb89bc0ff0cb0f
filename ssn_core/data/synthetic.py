"""Four synthetic data sets drawn from a seed, in the layouts of the real ones, with exact defect masks.

ring (easy), weave (texture) and thread (hard: any angle, small defects) in MVTec AD's layout; plates (hairline
scratches on brushed metal, defective images in training too) in KolektorSDD2's.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from ssn_core.data.datasets import write_labels
from ssn_core.data.find import SYNTHETIC_MARKER
from ssn_core.data.painters import SCENES
from ssn_core.errors import InputError
from ssn_core.files import read_json, write_json, writing

DEFECTS: dict[str, tuple[str, ...]] = {
    "ring": ("broken_large", "broken_small", "contamination"),
    "weave": ("colour", "cut", "hole", "thread"),
    "thread": ("bent_front", "flat_thread", "scratch_head", "scratch_neck"),
    "plates": ("defect",),
}
OVERSAMPLING = 2  # drawn larger and averaged down, so that edges and hairlines are antialiased
VISIBLE = 10  # grey levels (of 255) a pixel must change by to count as defective
MIN_DEFECT = 12  # pixels of the smallest defect; a fainter one is drawn anew
SENSOR_NOISE = 0.012  # standard deviation, of white
Seed = tuple[int, ...]
FORMAT = 1  # of the drawings: raised when equal parameters no longer give equal pixels


@dataclass(frozen=True)
class SyntheticCounts:
    """Images per set; ``train``, ``good`` and ``defective`` (over all defect types) hold for each MVTec-layout set.

    Raises:
        InputError: a count is below 1, a defect type would stay empty, or a plates split would hold no normal image.
    """

    train: int = 48
    good: int = 12
    defective: int = 18
    plates_train: int = 60
    plates_train_defective: int = 16
    plates_test: int = 40
    plates_test_defective: int = 14

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise InputError(f"counts.{field.name} must be a whole number from 1, got {value!r}.")
        most = max(len(kinds) for kinds in DEFECTS.values())
        if self.defective < most:
            raise InputError(f"counts.defective must be at least {most}, one per defect type; got {self.defective}.")
        for split in ("plates_train", "plates_test"):
            if getattr(self, f"{split}_defective") >= getattr(self, split):
                raise InputError(f"counts.{split}_defective must be below counts.{split}: some plates are normal.")


def make_synthetic(root: str | Path, seed: int = 0, size: int = 128, counts: SyntheticCounts | None = None) -> Path:
    """Draw the four sets into ``root``/<set> and return ``root``; a finished set of equal parameters is left alone.

    Pictures are ``size`` x ``size``, plates 2 size high and 3/4 size wide. Each set is drawn beside its final folder
    and renamed, so an interrupted one is drawn again; a finished one of other parameters is replaced.

    Raises:
        InputError: a bad parameter, or a folder of a set's name that this generator did not draw.
    """
    if type(size) is not int or size < 96 or size % 32:
        raise InputError(f"size must be a multiple of 32 from 96, got {size!r}.")  # plates: sides multiples of 8
    if type(seed) is not int or seed < 0:
        raise InputError(f"seed must be a whole number from 0, got {seed!r}.")
    root = Path(root).expanduser()
    for name in DEFECTS:
        _make_set(root, name, seed, size, counts or SyntheticCounts())
    return root


def _make_set(root: Path, name: str, seed: int, size: int, counts: SyntheticCounts) -> None:
    parameters = {"format": FORMAT, "set": name, "seed": seed, "size": size, "counts": asdict(counts)}
    final = root / name
    if final.exists():
        if not (final / SYNTHETIC_MARKER).is_file():
            raise InputError(f"{final} has no {SYNTHETIC_MARKER}, so it was not drawn here; move or delete it.")
        if _parameters(final) == parameters:
            return
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as own:
            part = Path(own, name)
            _draw_set(part, name, seed, size, counts)
            write_json(part / SYNTHETIC_MARKER, parameters)
            if _parameters(final) != parameters:  # else another process drew the same meanwhile
                if final.exists():
                    final.rename(Path(own, "old"))
                part.rename(final)


def _draw_set(folder: Path, name: str, seed: int, size: int, counts: SyntheticCounts) -> None:
    shape = (2 * size, 3 * size // 4) if name == "plates" else (size, size)
    for picture, mask, place, defect in _plan(name, seed, counts):
        drawing = draw(name, shape, place, defect)
        _save(folder / picture, drawing.image)
        if mask is not None:
            _save(folder / mask, drawing.mask)
    if name == "plates":
        write_labels(folder)  # so that weakly supervised training opens no mask


def _parameters(folder: Path) -> object:
    try:
        return read_json(folder / SYNTHETIC_MARKER)
    except (OSError, json.JSONDecodeError):
        return None


def _plan(name: str, seed: int, counts: SyntheticCounts) -> Iterator[tuple[str, str | None, Seed, str | None]]:
    """Picture, mask, seed and defect of everything in a set. No two seeds are equal, so no scene is in two splits."""
    place, kinds = (seed, list(DEFECTS).index(name)), DEFECTS[name]
    if name == "plates":
        for k, split in enumerate(("train", "test")):
            count, defective = getattr(counts, f"plates_{split}"), getattr(counts, f"plates_{split}_defective")
            order = np.random.default_rng([*place, k]).permutation(count)  # defective ones stand among the others
            for i in range(count):
                stem = f"{split}/{10000 * (k + 1) + i}"
                yield f"{stem}.png", f"{stem}_GT.png", (*place, k, i), "defect" if order[i] < defective else None
        return
    for k, (split, count) in enumerate((("train", counts.train), ("test", counts.good))):
        for i in range(count):
            yield f"{split}/good/{i:03d}.png", None, (*place, k, i), None
    for i in range(counts.defective):
        defect = kinds[i % len(kinds)]
        stem = f"{defect}/{i // len(kinds):03d}"
        yield f"test/{stem}.png", f"ground_truth/{stem}_mask.png", (*place, 2, i), defect


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels).save(path)


@dataclass(frozen=True)
class Drawing:
    """A picture (H, W, 3) or (H, W) uint8 and its defect mask (H, W) bool."""

    image: np.ndarray
    mask: np.ndarray


def draw(kind: str, shape: tuple[int, int], seed: Sequence[int], defect: str | None = None) -> Drawing:
    """Draw one scene of ``kind`` at ``shape`` = (H, W); equal arguments give equal pixels.

    Outside the mask the picture equals exactly the one without ``defect``.
    """
    clean = _render(kind, shape, seed, None, 0)
    if defect is None:
        return Drawing(clean, np.zeros(shape, bool))
    for attempt in range(50):
        damaged = _render(kind, shape, seed, defect, attempt)
        change = np.abs(damaged.astype(int) - clean).reshape(*shape, -1).max(axis=2)
        mask = _region(change >= VISIBLE)
        if mask.sum() >= MIN_DEFECT:
            keep = mask if clean.ndim == 2 else mask[:, :, None]
            return Drawing(np.where(keep, damaged, clean), mask)
    raise RuntimeError(f"No visible {defect} on {kind} at {shape} in 50 attempts.")  # a fault of the scene itself


def _region(changed: np.ndarray) -> np.ndarray:
    """Close gaps the texture leaves inside a defect and drop single pixels, as an annotator would."""
    closed = ndimage.binary_closing(np.pad(changed, 1))[1:-1, 1:-1]
    labels, count = ndimage.label(closed, np.ones((3, 3)))
    sizes = ndimage.sum_labels(closed, labels, np.arange(count + 1))
    return (sizes >= 4)[labels] & closed


def _render(kind: str, shape: tuple[int, int], seed: Sequence[int], defect: str | None, attempt: int) -> np.ndarray:
    height, width = (side * OVERSAMPLING for side in shape)
    # unit of length: half the shorter side; y downwards, origin in the middle
    half = min(height, width) / 2
    y, x = ((np.arange(n, dtype=np.float64) + 0.5 - n / 2) / half for n in (height, width))
    x, y = np.meshgrid(x, y)
    scene = np.random.default_rng([*seed, 0])
    light = 1 + scene.uniform(-0.06, 0.06) + scene.uniform(-0.05, 0.05) * x + scene.uniform(-0.05, 0.05) * y
    picture = SCENES[kind](x, y, scene, defect, np.random.default_rng([*seed, 1, attempt]))
    picture = picture * (light if picture.ndim == 2 else light[:, :, None])
    picture = picture.reshape(shape[0], OVERSAMPLING, shape[1], OVERSAMPLING, -1).mean(axis=(1, 3))
    noise = np.random.default_rng([*seed, 2]).normal(0, SENSOR_NOISE, picture.shape)
    pixels = np.clip(np.round((picture + noise) * 255), 0, 255).astype(np.uint8)
    return pixels if pixels.shape[2] == 3 else pixels[:, :, 0]
