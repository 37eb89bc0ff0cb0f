"""The house's one rule: imports go down only, and nothing in the library imports the report."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support import ROOT

from ssn_core.runs.profiles import load_profile
from ssn_core.runs.result import FILES, load_run

#: what each room may import besides itself; ``errors`` and ``files`` lie under all of them
BELOW = {
    "data": set(),
    "metrics": set(),
    "models": {"data"},
    "fast": {"models", "data"},
    "runs": {"fast", "models", "metrics", "data"},
    "inspection": {"runs", "fast", "models", "metrics", "data"},
    "study": {"inspection", "runs", "metrics", "data", "models", "fast"},
    "bench": {"study", "runs", "fast", "models", "metrics", "data"},
}
FOUNDATION = {"errors", "files"}


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", BELOW)
def test_imports_go_down_only(room: str) -> None:
    files = sorted((ROOT / "ssn_core" / room).glob("*.py"))
    assert files
    for path in files:
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("ssn_core.")}
        assert rooms - {"__version__"} <= {room, *FOUNDATION, *BELOW[room]}, path
        assert not any(name.split(".")[0] == "report" for name in imported(path)), path


def test_every_module_lies_in_a_room() -> None:
    loose = {path.stem for path in (ROOT / "ssn_core").glob("*.py")}
    assert loose == {"__init__", "__main__", *FOUNDATION}
    rooms = {path.parent.name for path in (ROOT / "ssn_core").glob("*/*.py")}
    assert rooms == set(BELOW)


def test_every_room_says_what_lives_there() -> None:
    for room in BELOW:
        text = ast.get_docstring(ast.parse((ROOT / "ssn_core" / room / "__init__.py").read_text(encoding="utf-8")))
        assert text and "mport" in text, room


def test_the_promises_of_the_readme_name_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "README.md").read_text(encoding="utf-8")))
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    assert named and [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_the_readme_finds_what_it_points_to() -> None:
    """Files of the table "looking for", and names that it says are in them."""
    table = re.search(r"\| looking for .*?\n\n", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    places = re.findall(r"((?:`\w+`(?:,| and)? )+)in `(ssn_core/[\w/]+\.py)`", table)
    assert len(places) >= 5
    for names, path in places:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert all(name in text for name in re.findall(r"`(\w+)`", names)), path
    files = re.findall(r"[`(]((?:\w+/)+\w+(?:\.\w+)?|[A-Z]+\.\w+)[`)]", table)
    assert len(files) > 10 and [path for path in files if not (ROOT / path).exists()] == []


def test_committed_runs_keep_their_ids_and_hold_no_picture() -> None:
    """A run folder's name is its configuration's, so a field that is added renames no old run; and what is kept of the
    images is their maps and names."""
    listed = subprocess.run(["git", "ls-files", "data/results/*/*"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    assert {path.name for path in paths} <= set(FILES)
    folders = {path.parent for path in paths}
    of_profile = {config.run_id for config in load_profile("cpu").known()}
    assert len(folders) > 100
    assert {folder.name for folder in folders if not folder.name.startswith("noise_control")} <= of_profile
    for folder in folders:
        assert load_run(folder).config.run_id == folder.name
        assert set(np.load(folder / "examples.npz").files) == {"images", "maps"}, folder.name
