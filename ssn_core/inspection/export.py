"""A finished run as one ONNX file that decides on its own: model, image size and threshold."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ssn_core.fast.export import session, speed, write_onnx
from ssn_core.fast.inference import fold
from ssn_core.inspection.threshold import Threshold
from ssn_core.models.detectors import Detector
from ssn_core.runs.result import Log, RunResult, load_run
from ssn_core.runs.store import load_model


def export_onnx(run: str | Path, path: str | Path | None = None, log: Log = print) -> Path:
    """Write the folded model of a run folder to ``path`` (default: ``model.onnx`` in it), see :func:`write_float32`; it
    decides as ``ssn predict`` does. The log gets its speed beside that of the folded model in torch."""
    result, model = load_run(run), load_model(run)
    path = write_float32(result, model, Path(path or Path(run, "model.onnx")))
    onnx, folded = speed(session(path), fold(model).predict, size=model.image_size)
    log(
        f"{path}: equal to torch. One image, {torch.get_num_threads()} threads: ONNX Runtime {onnx:.1f} ms, "
        f"folded model in torch {folded:.1f} ms, ratio {folded / onnx:.2f}"
    )
    return path


def write_float32(run: RunResult, model: Detector, path: Path) -> Path:
    """:func:`ssn_core.fast.export.write_onnx` of a run and its model. Metadata: ``run_id``; ``image_size``, "H,W";
    ``decides_by``, "map_score": an image is defective where the maximum of its map is above ``threshold``;
    ``threshold``; and ``thresholds``, JSON, those of the run's metrics, of both scores."""
    threshold = Threshold.of(run).value
    known = {name: run.metrics[name] for name in ("train_quantile", "youden")}
    facts = {
        "run_id": run.config.run_id,
        "image_size": ",".join(map(str, model.image_size)),
        "decides_by": "map_score",
        "threshold": repr(threshold),
        "thresholds": json.dumps(known),
    }
    return write_onnx(model, path, facts, threshold)
