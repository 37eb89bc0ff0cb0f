"""The queue: what a profile's plan holds, and the Snakefile: what can end ends, what failed keeps its folder."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from studied import config_of, fake_run
from support import environment, halt, tiny_checkout, tiny_config

from ssn_core.data.synthetic import make_synthetic
from ssn_core.errors import InputError
from ssn_core.runs import plan as planning
from ssn_core.runs import profiles
from ssn_core.runs.plan import Plan
from ssn_core.runs.presets import parse_fields, preset
from ssn_core.runs.profiles import load_profile, matched_control
from ssn_core.runs.result import load_run
from ssn_core.study import tables
from ssn_core.study.run_values import run_values

LEARNED = [{"categories": ["thread"], "beta": beta} for beta in (0.1, 0.5)]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a tiny profile, also for the code under test."""
    experiments = {"scenario_a": {"categories": ["ring", "weave"]}, "learned_noise_v2": LEARNED}
    root = tiny_checkout(tmp_path / "checkout", experiments, epochs=3)
    for module in (profiles, planning):
        monkeypatch.setattr(module, "project_root", lambda: root)
    return root


def test_a_plan_holds_every_run_of_its_profile_in_order_and_simplenets_peers() -> None:
    profile, plan = load_profile("demo"), Plan.of("demo")
    shown = list(plan.runs.values())
    for experiment in profile.experiments:
        assert [c for c in shown if c in profile.configs(experiment)] == profile.configs(experiment)
    extra = [c for c in shown if not any(c in profile.configs(e) for e in profile.experiments)]
    assert [(c.experiment, c.category) for c in extra] == [("simplenet", "plates")]
    assert plan.left_out == [] and plan.remarks == []
    order = [plan.priority(run_id) for run_id in plan.runs]
    assert order == sorted(order, reverse=True) and len(set(order)) == len(order)
    assert {(plan.runs[k].beta, plan.runs[k].seed) for k in plan.controlled} == {(tables.MAIN_BETA, s) for s in (0, 1)}


def test_what_this_machine_cannot_run_is_left_out_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SSN_DATA_DIR", str(tmp_path / "empty"))
    monkeypatch.setattr(profiles, "find_run", lambda *_: None)
    plan = Plan.of("cpu")
    assert plan.runs == {} and len(plan.left_out) >= 20
    assert sum("does not hold MVTec AD screw" in line for line in plan.remarks) == 1
    assert len(plan.remarks) < len(plan.left_out) and all("\n" not in line for line in plan.remarks)
    assert sum(int(line.split()[2]) for line in plan.remarks) == len(plan.left_out)


def test_a_control_is_known_by_its_learned_run_even_to_the_process_that_makes_it(checkout: Path) -> None:
    plan = Plan.of("tiny")
    (learned,) = plan.controlled
    control = matched_control(fake_run(checkout / "store", plan.runs[learned]))
    assert plan.add_control(learned) == control.run_id
    for known in (plan, Plan.of("tiny")):
        words = shlex.split(known.command(control.run_id))
        assert words[:4] == [sys.executable, "-m", "ssn_core", "run"]
        assert preset(words[4], **parse_fields([w for w in words if "=" in w])) == control
        assert words[-4:] == ["--store", "store", "--data-root", "data/synthetic"]
        assert known.priority(control.run_id) < known.priority(learned)
        assert known.target(control.run_id) == f"store/{control.run_id}/run.json"
    with pytest.raises(InputError, match="profile 'tiny' has no run 'other'"):
        plan.command("other")


def test_a_learned_run_without_noise_has_no_control(tmp_path: Path) -> None:
    """It broke down in its first epoch: its history has no row; and what reads values of a run takes it as it is."""
    run = fake_run(tmp_path, config_of("learned_noise_v2", beta=0.1))
    run.history.head(0).to_csv(run.path / "history.csv", index=False)
    broken = load_run(run.path)
    assert matched_control(broken) is None
    values = run_values(broken)
    assert values["I-AUROC"] == run.metrics["I-AUROC"] and "loss-last" not in values


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("snakemake") is None, reason="no snakemake: pip install '.[queue]'")
def test_the_queue_goes_on_after_a_failure_resumes_and_runs_the_control(tmp_path: Path) -> None:
    """One run was interrupted after an epoch, one cannot but fail, and the learned one is followed by its control."""
    rings = [{"categories": ["ring"]}, {"categories": ["weave"], "head_lr": 1e35}]
    experiments = {"scenario_a": rings, "learned_noise_v2": {"categories": ["thread"]}}
    root = tiny_checkout(tmp_path / "checkout", experiments, epochs=3)
    halted = tiny_config(category="ring", epochs=3)
    halt(halted, root / "store", make_synthetic(root / "data" / "synthetic"), at="epoch 1/3")
    command = [sys.executable, "-m", "snakemake", "runs", "--cores", "2", "--config", "profile=tiny"]
    options = {"cwd": root, "env": environment(), "capture_output": True, "text": True, "timeout": 900}
    done = subprocess.run(command, **options)
    assert done.returncode == 1
    results = {load_run(path.parent).config.experiment: path.parent for path in root.glob("store/*/run.json")}
    assert results.keys() == {"scenario_a", "learned_noise_v2", "noise_control"}, done.stderr
    assert load_run(results["noise_control"]).config == matched_control(load_run(results["learned_noise_v2"]))
    assert all(load_run(folder).info["threads"] == 1 for folder in results.values())
    assert "training on cpu, epoch 1 of 3" in (root / "build/tiny/log" / f"{halted.run_id}.log").read_text()
    (failed,) = (folder for folder in root.glob("store/*") if not (folder / "run.json").exists())
    assert [path.name for path in failed.iterdir()] == ["checkpoint.pt"]
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("ssn: "))
    assert failed.name in line and "the loss is not finite" in line
    again = subprocess.run(command, **options)
    assert again.returncode == 1
    assert set(re.findall(r"wildcards: run_id=(\S+)", again.stderr)) == {failed.name}  # the others are finished
