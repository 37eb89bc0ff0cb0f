"""What `check` says of a folder; and the real data sets, where they are at hand, have their published counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import ROOT

from ssn_core.data import datasets
from ssn_core.data.datasets import check, find_root, open_dataset
from ssn_core.errors import InputError

pytestmark = pytest.mark.usefixtures("no_outside_data")


def test_check_passes_and_reports(widgets: Path) -> None:
    assert check(widgets.parent) == [
        f"OK MVTec AD widgets: 3 train, 4 test (2 defective), no published counts to compare with ({widgets})"
    ]


def test_check_compares_counts(widgets: Path) -> None:
    bottle = widgets.rename(widgets.parent / "bottle")
    expected = "MVTec AD bottle has 209 train, 83 test (63 defective)."
    assert check(widgets.parent, "mvtec", "bottle") == [
        f"PROBLEM {bottle}: holds 3 train, 4 test (2 defective); {expected}"
    ]


def test_check_of_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    [line] = check(tmp_path / "empty")
    assert line.startswith("PROBLEM") and "no data set at its top" in line
    with pytest.raises(InputError, match="is not a folder"):
        check(tmp_path / "absent")


# --- real data

REAL = Path(os.environ.get("SSN_DATA_DIR") or ROOT.parent / "shared" / "data")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("dataset", "category", "defects"),
    [
        ("mvtec", "bottle", {"broken_large": 20, "broken_small": 22, "contamination": 21}),
        ("mvtec", "carpet", {"color": 19, "cut": 17, "hole": 17, "metal_contamination": 17, "thread": 19}),
        (
            "mvtec",
            "screw",
            {"manipulated_front": 24, "scratch_head": 24, "scratch_neck": 25, "thread_side": 23, "thread_top": 23},
        ),
        ("ksdd1", "ksdd1", {"defect": 17}),
        ("ksdd2", "ksdd2", {"defect": 110}),
    ],
)
def test_real_counts(dataset: str, category: str, defects: dict[str, int]) -> None:
    try:
        find_root(dataset, category, REAL)
    except InputError as error:
        pytest.skip(f"{dataset} {category} is not at hand (SSN_DATA_DIR or ../shared/data): {error}")
    found = open_dataset(dataset, category, REAL)
    assert found.counts == datasets.EXPECTED[(dataset, category)]
    marked = [s.defect for s in found.test if s.label]
    assert {name: marked.count(name) for name in set(marked)} == defects
