"""The synthetic sets: equal from a seed, exact masks, whole or absent."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssn_core.data import synthetic
from ssn_core.data.datasets import find_root, open_dataset
from ssn_core.data.synthetic import DEFECTS, SyntheticCounts, draw, make_synthetic
from ssn_core.errors import InputError

FEW = SyntheticCounts(3, 2, 4, 4, 2, 3, 1)
KINDS = [(kind, defect) for kind, defects in DEFECTS.items() for defect in defects]
PIXELS = {
    ("ring", None): "c6b479d9c771",
    ("ring", "broken_large"): "9f1d7ef37b6f",
    ("ring", "broken_small"): "7a3477792734",
    ("ring", "contamination"): "0fef3a16507e",
    ("weave", None): "6de4c53d822b",
    ("weave", "colour"): "4fd89e552732",
    ("weave", "cut"): "1ffa2e6cb986",
    ("weave", "hole"): "48df9be456e7",
    ("weave", "thread"): "f35a93145bfe",
    ("thread", None): "60d4ffadc5b4",
    ("thread", "bent_front"): "3112352a389c",
    ("thread", "flat_thread"): "414597ce7da4",
    ("thread", "scratch_head"): "7209c295c567",
    ("thread", "scratch_neck"): "708496727e8b",
    ("plates", None): "1c80f799f435",
    ("plates", "defect"): "4c54b2f1da8b",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("synthetic"), size=96, counts=FEW)


def shape(kind: str) -> tuple[int, int]:
    return (256, 96) if kind == "plates" else (128, 128)


@pytest.mark.parametrize("category", list(DEFECTS))
def test_sets_open_as_data_sets(drawn: Path, category: str) -> None:
    found = open_dataset("synthetic", category, drawn)
    if category == "plates":
        assert (found.layout, str(found.counts)) == ("ksdd", "4 train (2 defective), 3 test (1 defective)")
        assert Image.open(found.train[0].image).size == (72, 192)
    else:
        assert (found.layout, str(found.counts)) == ("mvtec", "3 train, 6 test (4 defective)")
        assert {s.defect for s in found.test} == {"good", *DEFECTS[category]}
    assert found.has_masks and found.title == f"synthetic {category}"


def test_equal_seeds_give_equal_files(drawn: Path, tmp_path: Path) -> None:
    again = make_synthetic(tmp_path / "again", size=96, counts=FEW)
    other = make_synthetic(tmp_path / "other", seed=1, size=96, counts=FEW)
    for category in DEFECTS:
        first, second, third = (
            open_dataset("synthetic", category, root).fingerprint() for root in (drawn, again, other)
        )
        assert first == second != third


@pytest.mark.parametrize(("kind", "defect"), PIXELS)
def test_drawn_pixels_are_pinned(kind: str, defect: str | None) -> None:
    """Stored runs name these pixels' fingerprint: whoever changes them on purpose raises ``synthetic.FORMAT``."""
    found = hashlib.sha256()
    for i in range(4):
        drawing, clean = (draw(kind, shape(kind), (7, 0, 0, i), shown) for shown in (defect, None))
        found.update(drawing.image.tobytes() + drawing.mask.tobytes() + clean.image.tobytes())
    assert found.hexdigest()[:12] == PIXELS[kind, defect]


def test_drawn_files_are_pinned(drawn: Path) -> None:
    """Names, seeds and order of all pictures and masks, as pixels: the encoder may change."""
    found = hashlib.sha256()
    for path in sorted(path for path in drawn.rglob("*.*") if path.name != synthetic.SYNTHETIC_MARKER):
        content = path.read_bytes() if path.suffix == ".csv" else np.asarray(Image.open(path)).tobytes()
        found.update(path.relative_to(drawn).as_posix().encode() + content)
    assert found.hexdigest()[:12] == "b7d38629c218"


@pytest.mark.parametrize(("kind", "defect"), KINDS)
def test_masks_are_exact(kind: str, defect: str) -> None:
    for i in range(3):
        drawing, clean = (draw(kind, shape(kind), (7, 0, 0, i), shown) for shown in (defect, None))
        change = np.abs(drawing.image.astype(int) - clean.image).reshape(*shape(kind), -1).max(axis=2)
        assert change[~drawing.mask].max() == 0
        assert (change[drawing.mask] >= synthetic.VISIBLE).mean() > 0.6
        assert synthetic.MIN_DEFECT <= drawing.mask.sum() < 0.15 * drawing.mask.size


@pytest.mark.parametrize("kind", list(DEFECTS))
def test_normal_pictures_vary_far_beyond_sensor_noise(kind: str) -> None:
    pictures = [draw(kind, shape(kind), (0, 0, 0, i)).image.astype(float) / 255 for i in range(4)]
    differences = [np.abs(a - b).mean() for k, a in enumerate(pictures) for b in pictures[:k]]
    assert min(differences) > 2 * synthetic.SENSOR_NOISE


def test_normal_and_defective_pictures_share_no_scene(drawn: Path) -> None:
    for category in DEFECTS:
        found = open_dataset("synthetic", category, drawn)
        contents = [s.image.read_bytes() for s in (*found.train, *found.test)]
        assert len(set(contents)) == len(contents)


def test_a_finished_set_is_left_alone_and_others_are_redrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "DEFECTS", {"ring": DEFECTS["ring"]})
    root = make_synthetic(tmp_path, size=96, counts=FEW)
    image = root / "ring" / "train" / "good" / "000.png"
    first = image.read_bytes()
    image.write_bytes(b"kept")
    make_synthetic(root, size=96, counts=FEW)
    assert image.read_bytes() == b"kept"
    make_synthetic(root, seed=1, size=96, counts=FEW)
    assert image.read_bytes() not in (b"kept", first)
    (root / "ring" / "synthetic.json").write_text("{")
    make_synthetic(root, size=96, counts=FEW)
    assert image.read_bytes() == first
    assert sorted(path.name for path in root.iterdir()) == ["ring"]


def test_an_interrupted_set_is_not_found_and_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "DEFECTS", {"ring": DEFECTS["ring"]})
    real, saved = synthetic._save, []

    def stop_halfway(path: Path, pixels: np.ndarray) -> None:
        if len(saved) == 5:
            raise KeyboardInterrupt
        saved.append(path)
        real(path, pixels)

    monkeypatch.setattr(synthetic, "_save", stop_halfway)
    with pytest.raises(KeyboardInterrupt):
        make_synthetic(tmp_path, size=96, counts=FEW)
    assert len(saved) == 5 and list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="does not hold synthetic ring .drawn by `make report`"):
        find_root("synthetic", "ring", tmp_path)
    monkeypatch.setattr(synthetic, "_save", real)
    make_synthetic(tmp_path, size=96, counts=FEW)
    assert len(open_dataset("synthetic", "ring", tmp_path).train) == 3
    assert json.loads((tmp_path / "ring" / "synthetic.json").read_text())["counts"]["train"] == 3


def test_two_that_draw_the_same_set_leave_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins and ends while the first is drawing; before, it deleted what the first had drawn."""
    monkeypatch.setattr(synthetic, "DEFECTS", {"ring": DEFECTS["ring"]})
    real, first = synthetic._draw_set, []

    def overtaken(*given: object) -> None:
        real(*given)
        if not first:
            first.append(given)
            make_synthetic(tmp_path, size=96, counts=FEW)

    monkeypatch.setattr(synthetic, "_draw_set", overtaken)
    make_synthetic(tmp_path, size=96, counts=FEW)
    assert first and [path.name for path in tmp_path.iterdir()] == ["ring"]
    assert open_dataset("synthetic", "ring", tmp_path).counts.test == 6


def test_foreign_folders_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "ring").mkdir()
    (tmp_path / "ring" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="ring has no synthetic.json"):
        make_synthetic(tmp_path, size=96, counts=FEW)
    assert (tmp_path / "ring" / "mine.txt").read_text() == "mine"


def test_synthetic_and_real_sets_are_not_confused(drawn: Path) -> None:
    with pytest.raises(InputError, match="does not hold MVTec AD ring"):
        find_root("mvtec", "ring", drawn)
    with pytest.raises(InputError, match="does not hold KolektorSDD2"):
        find_root("ksdd2", "ksdd2", drawn / "plates")


@pytest.mark.parametrize(("field", "value"), [("size", 100), ("size", 64), ("seed", -1)])
def test_bad_parameters(tmp_path: Path, field: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{field} must be .* got {value}"):
        make_synthetic(tmp_path, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("train", 0), ("defective", 3), ("plates_train_defective", 60), ("plates_test", 14)]
)
def test_bad_counts(field: str, value: int) -> None:
    with pytest.raises(InputError, match=field):
        SyntheticCounts(**{field: value})
