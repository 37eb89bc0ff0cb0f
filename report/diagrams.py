"""The diagrams as SVG, for README and notebooks: `make diagrams`. The PDFs place the same sources themselves."""

from __future__ import annotations

import json
from pathlib import Path

import typst

from ssn_core.study.labels import LANGUAGES

ROOT = Path(__file__).resolve().parents[1]


def draw_diagrams(folder: Path) -> list[Path]:
    """Write ``<name>.<language>.svg`` of every diagram of ``report/shared/diagrams.typ`` into ``folder``.

    Equal sources give equal bytes. A text that does not fit its box is a ``typst.TypstError`` that names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, options = ROOT / "report" / "diagrams.typ", {"root": ROOT, "ignore_system_fonts": True}
    [names] = json.loads(typst.query(source, "<names>", field="value", **options))
    paths = []
    for language in LANGUAGES:
        sheets = typst.compile(source, format="svg", sys_inputs={"language": language}, **options)
        for name, sheet in zip(names, sheets, strict=True):
            paths.append(folder / f"{name}.{language}.svg")
            paths[-1].write_bytes(sheet)
    return paths


if __name__ == "__main__":
    print(*draw_diagrams(ROOT / "figures" / "diagrams"), sep="\n")
