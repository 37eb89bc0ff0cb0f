"""The data sets by name: where they lie, what they should hold, opened with every problem listed at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .layouts import LABELS_FILE, MASK_SUFFIX, Index, Sample, index_ksdd, index_mvtec

__all__ = ["DATASETS", "CheckReport", "Dataset", "DatasetSpec", "Sample", "check", "find_root", "open_dataset"]

ENVIRONMENT_VARIABLE = "SSN_DATA_DIR"
KAGGLE_INPUT = Path("/kaggle/input")
SYNTHETIC_MARKER = "synthetic.json"  # written last by the generator, so a half-drawn set is never found


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


@dataclass(frozen=True)
class DatasetSpec:
    """A known data set. ``categories`` empty: any folder in the layout; ``folders``: the names it is found under."""

    title: str
    layout: str
    categories: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


DATASETS: dict[str, DatasetSpec] = {
    "mvtec": DatasetSpec("MVTec AD", "mvtec"),
    "ksdd2": DatasetSpec(
        "KolektorSDD2", "ksdd", ("ksdd2",), ("ksdd2", "kolektorsdd2", "kolektor_sdd2", "kolektor-sdd2")
    ),
    "ksdd1": DatasetSpec(
        "KolektorSDD (version 1)", "ksdd", ("ksdd1",), ("ksdd1", "kolektor_sdd1_in_ksdd2_layout")
    ),
    "synthetic": DatasetSpec("synthetic", "mvtec", ("ring", "weave", "thread", "plates")),
}

# Bergmann et al., CVPR 2019, Table 1; Bozic et al., Computers in Industry 129 (2021); for ksdd1 the stand-in's split.
EXPECTED: dict[tuple[str, str], Counts] = {
    ("mvtec", "bottle"): Counts(209, 83, 63),
    ("mvtec", "carpet"): Counts(280, 117, 89),
    ("mvtec", "screw"): Counts(320, 160, 119),
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


def find_root(dataset: str, category: str, data_root: str | Path | None = None) -> Path:
    """The folder of a category: MVTec's <category>, or the one that holds KolektorSDD2's train and test.

    Looked for in ``data_root``, else in SSN_DATA_DIR, else in Kaggle's mounts at any depth, else in ./data; the first
    two, once given, must hold it. Under a root its top and one level down are searched.

    Raises:
        InputError: unknown data set or category, a root that does not hold it, or several folders that do.
    """
    _check_names(dataset, category)
    given = [("data_root", data_root), (ENVIRONMENT_VARIABLE, os.environ.get(ENVIRONMENT_VARIABLE))]
    for name, value in given:
        if value is not None and str(value):
            root = Path(value).expanduser()
            if not root.is_dir():
                raise InputError(f"{name} is {root}, which is not a folder.")
            if found := _match(_candidates(root), dataset, category):
                return _only(found, dataset, category)
            raise InputError(f"{name} is {root}, which does not hold {_wanted(dataset, category, [root])}")
    if found := _match(_walk(KAGGLE_INPUT), dataset, category):
        return _only(found, dataset, category)
    local = Path.cwd() / "data"
    if found := _match(_candidates(local), dataset, category):
        return _only(found, dataset, category)
    raise InputError(
        f"No folder holds {_wanted(dataset, category, [KAGGLE_INPUT, local])} Looked in {KAGGLE_INPUT} and {local}; "
        f"pass data_root, set {ENVIRONMENT_VARIABLE}, or put it under data/ (see data/README.md)."
    )


@dataclass(frozen=True)
class CheckReport:
    """What ``check`` found: one line per category or problem; ``status`` is 0 when all is well, else 1 (exit code)."""

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
    if dataset is not None and category is None and len(DATASETS.get(dataset, DATASETS["mvtec"]).categories) == 1:
        category = dataset
    if dataset is not None and category is not None:
        targets = [(dataset, category, find_root(dataset, category, root))]
    else:
        if dataset is not None and dataset not in DATASETS:
            raise InputError(f"Unknown data set {dataset!r}; known: {', '.join(DATASETS)}.")
        known = [(*identity, folder) for folder, _ in _candidates(root) if (identity := _identify(folder))]
        targets = [t for t in known if dataset in (None, t[0]) and category in (None, t[1])]
    lines: list[str] = []
    for name, kind, folder in targets:
        lines += _check_one(name, kind, folder)
    if not targets:
        lines.append(f"PROBLEM {root}: no data set found at its top or one level down (see data/README.md).")
    return CheckReport(tuple(lines), int(any(line.startswith("PROBLEM") for line in lines)))


def _check_one(dataset: str, category: str, folder: Path) -> list[str]:
    if dataset == UNNAMED:
        return [f"PROBLEM {folder}: KolektorSDD2's layout under an unknown name; rename it to KSDD2 or ksdd1."]
    _, index = _index(folder, training_masks=True)
    found = Dataset(dataset, category, "", folder, index.train, index.test)
    lines = [f"PROBLEM {problem}" for problem in index.problems]
    expected = EXPECTED.get((dataset, category))
    if expected is not None and found.counts != expected:
        lines.append(f"PROBLEM {folder}: holds {found.counts}; {found.title} has {expected}.")
    if lines:
        return lines
    remark = "as released" if expected is not None else "no published counts to compare with"
    masks = "" if found.has_masks else "; no masks, so pixel metrics will be n/a"
    return [f"OK {found.title}: {found.counts}, {remark}{masks} ({folder})"]


UNNAMED = "unnamed"  # KolektorSDD2's layout under a name that does not say which version it is


def _index(root: Path, training_masks: bool) -> tuple[str, Index]:
    if _is_mvtec(root):
        return "mvtec", index_mvtec(root)
    return "ksdd", index_ksdd(root, training_masks)


def _check_names(dataset: str, category: str) -> None:
    if dataset not in DATASETS:
        raise InputError(f"Unknown data set {dataset!r}; known: {', '.join(DATASETS)}.")
    categories = DATASETS[dataset].categories
    if categories and category not in categories:
        raise InputError(f"Data set {dataset} has no category {category!r}; its categories: {', '.join(categories)}.")


def _is_mvtec(folder: Path) -> bool:
    return (folder / "train" / "good").is_dir()


def _is_ksdd(folder: Path) -> bool:
    train, test = folder / "train", folder / "test"
    if not (train.is_dir() and test.is_dir()):
        return False
    # training masks may be deleted (weak supervision), hence the test split's or labels.csv as a marker too
    pattern = f"*{MASK_SUFFIX['ksdd']}.*"
    return (train / LABELS_FILE).is_file() or any(any(split.glob(pattern)) for split in (train, test))


def _identify(folder: Path) -> tuple[str, str] | None:
    """(data set, category) of a folder by its marker and its name; None where it is no category."""
    if (folder / SYNTHETIC_MARKER).is_file():
        return ("synthetic", folder.name) if folder.name in DATASETS["synthetic"].categories else None
    if _is_mvtec(folder):
        return "mvtec", folder.name
    if not _is_ksdd(folder):
        return None
    for name in ("ksdd1", "ksdd2"):
        if folder.name.lower() in DATASETS[name].folders:
            return name, name
    return UNNAMED, folder.name


def _candidates(root: Path) -> Iterator[tuple[Path, int]]:
    """The root itself, its folders and theirs, each with its depth (0, 1, 2), shallow ones first."""
    level = [root] if root.is_dir() else []
    for depth in range(3):
        yield from ((folder, depth) for folder in level)
        level = [child for folder in level for child in _subfolders(folder)]


def _walk(root: Path) -> Iterator[tuple[Path, int]]:
    """Every folder below ``root``, not descending into found categories; depth 0, since any depth is as good."""
    for folder in _subfolders(root):
        yield folder, 0
        if _identify(folder) is None:
            yield from _walk(folder)


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")


def _match(candidates: Iterator[tuple[Path, int]], dataset: str, category: str) -> list[Path]:
    """The folders of a category at the shallowest depth that has any; an unnamed one counts only at depth 0."""
    found: dict[int, list[Path]] = {}
    for folder, depth in candidates:
        identity = _identify(folder)
        unnamed = identity is not None and identity[0] == UNNAMED and depth == 0 and dataset in ("ksdd1", "ksdd2")
        if identity == (dataset, category) or unnamed:
            found.setdefault(depth, []).append(folder)
    return found[min(found)] if found else []


def _only(found: list[Path], dataset: str, category: str) -> Path:
    if len(found) > 1:
        places = ", ".join(str(folder) for folder in found)
        raise InputError(f"Several folders hold {dataset} {category}: {places}; point data_root at one of them.")
    return found[0]


def _wanted(dataset: str, category: str, roots: list[Path]) -> str:
    marker = f"{category}/train/good" if DATASETS[dataset].layout == "mvtec" else "train/*_GT.png"
    text = f"{DATASETS[dataset].title} {category} (marker {marker}, at the top or one level down)."
    found = {_identify(folder) for root in roots for folder, _ in _candidates(root)} - {None}
    names = sorted(category for name, category in found if name == dataset)
    return text + (f" Categories found there: {', '.join(names)}." if names else "")
