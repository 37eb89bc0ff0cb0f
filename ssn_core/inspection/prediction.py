"""Many images through a finished run's folded model, in batches that threads read ahead; bad files are left out."""

from __future__ import annotations

import contextlib
import csv
import glob
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.special import expit
from torch import Tensor
from tqdm.auto import tqdm

from ssn_core.data.images import list_images, read_image, resize_bilinear, resize_nearest
from ssn_core.data.layouts import Sample
from ssn_core.errors import InputError, Stopped
from ssn_core.fast.inference import FoldedDetector, fold
from ssn_core.files import write_atomic, write_csv
from ssn_core.inspection.threshold import Threshold
from ssn_core.models.trunk import to_tensor
from ssn_core.runs.features import batch_size, single_precision
from ssn_core.runs.result import RunResult
from ssn_core.runs.store import load_model, usable_device

COLUMNS = ["image", "score", "map_score", "decision"]
_AHEAD = 2  # batches that are read while one is computed
_RED, _OPACITY = np.array([230, 0, 40], np.float32), 0.7


@dataclass(frozen=True)
class Inspected:
    """One image's result, logits at the model's size (h, w), at which ``pixels`` (h, w, 3) uint8 are too; ``shape`` is
    the file's own (H, W), ``truth`` (h, w) bool the marked defect where a gallery knows it."""

    shape: tuple[int, int]
    pixels: np.ndarray
    score: float
    anomaly_map: np.ndarray
    truth: np.ndarray | None = None

    @property
    def map_score(self) -> float:
        """Maximum of the map."""
        return float(self.anomaly_map.max())


def opened(run: RunResult, device: str | None) -> FoldedDetector:
    """A run's folded model on the device, see :func:`ssn_core.runs.store.usable_device`."""
    on = usable_device(device)
    return fold(load_model(run.path).to(on))


def inspect_all(model: FoldedDetector, samples: Iterable[Sample]) -> Iterator[Inspected]:
    """The results of a data set's images, which were readable when it was opened; :class:`InputError` if no longer."""
    for _, result in inspect(model, [sample.image for sample in samples]):
        if isinstance(result, InputError):
            raise result
        yield result


def inspect(
    model: FoldedDetector,
    paths: Sequence[Path],
    then: Callable[[Path, Inspected], object] = lambda *_: None,
) -> Iterator[tuple[Path, Inspected | InputError]]:
    """Each image's result in the order given, or why it has none. Threads read two batches ahead of the model and do
    with every result what ``then`` does."""
    size = batch_size(next(model.parameters()).device)
    batches = deque(paths[i : i + size] for i in range(0, len(paths), size))
    with ThreadPoolExecutor() as pool:
        reading: deque[tuple[Sequence[Path], Iterator[Any]]] = deque()
        while batches or reading:
            while batches and len(reading) <= _AHEAD:
                reading.append((batches[0], pool.map(lambda path: _read(path, model.image_size), batches.popleft())))
            batch, contents = reading.popleft()
            results = list(zip(batch, _computed(model, list(contents)), strict=True))
            list(pool.map(lambda pair: then(*pair), (pair for pair in results if isinstance(pair[1], Inspected))))
            yield from results


def _read(path: Path, size: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray, Tensor] | InputError:
    try:
        image = read_image(path)
    except InputError as error:
        return error
    pixels = resize_bilinear(image, size)
    return image.shape[:2], pixels, to_tensor(pixels, size)


@single_precision
@torch.inference_mode()
def _computed(model: FoldedDetector, contents: list[Any]) -> list[Inspected | InputError]:
    """Results of a batch that was read, errors left where they are."""
    tensors = [content[2] for content in contents if not isinstance(content, InputError)]
    if not tensors:
        return contents
    maps, scores = model(torch.stack(tensors).to(next(model.parameters()).device))
    outputs = iter(zip(scores.tolist(), maps.cpu().numpy(), strict=True))
    return [c if isinstance(c, InputError) else Inspected(*c[:2], *next(outputs)) for c in contents]


def expand(arguments: Sequence[str]) -> list[Path]:
    """Images of files, folders (with all below them) and quoted globs, each once; a file that is not there stays, to be
    named when it is its turn."""
    paths: list[Path] = []
    for argument in arguments:
        matches = sorted(glob.glob(argument, recursive=True)) if not os.path.exists(argument) else [argument]
        if not matches and glob.has_magic(argument):
            raise InputError(f"{argument} matches no file")
        for match in map(Path, matches or [argument]):
            if (match / "run.json").is_file():
                raise InputError(f"{match} is a second run, not images; give one run, then images")
            found = [p for folder, *_ in sorted(os.walk(match)) for p in list_images(Path(folder))]
            if match.is_dir() and not found:
                raise InputError(f"{match} holds no images")
            paths += found or [match]
    return list(dict.fromkeys(paths))


def predict(run: RunResult, arguments: Sequence[str], out: Path | None, device: str | None = None) -> dict[str, int]:
    """Score images by a finished run; -> how many are good, defective and unread (each of these a line on stderr).

    ``out`` gets scores.csv and, below heatmaps/ and masks/, two PNGs of each image: red where the map nears and passes
    the threshold, on one scale for all, and the pixels above it at the image's own size. Without it the CSV is printed.
    """
    threshold = Threshold.of(run).value
    paths = [path for path in expand(arguments) if out is None or out.resolve() not in path.resolve().parents]
    if not paths:
        raise InputError(f"all images lie in {out}, where results go; choose another folder for one of them")
    model = opened(run, device)
    top = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names = {os.path.relpath(path, top) for path in paths}
    counts = {"good": 0, "defective": 0, "unread": 0}

    def draw(path: Path, result: Inspected) -> None:
        if out is not None:
            name = os.path.relpath(path, top)
            bare = name.endswith(".png") and name.removesuffix(".png") not in names
            name += "" if bare else ".png"  # a.jpg, a.png and a.jpg.png stay three
            _draw(result, threshold, out / "heatmaps" / name, out / "masks" / name)

    def rows() -> Iterator[dict[str, str]]:
        results = inspect(model, paths, draw)
        with contextlib.suppress(KeyboardInterrupt):  # the table gets the rows that there are
            for path, result in tqdm(results, "images", len(paths), leave=False, disable=None if out else True):
                if isinstance(result, InputError):
                    counts["unread"] += 1
                    tqdm.write(f"left out: {result}", file=sys.stderr)
                    continue
                decision = "defective" if result.map_score > threshold else "good"
                scores = {"score": f"{result.score:.9g}", "map_score": f"{result.map_score:.9g}"}
                yield {"image": str(path), **scores, "decision": decision}
                counts[decision] += 1

    if out is not None:
        write_csv(out / "scores.csv", rows(), COLUMNS)
    else:
        printed = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        printed.writeheader()
        printed.writerows(rows())
    if (done := sum(counts.values())) < len(paths):
        place = f"are in {out / 'scores.csv'}" if out else "were printed"
        raise Stopped(f"stopped after {done} of {len(paths)} images, whose scores {place}")
    return counts


def _draw(result: Inspected, threshold: float, heatmap: Path, mask: Path) -> None:
    opacity = _OPACITY * expit(result.anomaly_map - threshold)[:, :, None]
    overlay = (result.pixels * (1 - opacity) + _RED * opacity).astype(np.uint8)
    marked = resize_nearest(result.anomaly_map > threshold, result.shape)
    for path, values in ((heatmap, overlay), (mask, marked)):
        write_atomic(path, lambda part, values=values: Image.fromarray(values).save(part))
