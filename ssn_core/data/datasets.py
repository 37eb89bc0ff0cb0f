"""The data sets by name: where they lie, what they should hold, opened with every problem listed at once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ssn_core.data.find import DATASETS, UNNAMED, DatasetSpec, candidates, check_names, find_root, identify, is_mvtec
from ssn_core.data.layouts import Index, Sample, index_ksdd, index_mvtec, write_labels
from ssn_core.errors import InputError

__all__ = [
    "DATASETS",
    "CheckReport",
    "Counts",
    "Dataset",
    "DatasetSpec",
    "Sample",
    "check",
    "find_root",
    "open_dataset",
    "write_labels",
]


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
EXPECTED: dict[tuple[str, str], Counts] = {
    ("mvtec", "bottle"): Counts(209, 83, 63),
    ("mvtec", "cable"): Counts(224, 150, 92),
    ("mvtec", "capsule"): Counts(219, 132, 109),
    ("mvtec", "carpet"): Counts(280, 117, 89),
    ("mvtec", "grid"): Counts(264, 78, 57),
    ("mvtec", "hazelnut"): Counts(391, 110, 70),
    ("mvtec", "leather"): Counts(245, 124, 92),
    ("mvtec", "metal_nut"): Counts(220, 115, 93),
    ("mvtec", "pill"): Counts(267, 167, 141),
    ("mvtec", "screw"): Counts(320, 160, 119),
    ("mvtec", "tile"): Counts(230, 117, 84),
    ("mvtec", "toothbrush"): Counts(60, 42, 30),
    ("mvtec", "transistor"): Counts(213, 100, 40),
    ("mvtec", "wood"): Counts(247, 79, 60),
    ("mvtec", "zipper"): Counts(240, 151, 119),
    ("ksdd2", "ksdd2"): Counts(2331, 1004, 110, train_defective=246),
    ("ksdd1", "ksdd1"): Counts(256, 127, 17, train_defective=33),
}


@dataclass(frozen=True)
class Dataset:
    """A validated category: ``root`` is its folder, ``layout`` is "mvtec" or "ksdd"."""

    name: str
    category: str
    layout: str
    root: Path
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]

    @property
    def title(self) -> str:
        """The name to print; version 1 of KolektorSDD is always called so."""
        spec = DATASETS[self.name]
        return spec.title if spec.categories == (self.name,) else f"{spec.title} {self.category}"

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

    ``training_masks=False`` (weak supervision, KolektorSDD2's layout) lists no training mask and, where
    train/labels.csv exists, opens none. MVTec's layout has no training masks; there the argument changes nothing.

    Raises:
        InputError: the folder is not found (see ``find_root``), or it has problems; all are in the one message.
    """
    root = find_root(dataset, category, data_root)
    layout, index = _index(root, training_masks)
    if index.problems:
        lines = "".join(f"\n  - {problem}" for problem in index.problems)
        count = "1 problem" if len(index.problems) == 1 else f"{len(index.problems)} problems"
        raise InputError(f"{dataset} {category} in {root} has {count}:{lines}")
    return Dataset(dataset, category, layout, root, index.train, index.test)


@dataclass(frozen=True)
class CheckReport:
    """One line per sound category ("OK ...") and per problem ("PROBLEM ..."); ``status`` is the exit code, 0 or 1."""

    lines: tuple[str, ...]
    status: int


def check(data_root: str | Path, dataset: str | None = None, category: str | None = None) -> CheckReport:
    """Find every known data set under ``data_root`` (or only those asked for), validate it and compare its counts.

    Raises:
        InputError: ``data_root`` is not a folder, or the data set or category asked for is unknown or absent.
    """
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise InputError(f"{root} is not a folder.")
    if dataset in ("ksdd1", "ksdd2"):
        category = category or dataset
    if dataset is not None:
        check_names(dataset, category)
    if dataset is not None and category is not None:
        targets = [(dataset, category, find_root(dataset, category, root))]
    else:
        known = [(*identity, folder) for folder, _ in candidates(root) if (identity := identify(folder))]
        targets = [t for t in known if dataset in (None, t[0]) and category in (None, t[1])]
    lines = [line for name, kind, folder in targets for line in _check_one(name, kind, folder)]
    if not targets:
        wanted = f"{dataset or 'data set'} {category or ''}".rstrip()
        lines.append(f"PROBLEM {root}: no {wanted} at its top or one level down (see data/README.md).")
    return CheckReport(tuple(lines), int(any(line.startswith("PROBLEM") for line in lines)))


def _check_one(dataset: str, category: str, folder: Path) -> list[str]:
    if dataset == UNNAMED:
        way_out = "rename it to ksdd2, or check it with --dataset ksdd2"
        return [f"PROBLEM {folder}: KolektorSDD2's layout under an unknown name; {way_out}."]
    _, index = _index(folder, training_masks=True)
    found = Dataset(dataset, category, "", folder, index.train, index.test)
    lines = [f"PROBLEM {problem}" for problem in index.problems]
    expected = EXPECTED.get((dataset, category))
    if expected is not None and found.counts != expected:
        lines.append(f"PROBLEM {folder}: holds {found.counts}; {found.title} has {expected}.")
    if lines:
        return lines
    remark = "the counts as expected" if expected is not None else "no published counts to compare with"
    masks = "" if found.has_masks else "; no masks, so pixel metrics will be n/a"
    return [f"OK {found.title}: {found.counts}, {remark}{masks} ({folder})"]


def _index(root: Path, training_masks: bool) -> tuple[str, Index]:
    if is_mvtec(root):
        return "mvtec", index_mvtec(root)
    return "ksdd", index_ksdd(root, training_masks)
