"""Freezing: what a stored notebook keeps of its execution, and when it is older than what it shows."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
import pytest
from PIL import Image
from studied import config_of, fake_run
from support import copy_checkout

from ssn_core.runs import profiles
from ssn_core.study import freeze


def executed_book(folder: Path) -> Path:
    """What papermill leaves: times, an absolute path, a stream in two parts, a widget beside what stands for it."""
    code = nbformat.v4.new_code_cell("print(1)\nprint(2)", execution_count=1, metadata={"papermill": {"duration": 2}})
    code.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("1\n", "2\n")]
    Image.new("RGB", (2, 2)).save(png := io.BytesIO(), format="png")
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "7"}, "text/plain": "a widget"}
    for data in (widget, widget | {"image/png": base64.b64encode(png.getvalue()).decode()}):
        code.outputs.insert(1, nbformat.v4.new_output("display_data", data=data))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), code])
    book.metadata["papermill"] = {"input_path": "/home/someone/01_x.ipynb"}
    path = folder / "build" / "01_x.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)
    return path


def test_freezing_drops_times_paths_and_widgets_and_repeats_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(freeze, "project_root", lambda: tmp_path)
    monkeypatch.setattr(freeze, "_read_files", lambda: [])
    stored = freeze.freeze(executed_book(tmp_path))
    once = stored.read_bytes()
    assert freeze.freeze(executed_book(tmp_path)).read_bytes() == once
    assert b"someone" not in once and b"duration" not in once
    book = nbformat.read(stored, as_version=4)
    first, picture, second = book.cells[1].outputs
    assert first.text + second.text == "1\n2\n" and picture.data.keys() == {"text/plain", "image/png"}
    assert book.metadata.digest == freeze.digest(book)
    book.cells[0].source = "# Another title"
    assert book.metadata.digest != freeze.digest(book)


def test_a_new_result_makes_the_stored_notebooks_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_checkout(tmp_path, "profiles", "data/reference")
    for module in (freeze, profiles):
        monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    book = nbformat.v4.new_notebook()
    empty = freeze.digest(book)
    run = fake_run(tmp_path / "data" / "results", config_of())
    with_run = freeze.digest(book)
    (run.path / "model.safetensors").touch()  # not in git, not shown
    assert freeze.digest(book) == with_run != empty
    (run.path / "metrics.json").write_text("{}")
    assert freeze.digest(book) != with_run
