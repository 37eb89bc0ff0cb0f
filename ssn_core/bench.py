"""Speed ratios measured in one run: ``python -m ssn_core.bench`` prints them and writes figures/bench/bench.csv.

Each measurement is a process of its own that times the plain and the fast form in turns, after a warm-up, so that a
machine whose speed drifts slows both. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .fast import FastForward, Masked
from .files import write_csv
from .fold import fold
from .losses import focal, map_loss
from .models import SuperSimpleNet
from .noise import perlin_masks
from .profiles import project_root

COLUMNS = [
    "measurement", "backbone", "variant", "batch", "image_size", "value", "unit", "spread_low", "spread_high",
    "ratio_to_plain", "conditions",
]  # fmt: skip
BACKBONES = ("resnet18", "efficientnet_lite0", "wide_resnet50_2")
SIDE = 256


def inference(backbone: str, batch: int, cycles: int) -> dict[str, list[float]]:
    """Seconds per image of one forward, plain and folded."""
    model = SuperSimpleNet(backbone, image_size=(SIDE, SIDE)).eval()
    twin, images = fold(model), torch.randn(batch, 3, SIDE, SIDE)
    with torch.inference_mode():
        return _in_turns({"plain": lambda: model(images), "fold": lambda: twin(images)}, batch, cycles)


def training(backbone: str, batch: int, cycles: int) -> dict[str, list[float]]:
    """Seconds per image of one optimiser step: the plain form recomputes the trunk, the fast one reads the cache."""
    model = SuperSimpleNet(backbone, image_size=(SIDE, SIDE)).train()
    images = torch.randn(batch, 3, SIDE, SIDE)
    with torch.no_grad():
        cached = [layer.permute(0, 2, 3, 1).contiguous() for layer in model.trunk(images)]
    forward = FastForward(model, *(tuple(layer.shape[1:3]) for layer in cached))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    rng = torch.Generator().manual_seed(0)

    def step(fast: bool) -> None:
        masks = perlin_masks(2 * batch, forward.size, 0.2, rng)
        if fast:
            masked = Masked.of(masks)
            noise = 0.015 * torch.randn(len(masked.where), model.channels, generator=rng)
            maps, scores = forward(*cached, masked, noise)
        else:
            noise = 0.015 * torch.randn(2 * batch, model.channels, *forward.size, generator=rng)
            with torch.no_grad():
                layers = model.trunk(images)
            maps, scores = model.noisy_forward(*layers, masks[:, None].float(), noise)
            maps = maps[:, 0]
        optimizer.zero_grad(set_to_none=True)
        (map_loss(maps, masks) + focal(scores, masks.flatten(1).any(1))).backward()
        optimizer.step()

    return _in_turns({"plain": lambda: step(False), "fast": lambda: step(True)}, batch, cycles)


def _in_turns(forms: dict[str, Callable[[], Any]], batch: int, cycles: int) -> dict[str, list[float]]:
    for run in forms.values():  # warm-up
        run()
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(cycles):
        for name, run in forms.items():
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) / batch)
    return seconds


MEASUREMENTS: dict[str, tuple[Callable[[str, int, int], dict[str, list[float]]], int]] = {
    "latency_batch1": (inference, 1),
    "throughput_batch16": (inference, 16),
    "training_step_batch8": (training, 8),
}


def rows(measurement: str, backbone: str, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Table rows of one measurement: medians, spread, and how many times faster than the plain form."""
    batch = MEASUREMENTS[measurement][1]
    throughput = measurement.startswith("throughput")
    machine = (
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__.split('+')[0]}, float32"
    )
    plain = statistics.median(seconds["plain"])
    table = []
    for variant, times in seconds.items():
        values = sorted(1 / t if throughput else 1000 * t for t in times)
        table.append(
            {
                "measurement": measurement,
                "backbone": backbone,
                "variant": variant,
                "batch": batch,
                "image_size": SIDE,
                "value": f"{statistics.median(values):.4g}",
                "unit": "images/s" if throughput else "ms/image",
                "spread_low": f"{values[0]:.4g}",
                "spread_high": f"{values[-1]:.4g}",
                "ratio_to_plain": f"{plain / statistics.median(times):.3g}",
                "conditions": f"{SIDE}x{SIDE}, batch {batch}, median of {len(times)} turns, {machine}, random weights",
            }
        )
    return table


def main() -> int:
    """Command line: every measurement in a process of its own, unless one is named."""
    parser = argparse.ArgumentParser(prog="python -m ssn_core.bench", description=__doc__)
    parser.add_argument("--cycles", type=int, default=7, help="timed turns of each form")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, choices=BACKBONES)
    parser.add_argument("--output", type=Path, default=project_root() / "figures" / "bench" / "bench.csv")
    parser.add_argument("--one", nargs=2, metavar=("MEASUREMENT", "BACKBONE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure, batch = MEASUREMENTS[options.one[0]]
        print(json.dumps(measure(options.one[1], batch, options.cycles)))
        return 0
    table: list[dict[str, Any]] = []
    for backbone in options.backbones:
        for measurement in MEASUREMENTS:
            command = [sys.executable, "-m", "ssn_core.bench", "--one", measurement, backbone]
            command += ["--cycles", str(options.cycles)]
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            table += rows(measurement, backbone, json.loads(answer.stdout))
            form, ratio = table[-1]["variant"], table[-1]["ratio_to_plain"]
            print(f"{measurement:22s} {backbone:20s} {form} runs at {ratio} times the plain form's speed", flush=True)
    print(f"table: {write_csv(options.output, table, COLUMNS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
