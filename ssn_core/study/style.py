"""The look that all figures share: one style, and how figures are saved in both languages."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ssn_core.files import write_atomic
from ssn_core.study.labels import LANGUAGES

_STYLE = Path(__file__).with_name("style.mplstyle")

_LINE = 112  # characters of legend text across a page
NORMAL, DEFECTIVE = "#8A8A8A", "#C0392B"  # the two kinds of images in a histogram
PUBLISHED = "#222222"  # what others measured


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """The project's style, for the drawing inside."""
    with plt.style.context(_STYLE):
        yield


def legend_below(figure: Figure, ax: Axes) -> None:
    """One legend for the whole figure, of what ``ax`` shows, in as many columns as the page takes."""
    handles, labels = ax.get_legend_handles_labels()
    columns = max(1, min(len(labels), _LINE // (max(map(len, labels)) + 8)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def save(figure: Figure, folder: str | Path, name: str, vector: bool = True) -> list[Path]:
    """Write ``<name>.svg`` (unless ``vector`` is false: pictures) and ``<name>.png``, 200 dots per inch, 256 colours.

    Equal figures give equal bytes: no date is written.
    """
    folder = Path(folder)
    written = []
    with styled():
        if vector:
            written.append(write_atomic(folder / f"{name}.svg", lambda part: _write_svg(figure, part)))
        written.append(write_atomic(folder / f"{name}.png", lambda part: _write_png(figure, part, vector)))
    return written


def nothing_to_draw(name: str) -> None:
    """Say why a figure is missing; the table of runs holds the command that would change it."""
    print(f"{name}: nothing to draw, no run of it is finished")


def publish(
    draw: Callable[..., Figure], runs: Sequence[Any], *data: Any, folder: str | Path, name: str, **options: Any
) -> Figure | None:
    """Draw in both languages, write ``<name>.en.*`` and ``<name>.it.*`` into ``folder``, return the English figure.

    ``options`` go to ``draw``, except ``vector`` (see :func:`save`). Without runs nothing is drawn, and it says so.
    """
    if not len(runs):
        return nothing_to_draw(name)
    vector = options.pop("vector", True)
    figures = {}
    for language in LANGUAGES:
        with styled():
            figures[language] = draw(runs, *data, language=language, **options)
        save(figures[language], folder, f"{name}.{language}", vector)
        plt.close(figures[language])  # a notebook shows what the cell returns, not every open figure
    return figures["en"]


def _write_svg(figure: Figure, path: Path) -> None:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # a hundredth of a point is finer than any printer; a scale keeps its digits
    text = re.sub(r' (?:d|x|y)="[^"]*"|translate\([^)]*\)', lambda found: _shorten(found.group()), buffer.getvalue())
    for long, short in _SHORTER:
        text = re.sub(long, short, text)
    path.write_text(text, encoding="utf-8")


#: names of glyphs and of groups, comments, indentation, an empty description, a line join that is the default anyway
_SHORTER = (
    (r"<metadata>[\s\S]*?</metadata>\n?", ""),
    (r'<g id="[^"]*">', "<g>"),
    ("DejaVuSans-Bold-", "B"),
    ("DejaVuSans-", "D"),
    ("\n<!-- .* -->", ""),
    ("\n +", "\n"),
    ("; stroke-linejoin: miter", ""),
)


def _shorten(attribute: str) -> str:
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number.group()):.2f}", attribute).replace(" \n", " ")


def _write_png(figure: Figure, path: Path, vector: bool) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    image = Image.open(buffer).convert("RGB")
    reduced = image.quantize(32 if vector else 256, kmeans=3)  # line art needs few colours
    paper = np.asarray(reduced)[(np.asarray(image) == 255).all(2)]
    entries = np.array(reduced.getpalette()).reshape(-1, 3)
    entries[np.bincount(paper, minlength=1).argmax()] = 255  # paper stays white, not an average of near-whites
    reduced.putpalette(entries.ravel().tolist())
    reduced.save(path, optimize=True, dpi=(200, 200))
