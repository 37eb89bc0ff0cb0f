"""From a folder on disk to samples: the MVTec AD and KolektorSDD2 layouts, and everything that can be wrong in them.

MVTec AD:        train/good/*, test/good/*, test/<defect>/*, ground_truth/<defect>/<stem>_mask.*
KolektorSDD2:    train/<id>.*, train/<id>_GT.*, test/<id>.*, test/<id>_GT.*; optionally train/labels.csv
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ssn_core.data.images import list_images, read_image, read_mask
from ssn_core.errors import InputError
from ssn_core.files import write_csv

MASK_SUFFIX = {"mvtec": "_mask", "ksdd": "_GT"}
LABELS_FILE = "labels.csv"
MASK_NAME = re.compile(r".+[-_ ](gt|mask)", re.IGNORECASE)  # what a mask may be called by mistake


@dataclass(frozen=True)
class Sample:
    """One image with what is known about it.

    ``name``: posix path relative to the category's folder; ``mask``: None where none exists or may be opened;
    ``label``: 0 normal, 1 defective; ``defect``: "good", MVTec's defect folder, or "defect".
    """

    name: str
    image: Path
    mask: Path | None
    label: int
    defect: str


@dataclass(frozen=True)
class Index:
    """What a folder holds, and each problem found in it (one line per problem, with the file's path)."""

    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Probe:
    """One decoded file: (H, W), whether anything in it is non-zero (masks only), or the decoding error."""

    size: tuple[int, int] = (0, 0)
    marked: bool = False
    error: str = ""


def index_mvtec(root: Path) -> Index:
    """Index and check one category in MVTec AD's layout; a category without any ground_truth folder has no masks."""
    problems: list[str] = []
    train = _mvtec_samples(root, root / "train" / "good", {})
    for folder in _folders(root / "train"):
        if folder.name != "good":
            problems.append(f"{folder}: training images belong in train/good (normal images only); move or delete it.")
    has_masks = (root / "ground_truth").is_dir()
    test: list[Sample] = []
    for folder in _folders(root / "test"):
        masks: dict[str, Path] = {}
        if has_masks and folder.name != "good":
            masks = _match_mvtec_masks(folder, root / "ground_truth" / folder.name, problems)
        samples = _mvtec_samples(root, folder, masks)
        if not samples:
            problems.append(f"{folder}: empty, no image in it.")
        test += samples
    for folder in _folders(root / "ground_truth"):
        if folder.name == "good" or not (root / "test" / folder.name).is_dir():
            problems.append(f"{folder}: masks without images (no defect folder test/{folder.name}).")
    problems += _check_files([*train, *test], _probe(train, test))
    problems += _check_splits(root, train, test)
    return Index(tuple(train), tuple(test), tuple(problems))


def index_ksdd(root: Path, training_masks: bool = True) -> Index:
    """Index and check a folder in KolektorSDD2's layout.

    A label is 1 where the mask is not empty. ``training_masks=False`` lists no training mask; with train/labels.csv
    (columns file,label) it opens none either. Without that file the training masks are read for their labels only.
    """
    problems: list[str] = []
    test = _ksdd_split(root, "test", None, True, problems)
    labels = _read_labels(root / "train", problems) if (root / "train" / LABELS_FILE).is_file() else None
    train = _ksdd_split(root, "train", labels, training_masks, problems)
    problems += _check_splits(root, train, test)
    return Index(tuple(train), tuple(test), tuple(problems))


def write_labels(root: Path) -> Path:
    """Write train/labels.csv from the training masks, which weakly supervised training then no longer needs.

    Raises:
        InputError: a training mask is missing, unreadable or of another size than its image.
    """
    problems: list[str] = []
    samples = _ksdd_split(root, "train", None, True, problems)
    if problems:
        raise InputError("No labels written:\n" + "\n".join(f"  - {line}" for line in problems))
    rows = [{"file": sample.image.name, "label": sample.label} for sample in samples]
    return write_csv(root / "train" / LABELS_FILE, rows, ["file", "label"])


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _mvtec_samples(root: Path, folder: Path, masks: dict[str, Path]) -> list[Sample]:
    good = folder.name == "good"
    return [
        Sample(path.relative_to(root).as_posix(), path, masks.get(path.stem), int(not good), folder.name)
        for path in list_images(folder)
    ]


def _match_mvtec_masks(folder: Path, mask_folder: Path, problems: list[str]) -> dict[str, Path]:
    """Pair each image of a defect folder with <stem>_mask; returns image stem -> mask."""
    images = list_images(folder)
    spare = {path.stem: path for path in list_images(mask_folder)}
    if images and not spare:
        problems.append(f"{mask_folder}: no masks for the {len(images)} images of test/{folder.name}.")
        return {}
    masks = _take_masks(images, spare, "mvtec", problems)
    for image in images:
        if image.stem in masks:
            continue
        expected = mask_folder / f"{image.stem}_mask.png"
        near = next((path for stem, path in spare.items() if stem.lower().startswith(image.stem.lower())), None)
        if near is None:
            problems.append(f"{image}: its mask {expected} is missing.")
        else:
            spare.pop(near.stem)
            problems.append(f"{near}: misnamed mask; rename it to {expected.name}.")
    problems += [f"{path}: mask without image (no {folder}/{_image_stem(path, 'mvtec')}.*)." for path in spare.values()]
    return masks


def _take_masks(images: list[Path], spare: dict[str, Path], layout: str, problems: list[str]) -> dict[str, Path]:
    """Move the mask of each image from ``spare`` (mask stem -> path) to the result (image stem -> path)."""
    masks: dict[str, Path] = {}
    for image in images:
        if image.stem in masks:
            problems.append(f"{image}: another image has the same stem, so their mask is ambiguous; rename one.")
        elif mask := spare.pop(image.stem + MASK_SUFFIX[layout], None):
            masks[image.stem] = mask
    return masks


def _image_stem(mask: Path, layout: str) -> str:
    return mask.stem.removesuffix(MASK_SUFFIX[layout])


def _ksdd_split(
    root: Path, split: str, labels: dict[str, int] | None, use_masks: bool, problems: list[str]
) -> list[Sample]:
    # KolektorSDD2's archive holds a stray duplicate, "10301 (copy).png" with its mask; it belongs to no split
    files = [path for path in list_images(root / split) if "(copy)" not in path.name]
    images = [path for path in files if not MASK_NAME.fullmatch(path.stem)]
    misnamed = [path for path in files if MASK_NAME.fullmatch(path.stem) and not path.stem.endswith("_GT")]
    problems += [f"{path}: misnamed mask; KolektorSDD2's masks are named <image>_GT.png." for path in misnamed]
    open_masks = use_masks or labels is None
    masks: dict[str, Path] = {}
    if open_masks:
        spare = {path.stem: path for path in files if path.stem.endswith("_GT")}
        masks = _take_masks(images, spare, "ksdd", problems)
        problems += [
            f"{image}: its mask {image.stem}_GT.png is missing." for image in images if image.stem not in masks
        ]
        problems += [f"{path}: mask without image (no {_image_stem(path, 'ksdd')}.*)." for path in spare.values()]
    drafts = [Sample(f"{split}/{path.name}", path, masks.get(path.stem), 0, "good") for path in images]
    probes = _probe(drafts)
    samples = []
    for draft in drafts:
        label = _ksdd_label(draft, labels, probes, problems)
        mask = draft.mask if use_masks else None
        samples.append(Sample(draft.name, draft.image, mask, label, "defect" if label else "good"))
    # the drafts' labels are all 0, so an empty mask is no problem here: it is what makes an image normal
    problems += _check_files(drafts, probes)
    if labels is not None:
        problems += _check_labels_cover(root / split / LABELS_FILE, labels, images)
    return samples


def _ksdd_label(sample: Sample, labels: dict[str, int] | None, probes: dict[Path, _Probe], problems: list[str]) -> int:
    marked = None
    if sample.mask is not None and not probes[sample.mask].error:
        marked = int(probes[sample.mask].marked)
    if labels is None or sample.image.name not in labels:
        return marked or 0
    given = labels[sample.image.name]
    if marked is not None and marked != given:
        state = "empty" if given else "not empty"
        problems.append(f"{sample.mask}: the mask is {state}, but {LABELS_FILE} gives the image label {given}.")
    return given


def _read_labels(folder: Path, problems: list[str]) -> dict[str, int]:
    path = folder / LABELS_FILE
    labels: dict[str, int] = {}
    with open(path, newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        if not {"file", "label"} <= set(reader.fieldnames or ()):
            problems.append(f"{path}: the first line must be file,label.")
            return labels
        for number, row in enumerate(reader, start=2):
            if row["label"] not in ("0", "1"):
                problems.append(f"{path}: line {number}: label must be 0 or 1, got {row['label']!r}.")
            elif row["file"] in labels:
                problems.append(f"{path}: line {number}: {row['file']} is listed twice.")
            else:
                labels[row["file"]] = int(row["label"])
    return labels


def _check_labels_cover(path: Path, labels: dict[str, int], images: list[Path]) -> list[str]:
    names = {image.name for image in images}
    lines = [f"{path}: {name} has no line in it." for name in sorted(names - set(labels))]
    return lines + [f"{path}: lists {name}, which does not exist." for name in sorted(set(labels) - names)]


def _probe(*groups: Iterable[Sample]) -> dict[Path, _Probe]:
    """Decode every image and mask of ``groups`` once, on a few threads (decoding releases the interpreter lock)."""
    samples = [sample for group in groups for sample in group]
    jobs = [(sample.image, False) for sample in samples]
    jobs += [(sample.mask, True) for sample in samples if sample.mask is not None]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return dict(zip((path for path, _ in jobs), pool.map(_probe_file, jobs), strict=True))


def _probe_file(job: tuple[Path, bool]) -> _Probe:
    path, is_mask = job
    try:
        values = read_mask(path) if is_mask else read_image(path)
    except InputError as error:
        return _Probe(error=str(error))
    return _Probe((values.shape[0], values.shape[1]), bool(is_mask and values.any()))


def _check_files(samples: list[Sample], probes: dict[Path, _Probe]) -> list[str]:
    problems = [probe.error for probe in probes.values() if probe.error]
    for sample in samples:
        if sample.mask is None or probes[sample.mask].error:
            continue
        image, mask = probes[sample.image], probes[sample.mask]
        if not image.error and image.size != mask.size:
            sizes = f"{mask.size[1]}x{mask.size[0]}, its image {image.size[1]}x{image.size[0]}"
            problems.append(f"{sample.mask}: the mask is {sizes} (width x height); they must be equal.")
        if sample.label and not mask.marked:
            problems.append(f"{sample.mask}: the mask of a defective image is empty (all zero).")
    return problems


def _check_splits(root: Path, train: list[Sample], test: list[Sample]) -> list[str]:
    needs = [
        ("train", train, 0, "no normal training image"),
        ("test", test, 0, "no normal test image, and every metric compares normal with defective ones"),
        ("test", test, 1, "no defective test image, and every metric compares normal with defective ones"),
    ]
    return [
        f"{root / split}: {message}."
        for split, samples, label, message in needs
        if not any(sample.label == label for sample in samples)
    ]
