"""Where the data sets lie: the known ones, how a folder is recognised by what it holds, and the places searched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ssn_core.data.images import subfolders
from ssn_core.data.layouts import layout_of
from ssn_core.errors import InputError

DATA_VARIABLE = "SSN_DATA_DIR"
SYNTHETIC = ("ring", "weave", "thread", "plates")
SYNTHETIC_MARKER = "synthetic.json"  # written last by the generator, so a half-drawn set is never found


@dataclass(frozen=True)
class DatasetSpec:
    """A known data set: its title, what a folder of it is, and its categories (none: any folder's name)."""

    title: str
    folder: str
    categories: tuple[str, ...] = ()


OWN = "own"
DATASETS: dict[str, DatasetSpec] = {
    "mvtec": DatasetSpec("MVTec AD", "<category>/train/good"),
    "ksdd2": DatasetSpec("KolektorSDD2", "a folder with train and test/*_GT.png", ("ksdd2",)),
    "ksdd1": DatasetSpec("KolektorSDD (version 1)", "such a folder as KolektorSDD2's, sdd1 in its name", ("ksdd1",)),
    "synthetic": DatasetSpec("synthetic", "drawn by `make report` or ssn.make_synthetic", SYNTHETIC),
    OWN: DatasetSpec("own images", "any folder of good images, with defects or without"),
}


def check_names(dataset: str, category: str | None) -> None:
    """Raise InputError on an unknown data set, or on a category (None: not asked) that a known one does not have."""
    if dataset not in DATASETS:
        raise InputError(f"Unknown data set {dataset!r}; known: {', '.join(DATASETS)}.")
    if (categories := DATASETS[dataset].categories) and category not in (None, *categories):
        raise InputError(f"Data set {dataset} has no category {category!r}; its categories: {', '.join(categories)}.")


def identify(folder: Path) -> tuple[str, str] | None:
    """(data set, category) of a folder by what it holds and its name; None where it is no category."""
    if os.path.isfile(folder / SYNTHETIC_MARKER):
        return ("synthetic", folder.name) if folder.name in SYNTHETIC else None
    layout = layout_of(folder)
    if layout == "ksdd":
        return ("ksdd1", "ksdd1") if "sdd1" in folder.name.lower() else ("ksdd2", "ksdd2")
    return ("mvtec", folder.name) if layout else None


def search(root: Path) -> Iterator[tuple[str, str, Path]]:
    """(data set, category, folder) at ``root``, its top or one level down; below Kaggle's mounts at any depth."""
    seen: set[str] = set()  # a folder that several links lead to is one, and a circle of links ends
    queue, deepest = [(root, 0)], 99 if root.is_relative_to(kaggle_input()) else 2
    for folder, depth in queue:  # it grows meanwhile: breadth first
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        if identity := identify(folder):
            yield *identity, folder
        elif depth < deepest:
            queue += [(child, depth + 1) for child in subfolders(folder)]


def kaggle_input() -> Path:
    """Where Kaggle mounts data sets: SSN_KAGGLE_INPUT, else /kaggle/input."""
    return Path(os.environ.get("SSN_KAGGLE_INPUT") or "/kaggle/input")


def find_root(dataset: str, category: str, data_root: str | Path | None = None) -> Path:
    """The folder of a category: MVTec's <category>, or the one that holds KolektorSDD2's train and test.

    Looked for in ``data_root``, else in SSN_DATA_DIR; where neither is given, in Kaggle's mounts and then in ./data.
    A folder of own images is ``data_root`` itself.

    Raises:
        InputError: unknown data set or category, a root that does not hold it, or several folders that do.
    """
    check_names(dataset, category)
    setting, value = ("data_root", data_root) if data_root else (DATA_VARIABLE, os.environ.get(DATA_VARIABLE))
    places = [Path(value).expanduser()] if value else [kaggle_input(), Path.cwd() / "data"]
    if value and not places[0].is_dir():
        raise InputError(f"{setting} is {places[0]}, which is not a folder.")
    if dataset == OWN:
        if not data_root:
            raise InputError(f"Images of your own are found by data_root alone: give it the folder of {category}.")
        return places[0]
    others: list[str] = []
    for place in places:
        found = list(search(place))
        matches = [folder for *identity, folder in found if identity == [dataset, category]]
        if len(matches) > 1:
            listed = ", ".join(map(str, matches))
            raise InputError(f"Several folders hold {dataset} {category}: {listed}; point data_root at one of them.")
        if matches:
            return matches[0]
        others += [f"{kind} {name}" for kind, name, _ in found]
    missing = f"{setting} is {places[0]}, which does not hold" if value else "Neither {} nor {} holds".format(*places)
    raise InputError(
        f"{missing} {DATASETS[dataset].title} {category} ({DATASETS[dataset].folder}) at its top or one level down. "
        f"Found there: {', '.join(others) or 'nothing known'}. "
        f"Pass data_root, set {DATA_VARIABLE}, or put it under data/ (see data/README.md)."
    )
