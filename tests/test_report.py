"""The report: both PDFs build, say what the results say, and say what is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from report_runs import flat, write_run
from support import ROOT, copy_checkout

from report.build import build_report, write_summary
from report.summary import wanted_runs
from ssn_core.bench import counters
from ssn_core.bench import measure as bench
from ssn_core.bench.plan import Form, Group, Point
from ssn_core.errors import InputError
from ssn_core.files import write_csv
from ssn_core.runs.config import RunConfig
from ssn_core.runs.profiles import load_profile

pytest.importorskip("typst", reason="the report is compiled with the package typst")
pymupdf = pytest.importorskip("pymupdf", reason="reading the PDFs back needs the package pymupdf")

FORBIDDEN = re.compile(r"\b(none|nan|inf|undefined|not found)\b", re.IGNORECASE)
FIGURES, DIAGRAMS, TABLES = 20, 6, 15  # at least; diagrams are figures


def wanted(experiment: str, category: str, **where: object) -> list[RunConfig]:
    """The three seeds that the report reads of an experiment."""
    where = {"experiment": experiment, "category": category, **where}
    return [c for c in wanted_runs(load_profile("cpu")) if all(getattr(c, k) == v for k, v in where.items())]


def a_bottle(store: Path, value: float, seeds: int = 3, final_loss: float = 0.1, rising: float = 0.0) -> None:
    for config in wanted("scenario_a", "bottle")[:seeds]:
        write_run(store, config, flat(value + 0.0001 * config.seed), final_loss, rising=rising)


def checkout(folder: Path, figures: bool = True) -> Path:
    """What the report reads, without any result."""
    names = ("report", "data/reference", "ssn_core/study/labels.yaml", *(["figures"] if figures else []))
    return copy_checkout(folder, *names)


def speed_rows(partial: bool = False) -> list[dict]:
    """A benchmark that nobody ran: the fast forms take the time that makes a ratio of 2.05; in part: training alone."""

    def add(kind: str, model: tuple[str, str], variants: tuple[str, ...], *answers: dict) -> None:
        forms = [Form(kind, *model, variant) for variant in variants]
        point, turns = Point("", 1, (256, 256)), [[answer] * 2 for answer in answers]
        table.extend(bench.rows(Group(" ".join((kind, *model)), forms, []), point, turns, ["nowhere"] * len(forms)))

    def forward(ms: float, megabytes: float) -> dict:
        found = {"latency_batch1": (ms, "ms/image"), "throughput_batch16": (1000 / ms, "images/s")}
        found |= {f"memory_{name}": (megabytes, "MB") for name in found}
        return found | {"operations": (20, "GFLOP/image"), "traffic": (300, "MB/image"), "parameters": (10, "M")}

    table: list[dict] = []
    networks = (("baseline", "wide_resnet50_2"), ("scenario_a", "resnet18"), ("scenario_b", "resnet18"))
    for model in networks if not partial else ():
        add("inference", model, ("plain", "fold"), forward(205, 300), forward(100, 100))
    if not partial:
        products = [{"machine_product": (rate, "GFLOP/s")} for rate in (50, 100)]
        add("machine", ("", ""), ("plain", "product"), *products)
        add("machine", ("", ""), ("copy",), {"machine_copy": (100, "GB/s")})
    for model in networks[:2]:
        step = [
            {"training_step_batch8": (ms, "ms/image"), "memory_training_step_batch8": (300, "MB")} for ms in (400, 100)
        ]
        add("training", model, ("plain", "fast"), *step)
    return table


def text_of(pdf: Path) -> str:
    """The text in reading order on one line, hyphenation undone, ligatures and spaces as typed."""
    with pymupdf.open(pdf) as document:
        text = "\n".join(page.get_text() for page in document)
    for ligature, letters in {"ﬁ": "fi", "ﬂ": "fl", "ﬀ": "ff", "ﬃ": "ffi", "ﬄ": "ffl"}.items():
        text = text.replace(ligature, letters)
    text = re.sub(r"(?<=\w)[-\u00ad\u2010]\n(?=[a-zà-ù])", "", text)
    return re.sub(r"[\s\u00a0\u2009\u202f\u200b]+", " ", text)


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
    conditions = {"en": "256x256, median of 2 turns", "it": "256x256, mediana di 2 giri"}[language]
    text = text_of(built[language])
    assert text.count(row) == 3 and conditions in text
    assert {"en": "is 2.00 times as fast by it", "it": "è 2,00 volte più veloce"}[language] in text


def test_the_share_of_the_localisation_that_the_sigmoid_takes_is_in_the_text(
    built: dict[str, Path], language: str
) -> None:
    text = text_of(built[language])  # short phrases: a page may end within a sentence
    shares = {
        "en": ("takes 25.0 %", "from 20.0 %", "this is 20.0 %", "comes from a sigmoid in the evaluation"),
        "it": ("toglie il 25,0 %", "da 20,0 %", "è il 20,0 %", "viene da una sigmoide nella valutazione"),
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


def test_nothing_that_shows_results_loads_torch() -> None:
    """Tables, figures and the report open where torch is slow to load or absent."""
    study = [path.stem for path in (ROOT / "ssn_core" / "study").glob("[a-z]*.py")]
    names = [f"ssn_core.study.{name}" for name in study]
    names += [f"report.{path.stem}" for path in (ROOT / "report").glob("[a-z]*.py")]
    code = "import importlib, sys; list(map(importlib.import_module, sys.argv[1:])); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, *sorted(names)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(names) > 15 and found.stdout.strip() == "False"


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
