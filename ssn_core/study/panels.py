"""Qualitative panels: image, ground truth, predicted mask, normalised and raw anomaly map, one row per run and image.

The maps come from run folders. Photographs and masks are read from the data set when it is given; without it the rows
show the maps and the file's name, and such a panel may be committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ssn_core.data.datasets import Dataset, Sample
from ssn_core.data.images import read_image, read_mask
from ssn_core.errors import InputError
from ssn_core.runs.result import WITHOUT_ZERO, RunResult
from ssn_core.study.labels import data_label, method_label, pick
from ssn_core.study.style import bilingual

MAP_COLOURS, RAW_COLOURS = "inferno", "RdBu_r"
_TEXT_WIDTH = 1.65  # of the column of names, in widths of a picture


@dataclass(frozen=True)
class Row:
    """One test image as one run saw it: ``anomaly_map`` (H, W) logits."""

    run: RunResult
    name: str
    anomaly_map: np.ndarray

    @property
    def scores(self) -> tuple[float, float]:
        """Image score and map score, logits."""
        row = self.run.scores.set_index("image").loc[self.name]
        return float(row["score"]), float(row["map_score"])


def example_names(run: RunResult, defective: bool = True, count: int = 1) -> list[str]:
    """The first ``count`` example images of a run, defective or normal, in name order: never chosen by a result."""
    kinds = run.scores.set_index("image")["label"]
    return [str(n) for n in sorted(run.examples["images"]) if bool(kinds[n]) == defective][:count]


def rows_of(runs: Sequence[RunResult], names: Sequence[str]) -> list[Row]:
    """The same images for every run; an image that a run kept no map of is an :class:`InputError`."""
    rows = []
    for name in names:
        for run in runs:
            at = np.flatnonzero(run.examples["images"] == name)
            if not len(at):
                raise InputError(f"{run.path / 'examples.npz'} holds no map of {name}; run the configuration again")
            rows.append(Row(run, name, run.examples["maps"][at[0]].astype(np.float32)))
    return rows


@bilingual
def panel(rows: Sequence[Row], dataset: Dataset | None = None, language: str = "en") -> Figure:
    """The panel of some rows; ``dataset`` adds the columns image and ground truth.

    Pictures much taller than wide lie on their side, with the row's text above them instead of beside.
    """
    samples = {} if dataset is None else {sample.name: sample for sample in dataset.test}
    height, width = rows[0].anomaly_map.shape
    tall = height > 1.5 * width
    limits = [np.quantile(np.abs(row.anomaly_map - row.run.pixel_threshold), 0.99) for row in rows]
    limit = float(np.median(limits)) or 1.0  # one scale for all rows; the loudest run may saturate it
    pictures = [_pictures(row, samples.get(row.name), limit, language, tall) for row in rows]
    count = len(pictures[0])
    widths = [*([] if tall else [_TEXT_WIDTH]), *[1.0] * count]
    cell = (6.3 - 0.6) / sum(widths)
    row_height = cell * width / height + 0.27 if tall else max(cell * height / width, 0.86) * 1.05
    figure, axes = plt.subplots(
        len(rows), len(widths), figsize=(6.3, row_height * len(rows) + 0.35), squeeze=False, width_ratios=widths
    )  # fmt: skip
    for i, row in enumerate(rows):
        (_text_above if tall else _text_beside)(axes[i, 0], row, language)
        for ax, (title, look) in zip(axes[i, -count:], pictures[i], strict=True):
            shown = ax.imshow(**(look | {"X": np.rot90(look["X"])} if tall else look))
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(visible=True, linewidth=0.4, color="#999999")  # a mask may be as white as the page
            if i == 0 and not tall:
                ax.set_title(title, fontsize=7)
            elif i == len(rows) - 1 and tall:
                ax.text(0.5, -0.06, title, va="top", ha="center", fontsize=7, transform=ax.transAxes)
    bar = figure.colorbar(shown, ax=axes[:, -1], shrink=min(1.0, 2 / len(rows)), pad=0.02, aspect=14, extend="both")
    if not (tall and len(rows) == 1):  # too low for its name
        bar.set_label(pick(language, "logit − threshold", "logit − soglia"), fontsize=6.5)
    bar.ax.tick_params(labelsize=6)
    return figure


def _pictures(
    row: Row, sample: Sample | None, limit: float, language: str, turned: bool
) -> list[tuple[str, dict[str, Any]]]:
    """Title and arguments of imshow, column by column."""
    values, threshold = row.anomaly_map, row.run.pixel_threshold
    spread = float(values.max() - values.min())
    binary = {"cmap": "gray", "vmin": 0, "vmax": 1}
    scaled = {"X": (values - values.min()) / (spread or 1.0), "cmap": MAP_COLOURS, "vmin": 0, "vmax": 1}
    raw = {"X": values - threshold, "cmap": RAW_COLOURS, "vmin": -limit, "vmax": limit}
    maps = [
        (pick(language, "predicted\nmask", "maschera\npredetta"), {"X": values > threshold, **binary}),
        (pick(language, "map, scaled\nper image", "mappa, scalata\nper immagine"), scaled),
        (pick(language, "map, raw", "mappa, grezza"), raw),
    ]
    if sample is None:
        return maps
    image, truth = _photograph(sample, values.shape)
    on_its_side = pick(language, "\n(on its side)", "\n(sul fianco)") if turned else ""
    photograph = (pick(language, "image", "immagine") + on_its_side, {"X": image})
    return [photograph, (pick(language, "ground\ntruth", "difetto\nreale"), {"X": truth, **binary}), *maps]


def _texts(row: Row, language: str) -> tuple[str, ...]:
    """Method, file, both scores by their full names, and what makes a pixel part of the mask. A method without a
    classification head has one score, its map's maximum."""
    score, map_score = (f"{value:+.2f}".replace("-", "\u2212") for value in row.scores)
    head = pick(language, "(classification head)", "(testa di classificazione)")
    maximum = pick(language, "(maximum of the map)", "(massimo della mappa)")
    quantile = pick(language, "99 % of normal ones", "99 % di quelle senza difetti")
    rule = quantile if row.run.config.method in WITHOUT_ZERO else "logit 0"
    return (
        method_label(row.run.config, language),
        row.name,
        pick(language, f"image score {score}", f"punteggio d'immagine {score}"),
        maximum if row.scores[0] == row.scores[1] else head,
        pick(language, f"map score {map_score}", f"punteggio della mappa {map_score}"),
        maximum,
        pick(language, f"mask: above {rule}", f"maschera: oltre {rule}"),
    )


def _text_beside(ax: Axes, row: Row, language: str) -> None:
    method, *lines = _texts(row, language)
    ax.set_axis_off()
    ax.text(0, 1.0, method, va="top", fontsize=7, weight="bold", transform=ax.transAxes)
    ax.text(0, 0.86, "\n".join(lines), va="top", fontsize=6, linespacing=1.2, transform=ax.transAxes)


def _text_above(ax: Axes, row: Row, language: str) -> None:
    method, name, score, head, map_score, maximum, rule = _texts(row, language)
    first = (f"{method},  {data_label(row.run.config, language)} {name}", {"fontsize": 7, "weight": "bold"})
    second = (f"{score} {head},  {map_score} {maximum},  {rule}", {"fontsize": 5.6})
    ax.set_title(" \n ", fontsize=7)  # keeps the height free; the texts themselves run over the next columns
    for height, (text, look) in ((11.5, first), (3, second)):
        place = {"xycoords": "axes fraction", "xytext": (0, height), "textcoords": "offset points"}
        ax.annotate(text, (0, 1), va="bottom", **place, **look).set_in_layout(False)


@bilingual
def maps(rows: Sequence[Row], dataset: Dataset | None = None, language: str = "en") -> Figure:
    """Anomaly maps alone: a row per run, with one scale for all its maps, and a column per image; ``dataset`` adds the
    images, their defects outlined, above."""
    of_runs: dict[Path, list[Row]] = {}
    for row in rows:
        of_runs.setdefault(row.run.path, []).append(row)
    lines = list(of_runs.values())
    height, width = rows[0].anomaly_map.shape
    count, above = len(lines[0]), int(dataset is not None)
    size = 6.3, 6.3 / count * height / width * (len(lines) + above) + 0.4
    figure, axes = plt.subplots(len(lines) + above, count, figsize=size, squeeze=False)
    for ax, row in zip(axes[0], lines[0], strict=True):
        ax.set_title(row.name.removeprefix("test/").replace("/", "/\n"), fontsize=7)
        if dataset is not None:
            [sample] = [sample for sample in dataset.test if sample.name == row.name]
            image, truth = _photograph(sample, (height, width))
            ax.imshow(image)
            if truth.any():
                ax.contour(truth, [0.5], colors="red", linewidths=0.7)
    for line, of_run in zip(axes[above:], lines, strict=True):
        _line_of_maps(line, of_run, language)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    return figure


def _line_of_maps(axes: Sequence[Axes], rows: Sequence[Row], language: str) -> None:
    shown = [row.anomaly_map for row in rows]
    limits = {"vmin": min(map(np.min, shown)), "vmax": max(map(np.max, shown))}
    for ax, values in zip(axes, shown, strict=True):
        ax.imshow(values, cmap=MAP_COLOURS, **limits)
    axes[0].set_ylabel(method_label(rows[0].run.config, language).replace(", ", ",\n"), fontsize=7)


def _photograph(sample: Sample, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and mask (H, W) of a test image at the map's size."""
    image = Image.fromarray(read_image(sample.image)).resize(size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(image), np.zeros(size, bool) if sample.mask is None else read_mask(sample.mask, size)


@bilingual
def side_by_side(pictures: Mapping[str, np.ndarray], language: str = "en") -> Figure:
    """Arrays under their names: (H, W, 3) uint8 as it is, (H, W) bool in black and white, (H, W) values in colour."""
    figure, axes = plt.subplots(1, len(pictures), figsize=(6.3, 6.3 / len(pictures) + 0.3), squeeze=False)
    for ax, (name, picture) in zip(axes[0], pictures.items(), strict=True):
        ax.imshow(picture, cmap="gray" if picture.dtype == bool else "viridis")
        ax.set_title(name, fontsize=7)
        ax.set_axis_off()
    return figure
