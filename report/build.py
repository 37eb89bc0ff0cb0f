"""``build_report``: results and reference files -> summary.json -> both PDFs, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report.claims import compare, judge, load_claims, load_comparisons
from report.summary import summarise
from ssn_core.errors import InputError
from ssn_core.files import write_bytes, write_json
from ssn_core.study.labels import LANGUAGES


def build_report(root: str | Path, profile: str = "cpu", languages: Sequence[str] = LANGUAGES) -> list[Path]:
    """Rebuild the PDFs of a checkout from the results of a profile; returns their paths.

    Reads the profile's store, ``data/reference``, figures and ``report`` below ``root``; writes the summary into
    ``build/report`` and ``report.<language>.pdf``, each beside its name and renamed: into ``report`` for real data,
    into ``build/<profile>`` for synthetic data, whose pages say so. The PDF's timestamp is that of the newest revision
    that made a run, so unchanged input gives an unchanged file. Raises :class:`InputError` for an unknown language or
    profile, a missing reference file, a broken ledger and a Typst error.
    """
    root = Path(root).resolve()
    if unknown := sorted(set(languages) - set(LANGUAGES)):
        raise InputError(f"language {', '.join(unknown)} is unknown; the report exists in {', '.join(LANGUAGES)}")
    summary = write_summary(root, profile)
    folder = root / "build" / profile if summary["synthetic"] else root / "report"
    return [_compile(root, language, summary["timestamp"], profile, folder) for language in languages]


def _summary_path(profile: str) -> str:
    return f"build/report/summary.{profile}.json"


def write_summary(root: Path, profile: str = "cpu") -> dict[str, Any]:
    """Summarise the results, judge claims and comparisons, write all into ``build/report`` and return it."""
    summary = summarise(root, profile)
    summary["claims"] = judge(load_claims(root / "report" / "claims.yaml"), summary)
    summary["comparisons"] = compare(load_comparisons(root / "report" / "comparisons.yaml"), summary)
    write_json(root / _summary_path(profile), summary)
    return summary


def _compile(root: Path, language: str, timestamp: int, profile: str, folder: Path) -> Path:
    try:
        import typst  # an optional dependency, with the notebooks
    except ImportError as error:
        raise InputError("the report needs the package typst; pip install typst") from error
    source = root / "report" / f"report.{language}.typ"
    options = {"root": str(root), "ignore_system_fonts": True, "timestamp": timestamp}
    try:
        inputs = {"language": language, "summary": f"/{_summary_path(profile)}"}
        pdf = typst.compile(str(source), sys_inputs=inputs, **options)
    except typst.TypstError as error:
        raise InputError(f"Typst stopped: {error.diagnostic.partition(chr(10) * 2)[0]}") from error
    return write_bytes(folder / f"report.{language}.pdf", pdf)
