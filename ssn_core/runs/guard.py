"""What guards a run under way: one owner at a time, and an orderly end when the system ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from ssn_core.errors import InputError
from ssn_core.files import writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[str]:
    """Own a run folder, or raise :class:`InputError` that names who does; yields whom it was taken over from, or "".

    The lock is an flock, since the kernel lets go of it with its process, however that ends: nobody guesses from a
    process number that may have been given anew, and no two processes take over at once. The file says who the owner
    is, for on a network file system an flock may not reach other hosts: an owner there counts as alive until a person
    deletes the file. It is also the first thing written, so a store that cannot be written is found before training.
    """
    path = folder / LOCK
    with writing(path):
        file, alone = _open_locked(path)
    with file:  # closing it lets go
        before = _read_owner(file)
        if before and not (alone and _gone(before)):
            raise InputError(_refusal(path, before, f"or delete {path} if that process is gone"))
        try:
            with writing(path):
                file.truncate(0)
                file.write(json.dumps(_me()).encode())
                os.fsync(file.fileno())
            yield _name(before) if before else ""
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
                folder.rmdir()  # a run that wrote nothing leaves no folder


def _open_locked(path: Path) -> tuple[BinaryIO, bool]:
    """The lock file, and whether its flock is ours; raises :class:`InputError` where another process has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "a+b", buffering=0)  # closing has nothing left to write, should the disk be full
        except FileNotFoundError:
            if path.parent.is_dir():  # a link into nowhere, say; to try again would never end
                raise
            continue  # the last owner took its empty folder away just now
        alone = fcntl is not None  # else the file alone is the lock, and a killed run leaves it for a person
        try:
            if alone:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise InputError(_refusal(path, _read_owner(file), "or end that process")) from None
        except OSError:  # a file system that has no flock
            alone = False
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, alone
        file.close()  # its owner removed it between our opening and locking


def _read_owner(file: BinaryIO) -> dict[str, Any]:
    file.seek(0)
    try:
        found = json.loads(file.read())
    except ValueError:  # only just made, or cut short by a full disk
        return {}
    return found if isinstance(found, dict) else {}


def _me() -> dict[str, Any]:
    """This process; also the scheduler's job that it belongs to, and how often that was started again."""
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    job, restart = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "job": job, "restart": restart}


def _gone(owner: dict[str, Any]) -> bool:
    """Whether an owner whose flock is free has ended: it was on this host, or is an earlier start of this very job,
    which the scheduler starts again when the first node has failed."""
    me = _me()
    again = me["job"] is not None and me["job"] == owner.get("job") and me["restart"] > owner.get("restart", 0)
    return owner.get("host") == me["host"] or again


def _name(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')} since {owner.get('since', '?')}"


def _refusal(path: Path, owner: dict[str, Any], way_out: str) -> str:
    return f"run {path.parent.name} is being made by {_name(owner)}; wait until it is done, {way_out}"


@contextlib.contextmanager
def interrupted_by(number: int) -> Iterator[None]:
    """A signal interrupts as Ctrl-C does, so that one path ends a run: SIGTERM, which schedulers send some seconds
    before SIGKILL, or an alarm."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def interrupt(*_: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not cut the saving short
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)
