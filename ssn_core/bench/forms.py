"""The computations that are timed: a form becomes what prepares it for a point, which becomes what is called. Weights
are random and images are noise: speed depends on neither."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssn_core.bench.plan import PEER, Form, Point, inference_dtype
from ssn_core.fast.export import session, write_onnx
from ssn_core.fast.inference import fold
from ssn_core.fast.int8 import write_int8
from ssn_core.fast.recorded import Recorded
from ssn_core.metrics import METRICS, aupro, evaluate
from ssn_core.models.detectors import build_model
from ssn_core.models.losses import focal, map_loss
from ssn_core.models.noise import perlin_masks
from ssn_core.models.product import product
from ssn_core.runs.features import Features
from ssn_core.runs.presets import preset
from ssn_core.runs.trainer import Trainer
from ssn_core.runs.training_set import TrainingSet

_EPOCHS = 2  # of a whole training: enough to see that the cache pays from the second one on
Call = Callable[[], Any]
Prepare = Callable[[Point], Call]
Facts = dict[str, tuple[float, str]]  # measurement -> value, unit


def network(form: Form) -> nn.Module:
    """The untrained detector of a form, ours or the peer's; its trunk has random weights."""
    if not form.variant.startswith(PEER):
        return build_model(**preset(form.experiment, backbone=form.backbone).model_arguments(), pretrained=False)
    import timm
    from anomalib.models.image.supersimplenet.torch_model import SupersimplenetModel

    create = timm.create_model
    timm.create_model = lambda name, pretrained=False, **options: create(name, pretrained=False, **options)
    return SupersimplenetModel(backbone=f"{form.backbone}.tv_in1k")


def inference(form: Form, facts: Facts) -> Prepare:
    """One forward, from images in main memory to logits there: transfers to a device and back count."""
    dtype, cuda = getattr(torch, inference_dtype(form.variant, form.device)), form.device.startswith("cuda")
    model = network(form).eval()
    facts["parameters"] = (sum(p.numel() for p in model.parameters()) / 1e6, "M")
    if form.variant.startswith(("fold", "graph")):
        model = fold(model)
    if form.variant.startswith("fold_"):
        facts["error"] = (_rounding(model, dtype), "of the map's deviation")
    model = model.to(form.device, dtype)
    if form.variant.endswith("compiled"):
        model = torch.compile(model, dynamic=False)

    def prepare(point: Point) -> Call:
        images = torch.randn(point.batch, 3, *point.size).to(dtype)
        images = images.pin_memory() if cuda else images
        if form.variant.startswith("graph"):
            # of batches two are under way, so that one travels while the other is computed
            engines = [Recorded(model, point.batch, point.size) for _ in range(min(2, point.batch))]
            engines[0].start(images)
            return lambda: (engines.reverse(), engines[0].start(images), engines[-1].finish())

        @torch.no_grad()  # inference mode would hide the operations from counting
        def forward() -> list[Tensor]:
            return [x.cpu() for x in model(images.to(form.device, non_blocking=True)) if x is not None]

        return forward

    return prepare


def runtime(form: Form, facts: Facts) -> Prepare:
    """One forward of an exported file: ours from pixels; from normalised images the peer's, and our trunk alone, below
    which no rewriting of what follows it can go."""
    own = form.variant in ("fold_onnx", "fold_int8")

    @functools.cache
    def opened(size: tuple[int, int]) -> Callable[[np.ndarray], Any]:
        model = network(form).eval()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            if own:
                model.image_size = size
                write_onnx(model, path, {}, 0.0)
            else:
                model = fold(model).trunk if form.variant == "trunk_onnx" else model
                images, shapes = torch.randn(2, 3, *size), ({0: torch.export.Dim("batch")},)
                torch.onnx.export(model, (images,), path, input_names=["images"], dynamic_shapes=shapes, dynamo=True)
            if form.variant == "fold_int8":
                path = write_int8(path, Path(folder, "int8.onnx"), _pixels(4, size))
            if not form.variant.endswith("openvino"):
                return session(path)
            import openvino

            wanted = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
            return openvino.Core().compile_model(path, "CPU", wanted | {"PERFORMANCE_HINT": "LATENCY"})

    def prepare(point: Point) -> Call:
        images = _pixels(point.batch, point.size) if own else torch.randn(point.batch, 3, *point.size).numpy()
        call = opened(tuple(point.size))
        return lambda: call(images)

    return prepare


def _pixels(count: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)


def _rounding(model: nn.Module, dtype: torch.dtype) -> float:
    """Largest difference of the map's logits to float32, over their standard deviation."""
    images = torch.randn(1, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, rough = model(images)[0], copy.deepcopy(model).to(dtype)(images.to(dtype))[0].float()
    return float((rough - exact).abs().max() / exact.std())


def training(form: Form, facts: Facts) -> Prepare:
    """One optimiser step, or a whole training of ``images`` images: the plain form and the peer's recompute the trunk
    for every batch, the fast one computes it once an image and reads the cache."""
    model = network(form).to(form.device).train()
    heads = nn.ModuleList([model.adaptor, model.segdec]) if form.variant == PEER else model
    optimizer = torch.optim.AdamW([p for p in heads.parameters() if p.requires_grad], lr=1e-4)
    rng = torch.Generator(form.device).manual_seed(0)

    def descend(images: Tensor) -> None:
        images = images.to(form.device)
        loss = _peer_loss(model, images) if form.variant == PEER else _plain_loss(model, images, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def prepare(point: Point) -> Call:
        batches = [torch.randn(point.batch, 3, *point.size) for _ in range(max(1, point.images // point.batch))]

        def steps() -> list[Call]:
            if form.variant == "fast":
                return _fast_steps(form, model, batches, rng)
            return [lambda images=images: descend(images) for images in batches]

        if not point.images:
            return steps()[0]
        return lambda: [step() for step in _EPOCHS * steps()]

    return prepare


def _plain_loss(model: nn.Module, images: Tensor, rng: torch.Generator) -> Tensor:
    with torch.no_grad():
        layers = model.trunk(images)
    copies, size = 2 * len(images), [model.upscaling * side for side in layers[0].shape[2:]]
    masks = perlin_masks(copies, size, 0.2, rng)
    noise = torch.randn(copies, model.channels, *size, generator=rng, device=images.device)
    maps, scores = model.noisy_forward(*layers, masks[:, None].float(), 0.015 * noise)
    return map_loss(maps[:, 0], masks) + focal(scores, masks.flatten(1).any(1))


def _peer_loss(model: nn.Module, images: Tensor) -> Tensor:
    """With its own masks, noise and loss."""
    from anomalib.models.image.supersimplenet.loss import SSNLoss

    maps, scores, masks, labels = model(images, torch.zeros_like(images[:, 0]), images.new_zeros(len(images)))
    return SSNLoss()(pred_map=maps, pred_score=scores, target_mask=masks, target_label=labels)


def _fast_steps(form: Form, model: nn.Module, batches: list[Tensor], rng: torch.Generator) -> list[Call]:
    """The trainer's own steps, on features of the trunk."""
    with torch.no_grad():
        layers = [[x.permute(0, 2, 3, 1).contiguous() for x in model.trunk(b.to(form.device))] for b in batches]
    features = Features(*map(torch.cat, zip(*layers, strict=True)))
    everything = TrainingSet(len(features) * [(None, 0)], len(features), [])  # without a file: features are at hand
    config, device = preset(form.experiment, backbone=form.backbone), torch.device(form.device)
    trainer = Trainer(config, model, features, everything, device)
    parts = torch.arange(len(features), device=device).split(len(batches[0]))
    return [lambda part=part: trainer.train_batch(part, features.batch(part, device), rng) for part in parts]


def metrics(form: Form, facts: Facts) -> Prepare:
    """All seven metrics ("seven") or AUPRO alone, exact, by scikit-learn or by the peer."""

    def prepare(point: Point) -> Call:
        scores, maps, labels, masks = draw_maps(point)
        if form.variant == PEER:
            from anomalib.metrics.aupro import _AUPRO

            theirs = _AUPRO(fpr_limit=0.3)
            probabilities, truth = torch.from_numpy(maps).sigmoid(), torch.from_numpy(masks)
            return lambda: (theirs.reset(), theirs.update(probabilities, truth.int()), theirs.compute())
        if form.experiment == "aupro":
            return lambda: aupro(maps, masks)
        compute = evaluate if form.variant == "exact" else scikit_learn_metrics
        return lambda: compute(scores, maps, labels, masks)

    return prepare


def draw_maps(point: Point) -> tuple[np.ndarray, ...]:
    """Scores (n,), float32 maps (n, H, W), labels (n,) and masks (n, H, W) of ``images`` images, of which every second
    has two square defects; maps are a little higher there."""
    rng, (h, w), n = np.random.default_rng(0), point.size, point.images
    labels, masks, side = np.arange(n) % 2, np.zeros((n, h, w), bool), min(h, w) // 10
    for y, x in ((h // 8, w // 8), (h // 2, w // 2)):
        masks[1::2, y : y + side, x : x + side] = True
    return labels + rng.standard_normal(n), rng.standard_normal((n, h, w), dtype=np.float32) + masks, labels, masks


def scikit_learn_metrics(scores: np.ndarray, maps: np.ndarray, labels: np.ndarray, masks: np.ndarray) -> dict:
    """The seven metrics as they are usually computed: scikit-learn on everything, one ROC curve a region for AUPRO."""
    from scipy import ndimage
    from sklearn.metrics import auc, average_precision_score, roc_auc_score, roc_curve

    grid, normal, overlaps = np.linspace(0, 0.3, 1001), maps[~masks], []
    for image, mask in zip(maps, masks, strict=True):
        regions, found = ndimage.label(mask, np.ones((3, 3)))
        for inside in (image[regions == region] for region in range(1, found + 1)):
            truth = np.r_[np.ones(len(inside)), np.zeros(len(normal))]
            overlaps.append(np.interp(grid, *roc_curve(truth, np.r_[inside, normal])[:2]))
    ranked = ((labels, scores), (labels, maps.max((1, 2))), (masks.ravel(), maps.ravel()))
    values = [rank(*pair) for pair in ranked for rank in (roc_auc_score, average_precision_score)]
    values.insert(5, auc(grid, np.mean(overlaps, axis=0)) / 0.3)
    return dict(zip(METRICS, values, strict=True))


def machine(form: Form, facts: Facts) -> Prepare:
    """What the device can do at best: a large matrix product (operations), on a processor torch's beside ours, and a
    large copy (bytes)."""

    def prepare(point: Point) -> Call:
        dtype = torch.float16 if form.variant == "product_half" else torch.float32
        a, b = torch.randn(2, *point.size, device=form.device).to(dtype)
        out = torch.empty_like(a)
        if form.variant == "copy":
            return lambda: out.copy_(a)
        return lambda: product(a, b) if form.variant == "product" else torch.mm(a, b, out=out)

    return prepare


#: by :class:`ssn_core.bench.plan.Form`'s ``kind``
KINDS = {"inference": inference, "runtime": runtime, "training": training, "metrics": metrics, "machine": machine}
