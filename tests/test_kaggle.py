"""The Kaggle kernel, in a temporary root laid out as Kaggle lays out its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT, tiny_checkout

from ssn_core.errors import InputError
from ssn_core.runs import profiles, store
from ssn_core.runs.plan import Plan
from ssn_core.runs.result import load_run
from ssn_core.runs.trainer import Trainer

KAGGLE = ROOT / "kaggle"


def kernel(root: Path, minutes: float) -> subprocess.CompletedProcess[str]:
    roots = {"SSN_KAGGLE_INPUT": str(root / "input"), "SSN_KAGGLE_WORKING": str(root / "working")}
    settings = {"SSN_PROFILE": "tiny", "SSN_MINUTES": str(minutes), "OMP_NUM_THREADS": "1"}
    kept = {name: value for name, value in os.environ.items() if name not in ("SSN_DATA_DIR", "SSN_WEIGHTS_DIR")}
    command = [sys.executable, str(KAGGLE / "kernel.py")]
    return subprocess.run(command, env=kept | roots | settings, capture_output=True, text=True, timeout=300)


def test_a_time_budget_stops_after_a_whole_epoch_and_the_next_version_goes_on_from_the_output(
    tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "input"
    fields = {"dataset": "mvtec", "category": "ring", "epochs": 3}
    checkout = tiny_checkout(mounts / "checkout", {"scenario_a": {"categories": ["ring"]}}, **fields)
    profile = checkout / "profiles" / "tiny.yaml"
    profile.write_text(profile.read_text(encoding="utf-8").replace("synthetic: true", "synthetic: false"))
    data = mounts / "datasets" / "somebody" / "set"
    shutil.copytree(tiny_sets / "ring", data / "ring", ignore=shutil.ignore_patterns("synthetic.json"))

    earlier = shutil.copytree(checkout, mounts / "earlier-output" / "supersimplenet")
    monkeypatch.setattr(profiles, "project_root", lambda: earlier)
    monkeypatch.setenv("SSN_KAGGLE_INPUT", str(mounts))
    monkeypatch.delenv("SSN_DATA_DIR", raising=False)
    epoch = Trainer.epoch

    def until_the_time_is_over(trainer: Trainer) -> dict[str, Any]:
        if trainer.epochs_done == 2:
            signal.raise_signal(signal.SIGALRM)
        return epoch(trainer)

    monkeypatch.setattr(Trainer, "epoch", until_the_time_is_over)
    lines: list[str] = []
    assert Plan.of("tiny").work(minutes=60, log=lines.append) is False
    assert "epoch 2 of 3 is saved" in lines[-1]

    (tmp_path / "working").mkdir()
    done = kernel(tmp_path, minutes=60)
    assert done.returncode == 0 and "training on cpu, epoch 2 of 3" in done.stdout, done.stdout + done.stderr
    [folder] = (tmp_path / "working" / "supersimplenet" / "store").glob("scenario_a-*")
    assert load_run(folder).info["epochs_done"] == 3 and not (folder / "checkpoint.pt").exists()


def test_no_time_at_all_makes_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_checkout(tmp_path / "checkout", {"scenario_a": {"categories": ["ring"]}})
    monkeypatch.setattr(profiles, "project_root", lambda: root)
    said: list[str] = []
    assert Plan.of("tiny").work(minutes=0, log=said.append) is False
    assert said == ["stopped between two runs"]
    assert not (root / "store").exists() or not list((root / "store").glob("*/run.json"))


def test_without_a_checkout_the_kernel_says_what_to_attach(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "working").mkdir()
    done = kernel(tmp_path, minutes=1)
    assert done.returncode == 1 and "attach it as a data set" in done.stdout and not done.stderr


def test_the_metadata_ask_for_a_gpu_that_runs_and_no_internet() -> None:
    metadata = json.loads((KAGGLE / "kernel-metadata.json").read_text(encoding="utf-8"))
    assert metadata["machine_shape"] == "NvidiaTeslaT4" and metadata["enable_internet"] is False
    assert (KAGGLE / metadata["code_file"]).is_file()


@pytest.mark.parametrize(("capability", "refused"), [((6, 0), True), ((7, 0), False), ((7, 5), False)])
def test_a_gpu_that_torch_has_no_kernels_for_is_named(
    capability: tuple[int, int], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "sm_75", "sm_90", "compute_90"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla P100-PCIE-16GB")
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    if refused:
        with pytest.raises(InputError, match=r"no kernels for Tesla P100.*sm_60.*sm_70.*T4"):
            store.usable_device("cuda")
    else:
        assert store.usable_device("cuda") == torch.device("cuda")
