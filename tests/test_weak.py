"""Weak supervision never opens a training mask: it runs with them deleted, and with a reader that refuses them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support import assert_same_bits, halt, quiet, tiny_config

import ssn_core as ssn
from ssn_core import metrics
from ssn_core.data import images
from ssn_core.errors import InputError
from ssn_core.runs import runner
from ssn_core.runs.result import RunResult
from ssn_core.runs.store import run


@pytest.fixture
def plates(tiny_sets: Path, tmp_path: Path) -> Path:
    """A data root with a copy of the plates."""
    shutil.copytree(tiny_sets / "plates", tmp_path / "data" / "plates")
    return tmp_path / "data"


def without_masks(plates: Path) -> Path:
    """The data root, with every training mask deleted; labels.csv stays."""
    masks = list((plates / "plates" / "train").glob("*_GT.png"))
    assert len(masks) == 14 and (plates / "plates" / "train" / "labels.csv").is_file()
    for mask in masks:
        mask.unlink()
    return plates


def guard(monkeypatch: pytest.MonkeyPatch, refuse: Callable[[Path], bool]) -> list[Path]:
    """Watch the one function that decodes image files; returns the masks it was asked for."""
    asked: list[Path] = []
    decode = images._decode

    def guarded(path: Path) -> Image.Image:
        if Path(path).stem.endswith("_GT"):
            asked.append(Path(path))
            assert not refuse(Path(path)), f"{path} was opened"
        return decode(path)

    monkeypatch.setattr(images, "_decode", guarded)
    return asked


def is_training_mask(path: Path) -> bool:
    return path.parent.name == "train"


def assert_complete(result: RunResult) -> None:
    assert result.info["status"] == "finished" and len(result.history) == 2
    assert all(0 <= result.metrics[name] <= 1 for name in metrics.METRICS)
    assert (result.info["data"]["train"], result.info["data"]["train_defective"]) == (14, 3)
    assert result.info["data"]["train_used"] == 11 + 3 * 2
    assert {"pixel_precision", "roc_score_tpr"} <= set(result.curves)


def test_weak_training_opens_no_training_mask_and_is_the_same_when_they_are_deleted(
    plates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the masks are there, reading one would fail the test; those of the test set are read for the metrics."""
    asked = guard(monkeypatch, is_training_mask)
    config = tiny_config("weak_gap_cam")
    with_masks = run(config, tmp_path / "with", plates, log=quiet)
    assert asked and {path.parent.name for path in asked} == {"test"}
    without = run(config, tmp_path / "without", without_masks(plates), log=quiet)
    for result in (with_masks, without):
        assert_complete(result)
    assert type(ssn.load_model(without.path)) is ssn.GapCamNet
    assert (without.history.loss_map == 0).all() and (without.history.loss_image > 0).all()
    assert_same_bits(with_masks.path, without.path)
    assert with_masks.info["data"] == without.info["data"]


def test_the_guard_notices_a_training_mask(plates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published rule reads them, so the test above can fail."""
    guard(monkeypatch, is_training_mask)
    with pytest.raises(AssertionError, match="_GT.png was opened"):
        run(tiny_config("weak_gap_cam_as_published"), tmp_path / "store", plates, log=quiet)


def test_a_half_trained_weak_run_resumes_after_its_masks_are_deleted(plates: Path, tmp_path: Path) -> None:
    config = tiny_config("weak_gap_cam")
    halt(config, tmp_path / "store", plates, at="epoch 2/2")
    assert_complete(run(config, tmp_path / "store", without_masks(plates), log=quiet))


@pytest.mark.parametrize("name", ["weak", "weak_mil"])
def test_image_labels_alone_teach_other_methods_too(
    name: str, plates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SuperSimpleNet: defective images teach the score, synthetic regions on normal images the map. No noise in MIL."""
    asked, config = guard(monkeypatch, is_training_mask), tiny_config(name, batch_size=2)
    result = run(config, tmp_path / "with", plates, log=quiet)
    assert asked and {path.parent.name for path in asked} == {"test"}
    assert_complete(result)
    assert_same_bits(result.path, run(config, tmp_path / "without", without_masks(plates), log=quiet).path)
    for column in ("loss_map", "noise_rms"):
        assert (result.history[column] > 0).all() == (name == "weak") != (result.history[column] == 0).all()
    assert (result.history.loss_image > 0).all()


def test_the_published_weak_rule_runs_with_its_masks(plates: Path, tmp_path: Path) -> None:
    assert_complete(run(tiny_config("weak_gap_cam_as_published"), tmp_path / "store", plates, log=quiet))


def test_with_every_mask_mixed_supervision_is_full_supervision(plates: Path, tmp_path: Path) -> None:
    """Byte for byte with all three; with one it learns something else."""
    full = run(tiny_config("supervised"), tmp_path / "store", plates, log=quiet)
    assert_complete(full)
    written = {}
    for masks in (1, 3):
        mixed = run(tiny_config("mixed", masks=masks), tmp_path / "store", plates, log=quiet)
        assert_complete(mixed)
        written[masks] = (mixed.path / "model.safetensors").read_bytes()
    assert written[3] == (full.path / "model.safetensors").read_bytes() != written[1]


@pytest.mark.parametrize("name", ["weak_gap_cam_as_published", "supervised"])
def test_rules_that_read_masks_say_which_are_missing(
    name: str, plates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "build_model", lambda **_: pytest.fail("a model was built"))
    with pytest.raises(InputError) as caught:
        run(tiny_config(name), tmp_path / "store", without_masks(plates), log=quiet)
    assert "14 problems" in str(caught.value) and "_GT.png is missing" in str(caught.value)
    assert not list((tmp_path / "store").glob("*"))  # a store is tried first, and left empty


def test_a_mask_that_contradicts_its_label_is_refused_where_masks_are_read(plates: Path, tmp_path: Path) -> None:
    labels = plates / "plates" / "train" / "labels.csv"
    defective = next(line.split(",")[0] for line in labels.read_text().splitlines() if line.endswith(",1"))
    normal = next(line.split(",")[0] for line in labels.read_text().splitlines() if line.endswith(",0"))
    train = plates / "plates" / "train"
    shutil.copy(train / normal.replace(".png", "_GT.png"), train / defective.replace(".png", "_GT.png"))
    with pytest.raises(InputError, match="the mask is empty, but labels.csv gives the image label 1"):
        run(tiny_config("supervised"), tmp_path / "store", plates, log=quiet)
