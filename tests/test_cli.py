"""The command line: help without torch, a mistake is one line and code 2, runs of the study (own images: test_own)."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, environment

import ssn_core as ssn
from ssn_core.__main__ import main
from ssn_core.errors import InputError
from ssn_core.models import weights
from ssn_core.runs import store
from ssn_core.runs.presets import parse_fields, preset
from ssn_core.runs.profiles import run_command

TINY = [
    "dataset=synthetic",
    "category=ring",
    "backbone=efficientnet_lite0",
    "image_size=64,64",
    "epochs=1",
    "batch_size=4",
    "noise_unit=feature_std",
    "noise_std=4e-1",
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "scenario_z"], "preset 'scenario_z' is unknown; choose one of baseline"),
        (["run", "scenario_a", "epoch=3"], "no field 'epoch'"),
        (["run", "scenario_a", "epochs"], "'epochs' is not FIELD=VALUE"),
        (["run", "scenario_a", "=3"], "'=3' is not FIELD=VALUE"),
        (["run", "scenario_a", "epochs=[3"], "'epochs=[3': '[3' is no value"),
        (["run", "scenario_a", "epochs=many"], "epochs='many' must be a valid integer"),
        (["run", "scenario_a", "noise_std=0"], "noise_std=0 must be greater than 0"),
        (["run", "scenario_a", "image_size=100,100"], "image_size=(100, 100) must be (height, width)"),
        (["run", "scenario_a", "image_size=64"], "image_size=(64,) must be (height, width)"),
        (["run", "scenario_b", "adaptor=linear"], "needs a nonlinear or spatial adaptor"),
        (["run", "learned_noise_v2", "beta=-0.1"], "beta=-0.1 must be greater than 0"),
        (["run", "scenario_a", "backbone=vgg16"], "backbone='vgg16' must be 'wide_resnet50_2'"),
        (["run", *["scenario_a", *TINY], "category=screws"], "no category 'screws'"),
        (["run", *["scenario_a", *TINY], "--device", "gpu"], "device='gpu' cannot be used here"),
        (["run", *["supervised", *TINY]], "needs defective training images"),
        (["predict", "/nowhere", "a.png"], "/nowhere holds no finished run"),
        (["predict", "/nowhere"], "Missing argument 'IMAGES'; see ssn predict --help"),
        (["run", "scenario_a", "--seed", "3"], "No such option: --seed"),
        (["trian"], "No such command 'trian'"),
        (["check", "/nowhere"], "/nowhere is not a folder"),
    ],
)
def test_a_mistake_is_one_line_and_code_two(
    arguments: list[str], message: str, tiny_sets: Path, tmp_path: Path, failure: Callable[..., str]
) -> None:
    if arguments[0] == "run":
        arguments = [*arguments, "--data-root", str(tiny_sets), "--store", str(tmp_path)]
    assert message in failure(*arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ssn_core", "run", "scenario_a", "noise_std=-1"], "ssn: RunConfig: noise_std=-1"),
        (["ssn_core", "bench", "--profile", "nosuch"], "ssn: profile 'nosuch' is unknown"),
        (["ssn_core", "bench", "--only", "nosuch"], "ssn: nothing to measure is called 'nosuch'; there are machine"),
    ],
)
def test_no_traceback_from_the_command_itself(words: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env=environment(PYTHONPATH=str(ROOT)), cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr


def test_help_shows_an_example_and_loads_nothing_heavy() -> None:
    code = """
import sys
from ssn_core.__main__ import app, main
names = [command.name or command.callback.__name__ for command in app.registered_commands]
for words in [[], ["--help"], *([name, "--help"] for name in names)]:
    assert main(words) == 0, words
heavy = {"torch", "pandas", "numpy", "matplotlib", "scipy"} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = ("train", "evaluate", "predict", "check", "export", "run", "bench", "cost")
    for command in commands:
        assert f"Example: ssn {command} " in done.stdout, command


def test_a_reader_that_goes_away_is_no_traceback(tiny_sets: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ssn_core", "check", str(tiny_sets)]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_ctrl_c_before_anything_is_saved_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[..., str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "open_dataset", interrupt)
    line = failure("run", "scenario_a", *TINY, "--store", tmp_path, code=130)
    assert "the same command starts again" in line


def test_missing_weights_are_one_line(
    tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[..., str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.delenv("SSN_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(store.torch.hub, "_hub_dir", None)
    monkeypatch.setattr(weights, "urlopen", fail)
    where = ["--data-root", tiny_sets, "--store", tmp_path]
    line = failure("run", "scenario_a", *where, *TINY, "backbone=resnet18")  # fields after options
    assert "Three ways out: (1)" in line


def test_a_run_then_a_prediction(tiny_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "scenario_a", *TINY, "--data-root", str(tiny_sets), "--store", str(tmp_path)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    folder = Path(lines[-1].removeprefix("run folder: "))
    assert folder.parent == tmp_path and (folder / "run.json").is_file()
    assert any(line.startswith("seg-I-AUROC: 0.") or line.startswith("seg-I-AUROC: 1") for line in lines)
    assert main(arguments) == 0  # loads
    assert "epoch 1/1" not in capsys.readouterr().out
    images = [str(tiny_sets / "ring" / "test" / "good" / f"00{i}.png") for i in range(2)]
    assert main(["predict", str(folder), *images]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "image,score,map_score,decision" and len(rows) == 2
    stored = ssn.load_run(folder).scores.set_index("image")
    for row, name in zip(rows, ("test/good/000.png", "test/good/001.png"), strict=True):
        image, score, map_score, _ = row.split(",")
        assert image.endswith(name)
        assert float(score) == pytest.approx(stored.score[name], abs=1e-3)
        assert float(map_score) == pytest.approx(stored.map_score[name], abs=1e-3)


def test_training_that_breaks_down_is_one_line_and_code_one(
    tiny_sets: Path, tmp_path: Path, failure: Callable[..., str]
) -> None:
    arguments = ["run", "scenario_a", *TINY, "epochs=3", "head_lr=1e35", "--data-root", tiny_sets]
    line = failure(*arguments, "--store", tmp_path, code=1)
    assert "the loss is not finite" in line and "lower adaptor_lr, head_lr or noise_std" in line


def test_check_counts_and_its_code(tiny_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tiny_sets)]) == 0
    assert capsys.readouterr().out.count("OK synthetic") == 4
    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / "empty")]) == 1
    assert capsys.readouterr().out.startswith("PROBLEM")


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("epochs=40", 40),
        ("noise_std=0.4", 0.4),
        ("adaptor_lr=1e-4", 1e-4),
        ("adaptor_lr=5E-05", 5e-5),
        ("image_size=640,232", (640, 232)),
        ("beta=null", None),
        ("category=01", "01"),
        ("category=on", "on"),
        ("category=5", "5"),
        ("category=a=b", "a=b"),
        ("seeds=[0, 1]", (0, 1)),
        ("figures=true", True),
    ],
)
def test_values_are_read_as_what_their_field_is(pair: str, value: Any) -> None:
    (found,) = parse_fields([pair]).values()
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "config",
    [
        preset("scenario_a", category="screw", adaptor_lr=1e-5, head_lr=3e-7, image_size=(64, 128)),
        preset("learned_noise_v2", category="on", beta=1e-6, seed=2),
        preset("weak_gap_cam", dataset="ksdd1", category="ksdd1"),
        preset("baseline"),
    ],
)
def test_the_printed_command_makes_the_run_it_stands_for(config: ssn.RunConfig) -> None:
    words = shlex.split(run_command(config))
    assert words[:4] == ["python", "-m", "ssn_core", "run"]
    assert words[-2:] == ["--store", "data/results"]  # where tables look for it
    assert preset(words[4], **parse_fields(words[5:-2])) == config


def test_fields_given_twice_are_refused_or_the_last_counts() -> None:
    assert parse_fields(["epochs=1", "epochs=2"]) == {"epochs": 2}
    with pytest.raises(InputError, match="is not FIELD=VALUE"):
        parse_fields(["epochs 2"])
