"""Pictures and masks from files to arrays; the only module that decodes image files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ssn_core.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
#: images too, but of formats that are not read; a folder that holds some must not seem complete without them
UNREAD = (".avif", ".arw", ".cr2", ".dng", ".exr", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".nef", ".npy",
          ".pgm", ".ppm", ".raw", ".tga")  # fmt: skip
_LOSSY = ("JPEG", "MPO", "WEBP")  # Pillow's names


def list_images(folder: Path) -> list[Path]:
    """Image files directly in ``folder`` in name order; empty where the folder is absent.

    Hidden files are left out: archives made on macOS carry a ``._name.png`` beside every picture. A link that leads
    nowhere is listed, so that reading it names it.
    """
    return [folder / name for name in _names(folder)[1] if name.lower().endswith(SUFFIXES)]


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in ``folder`` in name order, without hidden ones; none where it is absent or unreadable."""
    return [folder / name for name in _names(folder)[0]]


def unread_images(root: Path, below: bool = True) -> list[str]:
    """A line for each format in ``root``, and in the folders ``below`` it that are not hidden, whose files look like
    images and are not read; none where all are."""
    found: dict[str, list[str]] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if below and not name.startswith(".")]
        for name in names:
            if name.lower().endswith(UNREAD) and not name.startswith("."):
                found.setdefault(os.path.splitext(name)[1].lower(), []).append(os.path.join(folder, name))
    return [
        f"{min(paths)}: {suffix} is not read ({len(paths)} file{'s' * (len(paths) > 1)}); convert to png or move away."
        for suffix, paths in sorted(found.items())
    ]


def _names(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files directly in ``folder``, sorted, without hidden ones; one look each."""
    _, *both = next(os.walk(folder), ("", [], []))
    return tuple(sorted(name for name in names if not name.startswith(".")) for names in both)


def read_image(path: str | Path) -> np.ndarray:
    """Decode a file of one of :data:`SUFFIXES` to RGB, uint8 (H, W, 3), upright by its EXIF orientation.

    Raises:
        InputError: the file is missing, truncated, not an image, or of a kind without a defined brightness range.
    """
    return to_rgb(_decode(path)[0], name=str(path))


def to_rgb(image: Image.Image, name: str = "image") -> np.ndarray:
    """Convert a Pillow image of any mode to RGB, uint8 (H, W, 3), upright by its EXIF orientation.

    16-bit values are divided by 257 (the full range, never one stretched per image: brightness stays comparable
    between images). Grayscale is repeated three times. Transparent pixels show white, because the colours stored
    under them are arbitrary.

    Raises:
        InputError: floating-point pixels, or integers beyond 16 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise InputError(f"{name}: floating-point pixels have no defined range; save it with 8 or 16 bits.")
    if image.mode == "I" or image.mode.startswith("I;"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{name}: pixel values beyond 16 bits; save it with 8 or 16 bits.")
        return np.repeat(np.round(values / 257.0).astype(np.uint8)[:, :, None], 3, axis=2)
    if "A" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def resize_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 (H0, W0, C) to ``size`` = (H, W) as the published loader does: OpenCV's INTER_LINEAR.

    Two neighbours per axis at pixel centres, no antialiasing, in whole grey levels: weights are multiples of 1/2048
    and the last bits of both passes are dropped. Another resize moves the features by more than the paper's sigma.
    """
    if image.shape[:2] == tuple(size):
        return np.ascontiguousarray(image)
    (top, bottom, y), (left, right, x) = (_neighbours(n, n0) for n, n0 in zip(size, image.shape, strict=False))

    def along_x(rows: np.ndarray) -> np.ndarray:
        return image[rows][:, left] * (_ONE - x)[:, None] + image[rows][:, right] * x[:, None]

    upper, lower = (along_x(rows) >> 4 for rows in (top, bottom))
    y = y[:, None, None]
    return ((((upper * (_ONE - y)) >> 16) + ((lower * y) >> 16) + 2) >> 2).astype(np.uint8)


_ONE = 2048  # OpenCV's unit of interpolation weights


def _neighbours(size: int, source: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per output position of one axis: the two source positions and the second one's weight (int32, of 2048)."""
    centre = ((np.arange(size) + 0.5) * (source / size) - 0.5).clip(0, source - 1)
    first = np.floor(centre).astype(np.int64)
    weight = np.rint((centre - first).astype(np.float32) * _ONE).astype(np.int32)
    return first, np.minimum(first + 1, source - 1), weight


def resize_nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H0, W0) to ``size`` = (H, W): the source position rounded down, as OpenCV's INTER_NEAREST."""
    rows, columns = (
        np.minimum(np.arange(n) * (n0 / n), n0 - 1).astype(np.int64) for n, n0 in zip(size, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def read_mask(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a defect mask as bool (H, W): every value above zero is defective, in a JPEG or WebP above one half.

    Lossy compression leaves faint values around every edge, which are not the annotator's; a lossless file may hold
    0 and 1. ``size`` = (H, W) resizes by nearest (:func:`resize_nearest`); None keeps the file's own size.

    Raises:
        InputError: the file is missing, truncated or not an image.
    """
    image, lossy = _decode(path)
    if image.mode in ("P", "PA", "CMYK"):
        image = image.convert("RGB")  # a palette's index is not a brightness, and ink is dark
    values = np.asarray(image) > (127 if lossy else 0)
    if values.ndim == 3:
        colours = values.shape[2] - (image.mode in ("LA", "RGBA"))  # an opaque alpha channel marks nothing
        values = values[:, :, :colours].any(axis=2)
    return values if size is None else resize_nearest(values, size)


def _decode(path: str | Path) -> tuple[Image.Image, bool]:
    """The upright image, and whether its file's format is a lossy one."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image), image.format in _LOSSY
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error
        raise InputError(f"{path}: not a readable image ({error}); copy or download it again.") from error
