"""The run store: train, resume bit for bit, load, refuse foreign folders, record divergence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import COMPARED, assert_same_bits, halt, quiet, tiny_config

import ssn_core as ssn
from ssn_core import metrics
from ssn_core.data.images import read_image
from ssn_core.errors import InputError
from ssn_core.models.trunk import make_trunk, to_tensor
from ssn_core.runs import runner, store
from ssn_core.runs.config import RunConfig
from ssn_core.runs.features import FLIPS, extract
from ssn_core.runs.held_out import altered_copies
from ssn_core.runs.result import FORMAT, SCORES, RunResult, load_run
from ssn_core.runs.store import run
from ssn_core.runs.trainer import NonFiniteLoss, Trainer
from ssn_core.runs.training_set import TrainingSet


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} in a JSON file")


def assert_strict_json(folder: Path) -> None:
    for path in folder.glob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse_constant)


def assert_equal_runs(first: RunResult, second: RunResult) -> None:
    assert first.path.name == second.path.name
    assert_same_bits(first.path, second.path)
    assert first.info["status"] == second.info["status"] and first.info["steps"] == second.info["steps"]


def assert_noise_field(field: dict[str, np.ndarray], bound: float) -> None:
    """Both noises lie inside the mask alone, are equally loud there, and the learned one keeps its bound."""
    mask, (gaussian, learned) = field["mask"], field["rms"]
    assert str(field["image"]) == "train/good/000.png" and 0.1 < mask.mean() < 0.5
    assert field["features"].shape == mask.shape and (field["features"] > 0).all()
    assert not field["rms"][:, ~mask].any() and not field["channel"][:, ~mask].any()
    assert np.sqrt((gaussian[mask] ** 2).mean()) == pytest.approx(np.sqrt((learned[mask] ** 2).mean()), rel=0.02)
    assert 0 < np.abs(field["channel"][1]).max() <= bound * (1 + 1e-6)


# --- what a run leaves


def test_run_folder_holds_what_it_should(finished: RunResult) -> None:
    names = {path.name for path in finished.path.iterdir()}
    assert names == {"run.json", *COMPARED}  # no checkpoint, no half-written file
    assert_strict_json(finished.path)
    info = finished.info
    assert RunConfig(**info["config"]) == finished.config
    assert (info["format"], info["status"], info["seed"]) == (FORMAT, "finished", 0)
    assert (info["epochs_done"], info["steps"]) == (3, 6)
    assert info["run_id"] == finished.path.name == finished.config.run_id
    counts = {k: v for k, v in info["data"].items() if k not in ("fingerprint", "brightness")}
    assert counts == {"train": 8, "train_defective": 0, "train_used": 6, "test": 7, "test_defective": 4}
    assert info["data"]["brightness"].keys() == {"training", "normal", "defective", "auroc"}
    assert len(info["data"]["fingerprint"]) == 64 and set(info["versions"]) >= {"python", "torch", "numpy", "ssn_core"}
    assert info["noise"]["std"] == pytest.approx(0.4 * info["noise"]["feature_std"])
    assert info["wall_seconds"] > 0 and info["device"] == "cpu"


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
    model = ssn.load_model(finished.path)
    assert not model.training
    for row in finished.scores.itertuples():
        prediction = model.predict(tiny_sets / "ring" / row.image)
        assert prediction.score == pytest.approx(row.score, abs=1e-4)
        assert prediction.map_score == pytest.approx(row.map_score, abs=1e-4)
        top = np.sort(prediction.anomaly_map, axis=None)[-100:].mean()
        assert row.top_score == pytest.approx(top, abs=1e-4)
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


# --- run once


def test_finished_run_is_loaded_without_data(finished: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.path.iterdir()}
    monkeypatch.setattr(store, "open_dataset", lambda *_, **__: pytest.fail("a finished run opened its data"))
    again = run(finished.config, finished.path.parent, "/nowhere", log=quiet)
    assert again.metrics == finished.metrics and again.config == finished.config
    assert {path: path.stat().st_mtime_ns for path in finished.path.iterdir()} == before


def test_equal_configurations_give_equal_runs_and_the_seed_matters(
    finished: RunResult, tiny_sets: Path, tmp_path: Path
) -> None:
    again = run(finished.config, tmp_path, tiny_sets, log=quiet)
    assert_equal_runs(finished, again)
    fields = finished.config.as_dict()
    other = run(RunConfig(**fields | {"seed": 1}), tmp_path, tiny_sets, log=quiet)
    assert other.path != again.path and not np.allclose(other.scores.score, again.scores.score)


def test_a_run_leaves_the_callers_random_state_alone(tiny_sets: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    run(tiny_config(epochs=1), tmp_path, tiny_sets, log=quiet)
    assert torch.equal(torch.rand(3), wanted)


# --- interrupted


@pytest.mark.parametrize("name", ["learned_noise_v2", "learned_noise_v1", "supervised", "scenario_b"])
def test_every_kind_of_run_resumes_bit_for_bit(name: str, tiny_sets: Path, tmp_path: Path) -> None:
    config = tiny_config(name, epochs=3)
    whole = run(config, tmp_path / "whole", tiny_sets, log=quiet)
    halt(config, tmp_path / "resumed", tiny_sets, at="epoch 2/3")
    resumed = run(config, tmp_path / "resumed", tiny_sets, log=quiet)
    assert_equal_runs(whole, resumed)
    assert (whole.noise is None) == (config.noise == "gaussian")
    for name in whole.noise or ():
        np.testing.assert_array_equal(whole.noise[name], resumed.noise[name])


@pytest.mark.parametrize(("field", "value"), [("format", 0), ("config", {"seed": 9}), ("fingerprint", "0" * 64)])
def test_checkpoint_of_something_else_is_refused(
    finished: RunResult, halted: Path, tiny_sets: Path, field: str, value: Any
) -> None:
    path = halted / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state[field] = state[field] | value if isinstance(value, dict) else value
    torch.save(state, path)
    with pytest.raises(InputError) as caught:
        run(finished.config, halted.parent, tiny_sets, log=quiet)
    assert f"belongs to another {field}" in str(caught.value) and str(path) in str(caught.value)
    assert "delete the folder" in str(caught.value)


def test_data_that_changed_since_the_checkpoint_are_refused(
    finished: RunResult, halted: Path, tiny_sets: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_sets / "ring", tmp_path / "data" / "ring")
    (tmp_path / "data" / "ring" / "train" / "good" / "000.png").unlink()
    with pytest.raises(InputError, match="belongs to another fingerprint"):
        run(finished.config, halted.parent, tmp_path / "data", log=quiet)


# --- folders that are not this run's


def test_folder_of_another_configuration_is_refused(copied: RunResult) -> None:
    info = copied.info | {"config": copied.info["config"] | {"noise_std": 0.5}}
    (copied.path / "run.json").write_text(json.dumps(info))
    with pytest.raises(InputError) as caught:
        run(copied.config, copied.path.parent, log=quiet)
    assert "another configuration (noise_std: 0.5 there, 0.4 asked)" in str(caught.value)
    assert str(copied.path) in str(caught.value)


def test_folder_of_another_format_is_refused(copied: RunResult) -> None:
    (copied.path / "run.json").write_text(json.dumps(copied.info | {"format": 1}))
    with pytest.raises(InputError, match=r"run.json has format 1, this version reads format 2; delete the folder"):
        run(copied.config, copied.path.parent, log=quiet)


def test_folder_of_a_later_version_with_other_fields_is_refused_by_name(copied: RunResult) -> None:
    info = copied.info | {"config": copied.info["config"] | {"colour": "red"}}
    (copied.path / "run.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match=r"run.json cannot be read \(RunConfig: no field 'colour'"):
        load_run(copied.path)


@pytest.mark.parametrize("name", ["run.json", "metrics.json"])
@pytest.mark.parametrize("content", ["", '{"format": 2, "con', "[]", "3"])
def test_truncated_results_are_refused(copied: RunResult, name: str, content: str) -> None:
    (copied.path / name).write_text(content)
    with pytest.raises(InputError, match=f"{name} cannot be read .* delete the folder"):
        load_run(copied.path)


def test_missing_metrics_are_named(copied: RunResult) -> None:
    (copied.path / "metrics.json").unlink()
    with pytest.raises(InputError, match="metrics.json cannot be read"):
        load_run(copied.path)


def test_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no finished run \(no run.json\)"):
        load_run(tmp_path)


def test_model_that_is_missing_truncated_or_foreign(copied: RunResult) -> None:
    path = copied.path / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="model.safetensors cannot be read"):
        ssn.load_model(copied.path)
    save_file({"adaptor.0.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="does not fit its run.json"):
        ssn.load_model(copied.path)
    path.unlink()
    with pytest.raises(InputError, match="weights are not kept with committed results"):
        ssn.load_model(copied.path)


# --- training that breaks down


def spoil_from(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Make the weights infinite in that epoch, as a step far too large would."""
    original = Trainer.epoch

    def spoiled(self: Trainer) -> dict[str, Any]:
        if self.epochs_done + 1 == epoch:
            self.model.segmentation.conv.weight.data *= float("inf")
        return original(self)

    monkeypatch.setattr(Trainer, "epoch", spoiled)


@pytest.mark.parametrize("epoch", [1, 3])
def test_non_finite_loss_is_an_error_and_keeps_the_last_good_checkpoint(
    epoch: int, finished: RunResult, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = finished.config
    spoil_from(monkeypatch, epoch)
    with pytest.raises(NonFiniteLoss, match=f"not finite .*checkpoint of epoch {epoch - 1}.*lower adaptor_lr"):
        run(config, tmp_path, tiny_sets, log=quiet)
    folder = tmp_path / config.run_id
    assert {path.name for path in folder.iterdir()} == {"checkpoint.pt"}
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["trainer"]["epochs_done"] == epoch - 1 == len(state["history"])
    assert all(value.isfinite().all() for value in state["trainer"]["model"].values())
    monkeypatch.undo()  # whatever caused it is gone: the run continues from there, and ends as if never interrupted
    assert_equal_runs(run(config, tmp_path, tiny_sets, log=quiet), finished)


@pytest.mark.parametrize(("name", "epoch"), [("learned_noise_v1", 3), ("learned_noise_v2", 1)])
def test_learned_noise_that_diverges_is_recorded(
    name: str, epoch: int, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However soon: also before the first timed checkpoint. The loss curve up to there is kept."""
    config = tiny_config(name, epochs=4)
    spoil_from(monkeypatch, epoch)
    result = run(config, tmp_path, tiny_sets, log=quiet)
    assert result.info["status"] == "diverged" and result.info["epochs_done"] == epoch - 1
    assert result.info["note"] == f"non-finite loss in epoch {epoch}; evaluated as of epoch {epoch - 1}"
    assert result.history.epoch.tolist() == list(range(1, epoch)) and result.history.loss.notna().all()
    assert all(np.isfinite(result.metrics[name]) for name in metrics.METRICS)
    assert_strict_json(result.path)
    assert not (result.path / "checkpoint.pt").exists()
    again = run(config, tmp_path, "/nowhere", log=quiet)
    assert again.info == result.info


def test_diverged_run_is_evaluated_as_of_the_same_epoch_however_often_it_saved(
    tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("learned_noise_v1", epochs=4)
    spoil_from(monkeypatch, 3)
    often = run(config, tmp_path / "often", tiny_sets, checkpoint_seconds=0, log=quiet)
    assert_equal_runs(often, run(config, tmp_path / "never", tiny_sets, checkpoint_seconds=1e9, log=quiet))


def test_learned_noise_is_absent_from_saved_weights(tiny_sets: Path, tmp_path: Path, finished: RunResult) -> None:
    result = run(tiny_config("learned_noise_v2", beta=0.5, epochs=2), tmp_path, tiny_sets, log=quiet)
    assert load_file(result.path / "model.safetensors").keys() == load_file(finished.path / "model.safetensors").keys()
    assert result.metrics["parameters"] == finished.metrics["parameters"]
    history = result.history
    bound = 0.5 * result.info["noise"]["feature_std"]  # beta is in the unit of the noise
    assert history.loss_generator.notna().any() and (history.noise_rms <= bound).all()
    assert finished.noise is None
    assert_noise_field(result.noise, bound)
    assert isinstance(ssn.load_model(result.path).predict(np.zeros((70, 60, 3), np.uint8)).score, float)


# --- bad input, before anything is trained


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny_config(category="screws"), "no category 'screws'; its categories: ring"),
        (tiny_config(dataset="mvtec", category="bottle"), "does not hold MVTec AD bottle"),
        (tiny_config(dataset="ksdd2", category="ksdd2"), "does not hold KolektorSDD2"),
        (tiny_config("supervised", category="ring"), "needs defective training images"),
        (tiny_config("weak_gap_cam", category="ring"), "needs defective training images"),
        (tiny_config("supervised", flips=4), "choose flips=3 or fewer"),
    ],
)
def test_data_that_do_not_serve_are_refused_before_training(
    config: RunConfig, message: str, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "build_model", lambda **_: pytest.fail("a model was built"))
    with pytest.raises(InputError, match=message):
        run(config, tmp_path, tiny_sets, log=quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "xpu"])
def test_device_that_is_not_there(device: str, tiny_sets: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"device='{device}' cannot be used here .*; choose cpu or cuda"):
        run(tiny_config(), tmp_path, tiny_sets, device=device, log=quiet)


# --- the feature cache


def test_cached_features_are_the_trunks_of_each_flipped_image(tiny_sets: Path) -> None:
    net = make_trunk("efficientnet_lite0", pretrained=False)
    samples = ssn.open_dataset("synthetic", "ring", tiny_sets).train[:3]
    entries = [(s, flip) for s in samples for flip in range(4)]
    lines: list[str] = []
    found = extract(net, entries, (64, 40), torch.device("cpu"), lines.append)
    images = torch.stack([to_tensor(read_image(s.image), (64, 40)).flip(FLIPS[flip]) for s, flip in entries])
    with torch.no_grad():
        layers = net(images)
    for cached, layer in zip((found.layer2, found.layer3), layers, strict=True):
        assert (cached.permute(0, 3, 1, 2) - layer).abs().max() < 1e-4 * layer.abs().max()
        assert not cached.is_inference()
    assert found.sizes == ((8, 5), (4, 2)) and len(found) == 12
    assert lines == ["feature cache: 12 images, 0.00 GB float32 in memory"]


def test_cache_beyond_its_bound_is_halved_then_mapped(tiny_sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_trunk("efficientnet_lite0", pretrained=True)
    entries = [(s, 0) for s in ssn.open_dataset("synthetic", "ring", tiny_sets).train]
    values = 8 * (8 * 8 * 40 + 4 * 4 * 112)
    whole = extract(net, entries, (64, 64), torch.device("cpu"), quiet)
    for bytes_, where in (
        (4 * values, "float32 in memory"),
        (2 * values, "float16 in memory"),
        (values, "memory-mapped"),
    ):
        monkeypatch.setenv("SSN_CACHE_GB", repr(bytes_ / 1e9 * (1 + 1e-9)))
        lines: list[str] = []
        found = extract(net, entries, (64, 64), torch.device("cpu"), lines.append)
        assert where in lines[0], lines
        part = found.batch(torch.tensor([5, 2]), torch.device("cpu"))
        for layer, wanted in zip(part, whole.batch(torch.tensor([5, 2]), torch.device("cpu")), strict=True):
            assert layer.dtype == torch.float32 and (layer - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("text", ["0", "-1", "much", "nan", "inf"])
def test_bad_cache_bound_is_refused(
    text: str, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSN_CACHE_GB", text)
    with pytest.raises(InputError, match=f"SSN_CACHE_GB='{text}' must be a number of gigabytes > 0"):
        run(tiny_config(), tmp_path, tiny_sets, log=quiet)


# --- model selection without the test set


def test_held_out_images_get_defects_that_no_run_chooses(tiny_sets: Path) -> None:
    """Normal images, then altered copies: changed inside the masks alone, equal for every seed and noise."""
    held_out = list(ssn.open_dataset("synthetic", "ring", tiny_sets).train[:3])
    originals = torch.stack([to_tensor(read_image(s.image), (64, 64)) for s in held_out])

    class Pixels(torch.nn.Module):
        """A trunk that passes the pixels on."""

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, images[:, :, ::2, ::2]

    configs = tiny_config(), tiny_config("learned_noise_v2", seed=7, noise_std=2.0)
    made = [altered_copies(held_out, config, Pixels(), torch.device("cpu")) for config in configs]
    for features, truth in made:
        assert truth.labels.tolist() == [0, 0, 0, 1, 1, 1]
        normal, altered = features.layer2.permute(0, 3, 1, 2).split(3)
        masks = torch.from_numpy(truth.masks)
        assert not masks[:3].any() and all(0 < float(mask.float().mean()) < 0.3 for mask in masks[3:])
        assert torch.equal(normal, originals)
        assert 0.005 < float(masks[3:].float().mean()) < 0.2
        changed = (altered - normal).abs().amax(1) > 0
        assert not (changed & ~masks[3:]).any() and (changed.sum((1, 2)) > 0.9 * masks[3:].sum((1, 2))).all()
    (features, truth), (others, other_truth) = made
    assert np.array_equal(truth.masks, other_truth.masks)
    assert torch.equal(features.layer2, others.layer2)
    assert altered_copies([], configs[0], Pixels(), torch.device("cpu")) is None
