"""``build_report``: results and reference files -> summary.json -> both PDFs, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report.claims import compare, judge, load_claims, load_comparisons
from report.summary import summarise
from ssn_core.errors import InputError
from ssn_core.files import write_atomic, write_json

LANGUAGES = ("en", "it")
SUMMARY = Path("build") / "report" / "summary.json"


def build_report(root: str | Path, languages: Sequence[str] = LANGUAGES) -> list[Path]:
    """Rebuild the PDFs of a checkout from its committed results; returns their paths.

    Reads ``data/results``, ``data/reference``, ``figures`` and ``report`` below ``root``; writes
    ``build/report/summary.json`` and ``report/report.<language>.pdf``, each beside its name and renamed. The PDF's
    timestamp is that of the newest revision that made a run, so unchanged input gives an unchanged file.
    Raises :class:`InputError` for an unknown language, a missing reference file, a broken ledger and a Typst error.
    """
    root = Path(root).resolve()
    if unknown := sorted(set(languages) - set(LANGUAGES)):
        raise InputError(f"language {', '.join(unknown)} is unknown; the report exists in {', '.join(LANGUAGES)}")
    summary = write_summary(root)
    return [_compile(root, language, summary["timestamp"]) for language in languages]


def write_summary(root: Path) -> dict[str, Any]:
    """Summarise the results, judge claims and comparisons, write all to ``build/report/summary.json`` and return it."""
    summary = summarise(root)
    summary["claims"] = judge(load_claims(root / "report" / "claims.yaml"), summary)
    summary["comparisons"] = compare(load_comparisons(root / "report" / "comparisons.yaml"), summary)
    write_json(root / SUMMARY, summary)
    return summary


def _compile(root: Path, language: str, timestamp: int) -> Path:
    try:
        import typst  # an optional dependency, with the notebooks
    except ImportError as error:
        raise InputError("the report needs the package typst; pip install typst") from error
    source = root / "report" / f"report.{language}.typ"
    options = {"root": str(root), "ignore_system_fonts": True, "timestamp": timestamp}
    try:
        pdf = typst.compile(str(source), sys_inputs={"language": language}, **options)
    except typst.TypstError as error:
        raise InputError(f"Typst stopped: {error.diagnostic.partition(chr(10) * 2)[0]}") from error
    return write_atomic(source.with_suffix(".pdf"), lambda part: part.write_bytes(pdf) and None)
