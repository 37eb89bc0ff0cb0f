"""Own images: training on a folder in every form, the threshold, prediction and evaluation, from the command line."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import beta
from support import quiet

import ssn_core as ssn
from ssn_core.__main__ import main
from ssn_core.data.datasets import open_dataset
from ssn_core.errors import InputError
from ssn_core.inspection import evaluation, prediction, training
from ssn_core.inspection.gallery import Gallery, open_gallery
from ssn_core.inspection.threshold import Rate, Threshold, decide
from ssn_core.runs.config import RunConfig
from ssn_core.runs.result import RunResult
from ssn_core.study import explore

TINY = ["backbone=efficientnet_lite0", "image_size=64,64", "batch_size=4"]
Failure = Callable[..., str]  # the fixture of every test module


@pytest.fixture(scope="module")
def parts(tiny_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good/ with eight images beside three folders of defects, names with a comma and a space."""
    root = tmp_path_factory.mktemp("own") / "parts"
    for folder in (tiny_sets / "ring" / "test").iterdir():
        if folder.name != "good":
            shutil.copytree(folder, root / folder.name)
    (root / "good").mkdir()
    for path in (tiny_sets / "ring" / "train" / "good").iterdir():
        shutil.copy(path, root / "good" / f"a, {path.name}")
    return root


@pytest.fixture(scope="module")
def trained(parts: Path) -> RunResult:
    """A run on the good images alone."""
    store = parts.parent / "store"
    assert main(["train", str(parts / "good"), "--store", str(store), *TINY, "epochs=1"]) == 0
    (folder,) = (path.parent for path in store.glob("*/run.json"))
    return ssn.load_run(folder)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


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


@pytest.mark.parametrize("recipe", ["supervised", "mixed", "weak_gap_cam_as_published"])
def test_the_first_steps_of_every_recipe_can_be_measured(
    recipe: str, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the good images alone, also where training will read masks; an epoch is as long as it will be."""
    made: list[RunConfig] = []
    monkeypatch.setattr(training, "run", lambda config, *_, **__: made.append(config))
    fields = {"backbone": "efficientnet_lite0", "image_size": (96, 40), "batch_size": 4, "flips": 2}
    fields |= {"masks": 2} if recipe == "mixed" else {}
    training.train(tiny_sets / "plates", 1e6, fields, tmp_path, recipe=recipe, log=quiet)
    assert made[0].epochs == training.MOST_EPOCHS
    [measured] = (json.loads(path.read_text()) for path in tmp_path.glob("*.minutes-1e+06.json"))
    assert measured["steps_per_epoch"] == 3  # three defective images, each in two versions, and as many good ones


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


# --- prediction


def test_prediction_writes_scores_heatmaps_and_masks(
    trained: RunResult, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(trained.path), str(parts), "--out", str(out)]) == 0
    assert "0 unread" in capsys.readouterr().out
    table = rows((out / "scores.csv").read_text(encoding="utf-8"))
    assert len(table) == 12 and sum(", " in row["image"] for row in table) == 8
    limit = Threshold.of(trained).value
    model = ssn.load_model(trained.path)
    for row in table:
        name = Path(row["image"]).relative_to(parts)
        assert (row["decision"] == "defective") == (float(row["map_score"]) > limit)
        with Image.open(out / "masks" / name) as mask, Image.open(out / "heatmaps" / name) as heat:
            assert mask.size == (96, 96) and heat.size == (64, 64)
            assert row["decision"] == "defective" or not np.asarray(mask).any()
        assert float(row["map_score"]) == pytest.approx(model.predict(row["image"]).map_score, abs=1e-3)


def test_held_out_images_are_no_alarm(trained: RunResult, parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = [str(parts / "good" / name) for name in trained.scores.image]
    assert main(["predict", str(trained.path), *held]) == 0
    assert [row["decision"] for row in rows(capsys.readouterr().out)] == ["good", "good"]


def test_one_bad_file_among_good_ones(
    trained: RunResult, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(parts / "good", tmp_path / "new")
    (tmp_path / "new" / "b.png").write_bytes(b"no picture")
    words = [str(tmp_path / "new" / "*.png"), str(tmp_path / "absent.png")]
    assert main(["predict", str(trained.path.parent / "scenario_c-*"), *words]) == 1
    out, err = capsys.readouterr()
    assert len(rows(out)) == 8
    assert "left out: " in err and "b.png: not a readable image" in err and "absent.png: no such file" in err


def test_names_that_lead_to_no_run_or_to_two(trained: RunResult, parts: Path, tmp_path: Path, failure: Failure) -> None:
    other = tmp_path / trained.path.name
    shutil.copytree(trained.path, other)
    shutil.copytree(trained.path, tmp_path / "second")
    for place in (tmp_path, f"{tmp_path}/*"):
        line = failure("predict", place, parts)
        assert f"names 2 runs, {other} and {tmp_path / 'second'}" in line
    assert f"{other} is a second run, not images" in failure("predict", trained.path, other)
    assert "matches no file" in failure("predict", trained.path, f"{tmp_path}/*.bmp")
    assert "holds no finished run" in failure("predict", tmp_path / "absent*", parts)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in failure("predict", trained.path, tmp_path / "empty")


def test_results_are_not_scored_again(trained: RunResult, parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts / "good", tmp_path / "new")
    for _ in range(2):
        assert main(["predict", str(trained.path), str(tmp_path / "new"), "--out", str(tmp_path / "new" / "out")]) == 0
    assert len(rows((tmp_path / "new" / "out" / "scores.csv").read_text(encoding="utf-8"))) == 8


def test_ctrl_c_keeps_the_rows_that_there_are(
    trained: RunResult, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    computed, calls = prediction._computed, iter(range(9))

    def interrupt(*arguments: object) -> object:
        if next(calls):
            raise KeyboardInterrupt
        return computed(*arguments)

    monkeypatch.setattr(prediction, "_computed", interrupt)
    line = failure("predict", trained.path, parts, "--out", tmp_path, code=130)
    assert "stopped after 8 of 12 images" in line
    assert len(rows((tmp_path / "scores.csv").read_text(encoding="utf-8"))) == 8


# --- evaluation


def test_evaluation_says_what_can_be_measured(
    trained: RunResult, parts: Path, tiny_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained.path), str(parts), "--out", str(tmp_path / "bare.json")]) == 0
    bare = json.loads((tmp_path / "bare.json").read_text())
    assert 0 <= bare["seg-I-AUROC"] <= 1 and bare["AUPRO"] == "n/a"
    assert bare["not_available"] == "defective images without masks"
    assert (bare["found"]["total"], bare["false_alarms"]["total"]) == (4, 8)
    assert main(["evaluate", str(trained.path), str(tiny_sets / "ring")]) == 0
    marked = json.loads((trained.path / "evaluation-ring.json").read_text())
    assert 0 <= marked["AUPRO"] <= 1 and marked["not_available"] == ""
    assert main(["evaluate", str(trained.path), str(parts / "good"), "--out", str(tmp_path / "good.json")]) == 0
    assert json.loads((tmp_path / "good.json").read_text())["not_available"] == "no defective image to compare with"
    capsys.readouterr()
    assert main(["evaluate", str(trained.path)]) == 0  # what the run itself measured
    assert "n/a: no defective image to compare with" in capsys.readouterr().out


# --- the gallery, as notebook 08 shows it


@pytest.fixture(scope="module")
def gallery(trained: RunResult, parts: Path) -> Gallery:
    return Gallery.of(trained, parts)


def test_a_threshold_parts_found_from_false_alarms() -> None:
    scores, labels = np.array([1.0, 2.0, 2.0, 3.0, 5.0]), np.array([0, 0, 1, 0, 1])
    counts = {t: decide(scores, labels, t) for t in (0.5, 2.0, 4.0, 5.0)}
    assert {t: found.count for t, (found, _) in counts.items()} == {0.5: 2, 2.0: 1, 4.0: 1, 5.0: 0}
    assert {t: false_alarms.count for t, (_, false_alarms) in counts.items()} == {0.5: 3, 2.0: 1, 4.0: 0, 5.0: 0}
    assert [rate.total for rate in counts[4.0]] == [2, 3]


def test_thresholds_worth_a_look_hold_the_runs_own() -> None:
    scores = np.array([-3.0, 0.5, 4.0])
    for own in (0.123, -7.0, 9.0):
        points = explore.grid(scores, own)
        assert own in points and points[0] < min(own, -3) and points[-1] > max(own, 4)
        assert np.allclose(np.diff(points), points[1] - points[0])
        share = explore.shares(scores, points)
        assert (share[0], share[-1]) == (1, 0) and share[np.searchsorted(points, 1.0)] == pytest.approx(1 / 3)
    assert len(explore.grid(np.array([2.0]), 2.0)) > 2


def test_a_gallery_decides_as_prediction_does(gallery: Gallery, trained: RunResult, parts: Path) -> None:
    model = ssn.load_model(trained.path)
    expected = [model.predict(sample.image).map_score for sample in gallery.samples]
    assert gallery.map_scores == pytest.approx(expected, abs=1e-3)
    look = gallery.look(3)
    assert look.pixels.shape == (64, 64, 3) and look.truth is None and gallery.labelled
    assert look.anomaly_map.max() == pytest.approx(gallery.map_scores[3], abs=1e-3)
    found = evaluation.evaluate(trained, parts)
    decided = decide(gallery.map_scores, gallery.labels, gallery.threshold.value)
    assert [found[name]["count"] for name in ("found", "false_alarms")] == [rate.count for rate in decided]


def test_an_image_that_is_gone_is_named(
    trained: RunResult, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(parts, tmp_path / "parts")
    opened = Gallery.of(trained, tmp_path / "parts")
    opened.samples[0].image.unlink()
    monkeypatch.setattr(evaluation, "labelled_samples", lambda folder: opened.samples)
    for look in (lambda: opened.look(0), lambda: evaluation.evaluate(trained, tmp_path / "parts")):
        with pytest.raises(InputError, match=f"{opened.samples[0].image.name}: no such file"):
            look()


def test_marked_defects_are_shown(trained: RunResult, tiny_sets: Path) -> None:
    marked = Gallery.of(trained, tiny_sets / "ring")
    truths = [bool(marked.look(number).truth.any()) for number in range(len(marked))]
    assert truths == [bool(label) for label in marked.labels] and len(marked) == 7


def test_moving_a_widget_changes_what_is_shown(gallery: Gallery) -> None:
    shown = explore.Explorer(gallery)
    assert gallery.labels[shown.image.value] == 1 and shown.threshold.value == gallery.threshold.value
    still = shown._repr_mimebundle_()
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= still.keys()
    before = shown.picture.value
    shown.threshold.value = shown.threshold.min
    assert "found 4 of 4" in shown.text.value and "false alarms 8 of 8" in shown.text.value
    assert shown.picture.value != before
    shown.image.value = (good := int(gallery.labels.argmin()))
    assert f"{gallery.samples[good].name}: map score" in shown.text.value
    assert "so defective (labelled good)" in shown.text.value
    shown.threshold.value = shown.threshold.max
    assert "found 0 of 4" in shown.text.value and "so good (labelled good)" in shown.text.value


def test_images_that_nobody_labelled_are_not_called_false_alarms(trained: RunResult, parts: Path) -> None:
    shown = explore.Explorer(Gallery.of(trained, parts / "good"))
    assert "false" not in shown.text.value and "labelled good" not in shown.text.value
    assert "false" not in explore.sentences(shown.gallery)[1] and len(explore.sentences(shown.gallery)) == 2


def test_what_a_gallery_lacks_is_named(trained: RunResult, parts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder is given without run"):
        open_gallery(str(parts), None)
    with pytest.raises(InputError, match="run is given without folder"):
        open_gallery(None, str(trained.path))
    with pytest.raises(InputError, match="absent is not a folder"):
        open_gallery(str(tmp_path / "absent"), str(trained.path))
    with pytest.raises(InputError, match="holds no finished run"):
        open_gallery(str(parts), str(tmp_path))
    assert len(open_gallery(str(parts), str(trained.path.parent))) == 12
