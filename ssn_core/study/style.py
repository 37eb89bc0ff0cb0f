"""The look that all figures share: one style, one colour per method, names in two languages, how figures are saved."""

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

from ssn_core.data.find import DATASETS
from ssn_core.errors import InputError
from ssn_core.files import write_atomic
from ssn_core.runs.config import RunConfig

LANGUAGES = ("en", "it")
_STYLE = Path(__file__).with_name("style.mplstyle")

# Okabe and Ito's palette for the methods that meet in one figure, darker relatives of it for their variants.
METHOD_COLOURS: dict[str, str] = {
    "baseline": "#000000",
    "scenario_a": "#0072B2",
    "unsupervised": "#0072B2",  # scenario A on another data set
    "scenario_c": "#6A3D9A",
    "scenario_c_scales": "#CAB2D6",
    "scenario_b": "#D55E00",
    "scenario_b_conv3x3": "#A6761D",
    "scenario_b_bn": "#8C510A",
    "scenario_b_relu": "#C9A66B",
    "scenario_b_rescaled": "#E69F00",
    "learned_noise_v1": "#882255",
    "learned_noise_v1_as_published": "#CC6677",
    "learned_noise_v2": "#009E73",
    "learned_noise_v2_as_published": "#56B4E9",
    "noise_control": "#7F7F7F",
    "weak_gap_cam": "#CC79A7",
    "weak_gap_cam_as_published": "#7B5EA7",
    "supervised": "#999933",
    "simplenet": "#8B3A0E",
    "memory": "#1B7837",
    "memory_random": "#A6DBA0",
    "memory_rotated": "#00441B",
}
_LINE = 112  # characters of legend text across a page
NORMAL, DEFECTIVE = "#8A8A8A", "#C0392B"  # the two kinds of images in a histogram
PUBLISHED = "#222222"  # what others measured

_METHODS: dict[str, tuple[str, str]] = {
    "baseline": ("baseline", "baseline"),
    "scenario_a": ("scenario A", "scenario A"),
    "unsupervised": ("unsupervised (scenario A)", "non supervisionato (scenario A)"),
    "scenario_c": ("scenario C", "scenario C"),
    "scenario_c_scales": ("C: 0.1 to 1 of the deviation", "C: da 0,1 a 1 della deviazione"),
    "scenario_b": ("scenario B", "scenario B"),
    "scenario_b_conv3x3": ("B: 3×3 convolution only", "B: solo convoluzione 3×3"),
    "scenario_b_bn": ("B: batch norm only", "B: solo batch norm"),
    "scenario_b_relu": ("B: ReLU only", "B: solo ReLU"),
    "scenario_b_rescaled": ("B: noise rescaled", "B: rumore riscalato"),
    "learned_noise_v1": ("learned noise v1", "rumore appreso v1"),
    "learned_noise_v1_as_published": ("v1, as published", "v1, come pubblicato"),
    "learned_noise_v2": ("learned noise v2", "rumore appreso v2"),
    "learned_noise_v2_as_published": ("v2, as published", "v2, come pubblicato"),
    "noise_control": ("fixed noise, same RMS", "rumore fisso, stesso RMS"),
    "weak_gap_cam": ("GAP+CAM, image labels only", "GAP+CAM, solo etichette"),
    "weak_gap_cam_as_published": ("GAP+CAM, as published", "GAP+CAM, come pubblicato"),
    "supervised": ("full supervision", "supervisione piena"),
    "simplenet": ("SimpleNet", "SimpleNet"),
    "memory": ("memory, coreset", "memoria, coreset"),
    "memory_random": ("memory, random", "memoria, casuale"),
    "memory_rotated": ("memory, rotated images", "memoria, immagini ruotate"),
}


def experiment_label(experiment: str, language: str = "en") -> str:
    """The name of an experiment to print."""
    return _METHODS[experiment][_index(language)]


def method_label(config: RunConfig, language: str = "en") -> str:
    """The method's name to print; learned noise v2 carries its bound."""
    name = experiment_label(config.experiment, language)
    return f"{name}, β = {config.beta:g}" if config.experiment == "learned_noise_v2" else name


def method_colour(config: RunConfig) -> str:
    """The method's colour, the same in every figure."""
    return METHOD_COLOURS[config.experiment]


def data_label(config: RunConfig, language: str = "en") -> str:
    """The data set's name to print; version 1 of KolektorSDD is always called so."""
    spec = DATASETS[config.dataset]
    if config.dataset == "synthetic":
        return f"{config.category} ({('synthetic', 'sintetico')[_index(language)]})"
    return spec.title if config.category == config.dataset else f"{spec.title} {config.category}"


def category_label(config: RunConfig) -> str:
    """The category's name where the data set is clear, the data set's where it has but one."""
    return DATASETS[config.dataset].title if config.category == config.dataset else config.category


def pick(language: str, english: str, italian: str) -> str:
    """The text in the chosen language."""
    return (english, italian)[_index(language)]


def _index(language: str) -> int:
    if language not in LANGUAGES:
        raise InputError(f"language={language!r} is unknown; choose one of {', '.join(LANGUAGES)}")
    return LANGUAGES.index(language)


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
