"""The run store: what a run leaves, run once, folders and data that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import COMPARED, assert_equal_runs, assert_strict_json, quiet, tiny_config

import ssn_core as ssn
from ssn_core.errors import InputError
from ssn_core.runs import runner, store
from ssn_core.runs.config import RunConfig
from ssn_core.runs.result import FORMAT, RunResult, load_run
from ssn_core.runs.store import run


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
