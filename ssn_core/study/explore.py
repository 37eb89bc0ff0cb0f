"""A gallery under a threshold that one moves: image, anomaly map, mask, and how the decision of the whole set moves."""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssn_core.inspection.threshold import decide
from ssn_core.study.panels import MAP_COLOURS
from ssn_core.study.style import DEFECTIVE, NORMAL, styled

if TYPE_CHECKING:  # it loads torch
    from ssn_core.inspection.gallery import Gallery
    from ssn_core.inspection.prediction import Inspected

_KINDS, _ALL = ((0, "good", NORMAL), (1, "defective", DEFECTIVE)), ((0, "all", NORMAL),)
_BINS, _POINTS, _MARGIN = 30, 200, 8
_WIDTH, _STATISTICS, _DPI = 7.5, 2.2, 110  # inches, inches, dots per inch: a screen's, where it is redrawn at each move


class Explorer:
    """Widgets to choose an image and a threshold, to be shown by a notebook: ``image``, ``threshold``, what they change
    (``text``, ``picture``), and all of them in ``box``. Where no kernel runs, as on GitHub, the picture alone is shown.
    """

    def __init__(self, gallery: Gallery) -> None:
        import ipywidgets as widgets  # the extra "notebooks"

        self.gallery = gallery
        points = grid(gallery.map_scores, gallery.threshold.value)
        wide = {"layout": {"width": "95%"}, "style": {"description_width": "70px"}}
        names = [(f"{sample.name}  ({sample.defect})", number) for number, sample in enumerate(gallery.samples)]
        self.image = widgets.Dropdown(options=names, value=int(gallery.labels.argmax()), description="image", **wide)
        ends = {"min": points[0], "max": points[-1], "step": points[1] - points[0]}
        self.threshold = widgets.FloatSlider(gallery.threshold.value, **ends, description="threshold", **wide)
        own_size = {"max_width": "100%", "align_self": "flex-start"}
        self.text, self.picture = widgets.HTML(), widgets.Image(format="png", layout=own_size)
        self.box = widgets.VBox([self.image, self.threshold, self.text, self.picture])
        self.image.observe(self._choose, "value")
        self.threshold.observe(self._show, "value")
        self._choose()

    def _choose(self, _: Any = None) -> None:
        self.look = self.gallery.look(self.image.value)
        self._show()

    def _show(self, _: Any = None) -> None:
        number, threshold = self.image.value, self.threshold.value
        self.text.value = "<br>".join(decided(self.gallery, threshold, number))
        file = io.BytesIO()
        with styled():
            overview(self.gallery, self.look, number, threshold).savefig(file, format="png", dpi=_DPI)
        self.picture.value = file.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        still = {"image/png": base64.b64encode(self.picture.value).decode(), "text/plain": "Explorer"}
        return self.box._repr_mimebundle_() | still


def grid(map_scores: np.ndarray, threshold: float) -> np.ndarray:
    """Thresholds in equal steps from below every score to above all of them; ``threshold`` is one, since a slider moves
    what lies between two steps to one of them."""
    low, high = min(map_scores.min(), threshold), max(map_scores.max(), threshold)
    step = float(high - low) / _POINTS or 1.0
    below, above = (math.ceil(far / step) + _MARGIN for far in (threshold - low, high - threshold))
    return threshold + step * np.arange(-below, above + 1)


def shares(map_scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Of the images (n,), the share above each of the thresholds (m,) -> (m,)."""
    return (map_scores[None] > thresholds[:, None]).mean(axis=1)


def decided(gallery: Gallery, threshold: float, number: int) -> list[str]:
    """A line about the set and one about an image of it."""
    score, sample = gallery.map_scores[number], gallery.samples[number]
    one = f"{sample.name}: map score {score:.2f}, so {'defective' if score > threshold else 'good'}"
    known = f" (labelled {'defective' if sample.label else 'good'})" if gallery.labelled else ""
    return [f"threshold {threshold:.2f}: {_counts(gallery, threshold)}", one + known]


def _counts(gallery: Gallery, threshold: float) -> str:
    found, false_alarms = decide(gallery.map_scores, gallery.labels, threshold)
    if not gallery.labelled:
        return f"called defective {false_alarms}; no image is labelled so"
    return f"defective images found {found}, false alarms {false_alarms}"


def sentences(gallery: Gallery) -> list[str]:
    """What the run's own threshold decides, and where a set's two mistakes would begin."""
    own = gallery.threshold
    said = [f"The run's own {own}.", f"In these {len(gallery)} images, with it: {_counts(gallery, own.value)}."]
    if gallery.labelled:
        worst = gallery.map_scores[gallery.labels == 1].min()
        _, false_alarms = decide(gallery.map_scores, gallery.labels, np.nextafter(worst, -np.inf))
        said.append(f"To find every defective image the threshold must lie below {worst:.2f}: {false_alarms} "
                    "are then false alarms.")  # fmt: skip
    return said


def overview(gallery: Gallery, look: Inspected, number: int, threshold: float) -> Figure:
    """One image above, and below it the set: scores, and the share above the threshold for each threshold."""
    height, width = look.anomaly_map.shape
    top = ["image", "map", "mask"] + (["truth"] if look.truth is not None else [])
    tall = min(2.6, _WIDTH / len(top) * height / width)
    mosaic = [[name for name in top for _ in range(2)], ["scores"] * len(top) + ["shares"] * len(top)]
    figure, axes = plt.subplot_mosaic(
        mosaic, figsize=(_WIDTH, tall + _STATISTICS + 0.3), height_ratios=[tall, _STATISTICS]
    )
    _draw_image(axes, gallery, look, threshold)
    points = grid(gallery.map_scores, gallery.threshold.value)
    for label, name, colour in _KINDS if gallery.labelled else _ALL:
        _draw_scores(axes, gallery.map_scores[gallery.labels == label], name, colour, threshold, points)
    chosen = gallery.map_scores[number]
    axes["scores"].plot(chosen, 0, "^", color="black", clip_on=False, ms=6, label="this image")
    axes["scores"].set(ylabel="images")
    axes["shares"].set(ylabel="share above the threshold", ylim=(-0.03, 1.03))
    for name in ("scores", "shares"):
        axes[name].axvline(threshold, color="black", lw=1.1, label="threshold")
        axes[name].axvline(gallery.threshold.value, color="black", lw=0.9, ls=":", label="the run's own")
        axes[name].set(xlabel="map score" if name == "scores" else "threshold")
    axes["scores"].legend()
    plt.close(figure)  # shown by whoever asked for it
    return figure


def _draw_image(axes: dict[str, Axes], gallery: Gallery, look: Inspected, threshold: float) -> None:
    gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
    scale = {"cmap": MAP_COLOURS, "vmin": gallery.lowest, "vmax": gallery.map_scores.max()}  # one for all images
    pictures = {
        "image": ("image", look.pixels, {}),
        "map": ("anomaly map", look.anomaly_map, scale),
        "mask": ("above the threshold", look.anomaly_map > threshold, gray),
        "truth": ("marked defect", look.truth, gray),
    }
    for name, (title, values, how) in pictures.items():
        if name in axes:
            axes[name].imshow(values, **how)
            axes[name].set_title(title)
            axes[name].set_axis_off()


def _draw_scores(
    axes: dict[str, Axes], scores: np.ndarray, name: str, colour: str, threshold: float, points: np.ndarray
) -> None:
    label = f"{name}: {(scores > threshold).sum()} of {len(scores)} above"
    axes["scores"].hist(scores, np.linspace(points[0], points[-1], _BINS + 1), color=colour, alpha=0.65, label=label)
    axes["shares"].plot(points, shares(scores, points), color=colour, drawstyle="steps-mid")
