"""What the benchmark times: every form of one computation, each in a process of its own that waits for its turn.

Weights are random and images are noise: speed depends on neither.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssn_core.fast.inference import fold
from ssn_core.fast.recorded import Recorded
from ssn_core.metrics import METRICS, aupro, evaluate
from ssn_core.models.detectors import Detector, build_model
from ssn_core.models.losses import focal, map_loss
from ssn_core.models.noise import perlin_masks
from ssn_core.runs.config import preset
from ssn_core.runs.features import Features
from ssn_core.runs.trainer import Trainer
from ssn_core.runs.training_set import TrainingSet

RUN_EPOCHS = 2  # of a whole training: enough to see that the cache pays from the second one on
_PRECISIONS = {"fold_half": torch.float16, "fold_bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Form:
    """Which computation a process makes. ``experiment``: a preset, or what is measured; ``variant``: which form."""

    kind: str
    experiment: str
    backbone: str
    variant: str
    device: str = "cpu"


@dataclass(frozen=True)
class Point:
    """At which size: ``images`` counts the images of a whole training, or maps; 0 where only a batch matters."""

    batch: int
    size: tuple[int, int]
    images: int = 0


def inference_dtype(variant: str, device: str) -> torch.dtype:
    """What a form computes in: on a CUDA device everything runs in half precision, as in the course report."""
    return _PRECISIONS.get(variant, torch.float16 if device.startswith("cuda") else torch.float32)


class Inference:
    """One forward of a detector, from images in main memory to logits there: transfers to a device and back count.

    Forms: the plain one, the folded one, either of them compiled, and the folded one as a graph.
    """

    def __init__(self, form: Form) -> None:
        self.device, self.form = torch.device(form.device), form
        model = make_model(form).eval()
        self.facts = {"parameters": sum(p.numel() for p in model.parameters())}
        self.dtype = inference_dtype(form.variant, form.device)
        self.model: nn.Module = model if form.variant in ("plain", "compiled") else fold(model)
        if form.variant in _PRECISIONS:
            self.facts["error"] = _rounding(self.model, self.dtype)
        self.model = self.model.to(self.device, self.dtype)
        if form.variant.endswith("compiled"):
            self.model = torch.compile(self.model, dynamic=False)

    def prepare(self, point: Point) -> Callable[[], Any]:
        images = torch.randn(point.batch, 3, *point.size).to(self.dtype)
        images = images.pin_memory() if self.device.type == "cuda" else images

        def forward() -> list[Tensor]:
            return [x.cpu() for x in self.model(images.to(self.device, non_blocking=True))]

        self.counted = torch.no_grad()(forward)  # inference mode hides the operations from counting
        if self.form.variant.startswith("graph"):
            return self._recorded(images)
        return torch.inference_mode()(forward)

    def _recorded(self, images: Tensor) -> Callable[[], Any]:
        """A single image at once; of batches two are under way, so that one travels while one is computed."""
        engines = [Recorded(self.model, len(images), images.shape[2:]) for _ in range(1 if len(images) == 1 else 2)]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            self.held = torch.cuda.memory_reserved()  # a replay allocates nothing: what counts is what the graphs keep
        if len(engines) == 1:
            return lambda: engines[0](images)
        engines[0].start(images)

        def call() -> None:
            engines.reverse()
            engines[0].start(images)
            engines[1].finish()

        return call


def _rounding(model: nn.Module, dtype: torch.dtype) -> float:
    """Largest difference of the map's logits to float32, over their standard deviation."""
    images = torch.randn(1, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, rough = model(images)[0], copy.deepcopy(model).to(dtype)(images.to(dtype))[0].float()
    return float((rough - exact).abs().max() / exact.std())


class Training:
    """One optimiser step, or a whole training of ``images`` images: the plain form recomputes the trunk for every
    batch, the fast one computes it once an image and reads the cache."""

    def __init__(self, form: Form) -> None:
        self.form, self.device, self.fast = form, torch.device(form.device), form.variant == "fast"
        self.model = make_model(form).to(self.device).train()
        self.facts: dict[str, float] = {}
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-4)
        self.rng = torch.Generator(self.device).manual_seed(0)

    def prepare(self, point: Point) -> Callable[[], Any]:
        batches = max(1, point.images // point.batch)
        images = [torch.randn(point.batch, 3, *point.size) for _ in range(batches)]
        if point.images:
            return lambda: self._epochs(self._step(images), RUN_EPOCHS * list(range(batches)))
        step = self._step(images)
        return lambda: self._epochs(step, [0])

    def _epochs(self, step: Callable[[int], Any], order: list[int]) -> None:
        for i in order:
            step(i)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _step(self, images: list[Tensor]) -> Callable[[int], Any]:
        """What trains on one of the batches."""
        if not self.fast:
            return lambda i: self._plain(images[i].to(self.device))
        features = Features(*(torch.cat(layers) for layers in zip(*map(self._trunk, images), strict=True)))
        normal, batches = len(features), torch.arange(len(features), device=self.device).split(len(images[0]))
        config = preset(self.form.experiment, backbone=self.form.backbone)
        training = TrainingSet(normal * [(None, 0)], normal, [])  # entries without a file: the features are at hand
        trainer = Trainer(config, self.model, features, training, None, self.device)
        return lambda i: trainer.train_batch(batches[i], features.batch(batches[i], self.device), self.rng)

    @torch.no_grad()
    def _trunk(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer.permute(0, 2, 3, 1).contiguous() for layer in self.model.trunk(images.to(self.device)))

    def _plain(self, images: Tensor) -> None:
        with torch.no_grad():
            layers = self.model.trunk(images)
        copies, size = 2 * len(images), [self.model.upscaling * side for side in layers[0].shape[2:]]
        masks = perlin_masks(copies, size, 0.2, self.rng)
        noise = torch.randn(copies, self.model.channels, *size, generator=self.rng, device=self.device)
        maps, scores = self.model.noisy_forward(*layers, masks[:, None].float(), 0.015 * noise)
        self.optimizer.zero_grad(set_to_none=True)
        (map_loss(maps[:, 0], masks) + focal(scores, masks.flatten(1).any(1))).backward()
        self.optimizer.step()


def make_model(form: Form) -> Detector:
    """The untrained detector of a form; its trunk has random weights."""
    return build_model(**preset(form.experiment, backbone=form.backbone).model_arguments(), pretrained=False)


class Metrics:
    """All seven metrics ("seven"), or AUPRO alone, of ``images`` maps of which every second has two square defects."""

    def __init__(self, form: Form) -> None:
        self.aupro, self.exact, self.facts = form.experiment == "aupro", form.variant == "exact", {}

    def prepare(self, point: Point) -> Callable[[], Any]:
        scores, maps, labels, masks = draw_maps(point)
        if self.aupro:
            return lambda: aupro(maps, masks)
        return (lambda: evaluate(scores, maps, labels, masks)) if self.exact else (
            lambda: scikit_learn_metrics(scores, maps, labels, masks)
        )  # fmt: skip


def draw_maps(point: Point) -> tuple[np.ndarray, ...]:
    """Scores (n,), float32 maps (n, H, W), labels (n,), masks (n, H, W); maps are a little higher in defects."""
    rng = np.random.default_rng(0)
    (h, w), n = point.size, point.images
    labels, masks = np.arange(n) % 2, np.zeros((n, h, w), bool)
    side = max(2, min(h, w) // 10)
    for mask in masks[1::2]:
        for half in (slice(0, w // 2 - side - 1), slice(w // 2, w - side)):
            y, x = rng.integers(0, h - side), rng.integers(half.start, half.stop)
            mask[y : y + side, x : x + side] = True
    maps = rng.standard_normal((n, h, w), dtype=np.float32)
    maps[masks] += 1
    return labels + rng.standard_normal(n), maps, labels, masks


def scikit_learn_metrics(scores: np.ndarray, maps: np.ndarray, labels: np.ndarray, masks: np.ndarray) -> dict:
    """The seven metrics as they are usually computed: scikit-learn on everything, one ROC curve a region for AUPRO."""
    from scipy import ndimage
    from sklearn.metrics import auc, average_precision_score, roc_auc_score, roc_curve

    peaks, grid, overlaps = maps.max((1, 2)), np.linspace(0, 0.3, 1001), []
    normal = maps[~masks]
    for image, mask in zip(maps, masks, strict=True):
        regions, found = ndimage.label(mask, np.ones((3, 3)))
        for region in range(1, found + 1):
            inside = image[regions == region]
            truth = np.r_[np.ones(len(inside)), np.zeros(len(normal))]
            overlaps.append(np.interp(grid, *roc_curve(truth, np.r_[inside, normal])[:2]))
    values = [f(labels, s) for s in (scores, peaks) for f in (roc_auc_score, average_precision_score)]
    pixels = (masks.ravel(), maps.ravel())
    values += [roc_auc_score(*pixels), auc(grid, np.mean(overlaps, axis=0)) / 0.3, average_precision_score(*pixels)]
    return dict(zip(METRICS, values, strict=True))


class Machine:
    """What the device can do at best: a large matrix product (operations), a large copy (bytes)."""

    def __init__(self, form: Form) -> None:
        self.copy, self.device, self.facts = form.variant == "copy", torch.device(form.device), {}
        self.dtype = torch.float16 if form.variant == "product_half" else torch.float32

    def prepare(self, point: Point) -> Callable[[], Any]:
        side = point.size[0]
        a, b = torch.randn(2, side, side, device=self.device).to(self.dtype)
        out = torch.empty_like(a)

        def call() -> None:
            out.copy_(a) if self.copy else torch.mm(a, b, out=out)
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        return call
