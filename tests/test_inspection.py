"""Prediction and evaluation on own images, from the command line."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ssn_core as ssn
from ssn_core.__main__ import main
from ssn_core.data.images import resize_nearest
from ssn_core.inspection import prediction
from ssn_core.inspection.threshold import Threshold
from ssn_core.runs.result import RunResult

Failure = Callable[..., str]  # the fixture of every test module


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# --- prediction


def test_prediction_writes_scores_heatmaps_and_masks(
    trained: RunResult, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(trained.path), str(parts), "--out", str(out)]) == 0
    assert "0 unread" in capsys.readouterr().out
    table = rows((out / "scores.csv").read_text(encoding="utf-8"))
    assert len(table) == 12 and sum(", " in row["image"] for row in table) == 8
    assert {row["decision"] for row in table} == {"good", "defective"}
    limit = Threshold.of(trained).value
    model = ssn.load_model(trained.path)
    for row in table:
        name = Path(row["image"]).relative_to(parts)
        assert (row["decision"] == "defective") == (float(row["map_score"]) > limit)
        predicted = model.predict(row["image"])
        assert float(row["map_score"]) == pytest.approx(predicted.map_score, abs=1e-3)
        marked = predicted.anomaly_map > limit
        with Image.open(out / "masks" / name) as mask, Image.open(out / "heatmaps" / name) as heat:
            assert mask.size == (96, 96) and heat.size == (64, 64)
            assert (np.asarray(mask) != resize_nearest(marked, (96, 96))).mean() < 0.01  # a pixel at the limit may turn
            red = np.asarray(heat)[..., 0].astype(float) - np.asarray(heat)[..., 2]
        assert (red[marked] > 40).all()  # grey pictures


def test_images_that_differ_in_their_suffix_alone_stay_apart(trained: RunResult, parts: Path, tmp_path: Path) -> None:
    names = ("a.jpg", "a.png", "a.jpg.png")
    (tmp_path / "new").mkdir()
    for name, path in zip(names, sorted((parts / "good").iterdir()), strict=False):
        with Image.open(path) as image:
            image.convert("RGB").save(tmp_path / "new" / name)
    out = tmp_path / "out"
    assert main(["predict", str(trained.path), str(tmp_path / "new"), "--out", str(out)]) == 0
    for kind in ("heatmaps", "masks"):
        assert len(list((out / kind).iterdir())) == 3 and (out / kind / "a.png").is_file()


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
