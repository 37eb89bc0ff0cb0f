"""Data sets indexed and refused: tiny trees in tmp_path."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import mask, picture

from ssn_core.data import datasets, layouts
from ssn_core.data.datasets import open_dataset, write_labels
from ssn_core.errors import InputError

pytestmark = pytest.mark.usefixtures("no_outside_data")


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
