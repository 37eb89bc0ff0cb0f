"""Nothing finished is lost, nothing half-written is taken for whole: kills, full disks, damaged files, other data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import COMPARED, ROOT, Hostile, assert_same_bits, environment, quiet

import ssn_core as ssn
from ssn_core.data import datasets
from ssn_core.errors import InputError
from ssn_core.runs.result import RunResult
from ssn_core.runs.store import run

# --- killed

#: forks a process for each attempt; it counts what the interpreter does in the package, or where files are written,
#: and kills itself at a number drawn from a fixed seed
KILLS = """
import json, os, random, shutil, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from ssn_core.errors import InputError
from ssn_core.runs.config import RunConfig
from ssn_core.runs.store import run

config, data = RunConfig(**json.loads(sys.argv[1])), sys.argv[2]
PLACES = {"anywhere": ("ssn_core/",), "training": ("ssn_core/",), "writing": ("ssn_core/files.py", "pathlib.py")}

def start(store, place, at):
    child = os.fork()
    if child:
        return child
    counts, training, known = dict.fromkeys(PLACES, 0), False, {}
    def follow(line):
        nonlocal training
        training = training or "training on" in line
    def look(frame, event, argument):
        file = frame.f_code.co_filename
        if file not in known:
            known[file] = [name for name, parts in PLACES.items() if any(part in file for part in parts)]
        for name in known[file]:
            counts[name] += training or name == "anywhere"
            if name == place and counts[name] == at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(look)
    code = 0
    try:
        run(config, store, data, checkpoint_seconds=0, log=follow)
    except InputError as error:
        code = 3 if "is being made by" in str(error) else 4
    sys.setprofile(None)
    if store == "whole":
        Path("counts.json").write_text(json.dumps(counts))
    os._exit(code)

def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def same(store):
    names = sys.argv[3].split(",")
    run(config, store, "/nowhere")  # loads, and takes away what a process killed between its last lines left
    left = {path.name for path in Path(store, config.run_id).iterdir()} - {".lock"}
    assert left == {"run.json", *names}, left
    for name in names:
        assert Path(store, config.run_id, name).read_bytes() == Path("whole", config.run_id, name).read_bytes(), name

assert end(start("whole", "anywhere", None)) == 0  # what an undisturbed run makes, and how much happens in it
counts = json.loads(Path("counts.json").read_text())
together = [end(child) for child in [start("two", "anywhere", None) for _ in range(2)]]
assert together in ([0, 3], [3, 0]), together
same("two")

rng, kills, ends, resumed = random.Random(0), 0, 0, 0
while kills < 30:
    place = rng.choice(list(PLACES))
    resumed += Path("killed", config.run_id, "checkpoint.pt").exists()
    code = end(start("killed", place, rng.randint(1, counts[place])))
    assert code in (0, -signal.SIGKILL), code
    kills += code != 0
    if code == 0:
        same("killed")
        shutil.rmtree("killed")
        ends += 1
assert end(start("killed", "anywhere", None)) == 0
same("killed")
print(kills, ends + 1, resumed)
"""


def test_thirty_kills_and_two_at_once_end_with_the_same_bits(
    finished: RunResult, tiny_sets: Path, tmp_path: Path
) -> None:
    """SIGKILL at random moments of preparation, training, evaluation and writing, in a home that cannot be written."""
    home = {"HOME": "/proc/nobody", "TORCH_HOME": "/proc/nobody"}
    here = environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", **home)
    arguments = ["-c", KILLS, json.dumps(finished.config.as_dict()), str(tiny_sets), ",".join(COMPARED)]
    done = subprocess.run([sys.executable, *arguments], env=here, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    kills, ends, resumed = map(int, done.stdout.split())
    assert kills == 30 and ends >= 2 and resumed >= 10


# --- damaged checkpoints


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"truncated": content[:1000], "empty": b"", "flipped": content}.get(how, b""))
    if how in ("hostile", "list"):
        torch.save([] if how == "list" else {"trainer": Hostile(path.with_name("ran"))}, path)


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "hostile", "list", "missing"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    how: str, halted: Path, finished: RunResult, tiny_sets: Path
) -> None:
    path = halted / "checkpoint.pt"
    path.unlink() if how == "missing" else damage(path, how)
    lines: list[str] = []
    resumed = run(finished.config, halted.parent, tiny_sets, log=lines.append)
    assert any("epoch 1 of 3" in line for line in lines)
    assert how == "missing" or any("checkpoint.pt cannot be read" in line for line in lines)
    assert_same_bits(resumed.path, finished.path)
    assert {path.name for path in halted.iterdir()} == {"run.json", *COMPARED}  # "ran" neither


@pytest.mark.parametrize("how", ["truncated", "hostile"])
def test_where_both_are_damaged_one_line_says_so(how: str, halted: Path, finished: RunResult, tiny_sets: Path) -> None:
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        damage(halted / name, how)
    with pytest.raises(InputError, match="checkpoint.previous.pt cannot be read .*; delete the folder") as caught:
        run(finished.config, halted.parent, tiny_sets, log=quiet)
    text = str(caught.value)
    assert "\n" not in text and "weights_only" not in text and not (halted / "ran").exists()


# --- other data than a run was made with


def test_a_finished_run_is_not_passed_off_as_one_of_other_data(
    copied: RunResult, tiny_sets: Path, tmp_path: Path
) -> None:
    def again(data_root: Path) -> list[str]:
        lines: list[str] = []
        assert run(copied.config, tmp_path, data_root, log=lines.append).metrics == copied.metrics
        return lines

    assert again(tmp_path / "absent") == []
    data = shutil.copytree(tiny_sets / "ring", tmp_path / "data" / "ring").parent
    assert again(data) == [f"[{copied.path.name}] loaded, not trained; its data are unchanged"]
    (data / "ring" / "train" / "good" / "000.png").unlink()
    with pytest.raises(InputError) as caught:
        again(data)
    made = copied.info["data"]["fingerprint"][:12]
    now = ssn.open_dataset("synthetic", "ring", data).fingerprint()[:12]
    assert f"(fingerprint {made}) than {data / 'ring'} holds ({now}); point data_root" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_are_read_again_only_when_they_changed(
    copied: RunResult, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(tiny_sets / "ring", tmp_path / "data" / "ring").parent
    opened: list[Path] = []
    original = datasets.open_dataset
    monkeypatch.setattr(datasets, "open_dataset", lambda *given: opened.append(given[2]) or original(*given))
    for _ in range(3):
        run(copied.config, tmp_path, data, log=quiet)
    assert len(opened) == 1
    os.utime(data / "ring" / "train" / "good" / "000.png", (1, 1))
    run(copied.config, tmp_path, data, log=quiet)
    assert len(opened) == 2


def test_a_model_is_not_loaded_on_other_weights_than_it_was_trained_on(copied: RunResult) -> None:
    recorded = copied.info["weights_sha256"]
    (copied.path / "run.json").write_text(json.dumps(copied.info | {"weights_sha256": recorded[::-1]}))
    with pytest.raises(InputError, match="was trained on other weights of efficientnet_lite0 than .* holds; put"):
        ssn.load_model(copied.path)
    older = {name: value for name, value in copied.info.items() if name != "weights_sha256"}
    (copied.path / "run.json").write_text(json.dumps(older))
    assert not ssn.load_model(copied.path).training
