"""The data sets by name: where they lie, what they should hold, opened with every problem listed at once."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ssn_core.data import brightness
from ssn_core.data.find import DATASETS, OWN, check_names, find_root, search
from ssn_core.data.layouts import LABELS_FILE, Sample, hold_out, index, layout_of
from ssn_core.errors import InputError
from ssn_core.files import write_csv


@dataclass(frozen=True)
class Counts:
    """How many images a released data set holds; ``train_defective`` is 0 in MVTec's layout."""

    train: int
    test: int
    test_defective: int
    train_defective: int = 0

    def __str__(self) -> str:
        defective = f" ({self.train_defective} defective)" if self.train_defective else ""
        return f"{self.train} train{defective}, {self.test} test ({self.test_defective} defective)"


# Bergmann et al., CVPR 2019, Table 1; Bozic et al., Computers in Industry 129 (2021); for ksdd1 the stand-in's split.
_MVTEC = """bottle 209 83 63; cable 224 150 92; capsule 219 132 109; carpet 280 117 89; grid 264 78 57;
    hazelnut 391 110 70; leather 245 124 92; metal_nut 220 115 93; pill 267 167 141; screw 320 160 119; tile 230 117 84;
    toothbrush 60 42 30; transistor 213 100 40; wood 247 79 60; zipper 240 151 119"""
EXPECTED: dict[tuple[str, str], Counts] = {
    ("ksdd2", "ksdd2"): Counts(2331, 1004, 110, train_defective=246),
    ("ksdd1", "ksdd1"): Counts(256, 127, 17, train_defective=33),
} | {("mvtec", name): Counts(*map(int, counts)) for name, *counts in map(str.split, _MVTEC.split(";"))}


@dataclass(frozen=True)
class Dataset:
    """A validated category: ``root`` is its folder, ``layout`` is "mvtec", "ksdd" or, for own images in neither, ""."""

    name: str
    category: str
    layout: str
    root: Path
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]

    @property
    def title(self) -> str:
        """The name to print; version 1 of KolektorSDD is always called so."""
        return DATASETS[self.name].title + (f" {self.category}" if self.category != self.name else "")

    @property
    def counts(self) -> Counts:
        """Images per split and label."""
        train_defective = sum(sample.label for sample in self.train)
        return Counts(len(self.train), len(self.test), sum(sample.label for sample in self.test), train_defective)

    @property
    def has_masks(self) -> bool:
        """Whether the test split's defects are marked; without masks pixel metrics are "n/a"."""
        return all(sample.mask is not None for sample in self.test if sample.label)

    def fingerprint(self) -> str:
        """SHA-256 over split, name, label and file contents of everything listed (masks too), independent of the root.

        A set opened without its training masks therefore has another fingerprint than with them.
        """
        total = hashlib.sha256()
        for split, samples in (("train", self.train), ("test", self.test)):
            for sample in sorted(samples, key=lambda sample: sample.name):
                total.update(f"{split}\0{sample.name}\0{sample.label}\0".encode())
                for path in (sample.image, sample.mask):
                    content = path.read_bytes() if path is not None else b""
                    total.update(f"{len(content)}\0".encode() + hashlib.sha256(content).digest())
        return total.hexdigest()


def open_dataset(
    dataset: str, category: str, data_root: str | Path | None = None, training_masks: bool = True
) -> Dataset:
    """Find, index and validate a category; every image and mask is decoded once, so training meets no bad file.

    ``training_masks=False`` (labels alone) lists no training mask and, where train/labels.csv exists, opens none.

    Raises:
        InputError: the folder is not found (see ``find_root``), or it has problems; all are in the one message.
    """
    found, problems = _load(dataset, category, find_root(dataset, category, data_root), training_masks)
    _refuse(f"{dataset} {category} in {found.root}", problems)
    return found


def fingerprint_at_hand(dataset: str, category: str, data_root: str | Path | None, training_masks: bool) -> str | None:
    """The fingerprint of a category as it lies there now, None where it is not found; a folder whose files keep their
    sizes and times is read once in a process. Raises InputError as :func:`open_dataset` does."""
    try:
        root = find_root(dataset, category, data_root)
    except InputError:
        return None
    files = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    state = tuple((path, (status := os.lstat(path)).st_size, status.st_mtime_ns) for path in sorted(files))
    return _fingerprint(dataset, category, root, training_masks, state)


@functools.lru_cache
def _fingerprint(dataset: str, category: str, root: Path, training_masks: bool, _: tuple) -> str:
    return open_dataset(dataset, category, root, training_masks).fingerprint()


def write_labels(root: str | Path) -> Path:
    """Write train/labels.csv from the training masks, which weakly supervised training then no longer needs.

    Raises:
        InputError: another layout than KolektorSDD2's, a problem in the folder, or a labels.csv that says otherwise.
    """
    if layout_of(Path(root)) != "ksdd":
        raise InputError(f"{root} is not in KolektorSDD2's layout (train and test/*_GT.png).")
    found, problems = _load("ksdd2", "ksdd2", Path(root))
    _refuse(str(root), problems)
    rows = [{"file": sample.image.name, "label": sample.label} for sample in found.train]
    return write_csv(found.root / "train" / LABELS_FILE, rows, ["file", "label"])


def check(data_root: str | Path, dataset: str | None = None, category: str | None = None) -> list[str]:
    """Find every known data set under ``data_root`` (or only those asked for), validate it and compare its counts: a
    line "OK ..." per sound category and "PROBLEM ..." per problem. A folder that is none and holds none is validated as
    a person's own images.

    Raises:
        InputError: ``data_root`` is not a folder, or the data set or category asked for is unknown.
    """
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise InputError(f"{root} is not a folder.")
    if dataset is not None:
        check_names(dataset, category)
    found = [known for known in search(root) if dataset in (None, known[0]) and category in (None, known[1])]
    itself = ("mvtec", root.name)
    if dataset is None and category is None and (not found or found == [(*itself, root)] and itself not in EXPECTED):
        found = [(OWN, root.resolve().name, root)]
    lines = [line for known in found for line in _check_one(*known)]
    wanted = f"{dataset or 'data set'} {category or ''}".rstrip()
    return lines or [f"PROBLEM {root}: no {wanted} at its top or one level down (see data/README.md)."]


def _check_one(name: str, category: str, root: Path) -> list[str]:
    found, problems = _load(name, category, root)
    expected = EXPECTED.get((name, category))
    if expected not in (None, found.counts):
        problems.append(f"{root}: holds {found.counts}; {found.title} has {expected}.")
    if problems:
        return [f"PROBLEM {problem}" for problem in problems]
    remark = "the counts as expected" if expected else "no published counts to compare with"
    masks = "" if found.has_masks else "; no masks, so pixel metrics will be n/a"
    light = brightness.remark(found.test)
    return [f"OK {found.title}: {found.counts}, {remark}{masks}{light} ({root})"]


def _load(name: str, category: str, root: Path, training_masks: bool = True) -> tuple[Dataset, list[str]]:
    layout = layout_of(root) or ("" if name == OWN else "ksdd")  # a damaged one's files are named, as KolektorSDD2's
    train, test, problems = index(root, layout, training_masks)
    if name == OWN:
        if not test and all(sample.label for sample in train):
            problems.append(f"{root}: no images, and no data set at its top or one level down; see data/README.md.")
        train, test = hold_out(train, test)
    else:
        for kind, label, split in (
            ("normal training", 0, train),
            ("normal test", 0, test),
            ("defective test", 1, test),
        ):
            if all(sample.label != label for sample in split):
                problems.append(f"{root}: no {kind} image; training needs normal ones, and every metric compares both.")
    return Dataset(name, category, layout, root, tuple(train), tuple(test)), sorted(problems)


def _refuse(what: str, problems: list[str]) -> None:
    if problems:
        raise InputError("\n  - ".join([f"{what} has {len(problems)} problem{'s' * (len(problems) > 1)}:", *problems]))
