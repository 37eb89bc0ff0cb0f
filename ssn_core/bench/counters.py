"""Do two counters of operations agree? ``python -m ssn_core.bench.counters`` counts the same networks with both.

The published benchmark (``perf/perf_main.py``, ``flops``) adds up what ``torch.profiler.profile(with_flops=True)``
says of one forward, on a network whose 5x5 convolution is made with ``padding="same"``. The other counter is
``torch.utils.flop_counter``. A count follows from shapes alone, so random weights and a processor serve.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ssn_core.files import write_csv
from ssn_core.models.detectors import SuperSimpleNet
from ssn_core.runs.profiles import project_root

FILE = "operation_counters.csv"  # in data/results
COLUMNS = ["network", "backbone", "padding", "counter", "gflops", "conditions"]
_NETWORKS = {"layer": "", "baseline": "wide_resnet50_2", "scenario_a": "resnet18"}
_PADDINGS = {"same": "same", "2": 2}  # of a 5x5 convolution: the same operation, said by name and by number


def measure() -> list[dict[str, str]]:
    """Rows (:data:`COLUMNS`) for a 5x5 convolution alone and for two networks at 256x256, batch 1."""
    rows = []
    for network, backbone in _NETWORKS.items():
        for name, padding in _PADDINGS.items():
            model, images = make(backbone, padding)
            torch.no_grad()(model)(images)  # as published: the first forward does what is done once
            for counter, count in (("torch.profiler", by_profiler), ("torch.utils.flop_counter", by_dispatch)):
                row = {"network": network, "backbone": backbone, "padding": name, "counter": counter}
                row |= {"gflops": f"{count(model, images) / 1e9:.6f}", "conditions": _conditions(images)}
                rows.append(row)
    return rows


def _conditions(images: torch.Tensor) -> str:
    size = "x".join(map(str, images.shape))
    return f"one forward of {size}, float32, {images.device.type}, torch {torch.__version__.split('+')[0]}"


def make(backbone: str, padding: str | int) -> tuple[nn.Module, torch.Tensor]:
    """SuperSimpleNet in its plain form, or without a backbone its 5x5 convolution for 64 channels; with an input."""
    if not backbone:
        return nn.Conv2d(64, 128, 5, padding=padding), torch.zeros(1, 64, 64, 64)
    model = SuperSimpleNet(backbone=backbone).eval()
    old = model.classification.conv
    model.classification.conv = nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, padding=padding)
    return model, torch.zeros(1, 3, 256, 256)


@torch.no_grad()
def by_profiler(model: nn.Module, images: torch.Tensor) -> int:
    """Operations of one forward as the published benchmark counts them."""
    with torch.profiler.profile(with_flops=True) as profile:
        model(images)
    return sum(event.flops for event in profile.key_averages())


@torch.no_grad()
def by_dispatch(model: nn.Module, images: torch.Tensor) -> int:
    """Operations of one forward counted where torch dispatches them, with paddings already numbers."""
    with FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops()


def main(root: Path | None = None) -> int:
    """Measure and write ``data/results/operation_counters.csv``."""
    path = (root or project_root()) / "data" / "results" / FILE
    rows = measure()
    write_csv(path, rows, COLUMNS)
    for row in rows:
        where = f"{row['network']:12s} padding {row['padding']:5s} {row['counter']:26s}"
        print(f"{where} {float(row['gflops']):9.3f} GFLOPs")
    print(f"table: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
