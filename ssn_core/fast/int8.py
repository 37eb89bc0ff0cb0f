"""The ONNX file with int8 weights and activations in the trunk and at the heads' low-resolution products.

Static quantisation, per channel, by ONNX Runtime's own tool: values between the extremes that calibration images reach.
What prepares the images, what upscales and what follows the upscaled features stay float32.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import dropwhile, takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ssn_core.fast.export import needed
from ssn_core.files import write_atomic

_TRUNK = ("Conv", "Relu", "Clip", "Add", "MaxPool")
_HEADS = ("adaptor.", "hidden.", "response.")  # weights of these, at the right of a product or in a convolution
_FLAGS = {"avx512_vnni", "avx_vnni", "asimddp", "i8mm"}  # Linux's words for dot products of bytes, x86 and ARM


def write_int8(source: Path, path: Path, images: Iterable[np.ndarray]) -> Path:
    """Quantise a file of :func:`ssn_core.fast.export.write_onnx`; inputs, outputs and metadata stay as they are.

    ``images``: uint8 RGB (H, W, 3) at the model's size, good ones, which set the ranges. Raises
    :class:`ssn_core.errors.InputError` where a package is missing.
    """
    onnx, tool = needed("onnx"), needed("onnxruntime.quantization")
    model = onnx.load(source)
    nodes = quantised_nodes(model.graph.node)
    feeds = ({"images": image[None]} for image in images)
    reader = SimpleNamespace(get_next=lambda: next(feeds, None))  # all that the tool asks of a CalibrationDataReader

    def write(part: Path) -> None:
        logging.disable(logging.WARNING)  # it advises a preparation that torch's exporter has made
        try:
            tool.quantize_static(
                model, part, reader, tool.QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=[*_TRUNK, "MatMul"], nodes_to_quantize=nodes,
                activation_type=tool.QuantType.QUInt8, weight_type=tool.QuantType.QInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)

    return write_atomic(path, write)


def quantised_nodes(nodes: Iterable[Any]) -> list[str]:
    """Names of the graph's nodes (in the order of computation) that int8 serves: the trunk's, and of the heads those
    whose weight is a constant of many channels."""
    nodes = list(nodes)
    from_trunk = dropwhile(lambda node: node.op_type != "Conv", nodes)
    chosen = [node.name for node in takewhile(lambda node: node.op_type in _TRUNK, from_trunk)]
    products = [node for node in nodes if node.op_type in ("MatMul", "Conv") and node.input[1].startswith(_HEADS)]
    return chosen + [node.name for node in products]


def int8_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether this processor multiplies bytes in units of their own (VNNI, on ARM dot products); None where Linux does
    not say."""
    return bool(_FLAGS & set(cpuinfo.read_text(encoding="utf-8").split())) if cpuinfo.is_file() else None
