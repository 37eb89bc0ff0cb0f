"""The checkpoints of a run under way: the last one, and the one before in case the last is damaged."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch

from ssn_core.errors import InputError
from ssn_core.files import reserve, write_bytes, writing
from ssn_core.models.weights import read_tensors
from ssn_core.runs.config import RunConfig
from ssn_core.runs.result import CHECKPOINT, FILES, FORMAT, MODEL, PREVIOUS, Log, read_run_file


class Checkpoints:
    """Those of one run, which are told from another's by its configuration and the fingerprint of its data."""

    def __init__(self, folder: Path, config: RunConfig, fingerprint: str) -> None:
        self.folder = folder
        self.identity = {"format": FORMAT, "config": config.as_dict(), "fingerprint": fingerprint}

    def probe(self, weights: int) -> None:
        """Refuse what has no room for its checkpoints, this one, the one before and the next, by the weights' bytes."""
        there = sum((self.folder / name).is_file() for name in (CHECKPOINT, PREVIOUS))
        part = self.folder / ".probe.part.bin"
        with writing(self.folder):
            try:
                reserve(part, (3 - there) * 3 * weights)  # weights, and AdamW's two moments of each
            finally:
                part.unlink(missing_ok=True)

    def write(self, state: dict[str, Any]) -> None:
        """Save ``state``; what was the last checkpoint becomes the one before."""
        buffer = io.BytesIO()
        torch.save(self.identity | state, buffer)
        write_bytes(self.folder / CHECKPOINT, buffer.getbuffer(), self.folder / PREVIOUS)

    def read(self, device: torch.device, log: Log) -> dict[str, Any] | None:
        """The last whole checkpoint, None where there is none; one that is damaged falls back to the one before.

        Raises :class:`InputError` where all are damaged, and for one of another configuration or other data.
        """
        paths = [path for path in (self.folder / CHECKPOINT, self.folder / PREVIOUS) if path.is_file()]
        for path in paths:
            try:
                state = read_run_file(path, lambda file: read_tensors(file, device))
            except InputError as error:
                if path == paths[-1]:
                    raise
                log(f"{str(error).partition(';')[0]}; going on from {paths[-1].name}")
                continue
            if wrong := [name for name, value in self.identity.items() if state.get(name) != value]:
                raise InputError(
                    f"{path} belongs to another {' and '.join(wrong)}; delete the folder to start this run anew"
                )
            return state
        return None


def tidy(folder: Path) -> None:
    """Delete what a finished run needs no more, also when its process was killed before it could; what others write
    into its folder, an export under way, is not its own."""
    own = [Path(name) for name in (*FILES, MODEL, CHECKPOINT)]
    halves = [half for file in own for half in folder.glob(f".{file.stem}.*.part{file.suffix}")]
    with contextlib.suppress(OSError):  # a read-only store keeps it
        for leftover in (folder / CHECKPOINT, folder / PREVIOUS, *halves):
            leftover.unlink(missing_ok=True)
