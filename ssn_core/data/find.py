"""Where the data sets lie: the known names, the ladder of places, and how a folder is recognised."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ssn_core.data.layouts import LABELS_FILE, MASK_SUFFIX
from ssn_core.errors import InputError

ENVIRONMENT_VARIABLE = "SSN_DATA_DIR"
KAGGLE_INPUT = Path("/kaggle/input")
SYNTHETIC_MARKER = "synthetic.json"  # written last by the generator, so a half-drawn set is never found
UNNAMED = "unnamed"  # KolektorSDD2's layout under a name that does not say which data set it is


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
    "ksdd1": DatasetSpec("KolektorSDD (version 1)", "ksdd", ("ksdd1",), ("ksdd1", "kolektor_sdd1_in_ksdd2_layout")),
    "synthetic": DatasetSpec("synthetic", "mvtec", ("ring", "weave", "thread", "plates")),
}


def find_root(dataset: str, category: str, data_root: str | Path | None = None) -> Path:
    """The folder of a category: MVTec's <category>, or the one that holds KolektorSDD2's train and test.

    Looked for in ``data_root``, else in SSN_DATA_DIR, else in Kaggle's mounts at any depth, else in ./data; the first
    two, once given, must hold it. Under a root its top and one level down are searched.

    Raises:
        InputError: unknown data set or category, a root that does not hold it, or several folders that do.
    """
    check_names(dataset, category)
    given = {"data_root": data_root, ENVIRONMENT_VARIABLE: os.environ.get(ENVIRONMENT_VARIABLE)}
    for name, value in given.items():
        if value is None or not str(value):
            continue
        root = Path(value).expanduser()
        if not root.is_dir():
            raise InputError(f"{name} is {root}, which is not a folder.")
        if found := _match(candidates(root), dataset, category):
            return _only(found, dataset, category)
        raise InputError(f"{name} is {root}, which does not hold {_wanted(dataset, category, root)}")
    local = Path.cwd() / "data"
    for folders in (_walk(KAGGLE_INPUT), candidates(local)):
        if found := _match(folders, dataset, category):
            return _only(found, dataset, category)
    raise InputError(
        f"Neither {KAGGLE_INPUT} nor {local} holds {_wanted(dataset, category, local)} "
        f"Pass data_root, set {ENVIRONMENT_VARIABLE}, or put it under data/ (see data/README.md)."
    )


def check_names(dataset: str, category: str | None) -> None:
    """Raise InputError on an unknown data set, or on a category (None: not asked) that a known one does not have."""
    if dataset not in DATASETS:
        raise InputError(f"Unknown data set {dataset!r}; known: {', '.join(DATASETS)}.")
    categories = DATASETS[dataset].categories
    if category is not None and categories and category not in categories:
        raise InputError(f"Data set {dataset} has no category {category!r}; its categories: {', '.join(categories)}.")


def is_mvtec(folder: Path) -> bool:
    """Whether ``folder`` is a category in MVTec AD's layout."""
    return (folder / "train" / "good").is_dir()


def _is_ksdd(folder: Path) -> bool:
    train, test = folder / "train", folder / "test"
    if not (train.is_dir() and test.is_dir()):
        return False
    # training masks may be deleted (weak supervision), hence the test split's or labels.csv as a marker too
    pattern = f"*{MASK_SUFFIX['ksdd']}.*"
    return (train / LABELS_FILE).is_file() or any(any(split.glob(pattern)) for split in (train, test))


def identify(folder: Path) -> tuple[str, str] | None:
    """(data set, category) of a folder by its marker and its name; None where it is no category."""
    if (folder / SYNTHETIC_MARKER).is_file():
        return ("synthetic", folder.name) if folder.name in DATASETS["synthetic"].categories else None
    if is_mvtec(folder):
        return "mvtec", folder.name
    if not _is_ksdd(folder):
        return None
    for name in ("ksdd1", "ksdd2"):
        if folder.name.lower() in DATASETS[name].folders:
            return name, name
    return UNNAMED, folder.name


def candidates(root: Path) -> Iterator[tuple[Path, int]]:
    """The root itself, its folders and theirs, each with its depth (0, 1, 2), shallow ones first."""
    level = [root] if root.is_dir() else []
    for depth in range(3):
        yield from ((folder, depth) for folder in level)
        level = [child for folder in level for child in _subfolders(folder)]


def _walk(root: Path) -> Iterator[tuple[Path, int]]:
    """Every folder below ``root``, not descending into found categories; depth 0, since any depth is as good."""
    for folder in _subfolders(root):
        yield folder, 0
        if identify(folder) is None:
            yield from _walk(folder)


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")


def _match(folders: Iterator[tuple[Path, int]], dataset: str, category: str) -> list[Path]:
    """The folders of a category at the shallowest depth that has any; KolektorSDD2 may have any name at depth 0."""
    found: dict[int, list[Path]] = {}
    for folder, depth in folders:
        identity = identify(folder)
        unnamed = identity is not None and identity[0] == UNNAMED and depth == 0 and dataset == "ksdd2"
        if identity == (dataset, category) or unnamed:
            found.setdefault(depth, []).append(folder)
    return found[min(found)] if found else []


def _only(found: list[Path], dataset: str, category: str) -> Path:
    if len(found) > 1:
        places = ", ".join(str(folder) for folder in found)
        raise InputError(f"Several folders hold {dataset} {category}: {places}; point data_root at one of them.")
    return found[0]


def _wanted(dataset: str, category: str, root: Path) -> str:
    spec = DATASETS[dataset]
    if dataset == "synthetic":
        place = f"{category} (drawn by `make report` or ssn_core.data.synthetic.make_synthetic)"
    elif spec.layout == "mvtec":
        place = f"{category} ({category}/train/good at its top or one level down)"
    else:
        place = f"(a folder {' or '.join(spec.folders)} with train/*_GT.png at its top or one level down)"
    found = [identity for folder, _ in candidates(root) if (identity := identify(folder))]
    same = sorted(name for kind, name in found if kind == dataset)
    others = sorted({kind for kind, _ in found} - {dataset, UNNAMED})
    text = f"{spec.title} {place}."
    if same:
        text += f" Categories found there: {', '.join(same)}."
    return text + (f" Other data sets found there: {', '.join(others)}." if others else "")
