"""A notebook's one line of setup, ``nb = ssn.notebook(profile, device)``: it runs, shows, and writes what it shows."""

from __future__ import annotations

import ast
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ssn_core.errors import InputError
from ssn_core.runs.config import RunConfig
from ssn_core.runs.profiles import NotRun, Profile, load_profile, project_root
from ssn_core.runs.result import RunResult
from ssn_core.study import panels, style, tables

_INJECTED = "# Parameters\n"  # how papermill's cell begins


@dataclass(frozen=True)
class Notebook:
    """What every cell needs: the profile, and where its tables and figures go."""

    profile: Profile
    device: str | None = None

    @property
    def references(self) -> bool:
        """Whether what others measured stands beside: synthetic images are nobody else's."""
        return not self.profile.synthetic

    def run(self, runs: str | list[RunConfig]) -> list[RunResult | NotRun]:
        """Run or load one experiment of the profile on the report's backbones, or the configurations given."""
        return self.profile.run(runs, device=self.device)

    def table(self, frame: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write ``<figures>/<name>.csv`` and return the frame, to be shown."""
        return tables.write(frame, self.profile.figures, name)

    def save(self, figure: Figure | None, name: str) -> Figure | None:
        """Write a figure in both languages and return it, to be shown; see :func:`ssn_core.study.style.save`."""
        return style.save(figure, self.profile.figures, name)

    def conclude(self, sentences: Iterable[str]) -> Any:
        """Sentences of :mod:`ssn_core.study.conclusions` as a list, to be shown."""
        from IPython.display import Markdown

        return Markdown("\n".join(f"- {sentence}" for sentence in sentences))

    def panel(self, runs: Sequence[RunResult], defective: bool = True, count: int = 1) -> Figure | None:
        """The first example images as every run saw them, in full; see :func:`ssn_core.study.panels.panel`."""
        names = panels.example_names(runs[0], defective, count) if runs else []
        return self._drawn(panels.panel, panels.rows_of(runs, names))

    def maps(self, runs: Sequence[RunResult], count: int = 5) -> Figure | None:
        """The maps of the first defective images and of a good one; see :func:`ssn_core.study.panels.maps`."""
        names = [panels.example_names(runs[0], *kind) for kind in ((True, count), (False, 1))] if runs else []
        return self._drawn(panels.maps, panels.rows_of(runs, sum(names, [])))

    def _drawn(self, draw: Callable[..., Figure | None], rows: list[panels.Row]) -> Figure | None:
        """With pictures where they are synthetic. Those of real data sets are never shown here; where they are at hand
        a figure with them goes below build/."""
        dataset = self.profile.dataset(rows[0].run.config) if rows else None
        if dataset is None or dataset.name == "synthetic":
            return draw(rows, dataset)
        folder = project_root() / "build" / self.profile.name / "panels"
        name = f"{draw.__name__}_{dataset.category}_{rows[0].name.replace('/', '_')}"
        style.save(draw(rows, dataset), folder, name)
        print(f"the same with photographs: {folder.relative_to(project_root())}")
        return draw(rows)


def notebook(profile: str, device: str | None = None) -> Notebook:
    """Set a notebook up: the profile, the checkout as working directory, and whole tables.

    Raises :class:`InputError` for a parameter that the notebook's parameters cell does not have, since papermill would
    define it and nobody would read it.
    """
    if (ipython := sys.modules.get("IPython")) is not None and (shell := ipython.get_ipython()) is not None:
        refuse_unknown(shell.user_ns.get("In", []))
    settings = load_profile(profile)
    os.chdir(project_root())  # Jupyter starts in notebooks/, and ./data is looked for
    pd.options.display.max_rows, pd.options.display.max_colwidth = 200, None
    print(settings.description)
    return Notebook(settings, device)


def refuse_unknown(cells: Sequence[str]) -> None:
    """``cells``: the sources executed so far. papermill's own follows the parameters cell."""
    for declared, injected in itertools.pairwise(cells):
        if injected.startswith(_INJECTED) and (wrong := _assigned(injected) - (known := _assigned(declared))):
            names = ", ".join(map(repr, sorted(wrong)))
            raise InputError(f"this notebook has no parameter {names}; it has {', '.join(sorted(known))}")


def _assigned(source: str) -> set[str]:
    names = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name))
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}
