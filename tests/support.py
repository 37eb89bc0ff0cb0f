"""What several test modules build: small models of every variant, made lively, tiny runs, and a checkout for them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from ssn_core.models.detectors import Detector, GapCamNet, MilNet, SimpleNet, SuperSimpleNet
from ssn_core.models.names import ADAPTORS
from ssn_core.runs.config import RunConfig
from ssn_core.runs.presets import PRESETS, preset
from ssn_core.runs.profiles import run_command
from ssn_core.runs.result import RunResult
from ssn_core.runs.store import run

#: the checkout under test
ROOT = Path(__file__).resolve().parents[1]
#: fields of a training of seconds, as a command line's words
TINY = ["backbone=efficientnet_lite0", "image_size=64,64", "batch_size=4"]
#: what no interruption and no fault may change by one bit
COMPARED = ("metrics.json", "history.csv", "scores.csv", "curves.npz", "examples.npz", "model.safetensors")

#: every method with every adaptor and every reading of the classification head, random weights
VARIANTS: dict[str, Callable[..., Detector]] = {}


def _add(name: str, kind: type[Detector], **fixed: Any) -> None:
    VARIANTS[name] = lambda backbone="efficientnet_lite0", **options: kind(backbone=backbone, **fixed, **options)


for _adaptor in ADAPTORS:
    for _reads in ("raw", "adapted"):
        for _stop in (True, False):
            _name = f"ssn-{_adaptor}-{_reads}-{'stopped' if _stop else 'joined'}"
            _add(_name, SuperSimpleNet, adaptor=_adaptor, cls_features=_reads, stop_gradient=_stop)
    _add(f"gap_cam-{_adaptor}", GapCamNet, adaptor=_adaptor)
    _add(f"mil-{_adaptor}", MilNet, adaptor=_adaptor)
    _add(f"simplenet-{_adaptor}", SimpleNet, adaptor=_adaptor)


#: one name of every method, the adaptors and readings that are told apart most among them
ONE_OF_EACH = [
    "ssn-linear-raw-stopped",
    "ssn-conv3x3_bn_relu-adapted-joined",
    "gap_cam-linear",
    "mil-linear",
    "simplenet-linear",
]
#: height and width of a small image
SIZE = (64, 48)


def enliven(model: Detector, seed: int = 0) -> Detector:
    """Make nothing special: random affine weights, biases and running statistics everywhere, in the trunk too."""
    rng = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.weight.data = 0.5 + torch.rand(n, generator=rng)
            module.bias.data = 0.3 * torch.randn(n, generator=rng)
            module.running_mean = 0.3 * torch.randn(n, generator=rng)
            module.running_var = 0.5 + torch.rand(n, generator=rng)
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            module.bias.data = 0.2 * torch.randn(len(module.bias), generator=rng)
    return model


def calibrate(model: Detector, images: Tensor, steps: int = 4) -> Detector:
    """Give every BatchNorm, the trunk's first, the statistics of its inputs, as training would; then eval mode.

    With them the logits of a random network are of the order of 1, as a trained one's are.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for module in model.modules():
        module.training = True
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 0.5
        for _ in range(steps):
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def images(batch: int, size: tuple[int, int] = SIZE, seed: int = 1) -> Tensor:
    """(B, 3, H, W) of standard normal noise."""
    return torch.randn(batch, 3, *size, generator=rng(seed))


def lively(name: str, backbone: str = "efficientnet_lite0", size: tuple[int, int] = SIZE) -> Detector:
    """A variant with nothing at its default: random affine parameters, statistics of its own inputs; in eval mode."""
    torch.manual_seed(0)
    model = enliven(VARIANTS[name](backbone=backbone, image_size=size))
    return calibrate(model, images(4, size, seed=2))


def tiny_config(name: str = "scenario_a", **changes: Any) -> RunConfig:
    """A run of seconds on the tiny synthetic sets: the backbone that needs no download, 64 x 64 images."""
    weak = PRESETS[name].get("dataset") == "ksdd2"
    fields: dict[str, Any] = {
        "dataset": "synthetic",
        "category": "plates" if weak else "ring",
        "backbone": "efficientnet_lite0",
        "image_size": (96, 40) if weak else (64, 64),
        "epochs": 2,
        "batch_size": 4,
        "noise_unit": "feature_std",
        "noise_std": 0.4,
    }
    if weak:
        fields["flips"] = 2  # three defective images among eleven normal ones
    return preset(name, **fields | changes)


def quiet(_: str) -> None:
    """A log that nobody reads."""


def halt(config: RunConfig, store: Path, data: Path, at: str) -> Path:
    """The folder of a run that is interrupted when it logs ``at``, with a checkpoint of every epoch before."""

    def interrupt(line: str) -> None:
        if at in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, store, data, checkpoint_seconds=0, log=interrupt)
    return store / config.run_id


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} in a JSON file")


def assert_strict_json(folder: Path) -> None:
    """No NaN and no Infinity in any of a run folder's JSON files."""
    for path in folder.glob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse_constant)


def words_of(config: RunConfig, data: Path, store: Path) -> list[str]:
    """The command line after ``python -m ssn_core`` that makes a run."""
    return [*run_command(config).split()[3:], "--data-root", str(data), "--store", str(store)]


def assert_same_bits(first: Path, second: Path) -> None:
    """Of two run folders, in all that is compared."""
    assert first != second
    for name in COMPARED:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


class Hostile:
    """Unpickled by a careless reader, it makes the file ``mark``."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def environment(**changes: str) -> dict[str, str]:
    """For a process that finds what it stands in: without this machine's data and this checkout's package."""
    return {k: v for k, v in os.environ.items() if k not in ("SSN_DATA_DIR", "PYTHONPATH")} | changes


def process(*arguments: str, **changes: Any) -> subprocess.Popen[str]:
    """Another Python, of this checkout, with as many threads as this one."""
    here = environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS=str(torch.get_num_threads()))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-u", *arguments], env=here, **pipes | changes)


def copy_checkout(root: Path, *names: str) -> Path:
    """Copy files and folders of the checkout to the same places below root, caches and built PDFs left out."""
    for name in names:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.pdf")
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    return root


def assert_equal_runs(first: RunResult, second: RunResult) -> None:
    """Of one configuration, in two stores: the same bits, the same end."""
    assert first.path.name == second.path.name
    assert_same_bits(first.path, second.path)
    assert first.info["status"] == second.info["status"] and first.info["steps"] == second.info["steps"]


def tiny_checkout(root: Path, experiments: dict[str, Any], **defaults: Any) -> Path:
    """What the queue needs, copied, with a profile "tiny" of runs on the synthetic sets; its store is root/store."""
    copy_checkout(root, "ssn_core", "profiles", "Snakefile")
    usual = RunConfig().as_dict()
    fields = {k: v for k, v in tiny_config(**defaults).as_dict().items() if v != usual[k]}
    del fields["experiment"], fields["category"]
    profile = {"description": "tiny", "store": "store", "figures": "figures", "synthetic": True}
    profile |= {"defaults": fields, "experiments": experiments, "bench": {}}
    (root / "profiles" / "tiny.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
    return root


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relative(found: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest wanted value."""
    found, wanted = found.detach(), wanted.detach()
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)) if wanted.numel() else 0.0
