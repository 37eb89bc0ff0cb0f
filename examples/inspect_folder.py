"""Inspect what a camera writes into a folder, with an exported model alone: onnxruntime, pillow, numpy.

    python examples/inspect_folder.py model.onnx camera/ >> decisions.csv

Each new image gives one line: name, score, decision. Ctrl-C ends it.
"""

import csv
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


def inspect(model: onnxruntime.InferenceSession, path: Path) -> tuple[float, str]:
    """Score and decision of one image. The model reads 8-bit RGB of its size, bilinear without antialiasing."""
    facts = model.get_modelmeta().custom_metadata_map
    height, width = map(int, facts["image_size"].split(","))
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode not in ("RGB", "L"):
        raise ValueError(f"pixels are {image.mode}; save it as 8-bit RGB or grey")
    shrink = (image.width / width, 0, 0, 0, image.height / height, 0)
    image = image.convert("RGB").transform((width, height), Image.Transform.AFFINE, shrink, Image.Resampling.BILINEAR)
    anomaly_map, _ = model.run(None, {"images": np.asarray(image)[None]})
    score = float(anomaly_map.max())
    return score, "defective" if score > float(facts["threshold"]) else "good"


def watch(model: onnxruntime.InferenceSession, folder: Path, seen: set[Path]) -> None:
    """Inspect what is new in the folder; what changed within the last second is still being written, and waits."""
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p not in seen):
        if time.time() - path.stat().st_mtime < 1:
            continue
        seen.add(path)
        try:
            score, decision = inspect(model, path)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's types for broken files
            print(f"{path}: not inspected ({error})", file=sys.stderr)
        else:
            csv.writer(sys.stdout).writerow([path.name, f"{score:.4f}", decision])
            sys.stdout.flush()


if __name__ == "__main__":
    session, done = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"]), set()
    while True:
        watch(session, Path(sys.argv[2]), done)
        time.sleep(0.5)
