"""Run folders made by hand, for tests of what comes after them: the files of the run store with given numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ssn_core.files import write_csv, write_json
from ssn_core.metrics import METRICS, PIXEL_METRICS, youden
from ssn_core.runs.config import RunConfig
from ssn_core.runs.result import FORMAT
from ssn_core.runs.runner import HISTORY, VALIDATION

NORMAL, DEFECTIVE = 20, 30


def flat(value: float, **others: float) -> dict[str, float]:
    """One value for every metric, but for ``others``."""
    return dict.fromkeys(METRICS, value) | others


def write_run(
    store: Path,
    config: RunConfig,
    metrics: dict[str, float | str],
    final_loss: float = 0.1,
    status: str = "finished",
    steps: int = 2000,
    rising: float = 0.0,
) -> Path:
    """Write run.json, metrics.json, history.csv and scores.csv of a run that nobody trained; returns its folder.

    ``rising``: what every metric gained, on a straight line, over the last third of the evaluations (one an epoch).
    """
    folder = store / config.run_id
    labels = np.repeat([0, 1], [NORMAL, DEFECTIVE])
    scores = labels * 2.0 + np.random.default_rng(config.seed).normal(size=len(labels))
    points = {name: youden(labels, values)._asdict() for name, values in (("score", scores), ("map_score", scores + 1))}
    quantile = {"quantile": 0.99, "score": 1.5, "map_score": 2.5}
    extra = {"evaluation_size": [256, 256], "youden": points, "train_quantile": quantile, "parameters": 4_560_579}
    if config.pixel_values != "logits":  # "AP-loc on logits" and the like, by default what the sigmoid gave
        extra["on_logits"] = {m: metrics.get(f"{m} on logits", metrics.get(m, "n/a")) for m in PIXEL_METRICS}
    write_json(folder / "metrics.json", {**{name: metrics.get(name, "n/a") for name in METRICS}, **extra})
    write_csv(folder / "history.csv", _history(config, metrics, final_loss, steps, rising), HISTORY + VALIDATION)
    rows = [
        {
            "image": f"test/{i:03}.png",
            "defect": "bad" if label else "good",
            "label": label,
            "score": s,
            "map_score": s + 1,
        }
        for i, (label, s) in enumerate(zip(labels, scores, strict=True))
    ]
    write_csv(folder / "scores.csv", rows, ["image", "defect", "label", "score", "map_score"])
    write_json(folder / "run.json", _info(config, status, steps))
    return folder


def _history(
    config: RunConfig, metrics: dict[str, float | str], final_loss: float, steps: int, rising: float
) -> list[dict]:
    losses = np.geomspace(1.0, final_loss, config.epochs)
    rows = [
        {"epoch": i + 1, "step": steps * (i + 1) // config.epochs, "loss": loss, "noise_rms": 0.015}
        for i, loss in enumerate(losses)
    ]
    span = max(3, math.ceil(config.epochs / 3)) - 1
    for i, row in enumerate(rows):
        missing = rising * (config.epochs - 1 - i) / span
        row |= {name: v - missing if isinstance(v := metrics.get(name, ""), float) else v for name in METRICS}
    if config.validation_fraction:
        rows[-1] |= {name: metrics.get("I-AUROC", "") for name in VALIDATION}
    return rows


def _info(config: RunConfig, status: str, steps: int) -> dict:
    return {
        "format": FORMAT,
        "run_id": config.run_id,
        "config": config.as_dict(),
        "status": status,
        "note": "",
        "versions": {"python": "3.11.0", "torch": "2.4.0", "torchvision": "0.19.0", "numpy": "1.26.0", "ssn_core": "0"},
        "device": "cpu",
        "threads": 1,
        "seed": config.seed,
        "steps": steps,
        "epochs_done": config.epochs,
        "wall_seconds": 900.0,
        "git_revision": None,
        "data": {
            "fingerprint": "x",
            "train": 209,
            "train_defective": 0,
            "train_used": 209,
            "test": 50,
            "test_defective": 30,
        },
        "noise": {"unit": "absolute", "std": 0.015, "feature_std": 0.25},
    }
