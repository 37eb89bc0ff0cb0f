"""Do two counters of operations agree? ``python -m ssn_core.bench.counters`` counts the same networks with both.

The published benchmark (``perf/perf_main.py``, ``flops``) adds up what ``torch.profiler.profile(with_flops=True)``
says of one forward, on a network whose 5x5 convolution is made with ``padding="same"``; ours is
``torch.utils.flop_counter``. A count follows from shapes alone, so random weights and a processor serve.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssn_core.files import write_csv
from ssn_core.runs.profiles import project_root

FILE = "operation_counters.csv"  # in data/results
COLUMNS = ["network", "backbone", "padding", "counter", "gflops", "conditions"]
_NETWORKS = {"layer": "", "baseline": "wide_resnet50_2", "scenario_a": "resnet18"}


def measure(model: Any, images: Any) -> dict[str, int]:
    """Operations of one forward by both counters. As published, a first forward does what is done once."""
    import torch  # what reads the table does without

    from ssn_core.bench.process import count

    with torch.no_grad():
        model(images)
        with torch.profiler.profile(with_flops=True) as profile:
            model(images)
        operations, _ = count(lambda: model(images))
    return {
        "torch.profiler": sum(event.flops for event in profile.key_averages()),
        "torch.utils.flop_counter": operations,
    }


def main(root: Path | None = None) -> None:
    """Write ``data/results/operation_counters.csv``: a 5x5 convolution alone and two networks at 256x256, batch 1, with
    the padding of the 5x5 convolution given by name and by number, which is the same operation."""
    import torch

    from ssn_core.models.detectors import SuperSimpleNet

    rows = []
    for network, backbone in _NETWORKS.items():
        for padding in ("same", 2):
            model, images = torch.nn.Conv2d(64, 128, 5, padding=padding), torch.zeros(1, 64, 64, 64)
            if backbone:
                model, images = SuperSimpleNet(backbone=backbone).eval(), torch.zeros(1, 3, 256, 256)
                old = model.classification.conv
                model.classification.conv = torch.nn.Conv2d(old.in_channels, old.out_channels, 5, padding=padding)
            size, version = "x".join(map(str, images.shape)), torch.__version__.split("+")[0]
            row = {"network": network, "backbone": backbone, "padding": padding}
            row["conditions"] = f"one forward of {size}, float32, cpu, torch {version}"
            for counter, operations in measure(model, images).items():
                rows.append(row | {"counter": counter, "gflops": f"{operations / 1e9:.6f}"})
                print(f"{network:12s} padding {padding!s:5s} {counter:26s} {operations / 1e9:9.3f} GFLOPs")
    print(f"table: {write_csv((root or project_root()) / 'data' / 'results' / FILE, rows, COLUMNS)}")


if __name__ == "__main__":
    main()
