"""The diagrams: drawn anew they are the committed ones, nothing sticks out, and each language speaks its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

typst = pytest.importorskip("typst", reason="the diagrams are compiled with the package typst")
pymupdf = pytest.importorskip("pymupdf", reason="reading the diagrams back needs the package pymupdf")

from report.diagrams import ROOT, draw_diagrams  # noqa: E402  (needs typst)

COMMITTED = ROOT / "figures" / "diagrams"
SAYS = {
    "en": ("Hand-crafted", "Discriminator", "Segmentation", "Run folder", "Learned noise", "Global"),
    "it": ("A regole manuali", "Discriminatore", "Testa di", "Cartella dell’esecuzione", "Rumore appreso", "Media"),
}


def test_committed_diagrams_are_what_their_sources_give(tmp_path: Path) -> None:
    drawn = {path.name: path.read_bytes() for path in draw_diagrams(tmp_path)}
    there = {path.name: path.read_bytes() for path in COMMITTED.glob("*")}
    assert len(drawn) == 12
    stale = sorted(name for name in {*drawn, *there} if drawn.get(name) != there.get(name))
    assert not stale, f"not what report/shared/diagrams.typ gives: {', '.join(stale)}; refresh with `make diagrams`"


@pytest.mark.parametrize("language", SAYS)
def test_diagrams_keep_their_language_and_their_sheet(language: str) -> None:
    options = {"root": ROOT, "ignore_system_fonts": True, "sys_inputs": {"language": language}}
    with pymupdf.open(stream=typst.compile(ROOT / "report" / "diagrams.typ", **options)) as sheets:
        for sheet, mine, other in zip(sheets, SAYS[language], SAYS["it" if language == "en" else "en"], strict=True):
            text = " ".join(sheet.get_text().split())
            assert re.search(rf"\b{mine}\b", text) and not re.search(rf"\b{other}\b", text)
            drawn = [word[:4] for word in sheet.get_text("words")] + [path["rect"] for path in sheet.get_drawings()]
            assert [place for place in drawn if not sheet.rect.contains(pymupdf.Rect(place))] == []


def test_a_text_too_long_for_its_box_stops_the_drawing() -> None:
    source = '#import "/report/shared/diagram-kit.typ": *\n#diagram(10, node(10, 5, {}, 6)[Anomaly map])'
    typst.compile(source.format(20).encode(), root=ROOT)
    with pytest.raises(typst.TypstError, match=r"does not fit \(8, 4\) mm: \[Anomaly map\]"):
        typst.compile(source.format(10).encode(), root=ROOT)


def test_readme_and_notebooks_show_diagrams_that_are_there() -> None:
    shown = set()
    for page in (ROOT / "README.md", *(ROOT / "notebooks").glob("*.ipynb")):
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+\.svg)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name} shows {target}"
            if (page.parent / target).resolve().parent == COMMITTED:
                shown.add((page.parent / target).name)
            else:
                assert page.name == "README.md"  # of a notebook's pictures `make site` copies the diagrams alone
    assert shown == {path.name for path in COMMITTED.glob("*.en.svg")}
