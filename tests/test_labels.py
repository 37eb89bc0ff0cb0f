"""One file of labels: every preset has a name in both languages and a colour, and no name is written a second time."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from support import ROOT

from ssn_core.data.find import DATASETS
from ssn_core.runs.presets import PRESETS, preset
from ssn_core.study.labels import LABELS, LANGUAGES, METHOD_COLOURS, method_label

#: messages about data on disk name the set below the study, where labels cannot be imported
ALLOWED = {ROOT / "ssn_core" / "data" / "find.py"}


def names() -> set[str]:
    """Every label that is not also the key it stands for, and that has words of its own."""
    found = set()
    for kind in ("experiments", "backbones", "datasets", "metrics"):
        for key, entry in LABELS[kind].items():
            texts = [entry] if isinstance(entry, str) else [entry[language] for language in LANGUAGES]
            found |= {text for text in texts if text.lower() != key}
    return found


def strings(path: Path) -> Iterator[str]:
    """The string constants of a Python file; quoted strings and whole content blocks of a Typst file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from (n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and type(n.value) is str)
    else:
        yield from re.findall(r'"([^"\n]*)"', text)
        yield from re.findall(r"tr[(\[]\[?([^\]\n]*)\]", text)


def test_every_preset_has_a_name_in_both_languages_and_a_colour() -> None:
    assert set(LABELS["experiments"]) == set(METHOD_COLOURS) == set(PRESETS)
    for name, entry in LABELS["experiments"].items():
        assert entry["en"] and entry["it"] and re.fullmatch("#[0-9A-F]{6}", entry["colour"])
        assert all(method_label(preset(name), language) for language in LANGUAGES)
    assert set(LABELS["datasets"]) == set(DATASETS)


def test_a_name_is_written_in_the_file_of_labels_alone() -> None:
    known, repeated = names(), []
    sources = [*ROOT.glob("ssn_core/**/*.py"), *ROOT.glob("report/**/*.typ"), *ROOT.glob("report/*.py")]
    for path in sorted(set(sources) - ALLOWED):
        repeated += [(path.name, text) for text in strings(path) if text in known]
    assert "scenario A" in known and len(sources) > 80
    assert repeated == []
