"""Disks and devices without room, places that cannot be written: one line, and what was whole stays."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from support import COMPARED, quiet, tiny_config, words_of

from ssn_core import files
from ssn_core.__main__ import main
from ssn_core.errors import InputError
from ssn_core.runs import runner
from ssn_core.runs.guard import LOCK
from ssn_core.runs.store import run
from ssn_core.runs.trainer import Trainer


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_line_and_leaves_what_was_whole(
    tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(epochs=3)
    command = words_of(config, tiny_sets, tmp_path)
    folder = tmp_path / config.run_id
    original = Path.write_bytes

    def fill(path: Path, content: Any) -> int:
        if path.name.startswith(".model"):  # after training, and four files of the results
            original(path, bytes(content)[:100])
            full_disk()
        return original(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill)
    for _ in range(2):  # the second time beside what the first one left
        assert main(command) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "No space left on device" in err
        assert f"{folder / 'model.safetensors'} cannot be written" in err and "make room" in err
        names = {path.name for path in folder.iterdir()}
        assert not any(".part" in name or name in ("run.json", "model.safetensors", LOCK) for name in names), names
        assert {"history.csv", "scores.csv", "curves.npz", "examples.npz"} <= names
    monkeypatch.undo()
    assert main(command) == 0
    assert {path.name for path in folder.iterdir()} == {"run.json", *COMPARED}


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(
    tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, count = tiny_config(epochs=3), [0]
    original = files.os.fsync

    def fill(handle: int) -> None:
        count[0] += 1
        if count[0] == 3:  # the lock, the first checkpoint, the second
            full_disk()
        original(handle)

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(InputError, match=r"checkpoint.pt cannot be written .*No space left"):
        run(config, tmp_path, tiny_sets, checkpoint_seconds=0, log=quiet)
    assert [path.name for path in (tmp_path / config.run_id).iterdir()] == ["checkpoint.pt"]
    monkeypatch.undo()
    lines: list[str] = []
    run(config, tmp_path, tiny_sets, log=lines.append)
    assert any("epoch 1 of 3" in line for line in lines)


def test_no_room_for_the_lock_is_found_before_training_and_leaves_nothing(
    tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system itself refuses a byte, as it does on a full disk."""
    monkeypatch.setattr(runner, "build_model", lambda **_: pytest.fail("a model was built"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(InputError, match=f"{LOCK} cannot be written .*choose another place"):
            run(tiny_config(), tmp_path, tiny_sets, log=quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/store", "x" * 300, "full"])
def test_a_store_without_room_is_found_before_training(
    place: str, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read only (also for root), too long a name, and room for small files but not for a checkpoint."""
    monkeypatch.setattr(Trainer, "epoch", lambda _: pytest.fail("it trained"))
    monkeypatch.setattr(os, "posix_fallocate", full_disk)
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
    monkeypatch.setattr(os, "posix_fallocate", full_disk)
    with pytest.raises(InputError, match="feature cache in .*temporary .set by TMPDIR. cannot be written .*No space"):
        run(tiny_config(), tmp_path / "store", tiny_sets, log=quiet)
    assert list((tmp_path / "temporary").iterdir()) == [] == list((tmp_path / "store").iterdir())


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
