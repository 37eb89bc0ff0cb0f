"""Whole files or none: everything is written beside its final name and renamed into place."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ssn_core.errors import InputError

_BLOCK = 1 << 20


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Whatever the system refuses while ``path`` is written (a full disk, a read-only folder) is one line naming it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}); make room, or choose another place") from error


def write_atomic(path: str | Path, write: Callable[[Path], object], previous: Path | None = None) -> Path:
    """Call ``write(temporary_path)`` and rename the result to ``path``; a crash leaves the old file or none.

    ``previous``: the name that an old file gets; a crash then leaves at least one of the two whole. The temporary name
    keeps the suffix, because writers such as ``numpy.savez`` append one otherwise.
    Raises :class:`InputError` where the system refuses, for example on a full disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())  # the rename must not outrun the data
            if previous is not None and path.is_file():
                os.replace(path, previous)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def reserve(path: Path, size: int) -> None:
    """Make ``path`` a file of ``size`` zero bytes that the disk really has room for.

    A file that is only declared so long takes no room, and a program that has mapped it dies of a signal when the disk
    fills up. Raises OSError where there is not enough.
    """
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:  # macOS, Windows
            for start in range(0, size, _BLOCK):
                file.write(bytes(min(_BLOCK, size - start)))


def write_bytes(path: str | Path, content: bytes | memoryview, previous: Path | None = None) -> Path:
    """Write atomically what a library made in memory: their own writers each have another error for a full disk."""
    return write_atomic(path, lambda part: part.write_bytes(content), previous)


def write_npz(path: str | Path, arrays: Mapping[str, Any]) -> Path:
    """Write NumPy arrays, compressed, atomically."""
    import numpy as np  # here, since much that writes no array imports this module

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return write_bytes(path, buffer.getbuffer())


def write_json(path: str | Path, value: Any) -> Path:
    """Write indented JSON atomically; NaN and infinity are refused, since JSON has no such number."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    return write_bytes(path, text.encode())


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: list[str]) -> Path:
    """Write ``rows`` as CSV atomically; a missing key becomes an empty cell, an unknown key is an error."""

    def write(part: Path) -> None:
        with open(part, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    return write_atomic(path, write)
