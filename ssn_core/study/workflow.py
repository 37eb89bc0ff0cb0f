"""Notebooks in batch: papermill executes them by profile, nbconvert makes a site of them."""

from __future__ import annotations

import html
import logging
import re
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssn_core.errors import InputError
from ssn_core.files import write_text
from ssn_core.runs.profiles import NotRun, Profile, load_profile, project_root, run_command, simplenet_like
from ssn_core.runs.result import RunResult, find_run
from ssn_core.study.labels import LANGUAGES

KERNEL = "python3"


class NotebookFailed(RuntimeError):
    """A cell raised; the message names notebook and cell, and the executed copy shows everything up to there."""


def execute_notebooks(
    profile: str = "demo", only: Sequence[str] | None = None, parameters: Mapping[str, Any] | None = None
) -> Path:
    """Execute ``notebooks/NN_*.ipynb`` with a profile and export them; returns the site's index.html.

    ``only``: numbers of notebooks ("01"), all by default. ``parameters``: values for their parameters cell; one that
    a chosen notebook does not have is an :class:`InputError` before anything runs. Executed copies go to
    ``build/<profile>/notebooks``, HTML to ``build/<profile>/site``.
    Raises :class:`NotebookFailed` at the first cell that fails.
    """
    settings = load_profile(profile)
    root = project_root()
    sources = choose(root / "notebooks", only)
    values = {**(parameters or {}), "profile": profile}
    check_parameters(sources, values)
    build = root / "build" / profile
    started = time.monotonic()
    for source in sources:
        _execute(source, build / "notebooks" / source.name, values, root, follow=not settings.synthetic)
    index = build_site(build, profile, settings.description, root)
    _report(build, settings.store, settings.figures, index, time.monotonic() - started)
    return index


def milestones(text: str) -> None:
    """A log for notebooks: every fourth part of a run's epochs, and all that is not an epoch."""
    if (found := re.search(r" epoch (\d+)/(\d+) ", text)) is not None:
        epoch, epochs = map(int, found.groups())
        if epoch != epochs and epoch % max(1, epochs // 4):
            return
    print(text, flush=True)


def ksdd2_peers(profile: Profile) -> list[RunResult | NotRun]:
    """KolektorSDD2's own runs of the weak-supervision notebook, by the protocol of the profile "full", as far as they
    are in the profile's store; so a profile on other data shows what published figures to compare with. None where the
    profile runs KolektorSDD2 itself."""
    if any(config.dataset == "ksdd2" for config in profile.configs("weak_gap_cam")):
        return []
    full = load_profile("full")
    names = ("weak_gap_cam", "weak_gap_cam_as_published", "supervised", "unsupervised")
    configs = [full.configs(name)[0] for name in names]
    configs.append(simplenet_like(configs[-1]))
    reason = "belongs to the profile full"
    return [find_run(c, profile.store) or NotRun(c, reason, run_command(c)) for c in configs]


def choose(folder: Path, only: Sequence[str] | None) -> list[Path]:
    """The notebooks to execute, in order; an unknown number is an error that lists the known ones."""
    known = {path.name[:2]: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if not known:
        raise InputError(f"{folder} holds no notebooks; work inside a checkout of the project")
    wanted = list(known) if only is None else [str(number).zfill(2) for number in only]
    if wrong := [number for number in wanted if number not in known]:
        raise InputError(f"no notebook numbered {', '.join(wrong)}; there are {', '.join(known)}")
    return [known[number] for number in sorted(set(wanted))]


def check_parameters(sources: Sequence[Path], parameters: Mapping[str, Any]) -> None:
    """Refuse a parameter that a notebook does not declare; papermill would only warn and define it."""
    import papermill

    for source in sources:
        known = papermill.inspect_notebook(str(source))
        if wrong := sorted(set(parameters) - set(known)):
            raise InputError(
                f"{source.name} has no parameter {', '.join(map(repr, wrong))}; it has {', '.join(sorted(known))}"
            )


def _execute(source: Path, target: Path, parameters: Mapping[str, Any], root: Path, follow: bool) -> None:
    """``follow``: print what the cells print, as a run that takes hours should."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"{source.name}: executing", flush=True)
    started = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the notebook format's own upgrade path
            papermill.execute_notebook(
                str(source), str(target), dict(parameters), kernel_name=KERNEL, cwd=str(root), progress_bar=False,
                stdout_file=sys.stdout if follow else None, extra_arguments=["--IPKernelApp.log_level=50"],
            )  # fmt: skip
    except PapermillExecutionError as error:
        raise NotebookFailed(
            f"{source.name}, cell {error.cell_index}: {error.ename}: {error.evalue}\nexecuted up to there: {target}"
        ) from None
    print(f"{source.name}: done in {time.monotonic() - started:.0f} s", flush=True)


def build_site(build: Path, profile: str, description: str, root: Path) -> Path:
    """Export every executed notebook of ``build/notebooks`` to HTML, with an index that also links the PDFs."""
    from nbconvert import HTMLExporter

    site = build / "site"
    diagrams = Path("figures") / "diagrams"  # beside the copies and their pages, as beside notebooks/
    shutil.copytree(root / diagrams, build / diagrams, dirs_exist_ok=True)
    pages = []
    for notebook in sorted((build / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        body, _ = HTMLExporter().from_filename(str(notebook))
        page = write_text(site / f"{notebook.stem}.html", body)
        pages.append((page.name, notebook_title(notebook)))
    pdfs = []
    for language, label in zip(LANGUAGES, ("English", "Italiano"), strict=True):
        pdf = root / "report" / f"report.{language}.pdf"
        if pdf.is_file():
            shutil.copyfile(pdf, site / pdf.name)
            pdfs.append((pdf.name, f"Report, {label} (PDF)"))
    return write_text(site / "index.html", _index_page(profile, description, pages, pdfs))


def notebook_title(path: Path) -> str:
    """The first heading of a notebook, else its name."""
    import nbformat

    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return cell.source.splitlines()[0].removeprefix("# ").strip()
    return path.stem


def _index_page(profile: str, description: str, pages: list[tuple[str, str]], pdfs: list[tuple[str, str]]) -> str:
    def links(entries: list[tuple[str, str]]) -> str:
        return "\n".join(f'<li><a href="{html.escape(n)}">{html.escape(t)}</a></li>' for n, t in entries)

    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SuperSimpleNet, re-run: {html.escape(profile)}</title>
<style>
body {{ font: 17px/1.5 Georgia, serif; max-width: 42em; margin: 3em auto; padding: 0 1em; color: #222; }}
a {{ color: #0072b2; }}
li {{ margin: .3em 0; }}
</style>
</head>
<body>
<h1>SuperSimpleNet, re-run</h1>
<p>Profile <b>{html.escape(profile)}</b>: {html.escape(description)}.</p>
<h2>Notebooks, as executed</h2>
<ol>
{links(pages)}
</ol>
{"<h2>Report</h2><ul>" + links(pdfs) + "</ul>" if pdfs else ""}
</body>
</html>
"""


def _report(build: Path, store: Path, figures: Path, index: Path, seconds: float) -> None:
    counts = {
        "executed notebooks": (build / "notebooks", "*.ipynb"),
        "run folders": (store, "*/run.json"),
        "tables": (figures, "*.csv"),
        "figures": (figures, "*.png"),
    }
    print(f"\nfinished in {seconds:.0f} s; made or refreshed:")
    for what, (folder, pattern) in counts.items():
        print(f"  {len(list(folder.glob(pattern))):4d} {what:20s} {folder}")
    print(f"  site: {index}")
