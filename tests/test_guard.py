"""One owner of a run, an orderly end on SIGTERM, and too little memory, which is one line and loses nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import COMPARED, ROOT, assert_same_bits, environment, quiet, tiny_config, words_of

from ssn_core.__main__ import main
from ssn_core.errors import InputError, Stopped
from ssn_core.runs import checkpoint, guard, runner, store
from ssn_core.runs.guard import LOCK, owned
from ssn_core.runs.result import RunResult
from ssn_core.runs.store import run
from ssn_core.runs.trainer import Trainer

HOLD = """
import sys, time
from pathlib import Path
from ssn_core.runs.guard import owned
with owned(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
from ssn_core.__main__ import main
from ssn_core.runs.trainer import Trainer
epoch = Trainer.epoch
def slow(self):
    time.sleep(60 if self.epochs_done == 2 else 0)
    return epoch(self)
Trainer.epoch = slow
sys.exit(main(sys.argv[1:]))
"""


def process(*arguments: str, **changes: Any) -> subprocess.Popen[str]:
    here = environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS=str(torch.get_num_threads()))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-u", *arguments], env=here, **pipes | changes)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the run folder tmp_path/run."""
    with process("-c", HOLD, str(tmp_path / "run")) as other:
        assert other.stdout.readline() == "held\n"
        yield other
        other.kill()


# --- the lock


def test_a_run_started_twice_is_refused_by_name_and_taken_over_when_its_process_is_gone(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught, owned(tmp_path / "run"):
        pass
    text = str(caught.value)
    assert f"run run is being made by process {holder.pid} on {socket.gethostname()} since 20" in text
    assert "\n" not in text and "wait until it is done, or end that process" in text
    assert (tmp_path / "run" / LOCK).is_file()  # refusing does not touch it
    holder.kill()
    holder.wait()
    with owned(tmp_path / "run") as gone:
        assert gone.startswith(f"process {holder.pid} on {socket.gethostname()}")
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run").exists()  # nothing was written there


def test_a_lock_is_held_against_the_same_process_too(tmp_path: Path) -> None:
    with owned(tmp_path / "run"):
        with pytest.raises(InputError, match=f"made by process {os.getpid()} "), owned(tmp_path / "run"):
            pass
        (tmp_path / "run" / "file").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]
    with owned(tmp_path / "run") as gone:
        assert gone == ""


def leave_lock(folder: Path, **changes: Any) -> Path:
    """What a process on another host left there, or still uses."""
    folder.mkdir()
    owner = {"host": "elsewhere", "pid": os.getpid(), "since": "2026-01-01T00:00:00+00:00", "job": "7", "restart": 0}
    (folder / LOCK).write_text(json.dumps(owner | changes))
    return folder / LOCK


def test_an_owner_on_another_host_is_believed_until_its_file_is_deleted(tmp_path: Path) -> None:
    lock = leave_lock(tmp_path / "run")
    with pytest.raises(InputError, match=f"on elsewhere since 2026.*or delete {lock} if"), owned(lock.parent):
        pass
    lock.unlink()
    with owned(lock.parent) as gone:
        assert gone == ""


@pytest.mark.parametrize(("job", "restart", "taken"), [("7", "1", True), ("7", "0", False), ("8", "1", False)])
def test_a_job_started_again_on_another_node_takes_over_from_itself(
    job: str, restart: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = leave_lock(tmp_path / "run")
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", restart)
    if taken:
        with owned(lock.parent) as gone:
            assert "on elsewhere" in gone
    else:
        with pytest.raises(InputError, match="on elsewhere"), owned(lock.parent):
            pass


def test_without_flock_the_file_alone_is_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(guard.fcntl, "flock", refuse)
    with owned(tmp_path / "run"):
        with pytest.raises(InputError, match=f"or delete .*{LOCK} if that process is gone"), owned(tmp_path / "run"):
            pass
    assert not (tmp_path / "run").exists()


def test_a_run_is_locked_while_it_trains_and_not_after(
    tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(epochs=1)
    refused: list[str] = []

    def try_again(line: str) -> None:
        if "epoch 1/1" in line:
            with pytest.raises(InputError, match=f"run {config.run_id} is being made by") as caught:
                run(config, tmp_path, tiny_sets, log=quiet)
            refused.append(str(caught.value))

    result = run(config, tmp_path, tiny_sets, log=try_again)
    assert len(refused) == 1
    assert {path.name for path in result.path.iterdir()} == {"run.json", *COMPARED}

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Trainer, "epoch", fail)
    with pytest.raises(ZeroDivisionError):
        run(tiny_config(seed=1), tmp_path, tiny_sets, log=quiet)
    assert {path.name for path in tmp_path.iterdir()} == {config.run_id}


def test_a_run_that_its_last_owner_ended_just_now_is_not_made_again(
    finished: RunResult, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was absent when we looked, and is finished by the time that we own its folder."""
    opened = store.open_dataset

    def end(*arguments: Any, **options: Any) -> Any:
        shutil.copytree(finished.path, tmp_path / finished.path.name, dirs_exist_ok=True)
        return opened(*arguments, **options)

    monkeypatch.setattr(store, "open_dataset", end)
    monkeypatch.setattr(store, "Runner", lambda *_: pytest.fail("made again"))
    assert run(finished.config, tmp_path, tiny_sets, log=quiet).metrics == finished.metrics


# --- SIGTERM and Ctrl-C


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_terminated_run_saves_ends_with_one_line_and_resumes_bit_for_bit(
    number: signal.Signals, finished: RunResult, tiny_sets: Path, tmp_path: Path
) -> None:
    config = finished.config
    with process("-c", SLOW, *words_of(config, tiny_sets, tmp_path / "stopped"), cwd=tmp_path) as other:
        for line in other.stdout:
            if "epoch 2/3" in line:
                break
        other.send_signal(number)
        out, err = other.communicate(timeout=60)
    assert other.returncode == 130 and "Traceback" not in out + err
    (line,) = (line for line in err.splitlines() if line.startswith("ssn: "))
    folder = tmp_path / "stopped" / config.run_id
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["trainer"]["epochs_done"] == 2
    assert "epoch 2 of 3 is saved, and the same command goes on" in line
    assert {path.name for path in folder.iterdir()} == {"checkpoint.pt"}
    lines: list[str] = []
    resumed = run(config, tmp_path / "stopped", tiny_sets, log=lines.append)
    assert any("training on cpu, epoch 2 of 3" in line for line in lines)
    assert_same_bits(resumed.path, finished.path)


@pytest.mark.parametrize("where", ["epoch", "evaluation", "checkpoint", "results"])
def test_wherever_it_is_interrupted_a_whole_epoch_is_saved(
    where: str, finished: RunResult, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a step, in an evaluation after it, while a checkpoint is written, and while results are."""
    places = {
        "epoch": (Trainer, "train_batch", 5),  # two batches an epoch
        "evaluation": (runner.evaluate, "measure", 3),  # twice an evaluation: test images, held-out images
        "checkpoint": (checkpoint, "write_bytes", 2),
        "results": (runner, "write_csv", 1),
    }
    owner, name, at = places[where]
    original, count = getattr(owner, name), [0]

    def interrupting(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(owner, name, interrupting)
    saved = {"epoch": 2, "evaluation": 1, "checkpoint": 2, "results": 3}[where]
    with pytest.raises(Stopped, match=f"epoch {saved} of 3 is saved"):
        run(finished.config, tmp_path / "stopped", tiny_sets, checkpoint_seconds=0, log=quiet)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed = run(finished.config, tmp_path / "stopped", tiny_sets, log=quiet)
    assert_same_bits(resumed.path, finished.path)


def test_a_second_signal_does_not_cut_the_saving_short(
    finished: RunResult, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, write = Trainer.train_batch, checkpoint.write_bytes

    def first(self: Trainer, *arguments: Any) -> Any:
        if self.epochs_done == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return train(self, *arguments)

    def second(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write(*arguments)

    monkeypatch.setattr(Trainer, "train_batch", first)
    monkeypatch.setattr(checkpoint, "write_bytes", second)
    with pytest.raises(Stopped, match="epoch 1 of 3 is saved"):
        run(finished.config, tmp_path, tiny_sets, log=quiet)
    state = torch.load(tmp_path / finished.path.name / "checkpoint.pt", weights_only=True)
    assert state["trainer"]["epochs_done"] == 1


# --- the device's memory


def test_too_little_memory_on_the_device_names_what_to_lower_and_keeps_the_checkpoint(
    tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(epochs=3)
    command = words_of(config, tiny_sets, tmp_path)
    original = Trainer.epoch

    def fill(self: Trainer) -> dict[str, Any]:
        if self.epochs_done == 1:
            raise torch.cuda.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which"
            )
        return original(self)

    monkeypatch.setattr(Trainer, "epoch", fill)
    with pytest.raises(InputError, match="checkpoint of this run stays in"):
        run(config, tmp_path, tiny_sets, checkpoint_seconds=0, log=quiet)
    assert main(command) == 2  # again, from the checkpoint
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "CUDA out of memory. Tried to allocate 2.00 GiB. Lower batch_size=4 or" in err
    assert "image_size=64,64" in err and str(tmp_path / config.run_id) in err
    monkeypatch.undo()
    assert main(command) == 0
    assert "training on cpu, epoch 1 of 3" in capsys.readouterr().out
