"""Pictures and masks from files to arrays and tensors; the only module that decodes image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from .errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})

# Mean and standard deviation per RGB channel of ImageNet: what torchvision's pretrained weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def list_images(folder: Path) -> list[Path]:
    """Image files directly in ``folder`` in name order; empty where the folder is absent.

    Hidden files are left out: archives made on macOS carry a ``._name.png`` beside every picture.
    """
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def read_image(path: str | Path) -> np.ndarray:
    """Decode a png, jpg, bmp or tif file to RGB, uint8 (H, W, 3), upright by its EXIF orientation.

    Raises:
        InputError: the file is missing, truncated, not an image, or of a kind without a defined brightness range.
    """
    return to_rgb(_decode(path), name=str(path))


def to_rgb(image: Image.Image, name: str = "image") -> np.ndarray:
    """Convert a Pillow image of any mode to RGB, uint8 (H, W, 3).

    16-bit values are divided by 257 (the full range, never one stretched per image: brightness stays comparable
    between images). Grayscale is repeated three times. Transparent pixels show white, because the colours stored
    under them are arbitrary.

    Raises:
        InputError: floating-point pixels, or integers beyond 16 bits.
    """
    if image.mode == "F":
        raise InputError(f"{name}: floating-point pixels have no defined range; save it with 8 or 16 bits.")
    if image.mode == "I" or image.mode.startswith("I;"):
        return np.repeat(_from_16_bit(np.asarray(image), name)[:, :, None], 3, axis=2)
    if "A" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def to_tensor(image: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Resize to ``size`` = (H, W) and normalise by ImageNet's statistics: uint8 (H0, W0, 3) to float32 (3, H, W).

    Bilinear with antialiasing, so that a hairline is dimmed rather than dropped when the image shrinks.

    Raises:
        InputError: ``image`` is not uint8 of shape (H0, W0, 3).
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"Expected an image of uint8 (H, W, 3), got {image.dtype} {image.shape}.")
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255  # (1, 3, H0, W0)
    if tuple(pixels.shape[2:]) != tuple(size):
        pixels = torch.nn.functional.interpolate(
            pixels, size=tuple(size), mode="bilinear", align_corners=False, antialias=True
        )
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    return ((pixels[0] - mean) / std).contiguous()


def read_mask(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a defect mask as bool (H, W): every value above zero is defective.

    ``size`` = (H, W) resizes by nearest neighbour; None keeps the file's own size.

    Raises:
        InputError: the file is missing, truncated or not an image.
    """
    image = _decode(path)
    if image.mode in ("P", "PA"):
        image = image.convert("RGB")  # a palette's index is not a brightness
    values = np.asarray(image)
    if values.ndim == 3:
        colours = values.shape[2] - (image.mode in ("LA", "RGBA"))  # an opaque alpha channel marks nothing
        values = values[:, :, :colours].any(axis=2)
    mask = Image.fromarray((values > 0).astype(np.uint8))
    if size is not None:
        mask = mask.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(mask) > 0


def _decode(path: str | Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error
        raise InputError(f"{path}: not a readable image ({error}); copy or download it again.") from error


def _from_16_bit(values: np.ndarray, name: str) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{name}: pixel values beyond 16 bits; save it with 8 or 16 bits.")
    return np.round(values / 257.0).astype(np.uint8)
