"""What a run measures and keeps: metrics against the stored scores and the masks, history, thresholds, curves."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import quiet, tiny_config

import ssn_core as ssn
from ssn_core import metrics
from ssn_core.data.images import read_mask
from ssn_core.runs import evaluation
from ssn_core.runs.result import SCORES, RunResult
from ssn_core.runs.store import run
from ssn_core.runs.training_set import TrainingSet


def test_metrics_are_those_of_the_stored_scores(finished: RunResult) -> None:
    scores = finished.scores
    assert list(scores.columns) == SCORES
    assert len(scores) == 7 and scores.label.tolist() == [int(d != "good") for d in scores.defect]
    again = metrics.evaluate(scores.score.to_numpy(), np.zeros((7, 2, 2), np.float32), scores.label.to_numpy(), None)
    assert finished.metrics["I-AUROC"] == pytest.approx(again["I-AUROC"])
    assert finished.metrics["AP-det"] == pytest.approx(again["AP-det"])
    for name, column in (("seg-I-AUROC", scores.map_score), ("top-I-AUROC", scores.top_score)):
        again = metrics.evaluate(column.to_numpy(), np.zeros((7, 2, 2), np.float32), scores.label.to_numpy(), None)
        assert finished.metrics[name] == pytest.approx(again["I-AUROC"])
    assert all(0 <= finished.metrics[name] <= 1 for name in metrics.METRICS)
    assert finished.metrics["evaluation_size"] == [64, 64]
    assert finished.metrics["parameters"] == sum(p.numel() for p in ssn.load_model(finished.path).parameters())


def test_history_has_a_row_per_epoch_and_the_final_metrics(finished: RunResult) -> None:
    history = finished.history
    assert history.epoch.tolist() == [1, 2, 3] and history.step.tolist() == [2, 4, 6]
    for name in metrics.METRICS:
        assert history[name].notna().all() and history[f"validation {name}"].notna().all()
        assert history[name].iloc[-1] == pytest.approx(finished.metrics[name])
        assert finished.metrics[f"validation {name}"] == pytest.approx(history[f"validation {name}"].iloc[-1])


def test_saved_model_gives_the_stored_scores(finished: RunResult, tiny_sets: Path) -> None:
    """And the pixel metrics of its maps against the masks, by file."""
    model, maps, masks = ssn.load_model(finished.path), [], []
    assert not model.training
    for row in finished.scores.itertuples():
        prediction = model.predict(tiny_sets / "ring" / row.image)
        maps.append(prediction.anomaly_map)
        mask = tiny_sets / "ring" / row.image.replace("test/", "ground_truth/").replace(".png", "_mask.png")
        masks.append(read_mask(mask, (64, 64)) if row.label else np.zeros((64, 64), bool))
        assert prediction.score == pytest.approx(row.score, abs=1e-4)
        assert prediction.map_score == pytest.approx(row.map_score, abs=1e-4)
        top = np.sort(prediction.anomaly_map, axis=None)[-100:].mean()
        assert row.top_score == pytest.approx(top, abs=1e-4)
    again = metrics.evaluate(finished.scores.score, np.stack(maps), finished.scores.label.to_numpy(), np.stack(masks))
    for name in metrics.PIXEL_METRICS:
        assert finished.metrics[name] == pytest.approx(again[name], abs=1e-3)
    examples = finished.examples
    assert set(examples) == {"images", "maps"} and examples["maps"].dtype == np.float16
    for name, anomaly_map in zip(examples["images"], examples["maps"], strict=True):
        assert np.abs(model.predict(tiny_sets / "ring" / str(name)).anomaly_map - anomaly_map).max() < 0.02
    kinds = finished.scores.set_index("image").defect[examples["images"]]
    assert sorted(kinds) == sorted(set(finished.scores.defect))  # one of each kind


def test_thresholds_of_both_scores(finished: RunResult, tiny_sets: Path) -> None:
    """Youden's on the test images, and a quantile of the normal training images that were trained on."""
    scores = finished.scores
    for name in ("score", "map_score"):
        best = metrics.youden(scores.label.to_numpy(), scores[name].to_numpy())
        found = finished.metrics["youden"][name]
        assert set(found) == {"threshold", "tpr", "fpr"}
        assert (found["tpr"], found["fpr"]) == (best.tpr, best.fpr)
        assert found["threshold"] == pytest.approx(best.threshold, rel=1e-5)
    model = ssn.load_model(finished.path)
    dataset = ssn.open_dataset("synthetic", "ring", tiny_sets)
    used = [sample.image for sample, _ in TrainingSet.of(finished.config, dataset).entries]
    predictions = [model.predict(image) for image in used]
    found = finished.metrics["train_quantile"]
    assert found["quantile"] == 0.99
    assert found["score"] == pytest.approx(np.quantile([p.score for p in predictions], 0.99), abs=1e-4)
    assert found["map_score"] == pytest.approx(np.quantile([p.map_score for p in predictions], 0.99), abs=1e-4)


def test_by_the_sigmoid_large_logits_tie() -> None:
    """Erratum 12: a defect's 30 and its surroundings' 20 are both 1 in single precision."""
    masks = np.zeros((2, 4, 4), bool)
    masks[1, 0] = True
    maps = np.where(masks, np.float32(30), np.float32(20))
    truth, scores = evaluation.Truth(np.array([0, 1]), masks), np.zeros(2, np.float32)
    by = {kind: evaluation.measure(evaluation.Outputs(scores, maps, kind), truth) for kind in ("logits", "sigmoid")}
    assert by["logits"]["P-AUROC"] == 1 and by["sigmoid"]["P-AUROC"] == 0.5
    assert by["logits"]["seg-I-AUROC"] == by["sigmoid"]["seg-I-AUROC"] == 1


def test_curves_end_where_they_should(finished: RunResult) -> None:
    curves = finished.curves
    names = ("roc_score_fpr", "roc_score_tpr", "roc_map_fpr", "roc_map_tpr", "pr_score_precision", "pr_score_recall")
    assert {*names, "pr_map_precision", "pr_map_recall", "pixel_precision", "pixel_recall"} == set(curves)
    assert (curves["roc_score_fpr"][0], curves["roc_score_tpr"][-1]) == (0, 1)
    x, y = curves["roc_map_fpr"], curves["roc_map_tpr"]
    assert float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2) == pytest.approx(finished.metrics["seg-I-AUROC"], abs=1e-6)


def test_a_category_without_masks_has_no_pixel_metrics_and_all_others(tiny_sets: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sets / "ring", tmp_path / "data" / "mine")
    shutil.rmtree(tmp_path / "data" / "mine" / "ground_truth")
    (tmp_path / "data" / "mine" / "synthetic.json").unlink()
    result = run(tiny_config(dataset="mvtec", category="mine"), tmp_path / "store", tmp_path / "data", log=quiet)
    values = {name: result.metrics[name] for name in metrics.METRICS}
    assert {name for name, value in values.items() if value == "n/a"} == {"P-AUROC", "AUPRO", "AP-loc"}
    assert all(0 <= value <= 1 for value in values.values() if value != "n/a")
    assert {"youden", "train_quantile"} <= set(result.metrics)
    assert "roc_map_fpr" in result.curves and "pixel_recall" not in result.curves
    assert len(result.examples["images"]) == 4
    assert pd.read_csv(result.path / "history.csv", keep_default_na=False)["AUPRO"].tolist() == ["", "n/a"]
