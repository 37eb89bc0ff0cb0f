"""Tiny data sets of flat pictures, in MVTec AD's layout and in KolektorSDD2's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (12, 16)  # height, width


def picture(path: Path, value: int = 100, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
    return path


def mask(path: Path, marked: bool = True, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(size, np.uint8)
    values[2:5, 3:6] = 255 * marked
    Image.fromarray(values).save(path)
    return path
