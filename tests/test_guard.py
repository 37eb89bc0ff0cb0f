"""One owner of a run at a time: who is refused, who takes over."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import COMPARED, process, quiet, tiny_config

from ssn_core.errors import InputError
from ssn_core.runs import guard, store
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
