"""The freeze rule of the stored notebooks: executed, without photographs, and marked with what they were made from.

``python -m ssn_core.study.freeze build/cpu/notebooks/*.ipynb`` stores executed copies; `make notebooks` does both.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

from ssn_core.runs.profiles import load_profile, project_root
from ssn_core.runs.result import FILES

PROFILE = "cpu"  # the parameter's default in every notebook, hence what the stored ones show
_WIDGET = "application/vnd.jupyter.widget-view+json"  # without its kernel an empty box


def digest(notebook: Any) -> str:
    """SHA-256 over the cells' sources (parameters among them), the profile, its finished runs, the reference figures
    and the benchmark."""
    sources = [f"{cell.cell_type}\n{cell.source}" for cell in notebook.cells]
    found = hashlib.sha256("\n".join(sources).encode())
    for path in _read_files():
        found.update(f"\n{path.relative_to(project_root()).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()


def _read_files() -> Iterator[Path]:
    root, profile = project_root(), load_profile(PROFILE)
    yield root / "profiles" / f"{PROFILE}.yaml"
    yield from sorted((root / "data" / "reference").glob("*.csv"))
    for run in sorted(profile.store.glob("*/run.json")):
        yield from filter(Path.is_file, (run.with_name(name) for name in FILES))
    yield from profile.figures.glob("bench.csv")


def freeze(executed: Path) -> Path:
    """Store an executed copy as ``notebooks/<name>``, without papermill's times and paths; equal executions give equal
    bytes."""
    notebook = nbformat.read(executed, as_version=4)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "digest": digest(notebook)}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {"tags": ["parameters"]} if "parameters" in cell.metadata.get("tags", []) else {}
        if cell.cell_type == "code":
            cell.outputs = list(_tidy(cell.outputs))
    target = project_root() / "notebooks" / executed.name
    nbformat.write(notebook, target)
    return target


def _tidy(outputs: Sequence[Any]) -> Iterator[Any]:
    """What one stream printed as one output, however the kernel cut it, pictures in 256 colours, and of widgets the
    picture beside them, if there is one: progress bars are gone."""
    kept = (output for output in outputs if _WIDGET not in (data := output.get("data", {})) or "image/png" in data)
    for stream, group in itertools.groupby(kept, key=lambda output: output.get("name")):
        first, *others = group
        if stream is not None:
            first.text += "".join(output.text for output in others)
            others = []
        for output in (first, *others):
            output.get("data", {}).pop(_WIDGET, None)
            if picture := output.get("data", {}).get("image/png"):
                output.data["image/png"] = _in_256_colours(picture)
            yield output


def _in_256_colours(png: str) -> str:
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.quantize(256).save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(freeze(Path(name)))
