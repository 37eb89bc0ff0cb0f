"""What results change in the report, or lack: sentences and verdicts that depend on them, and wrong input."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from report_checkout import DIAGRAMS, FIGURES, FORBIDDEN, a_bottle, checkout, speed_rows, text_of, wanted
from report_runs import flat, write_run

from report.build import build_report, write_summary
from report.summary import wanted_runs
from ssn_core.bench import measure as bench
from ssn_core.errors import InputError
from ssn_core.files import write_csv
from ssn_core.runs.profiles import load_profile

pytest.importorskip("typst", reason="the report is compiled with the package typst")
pymupdf = pytest.importorskip("pymupdf", reason="reading the PDFs back needs the package pymupdf")


def test_what_is_not_run_or_not_drawn_says_so(tmp_path: Path) -> None:
    root = checkout(tmp_path, figures=False)
    (root / "figures" / "cpu").mkdir(parents=True)
    (root / "figures" / "cpu" / "fig17_histogram.en.svg").touch()  # an empty file is no picture
    english, italian = map(text_of, build_report(root))
    least = FIGURES - DIAGRAMS
    assert english.count("not drawn yet") >= least and italian.count("non ancora disegnata") >= least
    assert "not drawn yet: fig17 make report PROFILE=cpu" in english
    assert english.count("not run") > 60 and italian.count("non eseguit") > 60
    assert "No training on real images is stored yet" in english
    assert "python -m ssn_core run scenario_b category=screw" in english
    assert not FORBIDDEN.search(english) and not FORBIDDEN.search(italian)


def test_results_choose_numbers_sentences_and_verdicts(tmp_path: Path) -> None:
    root = checkout(tmp_path, figures=False)
    store = root / "data" / "results"
    texts, verdicts = [], []
    for value, gained, loss in ((0.9986, 0.0, 0.1), (0.8765, 0.0, 1.0), (0.8765, 0.05, 0.1)):
        a_bottle(store, value, final_loss=loss, rising=gained)  # the loss says nothing, the history does
        [pdf] = build_report(root, languages=("en",))
        texts.append(text_of(pdf))
        claims = {c["id"]: c["verdict"] for c in write_summary(root)["claims"]}
        verdicts.append(claims["bottle-kept"])
    assert verdicts == ["confirmed", "refuted", "open"]
    assert "Here A reaches 99.9 % (± 0.0, 𝑛= 3)" in texts[0] and "repeats the report’s result" in texts[0]
    assert "Here A reaches 87.7 %" in texts[1] and "and the metric had stopped rising" in texts[1]
    assert texts[2].count("still rising when training ended") >= 2  # the sentence and the ledger
    last = pdf.read_bytes()
    assert build_report(root, languages=("en",))[0].read_bytes() == last  # unchanged results, unchanged file
    assert not list(root.rglob("*.part*"))


def test_one_run_says_so_and_decides_nothing(tmp_path: Path) -> None:
    """And a benchmark that was run in part names what is missing of it."""
    root = checkout(tmp_path, figures=False)
    a_bottle(root / "data" / "results", 0.8766, seeds=1)
    write_csv(root / "figures" / "cpu" / bench.FILE, speed_rows(partial=True), bench.COLUMNS)
    english, italian = map(text_of, build_report(root))
    assert (
        "Here A reaches 87.7 % (56 epochs, 2 000 steps, one run, CPU)" in english
        and "is open: one run decides nothing" in english
    )
    assert "AUPRO is 87.7 % (one run)" in english and "l’AUPRO è 87,7 % (una sola esecuzione)" in italian
    assert "resta aperto: una sola esecuzione non decide nulla" in italian
    assert not re.search(r"𝑛\s*= 1\b|\bone seed\b", english) and "un seme" not in italian
    assert "make bench" in english and "2.05" not in english and not FORBIDDEN.search(english)


@pytest.mark.parametrize(("second", "sentence"), [(0.7, "It leads every other value"), (0.8, "It does not lead all")])
def test_a_bound_is_called_best_only_if_it_leads_each_other(tmp_path: Path, second: float, sentence: str) -> None:
    root = checkout(tmp_path, figures=False)
    for beta, value in ((0.5, 0.6), (0.1, second), (0.05, 0.805), (0.015, 0.5)):
        for config in wanted("learned_noise_v2", "screw", beta=beta):
            write_run(root / "data" / "results", config, flat(value + 0.001 * config.seed))
    [pdf] = build_report(root, languages=("en",))
    assert "the highest mean belongs to 𝛽= 0.05" in text_of(pdf) and sentence in text_of(pdf)


def test_the_demo_has_a_report_of_its_own_that_says_so_on_every_page(tmp_path: Path) -> None:
    root = checkout(tmp_path, figures=False)
    demo = load_profile("demo")
    for config in wanted_runs(demo):
        write_run(root / "build" / "demo" / "results", config, flat(0.8 + 0.01 * config.seed))
    english, italian = build_report(root, "demo")
    assert english == root / "build" / "demo" / "report.en.pdf" and not list((root / "report").glob("*.pdf"))
    marks = {english: "no measurement of real products", italian: "nessuna misura di prodotti reali"}
    for path, mark in marks.items():
        with pymupdf.open(path) as document:
            assert [page.number for page in document if mark not in page.get_text()] == []
        assert not FORBIDDEN.search(text_of(path))
    assert "Runs on synthetic images behind it" in text_of(english)
    assert "thread for screw" in text_of(english)


def test_wrong_input_is_named(tmp_path: Path) -> None:
    root = checkout(tmp_path, figures=False)
    with pytest.raises(InputError, match="language fr is unknown"):
        build_report(root, languages=("fr",))
    speed = root / "figures" / "cpu" / bench.FILE
    speed.parent.mkdir(parents=True)
    speed.write_text("measurement,value\nlatency,1\n")
    with pytest.raises(InputError, match=r"bench\.csv has no column group"):
        build_report(root, languages=("en",))
    speed.unlink()
    (root / "report" / "en" / "1-context.typ").write_text("#import")
    with pytest.raises(InputError, match="Typst stopped: error"):
        build_report(root, languages=("en",))
    for config in (*wanted("learned_noise_v2", "screw", beta=0.1), *wanted("learned_noise_v2", "screw", beta=0.5)):
        write_run(root / "data" / "results", config, flat(0.8))
    lib = '#import "../shared/lib.typ": *\n'
    (root / "report" / "en" / "1-context.typ").write_text(lib + '#ours("learned_noise_v2", "screw", "AUPRO")')
    with pytest.raises(InputError, match=r"(?s)2 rows fit .*setting β = 0.1, .*setting β = 0.5"):
        build_report(root, languages=("en",))
    (root / "report" / "en" / "1-context.typ").write_text(lib + '#course("weak_gap_cam", "ksdd2", "AP-loc")')
    with pytest.raises(InputError, match=r"(?s)2 rows fit .*AP-loc.*table 7; table 8"):
        build_report(root, languages=("en",))
    root = checkout(tmp_path / "other", figures=False)
    (root / "data" / "reference" / "course_report_tables.csv").unlink()
    with pytest.raises(InputError, match=r"course_report_tables\.csv is missing"):
        build_report(root, languages=("en",))
