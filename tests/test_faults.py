"""Nothing finished is lost, nothing half-written is taken for whole: kills, full disks, damaged files, other data."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from support import COMPARED, ROOT, Hostile, assert_same_bits, environment, quiet, tiny_config

import ssn_core as ssn
from ssn_core import files
from ssn_core.data import datasets
from ssn_core.errors import InputError
from ssn_core.runs import runner
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
    count, counting = 0, place == "anywhere"
    def follow(line):
        nonlocal counting
        counting = counting or "training on" in line
    def look(frame, event, argument):
        nonlocal count
        count += counting and any(name in frame.f_code.co_filename for name in PLACES[place])
        if count == at and counting:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(look)
    code = 0
    try:
        run(config, store, data, checkpoint_seconds=0, log=follow)
    except InputError as error:
        code = 3 if "is being made by" in str(error) else 4
    sys.setprofile(None)
    if store == "whole":
        Path(f"{place}.count").write_text(str(count))
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

for place in PLACES:  # what an undisturbed run makes, and how much happens in it
    shutil.rmtree("whole", ignore_errors=True)
    assert end(start("whole", place, None)) == 0
together = [end(child) for child in [start("two", "anywhere", None) for _ in range(2)]]
assert together in ([0, 3], [3, 0]), together
same("two")

rng, kills, ends, resumed = random.Random(0), 0, 0, 0
while kills < 30:
    place = rng.choice(list(PLACES))
    resumed += Path("killed", config.run_id, "checkpoint.pt").exists()
    code = end(start("killed", place, rng.randint(1, int(Path(f"{place}.count").read_text()))))
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


# --- places without room, and places that cannot be written


def no_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["/proc/store", "x" * 300, "full"])
def test_a_store_without_room_is_found_before_training(
    place: str, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read only (also for root), too long a name, and room for small files but not for a checkpoint."""
    monkeypatch.setattr(runner.Trainer, "epoch", lambda _: pytest.fail("it trained"))
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(InputError, match="cannot be written .*; make room, or choose another place") as caught:
        run(tiny_config(), tmp_path / place, tiny_sets, log=quiet)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.*"))


def test_reserved_room_is_taken_from_the_disk(tmp_path: Path) -> None:
    files.reserve(tmp_path / "file", 3_000_000)
    status = (tmp_path / "file").stat()
    assert status.st_size == 3_000_000 <= 512 * status.st_blocks


def test_a_full_temporary_folder_is_one_line_and_no_signal(
    tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feature cache is mapped into memory: a page that the disk has no room for would end the process."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("SSN_CACHE_GB", "1e-6")
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(InputError, match="feature cache in .*temporary .set by TMPDIR. cannot be written .*No space"):
        run(tiny_config(), tmp_path / "store", tiny_sets, log=quiet)
    assert list((tmp_path / "temporary").iterdir()) == [] == list((tmp_path / "store").iterdir())
