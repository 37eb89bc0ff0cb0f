"""Data sets found, indexed and refused: tiny trees in tmp_path, and the real sets where they are at hand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssn_core.data import datasets, layouts
from ssn_core.data.datasets import check, find_root, open_dataset, write_labels
from ssn_core.errors import InputError

SIZE = (12, 16)  # height, width


@pytest.fixture(autouse=True)
def _no_outside_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SSN_DATA_DIR", raising=False)
    monkeypatch.setenv("SSN_KAGGLE_INPUT", str(tmp_path / "no_kaggle"))
    monkeypatch.chdir(tmp_path)


def picture(path: Path, value: int = 100, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
    return path


def mask(path: Path, marked: bool = True, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(size, np.uint8)
    values[2:5, 3:6] = 255 * marked
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def widgets(tmp_path: Path) -> Path:
    """A sound category in MVTec's layout: 3 train, 2 good, 2 scratched."""
    root = tmp_path / "sets" / "widgets"
    for i in range(3):
        picture(root / "train" / "good" / f"{i:03d}.png", 90 + i)
    for i in range(2):
        picture(root / "test" / "good" / f"{i:03d}.png", 120 + i)
        picture(root / "test" / "scratch" / f"{i:03d}.png", 150 + i)
        mask(root / "ground_truth" / "scratch" / f"{i:03d}_mask.png")
    return root


@pytest.fixture
def ksdd(tmp_path: Path) -> Path:
    """A sound folder in KolektorSDD2's layout: 4 train (1 defective), 3 test (1 defective)."""
    root = tmp_path / "sets" / "KSDD2"
    for split, first, count in (("train", 10000, 4), ("test", 20000, 3)):
        for i in range(count):
            picture(root / split / f"{first + i}.png", 90 + i)
            mask(root / split / f"{first + i}_GT.png", marked=i == 1)
    return root


def problems(dataset: str, category: str, root: Path, **options: bool) -> str:
    with pytest.raises(InputError) as caught:
        open_dataset(dataset, category, root.parent, **options)
    return str(caught.value)


# --- sound data


def test_mvtec_layout_is_indexed(widgets: Path) -> None:
    found = open_dataset("mvtec", "widgets", widgets.parent)
    assert (found.root, found.layout, found.has_masks) == (widgets, "mvtec", True)
    assert [s.name for s in found.train] == [f"train/good/{i:03d}.png" for i in range(3)]
    assert [(s.name, s.label, s.defect) for s in found.test] == [
        ("test/good/000.png", 0, "good"),
        ("test/good/001.png", 0, "good"),
        ("test/scratch/000.png", 1, "scratch"),
        ("test/scratch/001.png", 1, "scratch"),
    ]
    assert [s.mask for s in found.test[:2]] == [None, None]
    assert found.test[3].mask == widgets / "ground_truth" / "scratch" / "001_mask.png"


def test_ksdd_labels_come_from_the_masks(ksdd: Path) -> None:
    found = open_dataset("ksdd2", "ksdd2", ksdd.parent)
    assert [s.label for s in found.train] == [0, 1, 0, 0]
    assert [s.defect for s in found.test] == ["good", "defect", "good"]
    assert all(s.mask is not None for s in (*found.train, *found.test))
    assert found.layout == "ksdd" and found.title == "KolektorSDD2"


def test_copies_in_the_ksdd2_archive_are_ignored(ksdd: Path) -> None:
    picture(ksdd / "train" / "10001 (copy).png")
    mask(ksdd / "train" / "10001_GT (copy).png")
    assert open_dataset("ksdd2", "ksdd2", ksdd.parent).counts == datasets.Counts(4, 3, 1, train_defective=1)


def test_labels_file_replaces_deleted_training_masks(ksdd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_labels(ksdd)
    for path in (ksdd / "train").glob("*_GT.png"):
        path.unlink()
    opened: list[Path] = []
    read_mask = layouts.read_mask
    monkeypatch.setattr(layouts, "read_mask", lambda path: opened.append(path) or read_mask(path))
    found = open_dataset("ksdd2", "ksdd2", ksdd.parent, training_masks=False)
    assert [(s.label, s.mask) for s in found.train] == [(0, None), (1, None), (0, None), (0, None)]
    assert opened and all(path.parent.name == "test" for path in opened)
    assert "10000_GT.png is missing" in problems("ksdd2", "ksdd2", ksdd)


def test_labels_file_keeps_existing_training_masks_closed(ksdd: Path) -> None:
    write_labels(ksdd)
    for path in (ksdd / "train").glob("*_GT.png"):
        path.write_bytes(b"never opened")
    assert open_dataset("ksdd2", "ksdd2", ksdd.parent, training_masks=False).counts.train_defective == 1


def test_category_without_ground_truth_has_no_masks(widgets: Path) -> None:
    shutil.rmtree(widgets / "ground_truth")
    found = open_dataset("mvtec", "widgets", widgets.parent)
    assert not found.has_masks and [s.mask for s in found.test] == [None] * 4


def test_fingerprint_follows_content_not_place(widgets: Path, tmp_path: Path) -> None:
    first = open_dataset("mvtec", "widgets", widgets.parent).fingerprint()
    moved = shutil.copytree(widgets, tmp_path / "elsewhere" / "widgets")
    assert open_dataset("mvtec", "widgets", moved.parent).fingerprint() == first
    values = np.array(Image.open(moved / "ground_truth" / "scratch" / "000_mask.png"))
    values[0, 0] = 255
    Image.fromarray(values).save(moved / "ground_truth" / "scratch" / "000_mask.png")
    assert open_dataset("mvtec", "widgets", moved.parent).fingerprint() != first


# --- everything wrong, all at once


def test_every_problem_is_listed_with_its_path(widgets: Path) -> None:
    good = widgets / "train" / "good"
    Image.effect_noise((64, 64), 50).save(good / "000.png")
    good.joinpath("000.png").write_bytes(good.joinpath("000.png").read_bytes()[:-500])  # a broken-off download
    good.joinpath("001.png").write_text("not an image")
    masks = widgets / "ground_truth" / "scratch"
    mask(masks / "000_mask.png", size=(6, 8))
    masks.joinpath("001_mask.png").rename(masks / "001.png")
    mask(masks / "007_mask.png")
    picture(widgets / "test" / "dent" / "000.png")
    (widgets / "test" / "hole").mkdir()
    mask(widgets / "ground_truth" / "stain" / "000_mask.png")
    picture(widgets / "train" / "scratch" / "000.png")
    text = problems("mvtec", "widgets", widgets)
    expected = [
        f"{good / '000.png'}: not a readable image",
        f"{good / '001.png'}: not a readable image",
        f"{masks / '000_mask.png'}: the mask is 8x6, its image 16x12",
        f"{widgets / 'test' / 'scratch' / '001.png'}: its mask {masks / '001_mask.png'} is missing",
        f"{masks / '001.png'}: mask without image",
        f"{masks / '007_mask.png'}: mask without image",
        f"{widgets / 'test' / 'dent' / '000.png'}: its mask {masks.parent / 'dent' / '000_mask.png'} is missing",
        f"{widgets / 'test' / 'hole'}: empty",
        f"{masks.parent / 'stain' / '000_mask.png'}: mask without image",
        f"{widgets / 'train' / 'scratch'}: training images belong in train/good",
    ]
    assert [line for line in expected if line not in text] == []
    assert f"has {len(expected)} problems" in text


def test_missing_and_empty_masks(widgets: Path) -> None:
    masks = widgets / "ground_truth" / "scratch"
    masks.joinpath("000_mask.png").unlink()
    mask(masks / "001_mask.png", marked=False)
    text = problems("mvtec", "widgets", widgets)
    assert f"its mask {masks / '000_mask.png'} is missing" in text
    assert f"{masks / '001_mask.png'}: the mask is empty, but its folder gives the image label 1" in text


@pytest.mark.parametrize(
    ("emptied", "message"),
    [
        ("train/good", "no normal training image"),
        ("test/good", "no normal test image"),
        ("test/scratch", "no defective test image"),
    ],
)
def test_empty_split(widgets: Path, emptied: str, message: str) -> None:
    for path in (widgets / emptied).iterdir():
        path.unlink()
    assert message in problems("mvtec", "widgets", widgets)


def test_two_images_with_one_stem(widgets: Path) -> None:
    picture(widgets / "test" / "scratch" / "000.jpg")
    assert "000.png: another image has the same stem" in problems("mvtec", "widgets", widgets)


def test_ksdd_problems(ksdd: Path) -> None:
    (ksdd / "train" / "10000_GT.png").unlink()
    mask(ksdd / "train" / "10009_GT.png")
    (ksdd / "train" / "10002_GT.png").rename(ksdd / "train" / "10002_gt.png")
    mask(ksdd / "test" / "20001_GT.png", size=(4, 4))
    (ksdd / "test" / "20002.png").write_bytes(b"")
    text = problems("ksdd2", "ksdd2", ksdd)
    expected = [
        f"10000.png: its mask {ksdd / 'train' / '10000_GT.png'} is missing",
        f"10002.png: its mask {ksdd / 'train' / '10002_GT.png'} is missing",
        f"10002_gt.png: its mask {ksdd / 'train' / '10002_gt_GT.png'} is missing",
        "10009_GT.png: mask without image",
        "20001_GT.png: the mask is 4x4, its image 16x12",
        "20002.png: not a readable image",
    ]
    assert [line for line in expected if line not in text] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,defect\n10000.png,0\n", "the first line must be file,label"),
        ("file,label\n10000.png,yes\n", "line 2: wants an image of this folder, once, and 0 or 1; got 10000.png,yes"),
        (
            "file,label\n10000.png,0\n10000.png,0\n",
            "line 3: wants an image of this folder, once, and 0 or 1; got 10000.png,0",
        ),
        ("file,label\n10000.png,0\n", "10001.png has no line in it"),
        ("file,label\n99999.png,0\n", "line 2: wants an image of this folder, once, and 0 or 1; got 99999.png,0"),
    ],
)
def test_bad_labels_file(ksdd: Path, content: str, message: str) -> None:
    (ksdd / "train" / "labels.csv").write_text(content)
    assert message in problems("ksdd2", "ksdd2", ksdd, training_masks=False)


def test_labels_file_against_masks(ksdd: Path) -> None:
    path = write_labels(ksdd)
    path.write_text(path.read_text().replace("10000.png,0", "10000.png,1"))
    assert "10000_GT.png: the mask is empty, but labels.csv gives the image label 1" in problems("ksdd2", "ksdd2", ksdd)


def test_labels_are_written_from_sound_masks_only(ksdd: Path, widgets: Path) -> None:
    mask(ksdd / "train" / "10002_GT.png", size=(4, 4))
    with pytest.raises(InputError, match="has 1 problem:\n  - .*10002_GT.png: the mask is 4x4"):
        write_labels(ksdd)
    with pytest.raises(InputError, match="widgets is not in KolektorSDD2's layout"):
        write_labels(widgets)
    assert not list(ksdd.parent.rglob("labels.csv"))


# --- where data are looked for


def test_ladder(widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = shutil.copytree(widgets, tmp_path / "data" / "mine" / "widgets")
    assert find_root("mvtec", "widgets") == local
    kaggle = shutil.copytree(widgets, tmp_path / "kaggle" / "a" / "b" / "c" / "widgets")
    monkeypatch.setenv("SSN_KAGGLE_INPUT", str(tmp_path / "kaggle"))
    assert find_root("mvtec", "widgets") == kaggle
    variable = shutil.copytree(widgets, tmp_path / "variable" / "widgets")
    monkeypatch.setenv("SSN_DATA_DIR", str(tmp_path / "variable"))
    assert find_root("mvtec", "widgets") == variable
    assert find_root("mvtec", "widgets", widgets.parent) == widgets
    assert find_root("mvtec", "widgets", widgets) == widgets  # the category's own folder will do


def test_kaggle_mount_of_ksdd2_is_found_by_marker(ksdd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = shutil.copytree(ksdd, tmp_path / "kaggle" / "some-upload" / "defects")
    monkeypatch.setenv("SSN_KAGGLE_INPUT", str(tmp_path / "kaggle"))
    assert find_root("ksdd2", "ksdd2") == mount
    with pytest.raises(InputError, match="holds KolektorSDD .version 1."):
        find_root("ksdd1", "ksdd1")


@pytest.mark.parametrize("mount", ["some-upload", "datasets/owner/some-upload", "datasets/owner/slug/archive/mvtec"])
def test_kaggle_mounts_are_searched_at_any_depth(
    mount: str, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle = tmp_path / "kaggle"
    found = shutil.copytree(widgets, kaggle / mount / "widgets")
    (found.parent / "circle").symlink_to(kaggle)
    monkeypatch.setenv("SSN_KAGGLE_INPUT", str(kaggle))
    assert find_root("mvtec", "widgets") == find_root("mvtec", "widgets", kaggle) == found
    assert [line.split()[0] for line in check(kaggle)] == ["OK"]


def test_links_lead_to_one_folder_or_nowhere(widgets: Path, tmp_path: Path) -> None:
    root = tmp_path / "links"
    root.mkdir()
    (root / "itself").symlink_to(root / "itself")
    (root / "up").symlink_to(tmp_path)
    for name in ("a", "b"):
        (root / name).symlink_to(widgets.parent)
    assert find_root("mvtec", "widgets", root) == root / "a" / "widgets"


def test_version_1_is_never_taken_for_ksdd2(ksdd: Path) -> None:
    older = ksdd.rename(ksdd.parent / "kolektor_sdd1_in_ksdd2_layout")
    assert open_dataset("ksdd1", "ksdd1", ksdd.parent).title == "KolektorSDD (version 1)"
    for root in (older.parent, older):
        with pytest.raises(InputError, match="does not hold KolektorSDD2"):
            find_root("ksdd2", "ksdd2", root)


def test_a_given_root_is_not_passed_over(widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(widgets, tmp_path / "data" / "widgets")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="data_root is .*nothing, which does not hold"):
        find_root("mvtec", "widgets", tmp_path / "nothing")
    monkeypatch.setenv("SSN_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="SSN_DATA_DIR is .*absent, which is not a folder"):
        find_root("mvtec", "widgets")


def test_unknown_names(widgets: Path) -> None:
    with pytest.raises(InputError, match="Found there: mvtec widgets"):
        find_root("mvtec", "wigdets", widgets.parent)
    with pytest.raises(InputError, match="Unknown data set 'mvtech'; known: mvtec, ksdd2, ksdd1, synthetic"):
        find_root("mvtech", "widgets", widgets.parent)
    with pytest.raises(InputError, match="its categories: ring, weave, thread, plates"):
        find_root("synthetic", "bottle", widgets.parent)
    with pytest.raises(InputError, match="set SSN_DATA_DIR"):
        find_root("mvtec", "widgets")


def test_two_folders_of_one_category(widgets: Path) -> None:
    for place in ("a", "b"):
        shutil.copytree(widgets, widgets.parent / place / "widgets")
    shutil.rmtree(widgets)
    with pytest.raises(InputError, match="Several folders hold mvtec widgets: .*a/widgets, .*b/widgets"):
        find_root("mvtec", "widgets", widgets.parent)


# --- check


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

REAL = Path(os.environ.get("SSN_DATA_DIR") or Path(__file__).resolve().parents[2] / "shared" / "data")


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
