"""Runs that were interrupted or broke down: resumed bit for bit, refused on a foreign checkpoint, divergence kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import assert_equal_runs, assert_strict_json, halt, quiet, tiny_config

from ssn_core import metrics
from ssn_core.errors import InputError
from ssn_core.runs.result import RunResult
from ssn_core.runs.store import run
from ssn_core.runs.trainer import NonFiniteLoss, Trainer

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
