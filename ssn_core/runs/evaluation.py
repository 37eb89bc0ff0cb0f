"""From a trained model to what a run folder keeps: metrics, scores, curves, example maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from ssn_core import metrics
from ssn_core.data.datasets import Sample
from ssn_core.data.images import read_mask
from ssn_core.fast.inference import FoldedDetector
from ssn_core.runs.features import Features, single_precision
from ssn_core.runs.result import SCORES, TOP

NORMAL_QUANTILE = 0.99
#: what an evaluation measures: the seven metrics, and the image metrics of the top score
MEASURED = (*metrics.METRICS, "top-I-AUROC", "top-AP-det")


@dataclass(frozen=True)
class Outputs:
    """A model's outputs for n images: image scores (n,) and anomaly maps (n, H, W), both float32 logits.

    ``pixel_values``: what the pixel metrics rank, the map's ``logits`` or their ``sigmoid``.
    """

    scores: np.ndarray
    maps: np.ndarray
    pixel_values: str = "logits"

    @property
    def map_scores(self) -> np.ndarray:
        """Maximum of every map (n,)."""
        return self.maps.max((1, 2))

    @property
    def top_scores(self) -> np.ndarray:
        """Mean of the :data:`TOP` highest values of every map (n,); of all values of a smaller one."""
        flat = self.maps.reshape(len(self.maps), -1)
        return np.array([np.partition(values, -min(TOP, len(values)))[-TOP:].mean() for values in flat], np.float32)

    def ranked_maps(self) -> np.ndarray:
        """The maps as the pixel metrics rank them. In float32 the sigmoid of every logit above 17 is 1: they tie."""
        return self.maps if self.pixel_values == "logits" else expit(self.maps)


@single_precision
@torch.inference_mode()
def predict_features(
    model: FoldedDetector, features: Features, device: torch.device, pixel_values: str = "logits"
) -> Outputs:
    """Outputs from cached trunk features, at the model's image size."""
    parts = [[x.cpu() for x in model.heads(*layers, model.image_size)] for layers in features.parts(device)]
    maps, scores = (torch.cat(values).numpy() for values in zip(*parts, strict=True))
    return Outputs(scores, maps, pixel_values)


@dataclass(frozen=True)
class Truth:
    """Labels (n,) and masks (n, H, W) bool of evaluated images; masks None where the data set marks no defects."""

    labels: np.ndarray
    masks: np.ndarray | None

    @classmethod
    def of(cls, samples: tuple[Sample, ...], image_size: tuple[int, int]) -> Truth:
        """Read the masks at the evaluation size, by nearest; an image without one is normal everywhere."""
        labels = np.array([s.label for s in samples])
        if any(s.label and s.mask is None for s in samples):
            return cls(labels, None)
        masks = np.zeros((len(samples), *image_size), bool)
        for mask, sample in zip(masks, samples, strict=True):
            if sample.label:
                mask[:] = read_mask(sample.mask, image_size)
        return cls(labels, masks)


def measure(outputs: Outputs, truth: Truth) -> dict[str, Any]:
    """The values of :data:`MEASURED`; see :func:`ssn_core.metrics.evaluate`."""
    values = metrics.evaluate(outputs.scores, outputs.maps, truth.labels, truth.masks)
    top = metrics.evaluate(outputs.top_scores, outputs.maps[:, :1, :1], truth.labels, None)
    values |= {f"top-{name}": top[name] for name in metrics.METRICS[:2]}
    if outputs.pixel_values != "logits":
        values |= pixel_metrics(outputs.ranked_maps(), truth)
    return values


def pixel_metrics(maps: np.ndarray, truth: Truth) -> dict[str, Any]:
    """The pixel metrics of maps (n, H, W) as they are."""
    values = metrics.evaluate(np.zeros(len(maps)), maps, truth.labels, truth.masks)
    return {name: values[name] for name in metrics.PIXEL_METRICS}


def thresholds(outputs: Outputs, truth: Truth, normal: Outputs) -> dict[str, Any]:
    """Decision thresholds of both scores: Youden's on the test set, as the report chose it, and a quantile of the
    normal training images, which is all that a user without a labelled test set has."""
    pairs = {"score": (outputs.scores, normal.scores), "map_score": (outputs.map_scores, normal.map_scores)}
    both = len(set(truth.labels.tolist())) == 2
    return {
        "youden": {
            name: metrics.youden(truth.labels, test)._asdict() if both else metrics.NOT_AVAILABLE
            for name, (test, _) in pairs.items()
        },
        "train_quantile": {
            "quantile": NORMAL_QUANTILE,
            **{name: float(np.quantile(train, NORMAL_QUANTILE)) for name, (_, train) in pairs.items()},
        },
    }


def score_rows(samples: tuple[Sample, ...], outputs: Outputs, threshold: float) -> list[dict[str, Any]]:
    """One row per test image with its three scores, with the nine digits that give a float32 back, and how many pixels
    of its map lie above ``threshold``, and above half of the map's own range."""
    rows = []
    scores = zip(outputs.scores, outputs.map_scores, outputs.top_scores, strict=True)
    for s, own, values in zip(samples, scores, outputs.maps, strict=True):
        half = (values.min() + values.max()) / 2
        marked = (int((values > threshold).sum()), int((values > half).sum()))
        cells = (s.name, s.defect, s.label, *(f"{value:.9g}" for value in own), *marked)
        rows.append(dict(zip(SCORES, cells, strict=True)))
    return rows


def curve_arrays(outputs: Outputs, truth: Truth) -> dict[str, np.ndarray]:
    """ROC and precision-recall of both scores and the pixel-wise precision-recall; a curve that is not defined is left
    out."""
    arrays: dict[str, np.ndarray] = {}
    for name, scores in (("score", outputs.scores), ("map", outputs.map_scores)):
        arrays[f"roc_{name}_fpr"], arrays[f"roc_{name}_tpr"] = metrics.roc_curve(truth.labels, scores)
        arrays[f"pr_{name}_precision"], arrays[f"pr_{name}_recall"] = metrics.pr_curve(truth.labels, scores)
    arrays["pixel_precision"], arrays["pixel_recall"] = metrics.pixel_pr_curve(outputs.ranked_maps(), truth.masks)
    return {name: values.astype(np.float32) for name, values in arrays.items() if len(values)}


def example_arrays(samples: tuple[Sample, ...], outputs: Outputs) -> dict[str, np.ndarray]:
    """Maps (logits, float16) of the first test image of every kind of defect and of the normal ones, with names.

    Chosen by name before any result is known, so every method shows the same images.
    """
    first: dict[str, int] = {}
    for i in sorted(range(len(samples)), key=lambda i: samples[i].name):
        first.setdefault(samples[i].defect, i)
    chosen = list(first.values())
    limit = np.finfo(np.float16).max
    return {
        "images": np.array([samples[i].name for i in chosen]),
        "maps": outputs.maps[chosen].clip(-limit, limit).astype(np.float16),
    }
