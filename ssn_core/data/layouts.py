"""From a folder to samples, in the layouts of MVTec AD and of KolektorSDD2, with everything that is wrong in it.

MVTec AD:        train/good/*, test/good/*, test/<defect>/*, ground_truth/<defect>/<stem>_mask.*
KolektorSDD2:    train/<id>.*, train/<id>_GT.*, test/<id>.*, test/<id>_GT.*; optionally train/labels.csv
own images:      either of these without some of it; good/* beside <defect>/* (masks as in MVTec AD's); or *, all good
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssn_core.data.images import list_images, read_image, read_mask, subfolders, unread_images
from ssn_core.errors import InputError

LABELS_FILE = "labels.csv"
HELD_OUT = 0.2  # of a person's own good images, where the folder itself sets none apart
_HELD_OUT_SEED = 0
NEARLY_BLACK = 16  # of 255: where 4095 of 65535 lies, the largest value of 12 bits
Listed = tuple[Path, Path | None, int | None]  # an image, its mask, its label; None: none, or not known yet


@dataclass(frozen=True)
class Sample:
    """One image with what is known about it.

    ``name``: posix path relative to the category's folder; ``mask``: None where none exists or may be opened;
    ``label``: 0 normal, 1 defective; ``defect``: "good", MVTec's defect folder, or "defect";
    ``grey``: the mean of the image's pixels, 0 to 255; None where it was not decoded.
    """

    name: str
    image: Path
    mask: Path | None
    label: int
    defect: str
    grey: float | None = None


def layout_of(folder: Path) -> str:
    """mvtec, ksdd or "", by content: training masks may be absent, so KolektorSDD2 is known by its test masks."""
    if os.path.isdir(folder / "train" / "good"):
        return "mvtec"
    return "ksdd" if os.path.isdir(folder / "train") and any((folder / "test").glob("*_GT.*")) else ""


def index(root: Path, layout: str, training_masks: bool) -> tuple[list[Sample], list[Sample], list[str]]:
    """Training samples, test samples and problems (a line each, the file first); every file is decoded once.

    MVTec AD's labels are its folders'; without any ground_truth folder a category has no masks. In KolektorSDD2's
    layout an image is defective where train/labels.csv (columns file,label) says so or, without that file, where its
    mask is not empty. ``training_masks=False`` lists no training mask, and opens none where there is a labels.csv.
    A folder in neither layout has its good images for training.
    """
    problems = unread_images(root, below=bool(layout) or (root / "good").is_dir())
    if layout == "mvtec":
        listed = _mvtec(root, problems)
    else:
        listed = _ksdd(root, training_masks, problems) if layout == "ksdd" else _own(root, problems)
    train, test = [], []
    for sample in _decoded(root, listed, problems):
        trains = sample.name.startswith("train/") if layout else not sample.label
        (train if trains else test).append(sample)
    return train if training_masks else [replace(sample, mask=None) for sample in train], test, problems


def hold_out(train: list[Sample], test: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Where none of a person's test images is good, a fifth of the good others, drawn by a fixed seed, becomes so: a
    threshold is chosen on images that trained nothing."""
    if not all(sample.label for sample in test):
        return train, test
    good = [sample for sample in train if not sample.label]
    order = np.random.default_rng(_HELD_OUT_SEED).permutation(len(good))
    held_out = {good[i].name for i in order[: math.ceil(HELD_OUT * len(good))]}
    kept = [sample for sample in train if sample.name not in held_out]
    return kept, [sample for sample in train if sample.name in held_out] + test


def _decoded(root: Path, listed: Iterable[Listed], problems: list[str]) -> list[Sample]:
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
        read = list(pool.map(lambda entry: _sample(root, *entry, problems), listed))
    peak = max((peak for _, peak in read), default=255)
    if peak <= NEARLY_BLACK:
        problems.append(
            f"{root}: no image is brighter than {peak} of 255, as 12-bit values in 16-bit files are; multiply all of "
            "them by 16, or save them with 8 bits."
        )
    return [sample for sample, _ in read]


def _mvtec(root: Path, problems: list[str]) -> Iterator[Listed]:
    strays = [folder for folder in subfolders(root / "train") if folder.name != "good"]
    problems += [f"{folder}: training images belong in train/good, all normal; move or delete it." for folder in strays]
    yield from ((image, None, 0) for image in list_images(root / "train" / "good"))
    yield from _by_folder(root / "ground_truth", subfolders(root / "test"), problems)


def _own(root: Path, problems: list[str]) -> Iterator[Listed]:
    """good/ beside folders of defects, or else images alone."""
    loose = list_images(root)
    if not (root / "good").is_dir():
        yield from ((image, None, 0) for image in loose)
        return
    problems += [f"{image}: lies beside good/; move it there or to a defect's folder." for image in loose]
    folders = [folder for folder in subfolders(root) if folder.name != "ground_truth"]
    yield from _by_folder(root / "ground_truth", folders, problems)


def _by_folder(place: Path, folders: list[Path], problems: list[str]) -> Iterator[Listed]:
    """Images whose folder is their label, with their masks below ``place`` where that exists."""
    found = {folder: list_images(folder) for folder in folders}
    problems += [f"{folder}: empty; delete it, or copy its images again." for folder in found if not found[folder]]
    defective = [image for folder in found if folder.name != "good" for image in found[folder]]
    files = [path for folder in subfolders(place) for path in list_images(folder)]
    masks = _pair(defective, files, place, "_mask", problems) if place.is_dir() else {}
    for images in found.values():
        yield from ((image, masks.get(image), int(image.parent.name != "good")) for image in images)


def _ksdd(root: Path, training_masks: bool, problems: list[str]) -> Iterator[Listed]:
    for split in ("train", "test"):
        # KolektorSDD2's archive holds a stray duplicate, "10301 (copy).png" with its mask; it belongs to no split
        files = [path for path in list_images(root / split) if "(copy)" not in path.name]
        marks = [path for path in files if path.stem.endswith("_GT")]
        images = [path for path in files if not path.stem.endswith("_GT")]
        table = root / "train" / LABELS_FILE
        labels = _read_labels(table, images, problems) if split == "train" and table.is_file() else None
        masks = _pair(images, marks, root, "_GT", problems) if training_masks or labels is None else {}
        yield from ((image, masks.get(image), (labels or {}).get(image)) for image in images)


def _pair(images: list[Path], masks: list[Path], place: Path, suffix: str, problems: list[str]) -> dict[Path, Path]:
    """The mask of each image: ``place``/<the image's folder>/<its stem><suffix>.*"""
    by_stem = {path.with_suffix(""): path for path in masks}
    owners: dict[Path, Path] = {}
    for image in images:
        wanted = place / image.parent.name / f"{image.stem}{suffix}"
        mask = by_stem.get(wanted)
        if mask is None:
            problems.append(f"{image}: its mask {wanted}.png is missing.")
        elif mask in owners:
            problems.append(f"{image}: another image has the same stem, so their mask is ambiguous; rename one.")
        else:
            owners[mask] = image
    problems += [f"{path}: mask without image; move or delete it." for path in masks if path not in owners]
    return {image: mask for mask, image in owners.items()}


def _read_labels(table: Path, images: list[Path], problems: list[str]) -> dict[Path, int]:
    unlisted, labels = {image.name: image for image in images}, {}
    with open(table, newline="", encoding="utf-8-sig", errors="replace") as handle:
        rows = csv.DictReader(handle)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            problems.append(f"{table}: the first line must be file,label.")
            return {}
        for number, row in enumerate(rows, start=2):
            image = unlisted.pop(row["file"], None)
            if image is None or row["label"] not in ("0", "1"):
                got = f"{row['file']},{row['label']}"
                problems.append(f"{table}: line {number}: wants an image of this folder, once, and 0 or 1; got {got}.")
            else:
                labels[image] = int(row["label"])
    problems += [f"{table}: {name} has no line in it." for name in unlisted]
    return labels


def _sample(root: Path, image: Path, mask: Path | None, label: int | None, problems: list[str]) -> tuple[Sample, int]:
    """Decode an image and its mask; where neither its folder nor labels.csv gives its label, the mask does. Also the
    image's largest value, of 255."""
    arrays = []
    for path, read in ((image, read_image), (mask, read_mask)):
        try:
            arrays.append(path and read(path))
        except InputError as error:
            problems.append(str(error))
            arrays.append(None)
    pixels, marks = arrays
    if pixels is not None and marks is not None and pixels.shape[:2] != marks.shape:
        sizes = "{1}x{0}, its image {3}x{2}".format(*marks.shape, *pixels.shape)
        problems.append(f"{mask}: the mask is {sizes} (width x height); they must be equal.")
    marked = marks is not None and bool(marks.any())
    name = image.relative_to(root)
    unsorted = image.parent in (root / "train", root / "test")
    source, defect = (LABELS_FILE, "defect") if unsorted else ("its folder", image.parent.name)
    label = int(marked) if label is None else label
    if marks is not None and marked != label:
        problems.append(f"{mask}: the mask is {'not ' * marked}empty, but {source} gives the image label {label}.")
    if any("\ud800" <= letter <= "\udfff" for letter in str(name)):
        problems.append(f"{ascii(str(image))}: the name is not UTF-8, so no results file can hold it; rename it.")
    grey, peak = (None, 255) if pixels is None else (float(pixels.mean()), int(pixels.max()))
    return Sample(name.as_posix(), image, mask, label, defect if label else "good", grey), peak
