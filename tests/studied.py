"""Runs made by hand with the metrics of their own scores and maps, for tests of tables and figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from ssn_core import NotRun, RunConfig, RunResult, load_run, metrics, preset
from ssn_core.data.datasets import Dataset, Sample
from ssn_core.files import write_csv, write_json
from ssn_core.runs.evaluation import Outputs, Truth, curve_arrays, measure, score_rows, thresholds
from ssn_core.runs.result import FORMAT, SCORES, pixel_threshold
from ssn_core.runs.runner import HISTORY, VALIDATION

SIZE = (32, 32)
KINDS = ("good",) * 6 + ("dent",) * 4 + ("scratch",) * 4
EPOCHS = 12


def config_of(experiment: str = "scenario_a", **fields) -> RunConfig:
    return preset(
        experiment, **{"dataset": "synthetic", "category": "ring", "image_size": SIZE, "epochs": EPOCHS, **fields}
    )


def fake_run(store: Path, config: RunConfig, quality: float = 2.0) -> RunResult:
    """A run folder with curves, examples and a history evaluated every epoch; higher quality separates more."""
    rng = np.random.default_rng(config.seed)
    height, width = config.image_size
    samples = tuple(
        Sample(f"test/{kind}/{i:03}.png", Path("absent.png"), None, int(kind != "good"), kind)
        for i, kind in enumerate(KINDS)
    )
    labels = np.array([s.label for s in samples])
    masks = np.zeros((len(samples), height, width), bool)
    masks[labels == 1, 8:14, 10:20] = True
    outputs = Outputs(
        rng.normal(size=len(labels)) + quality * labels,
        (rng.normal(size=masks.shape) + quality * masks - 1).astype(np.float32),
    )
    truth = Truth(labels, masks)
    values = measure(outputs, truth)
    validation = {name: round(value * 0.9, 4) for name, value in zip(VALIDATION, values.values(), strict=True)}
    folder = store / config.run_id
    extra = {"evaluation_size": list(SIZE), "parameters": 1000} | thresholds(outputs, truth, outputs)
    if config.pixel_values != "logits":
        extra["on_logits"] = {name: values[name] + 0.01 for name in metrics.PIXEL_METRICS}
    write_json(folder / "metrics.json", values | validation | extra)
    rows = [
        {"epoch": e, "step": 10 * e, "loss": 1 / e, "noise_rms": 0.1, "loss_generator": -1 / e, **values, **validation}
        for e in range(1, config.epochs + 1)
    ]
    write_csv(folder / "history.csv", rows, HISTORY + VALIDATION)
    write_csv(folder / "scores.csv", score_rows(samples, outputs, pixel_threshold(config, extra)), SCORES)
    np.savez(folder / "curves.npz", **curve_arrays(outputs, truth))
    shown = [0, 6, 10]
    names = np.array([samples[i].name for i in shown])
    np.savez(folder / "examples.npz", images=names, maps=outputs.maps[shown].astype(np.float16))
    info = {"format": FORMAT, "config": config.as_dict(), "status": "finished", "note": "", "device": "cpu"}
    counts = {"train_used": 20, "train_defective": 8, "test": len(samples)}
    scale = 0.25
    sigma = config.noise_std * (1 if config.noise_unit == "absolute" else scale)
    noise = {"noise": {"unit": config.noise_unit, "std": sigma, "feature_std": scale}}
    write_json(
        folder / "run.json", info | {"steps": 120, "seed": config.seed, "wall_seconds": 3.0, "data": counts, **noise}
    )
    return load_run(folder)


def not_run(config: RunConfig) -> NotRun:
    return NotRun(config, "data: not here")


def texts(figure) -> str:
    figure.canvas.draw()
    found = [text.get_text() for text in figure.findobj(plt.Text)]
    return "\n".join(found)


def picture(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (value, 40, 40)).save(path)
    return path


def dataset_for(run: RunResult, root: Path, name: str = "synthetic") -> Dataset:
    samples = []
    for _, row in run.scores.iterrows():
        image = picture(root / row["image"], 200)
        mask = picture(root / "mask.png", 255) if row["label"] else None
        samples.append(Sample(row["image"], image, mask, row["label"], row["defect"]))
    return Dataset(name, "ring", "mvtec", root, (), tuple(samples))
