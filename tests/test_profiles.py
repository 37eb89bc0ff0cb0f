"""Profiles: every file expands to valid runs, mistakes in one are named, what is not at hand is "not run"."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from studied import fake_run
from support import ROOT, quiet, tiny_config

from ssn_core.errors import InputError
from ssn_core.models import weights
from ssn_core.runs import profiles
from ssn_core.runs.config import RunConfig
from ssn_core.runs.presets import PRESETS
from ssn_core.runs.profiles import NotRun, Profile, load_profile, matched_control, project_root, run_command
from ssn_core.runs.result import RunResult

SHIPPED = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own with a profile "small" that can be edited."""
    (tmp_path / "profiles").mkdir()
    write(tmp_path)
    monkeypatch.setattr(profiles, "project_root", lambda: tmp_path)
    return tmp_path


def write(root: Path, **changes: Any) -> None:
    defaults = {k: v for k, v in tiny_config(epochs=1).as_dict().items() if v != RunConfig.model_fields[k].default}
    for name in ("experiment", "category"):
        defaults.pop(name)
    content = {
        "description": "small",
        "store": "store",
        "figures": "figures",
        "synthetic": False,
        "defaults": defaults,
        "experiments": {"scenario_a": {"categories": ["ring", "weave"], "seeds": [0, 1]}},
        "bench": {},
    }
    path = root / "profiles" / "small.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (content | changes).items() if v is not ...}))


def refused(name: str = "small") -> str:
    with pytest.raises(InputError) as caught:
        load_profile(name)
    return str(caught.value)


def test_shipped_profiles() -> None:
    assert SHIPPED == ["cpu", "demo", "full"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_expands_to_valid_runs(name: str) -> None:
    profile = load_profile(name)
    runs = {experiment: profile.configs(experiment) for experiment in profile.experiments}
    names = [config.run_id for configs in runs.values() for config in configs]
    assert len(set(names)) == len(names) >= len(runs)
    for experiment, configs in runs.items():
        assert all(config.experiment == experiment for config in configs)
    assert profile.store.is_relative_to(project_root()) and profile.description


@pytest.mark.parametrize("name", SHIPPED)
def test_every_experiment_of_the_report_is_in_every_profile(name: str) -> None:
    ablation = {"scenario_b_conv3x3", "scenario_b_bn", "scenario_b_relu"}
    assert set(PRESETS) - set(load_profile(name).experiments) <= ablation | {"noise_control"}


def test_full_profile_is_the_published_protocol() -> None:
    profile = load_profile("full")
    for config in profile.configs("scenario_a") + profile.configs("learned_noise_v2"):
        assert (config.epochs, config.batch_size, config.image_size) == (300, 32, (256, 256))
        assert (config.noise_std, config.noise_unit) == (0.015, "absolute")
    assert {c.seed for c in profile.configs("baseline")} == {0, 1, 2, 3, 4}
    assert {c.beta for c in profile.configs("learned_noise_v2")} == {0.5, 0.1, 0.05, 0.015}
    assert all(c.validation_fraction > 0 for c in profile.configs("learned_noise_v2"))  # selection off the test set
    assert all(c.image_size == (640, 232) for c in profile.configs("weak_gap_cam"))


def test_demo_profile_needs_no_download_and_no_data() -> None:
    profile = load_profile("demo")
    assert profile.synthetic
    for experiment in profile.experiments:
        for config in profile.configs(experiment):
            assert (config.dataset, config.backbone) == ("synthetic", "efficientnet_lite0")
            assert config.noise_unit != "absolute"  # that backbone's features are some forty times larger


def test_categories_and_seeds_multiply(checkout: Path) -> None:
    write(checkout, experiments={"scenario_a": {"categories": ["ring", "weave"], "seeds": [3, 4, 5]}})
    configs = load_profile("small").configs("scenario_a")
    assert [(c.category, c.seed) for c in configs] == [(c, s) for c in ("ring", "weave") for s in (3, 4, 5)]


def test_an_experiment_may_have_several_entries(checkout: Path) -> None:
    entries = [{"categories": ["ring"], "epochs": 3}, {"categories": ["weave", "thread"]}]
    write(checkout, experiments={"scenario_a": entries})
    configs = load_profile("small").configs("scenario_a")
    assert [(c.category, c.epochs) for c in configs] == [("ring", 3), ("weave", 1), ("thread", 1)]
    write(checkout, experiments={"scenario_a": [*entries, {"epoch": 3}]})
    assert "small.yaml: scenario_a: RunConfig: no field 'epoch'" in refused()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "small.yaml: keys colour are unknown or missing"),
        ({"store": ...}, "small.yaml: keys store are unknown or missing"),
        ({"name": "other"}, "small.yaml: keys name are unknown or missing"),
        (
            {"experiments": {"scenario_z": {}}},
            "small.yaml: scenario_z: preset 'scenario_z' is unknown; choose one of baseline",
        ),
        ({"experiments": {"scenario_a": {"epoch": 3}}}, "small.yaml: scenario_a: RunConfig: no field 'epoch'"),
        ({"experiments": {"scenario_a": {"noise_std": 0}}}, "small.yaml: scenario_a: RunConfig: noise_std=0 must"),
        ({"experiments": {"scenario_a": ["ring"]}}, "small.yaml: scenario_a: an entry must be a mapping"),
        ({"experiments": {"scenario_a": {"seeds": 3}}}, "small.yaml: scenario_a: seeds must be a list"),
        ({"experiments": ["scenario_a"]}, "small.yaml: experiments must be a mapping"),
        ({"defaults": 3}, "small.yaml: defaults must be a mapping"),
    ],
)
def test_mistakes_in_a_profile_are_named(checkout: Path, changes: dict[str, Any], message: str) -> None:
    write(checkout, **changes)
    assert message in refused()


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "description: [unclosed\n"])
def test_file_that_is_no_profile(checkout: Path, text: str) -> None:
    (checkout / "profiles" / "small.yaml").write_text(text)
    assert str(checkout / "profiles" / "small.yaml") in refused()


def test_unknown_profile_and_experiment(checkout: Path) -> None:
    assert "profile 'tiny' is unknown" in refused("tiny") and "choose one of small" in refused("tiny")
    with pytest.raises(InputError, match="profile 'small' has no experiment 'simplenet'; it has scenario_a"):
        load_profile("small").configs("simplenet")


def test_what_is_not_at_hand_is_not_run_and_says_how(
    checkout: Path, tiny_sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_sets / "ring", checkout / "data" / "ring")
    monkeypatch.setenv("SSN_DATA_DIR", str(checkout / "data"))
    monkeypatch.setattr(Profile, "data_root", lambda *_: None)
    write(checkout, experiments={"scenario_a": {"categories": ["ring", "weave"]}})
    outcomes = load_profile("small").run("scenario_a", log=quiet)
    assert [type(outcome) for outcome in outcomes] == [RunResult, NotRun]
    missing = outcomes[1]
    assert missing.reason.startswith("data: ") and "weave" in missing.reason
    assert missing.command == run_command(missing.config) and "category=weave" in missing.command
    monkeypatch.setattr(profiles, "make_synthetic", lambda _: None)
    write(checkout, synthetic=True)
    with pytest.raises(InputError, match="profile 'small': data: .*weave"):  # before any run: its data are drawn
        load_profile("small").run("scenario_a", log=quiet)
    shutil.rmtree(checkout / "data")  # a finished run is shown without its data
    assert isinstance(load_profile("small").run([outcomes[0].config], log=quiet)[0], RunResult)


def test_weights_that_would_have_to_be_downloaded_are_not_run(
    checkout: Path, tiny_sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Profile, "data_root", lambda *_: tiny_sets)
    monkeypatch.setattr(weights, "weights_path", lambda _: None)
    (outcome, *_) = load_profile("small").run("scenario_a", log=quiet)
    assert isinstance(outcome, NotRun) and outcome.reason.startswith("weights: none of efficientnet_lite0")


def test_matched_control_differs_from_learned_noise_in_the_noise_alone(tmp_path: Path) -> None:
    """As loud as the learned noise was on average, neither at first nor in the end."""
    result = fake_run(tmp_path, tiny_config("learned_noise_v2", epochs=4, beta=0.5))
    result.history["noise_rms"] = [0.1, 0.2, 0.2, 0.33333]
    control = matched_control(result)
    assert control.noise_std == 0.208  # three digits: the run's id has it
    a, b = control.as_dict(), result.config.as_dict()
    changed = {name for name in a if a[name] != b[name]}
    assert changed == {"experiment", "noise", "noise_std", "noise_unit", "beta"}
    assert (control.experiment, control.noise, control.noise_unit) == ("noise_control", "gaussian", "absolute")
