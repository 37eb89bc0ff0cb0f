"""An orderly end: wherever SIGTERM or Ctrl-C come, the last whole epoch is saved and goes on with the same bits."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from support import assert_same_bits, process, quiet, words_of

from ssn_core.errors import Stopped
from ssn_core.runs import checkpoint, runner
from ssn_core.runs.result import RunResult
from ssn_core.runs.store import run
from ssn_core.runs.trainer import Trainer

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
