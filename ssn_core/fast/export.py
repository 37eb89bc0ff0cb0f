"""The folded model as one ONNX file for ONNX Runtime, compared with torch before it counts as written."""

from __future__ import annotations

import importlib
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssn_core.errors import InputError
from ssn_core.fast.inference import FoldedDetector, fold
from ssn_core.fast.moments import Kept
from ssn_core.fast.upscaled_conv import Composed
from ssn_core.files import write_atomic
from ssn_core.models.detectors import Detector
from ssn_core.models.heads import LEAK
from ssn_core.models.trunk import equally_bright

PARITY = 1e-4  # of logits, or of the largest one where that is above 1
_TURNS = 9


def write_onnx(model: Detector, path: Path, facts: Mapping[str, str], threshold: float) -> Path:
    """Write a model in eval mode for any number of images of its image size, as one file.

    Input ``images``: uint8 RGB (B, H, W, 3), as a decoder gives it; normalisation and the map's blur are inside,
    resizing is not. Outputs: ``anomaly_map`` (B, H, W) and ``image_score`` (B,), logits. ``facts`` become metadata.

    Raises:
        InputError: a package is missing, or map, score or decision (map's maximum above ``threshold``) differ from
            torch's; no file is left then, and one that was there before stays.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needed(package)
    form = _OnnxForm(model).eval().requires_grad_(False)
    example = torch.zeros(2, *model.image_size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own future
        program = torch.onnx.export(
            form,
            (example,),
            input_names=["images"],
            output_names=["anomaly_map", "image_score"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    for node in program.model.graph:
        node.metadata_props.clear()  # where each operation stood in the source, with this machine's paths
    program.model.metadata_props.update(facts)

    def write(part: Path) -> None:
        program.save(str(part), external_data=False)
        if wrong := difference(part, model, threshold):
            raise InputError(f"{path} is not written: {wrong}; try other versions of the packages of the extra deploy")

    return write_atomic(path, write)


def difference(path: Path, model: Detector, threshold: float) -> str:
    """Which of the file's outputs are not the model's, for one image and for several; "" where all are."""
    call, folded = session(path), fold(model)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, *model.image_size, 3), np.uint8)
    images[1:] = images[1:, :1] // np.array([2, 3])[:, None, None, None]  # stripes, which are smooth along one axis
    wanted = [folded.predict(image) for image in images]
    for batch in (slice(0, 1), slice(0, 3)):
        maps, scores = call(images[batch])
        for anomaly_map, score, expected in zip(maps, scores, wanted[batch], strict=True):
            allowed = PARITY * max(1.0, float(np.abs(expected.anomaly_map).max()), abs(expected.score))
            gaps = np.abs(anomaly_map - expected.anomaly_map).max(), abs(float(score) - expected.score)
            wrong = [what for what, gap in zip(("anomaly map", "image score"), gaps, strict=True) if not gap <= allowed]
            if (anomaly_map.max() > threshold) != (expected.map_score > threshold):
                wrong.append("decision")
            if wrong:
                found = f"by {max(gaps):.2g}, {allowed:.2g} is allowed"
                return f"{' and '.join(wrong)} in ONNX Runtime differ from torch's ({found})"
    return ""


def session(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    """ONNX Runtime on a file, with as many threads as torch uses: images, or one of them, -> (maps, scores)."""
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    opened = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: opened.run(None, {"images": images if images.ndim == 4 else images[None]})


def speed(*forms: Callable[[np.ndarray], object], size: tuple[int, int]) -> list[float]:
    """Milliseconds that each form takes for an image (H, W, 3): medians, in turns, in this process."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    seconds: list[list[float]] = [[] for _ in forms]
    for _ in range(_TURNS):
        for form, taken in zip(forms, seconds, strict=True):
            start = time.perf_counter()
            form(image)
            taken.append(time.perf_counter() - start)
    return [1000 * statistics.median(taken[1:]) for taken in seconds]


def needed(package: str) -> Any:
    """The module, or :class:`InputError` with what to install."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"export needs {package}, which is not installed; pip install -e '.[deploy]'") from error


class _OnnxForm(FoldedDetector):
    """The same algebra where ONNX Runtime is fast: it packs a constant right operand once, and is slow at products with
    vectors and at operands repeated along a batch. Every weight is a tensor of its own, which quantisation needs."""

    def __init__(self, model: Detector) -> None:
        super().__init__(model)
        first = next(module for module in self.trunk.modules() if isinstance(module, nn.Conv2d))
        first.weight = nn.Parameter(first.weight / (255 * self.trunk.std))
        for conv in [module for module in self.modules() if isinstance(module, Composed)]:
            conv.split = nn.ParameterList(matrix.clone() for taps in zip(*conv.rows, strict=True) for matrix in taps)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 RGB (B, H, W, 3) -> anomaly map logits (B, H, W), image logits (B,)."""
        pixels = images.permute(0, 3, 1, 2).float()
        pixels = equally_bright(pixels, white=255.0) if self.trunk.equal_brightness else pixels
        layers = self.trunk.stages(pixels - 255 * self.trunk.mean)
        return self._heads(tuple(layer.permute(0, 2, 3, 1) for layer in layers), Kept())

    def _convolved(self, conv: nn.Module, layers: tuple[Tensor, ...], adapted: Tensor | None, kept: Kept) -> Tensor:
        if adapted is not None:
            return super()._convolved(conv, layers, adapted, kept)
        op, parts = self.sizes.up[str(conv.taps)], []
        for taps in zip(conv.split[::2], conv.split[1::2], strict=True):  # (C2, k O), (C3, k O)
            for layer, matrix, along_x in zip(layers, taps, (op.x2, op.x3), strict=True):
                mixed = (layer @ matrix).unflatten(3, (conv.taps, -1)).flatten(2, 3)  # (n, h, w k, O)
                parts.append(along_x @ mixed)
        out = (op.y @ torch.cat(parts, dim=1).flatten(2)).unflatten(2, (op.size_out[1], -1)) + conv.bias
        return out + self.sizes.border if conv is self.response and self.sizes.border is not None else out

    def _segmentation(self, layers: tuple[Tensor, ...], adapted: Tensor | None, kept: Kept) -> Tensor:
        if adapted is not None:
            hidden = self._convolved(self.hidden, layers, adapted, kept)
            return (F.leaky_relu(hidden, LEAK) @ self.hidden_out[:, None]).squeeze(-1)
        op, (n, _, w2, _), maps = self.sizes.bands, layers[0].shape, []
        along_x = op.along_x[:, :w2], op.along_x[:, w2:]
        # (n, h, W K); the bias is one row more, which costs no pass
        wide = [(x @ (layer @ m)).flatten(2) for x, layer, m in zip(along_x, layers, self.hidden.split, strict=True)]
        bias = self.hidden.bias.repeat(op.size[1]).expand(n, 1, -1)
        for band, read in zip(op.bands, op.read, strict=True):
            along_y = torch.cat([op.y2[band, read[0]], op.y3[band, read[1]], torch.ones(band.stop - band.start, 1)], 1)
            hidden = along_y @ torch.cat([*(x[:, rows] for x, rows in zip(wide, read, strict=True)), bias], dim=1)
            maps.append(F.leaky_relu(hidden.unflatten(2, (op.size[1], -1)), LEAK) @ self.hidden_out[:, None])
        return torch.cat(maps, dim=1).squeeze(-1)
