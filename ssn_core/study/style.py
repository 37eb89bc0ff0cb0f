"""The look that all figures share: one style, and how figures are saved in both languages."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text

from ssn_core.files import write_atomic
from ssn_core.study.labels import BACKBONES, LANGUAGES

_LINE = 112  # characters of legend text across a page
NORMAL, DEFECTIVE = "#8A8A8A", "#C0392B"  # the two kinds of images in a histogram
PUBLISHED = "#222222"  # what others measured
MARKS = dict.fromkeys(BACKBONES, "D") | {"wide_resnet50_2": "^", "resnet18": "o", "efficientnet_lite0": "s"}
styled = functools.partial(plt.style.context, Path(__file__).with_name("style.mplstyle"))  # for what is drawn inside


def legend_below(figure: Figure, ax: Axes) -> None:
    """One legend for the whole figure, of what ``ax`` shows, in as many columns as the page takes."""
    handles, labels = ax.get_legend_handles_labels()
    if not labels:
        return
    columns = max(1, min(len(labels), _LINE // (max(map(len, labels)) + 8)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def bilingual(draw: Callable[..., Figure | None]) -> Callable[..., Figure | None]:
    """Decorator of every function that draws: the project's style, and a printed line where there is nothing to draw,
    that is where the first argument is empty or ``draw`` returns None.

    The figure it returns can be drawn again in another language, which is how :func:`save` writes both.
    """

    @functools.wraps(draw)
    def drawn(data: Any, *rest: Any, language: str = "en", **options: Any) -> Figure | None:
        if not len(data):
            return print(f"{draw.__name__}: nothing to draw, no run of it is finished")
        with styled():
            made = draw(data, *rest, language=language, **options)
        if made is None:
            return print(f"{draw.__name__}: nothing to draw")
        if language == "it":
            _write_commas(made)
        plt.close(made)  # a notebook shows what its cell returns, not every open figure
        made.redraw = functools.partial(drawn, data, *rest, **options)
        return made

    return drawn


def _with_commas(text: str) -> str:
    return re.sub(r"(?<=\d)\.(?=\d)", "{,}" if "$" in text else ",", text)


def _write_commas(figure: Figure) -> None:
    """Italian's decimal sign, on every axis and in every text."""
    for formatter in {axis.get_major_formatter() for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)}:
        ticks, offset = formatter.format_ticks, formatter.get_offset
        formatter.format_ticks = lambda values, ticks=ticks: list(map(_with_commas, ticks(values)))
        formatter.get_offset = lambda offset=offset: _with_commas(offset())
    for text in figure.findobj(Text):
        text.set_text(_with_commas(text.get_text()))


def save(made: Figure | None, folder: str | Path, name: str) -> Figure | None:
    """Write ``<name>.en`` and ``<name>.it`` and return the figure, to be shown: SVG, or PNG where it holds pictures.

    Equal figures give equal bytes. None, nothing to draw, is not written.
    """
    for language in LANGUAGES if made is not None else ():
        _write(made if language == "en" else made.redraw(language=language), Path(folder) / f"{name}.{language}")
    return made


def _write(made: Figure, path: Path) -> None:
    suffix, unwanted = (".png", "Software") if made.findobj(AxesImage) else (".svg", "Date")
    with styled():
        write_atomic(path.with_name(path.name + suffix), lambda part: made.savefig(part, metadata={unwanted: None}))
