"""Own images: training on a folder in every form, and the threshold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import beta
from support import TINY, quiet

import ssn_core as ssn
from ssn_core.__main__ import main
from ssn_core.data.datasets import open_dataset
from ssn_core.errors import InputError
from ssn_core.inspection import training
from ssn_core.inspection.threshold import Rate, Threshold
from ssn_core.runs.config import RunConfig
from ssn_core.runs.result import RunResult

Failure = Callable[..., str]  # the fixture of every test module


# --- folders


def test_a_flat_folder_holds_out_a_fifth(parts: Path) -> None:
    found = open_dataset("own", "good", parts / "good")
    assert (found.counts.train, found.counts.test, found.counts.test_defective) == (6, 2, 0)
    assert not {s.name for s in found.train} & {s.name for s in found.test}
    assert open_dataset("own", "good", parts / "good") == found  # the split is no matter of chance


def test_good_beside_defects_and_their_masks(parts: Path, tiny_sets: Path, tmp_path: Path) -> None:
    found = open_dataset("own", "parts", parts)
    assert (found.counts.train, found.counts.test, found.counts.test_defective) == (6, 6, 4)
    assert {s.defect for s in found.test} == {"good", "broken_large", "broken_small", "contamination"}
    assert not found.has_masks
    marked = tmp_path / "parts"
    shutil.copytree(parts, marked)
    shutil.copytree(tiny_sets / "ring" / "ground_truth", marked / "ground_truth")
    assert open_dataset("own", "parts", marked).has_masks


@pytest.mark.parametrize("whole", [True, False])
def test_mvtecs_layout_with_and_without_a_test_split(whole: bool, tiny_sets: Path, tmp_path: Path) -> None:
    root = tmp_path / "widgets"
    shutil.copytree(tiny_sets / "ring" if whole else tiny_sets / "ring" / "train", root if whole else root / "train")
    (root / "synthetic.json").unlink(missing_ok=True)
    found = open_dataset("own", "widgets", root)
    assert (found.counts.train, found.counts.test) == ((8, 7) if whole else (6, 2))
    assert ssn.check(root)[0].startswith("OK own images widgets")


def test_kolektors_layout(tiny_sets: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sets / "plates", tmp_path / "steel", ignore=shutil.ignore_patterns("synthetic.json"))
    found = open_dataset("own", "steel", tmp_path / "steel")
    assert (found.counts.train_defective, found.counts.test_defective) == (3, 2) and found.has_masks


def test_folders_that_do_not_serve(parts: Path, tmp_path: Path, failure: Failure) -> None:
    assert "absent is not a folder" in failure("train", tmp_path / "absent")
    with pytest.raises(InputError, match="no images, and no data set"):
        open_dataset("own", "empty", tmp_path)
    (tmp_path / "few").mkdir()
    shutil.copy(next((parts / "good").iterdir()), tmp_path / "few")
    assert "has 0 good images to train on" in failure("train", tmp_path / "few", "--store", tmp_path / "store")
    assert "category='x': leave it out" in failure("train", parts, "category=x")
    assert "minutes=0 must be" in failure("train", parts, "--minutes", 0)
    shutil.copytree(parts, tmp_path / "stray")
    shutil.copy(next((parts / "good").iterdir()), tmp_path / "stray" / "loose.png")
    with pytest.raises(InputError, match=r"loose.png: lies beside good/"):
        open_dataset("own", "stray", tmp_path / "stray")


# --- training


def test_defaults_for_somebody_who_has_read_nothing(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_dataset("own", "parts", parts)
    monkeypatch.setattr(training, "weights_path", lambda name: None)
    config = training.own_config(found, {"seed": 3})
    assert (config.experiment, config.backbone, config.image_size, config.seed) == (
        "memory", "efficientnet_lite0", (256, 256), 3,
    )  # fmt: skip
    assert config.memory_size == 4096 and len([s for s in found.train if not s.label]) * 32 * 32 > 4096
    few = training.own_config(found, {"image_size": (32, 32)})
    assert few.memory_size == len([s for s in found.train if not s.label]) * 4 * 4
    assert training.own_config(found, {"memory_size": 7}).memory_size == 7
    monkeypatch.setattr(training, "weights_path", lambda name: Path(name))
    monkeypatch.setattr(training, "read_image", lambda path: np.zeros((640, 232, 3), np.uint8))
    config = training.own_config(found, {})
    assert (config.backbone, config.image_size) == ("resnet18", (424, 152))


def test_epochs_fit_into_the_minutes(parts: Path) -> None:
    found = open_dataset("own", "parts", parts)
    fields = {"backbone": "efficientnet_lite0", "image_size": (64, 64), "batch_size": 4}
    config = training.own_config(found, fields, "scenario_c")

    def measured(minutes: float) -> int:
        clock = iter([0, 6, 10, 14])  # six images in six seconds, from second 10 on two steps in four
        return training.epochs_within(minutes, config, found, torch.device("cpu"), lambda: next(clock))["epochs"]

    assert measured(1) == (60 - 14 - 2 * 12) // (2 * 2)  # twelve images pass the trunk twice
    assert measured(0.01) == 1 and measured(1e6) == training.MOST_EPOCHS


@pytest.mark.parametrize("recipe", ["supervised", "mixed", "weak_gap_cam_as_published", "learned_noise_v1"])
def test_the_first_steps_of_every_recipe_can_be_measured(
    recipe: str, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the good images alone, also for trainings with masks or a generator; an epoch is as long as it will be."""
    made: list[RunConfig] = []
    monkeypatch.setattr(training, "run", lambda config, *_, **__: made.append(config))
    fields = {"backbone": "efficientnet_lite0", "image_size": (96, 40), "batch_size": 4, "flips": 2}
    fields |= {"masks": 2} if recipe == "mixed" else {}
    training.train(tiny_sets / "plates", 1e6, fields, tmp_path, recipe=recipe, log=quiet)
    assert made[0].epochs == training.MOST_EPOCHS
    [measured] = (json.loads(path.read_text()) for path in tmp_path.glob("*.minutes-1e+06.json"))
    assert measured["steps_per_epoch"] == 3  # three defective images twice and six good ones, or eleven good ones


def test_the_same_command_is_the_same_run(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        training, "epochs_within", lambda *_: {"epochs": 2, "seconds_per_step": 1, "steps_per_epoch": 2}
    )
    words = ["train", str(parts), "--minutes", "3", "--store", str(tmp_path), *TINY]
    assert main(words) == 0
    assert "3 minutes: measured 1 s a step" in (first := capsys.readouterr().out) and "epoch 2/2" in first
    monkeypatch.setattr(training, "epochs_within", lambda *_: pytest.fail("measured again"))
    assert main(words) == 0
    assert "epoch 2/2" not in (second := capsys.readouterr().out)
    assert [line for line in first.splitlines() if line.startswith("threshold")][0] in second
    assert "n/a: defective images without masks" in second


def test_a_memory_without_further_words_and_steps_where_they_are_asked_for(
    parts: Path, tmp_path: Path, failure: Failure, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(parts), "--store", str(tmp_path), *TINY[:2]]) == 0
    (filled,) = tmp_path.glob("*/run.json")
    assert ssn.load_run(filled.parent).config.method == "memory" and "threshold" in capsys.readouterr().out
    assert main(["train", str(parts), "--recipe", "scenario_a", "--store", str(tmp_path), *TINY, "epochs=1"]) == 0
    assert len(list(tmp_path.glob("scenario_a-*/run.json"))) == 1
    capsys.readouterr()
    words = ("train", parts, "--recipe", "memory", *TINY[:2])
    assert "one pass: leave minutes out" in failure(*words, "--minutes", 3)
    assert "one pass: leave noise_std, perlin_threshold out" in failure(*words, "perlin_threshold=0.1", "noise_std=0.5")
    assert "preset 'nosuch' is unknown" in failure("train", parts, "--recipe", "nosuch", *TINY)


# --- the threshold


@pytest.mark.parametrize(("count", "total"), [(0, 20), (3, 250), (7, 7)])
def test_the_interval_is_clopper_and_pearsons(count: int, total: int) -> None:
    low, high = Rate(count, total).interval
    assert low == pytest.approx(beta.ppf(0.025, count, total - count + 1) if count else 0)
    assert high == pytest.approx(beta.ppf(0.975, count + 1, total - count) if count < total else 1)


def test_the_threshold_comes_from_good_images_and_clears_them(trained: RunResult) -> None:
    threshold = Threshold.of(trained)
    assert threshold.value == pytest.approx(trained.scores.map_score.max(), abs=0.01)
    assert (threshold.false_alarms.count, threshold.false_alarms.total) == (0, 2)
    assert "95% interval 0.0% to 84.2%" in str(threshold)


def test_the_threshold_is_the_smallest_that_one_good_image_in_a_hundred_exceeds(
    trained: RunResult, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained.path, tmp_path / trained.path.name))
    scores = trained.scores.iloc[[0] * 251].assign(map_score=[*np.arange(250.0), 1000.0], label=[0] * 250 + [1])
    scores.to_csv(folder / "scores.csv", index=False)
    threshold = Threshold.of(ssn.load_run(folder))
    assert threshold.value == pytest.approx(247, abs=0.01) and threshold.value > 247
    assert (threshold.false_alarms.count, threshold.false_alarms.total) == (2, 250)
