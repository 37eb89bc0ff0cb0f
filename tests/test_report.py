"""The report: both PDFs build, have all their parts and say what the results say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from report_checkout import FIGURES, FORBIDDEN, TABLES, a_bottle, checkout, speed_rows, text_of, wanted
from report_runs import flat, write_run
from support import ROOT

from report.build import build_report
from ssn_core.bench import counters
from ssn_core.bench import measure as bench
from ssn_core.files import write_csv

pytest.importorskip("typst", reason="the report is compiled with the package typst")
pymupdf = pytest.importorskip("pymupdf", reason="reading the PDFs back needs the package pymupdf")


def squeeze(text: str) -> str:
    """Letters and digits only, so that line breaks and hyphens inside a title do not matter."""
    return re.sub(r"[\W_]+", "", text).lower()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both PDFs over a few runs: A and B on bottle and screw, learned noise, weak supervision."""
    root = checkout(tmp_path_factory.mktemp("report"))
    store = root / "data" / "results"
    a_bottle(store, 0.999)
    saturated = flat(0.93, **{"AP-loc": 0.15, "AP-loc on logits": 0.2})
    for metrics, runs, *others in (
        (flat(0.6, **{"seg-I-AUROC": 0.85}), wanted("scenario_a", "screw")),
        (flat(0.3, **{"seg-I-AUROC": 0.85}), wanted("scenario_b", "bottle")),
        (flat(0.2, **{"seg-I-AUROC": 0.85}), wanted("scenario_b", "screw")),
        (flat(0.4), wanted("learned_noise_v1", "screw"), 81.0, "diverged"),
        (flat(0.61), wanted("learned_noise_v2", "screw", beta=0.1)),
        (flat(0.4), wanted("learned_noise_v1_as_published", "screw"), 81.0),
        (flat(0.93, **{"AP-loc": 0.1}), wanted("weak_gap_cam", "ksdd1")),
        (saturated, wanted("weak_gap_cam_as_published", "ksdd1")),
        (flat(0.97, **{"AP-loc": 0.4}), wanted("supervised", "ksdd1")),
    ):
        for config in runs:
            write_run(store, config, metrics, *others)
    shutil.copy(ROOT / "data" / "results" / counters.FILE, store)
    (root / "figures" / "cpu").mkdir(parents=True, exist_ok=True)
    write_csv(root / "figures" / "cpu" / bench.FILE, speed_rows(), bench.COLUMNS)
    paths = build_report(root)
    return dict(zip(("en", "it"), paths, strict=True))


@pytest.fixture(params=("en", "it"))
def language(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def titles(language: str) -> list[str]:
    """Section titles of the sources, without mathematics."""
    found = []
    for path in sorted((ROOT / "report" / language).glob("*.typ")):
        found += re.findall(r"^=+ (.+?) <", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"\$[^$]*\$", "", title) for title in found]


def test_both_languages_have_the_same_parts() -> None:
    def labels(language: str) -> list[str]:
        paths = sorted((ROOT / "report" / language).glob("*.typ"))
        return [label for p in paths for label in re.findall(r"<((?:sec|fig|tab|eq):[\w-]+)>", p.read_text("utf-8"))]

    assert labels("en") == labels("it")
    assert len(labels("en")) > 70


def test_every_section_figure_and_table_is_in_the_text(built: dict[str, Path], language: str) -> None:
    text = text_of(built[language])
    squeezed = squeeze(text)
    assert len(titles(language)) > 45
    assert [t for t in titles(language) if squeeze(t) not in squeezed] == []
    figure, table = {"en": ("Figure", "Table"), "it": ("Figura", "Tabella")}[language]
    for name, least in ((figure, FIGURES), (table, TABLES)):
        numbers = {int(n) for n in re.findall(rf"{name} (\d+)\. ", text)}
        assert numbers == set(range(1, len(numbers) + 1)) and len(numbers) >= least
    equations = {int(n) for n in re.findall(r"\((\d+)\)", text)}
    assert set(range(1, 21)) <= equations


def test_the_text_holds_no_unresolved_value(built: dict[str, Path], language: str) -> None:
    text = text_of(built[language])
    assert [text[max(0, m.start() - 60) : m.end() + 20] for m in FORBIDDEN.finditer(text)] == []
    decimal = {"en": r"\d\.\d ± \d\.\d", "it": r"\d,\d ± \d,\d"}[language]
    assert len(re.findall(decimal, text)) > 30


def test_measured_speed_is_in_its_table(built: dict[str, Path], language: str) -> None:
    row = {"en": "fast 2.05× 2.05× 3.00× 3.00×", "it": "rapida 2,05× 2,05× 3,00× 3,00×"}[language]
    conditions = {"en": "256x256, median of 2 turns", "it": "256x256, mediana di 2 ripetizioni"}[language]
    text = text_of(built[language])
    assert text.count(row) == 3 and conditions in text
    assert {"en": "is 2.00 times as fast by it", "it": "è 2,00 volte più veloce"}[language] in text


def test_the_share_of_the_localisation_that_the_sigmoid_takes_is_in_the_text(
    built: dict[str, Path], language: str
) -> None:
    text = text_of(built[language])  # short phrases: a page may end within a sentence
    shares = {
        "en": ("takes 25.0 %", "from 20.0 %", "this is 20.0 %", "comes from a sigmoid in the evaluation"),
        "it": ("toglie il 25,0 %", "da 20,0 %", "una quota pari a 20,0 %", "viene da una sigmoide nella valutazione"),
    }
    assert [words for words in shares[language] if words not in text] == []


def test_both_rules_of_learned_noise_are_told_apart(built: dict[str, Path], language: str) -> None:
    text = text_of(built[language])
    wanted = {
        "en": ("No game was played", "By this update, repeated here", "Against a detector that does learn"),
        "it": ("Nessuno ha giocato", "Con questo aggiornamento, ripetuto qui", "Contro un rilevatore che impara"),
    }
    assert [words for words in wanted[language] if words not in text] == []


def test_no_semicolon_ends_an_expression_instead_of_a_clause() -> None:
    """Typst takes a semicolon after ``#call(...)`` for its own; in a sentence it is written ``#";"``."""
    swallowed = re.compile(r"#[\w-]+\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\);")
    for path in sorted((ROOT / "report").glob("*/*.typ")):
        assert swallowed.findall(path.read_text(encoding="utf-8")) == [], path.name


def test_pages_are_printed_within_their_margins(built: dict[str, Path], language: str) -> None:
    with pymupdf.open(built[language]) as document:
        assert 20 <= len(document) <= 36
        for page in document:
            picture = page.get_pixmap(dpi=40, colorspace=pymupdf.csGRAY)
            pixels = np.frombuffer(picture.samples, np.uint8).reshape(picture.height, picture.stride)[
                :, : picture.width
            ]
            ink = pixels < 200
            assert ink.mean() > 0.004, f"page {page.number + 1} is blank"
            edge = int(0.055 * picture.width)  # the margin is 11 % of the width
            assert not ink[:, :edge].any() and not ink[:, -edge:].any(), f"page {page.number + 1} overflows"


def test_a_loss_near_one_is_nowhere_called_nothing_learnt(built: dict[str, Path], language: str) -> None:
    text = text_of(built[language])
    wrong = {"en": r"missed the noise|has learnt nothing, after|not converge", "it": r"non avevano trovato il rumore"}
    assert not re.search(wrong[language], text)
    converse = {"en": "seg-I-AUROC has reached 100.0 %", "it": "il seg-I-AUROC ha raggiunto 100,0 %"}
    assert converse[language] in text


def test_the_ledger_shows_what_its_verdicts_were_read_from(built: dict[str, Path], language: str) -> None:
    text = text_of(built[language])
    interval = {"en": r"Δ −\d+\.\d \[−\d+\.\d, −\d+\.\d\], 3 pairs", "it": r"Δ −\d+,\d \[−\d+,\d; −\d+,\d\], 3 coppie"}
    assert re.search(interval[language], text)
    counted = {"en": r"56\.2 GFLOPs.{,1500}96\.5", "it": r"56,2 GFLOP.{,1500}96,5"}  # a page may end in between
    assert re.search(counted[language], text)


def test_nothing_that_shows_results_loads_torch() -> None:
    """Tables, figures and the report open where torch is slow to load or absent."""
    study = [path.stem for path in (ROOT / "ssn_core" / "study").glob("[a-z]*.py")]
    names = [f"ssn_core.study.{name}" for name in study]
    names += [f"report.{path.stem}" for path in (ROOT / "report").glob("[a-z]*.py")]
    code = "import importlib, sys; list(map(importlib.import_module, sys.argv[1:])); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, *sorted(names)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(names) > 15 and found.stdout.strip() == "False"
