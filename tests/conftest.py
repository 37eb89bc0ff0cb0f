"""Shared fixtures: the real weights where they are at hand, tiny synthetic data sets, and no download ever."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request

import matplotlib.pyplot as plt
import pytest
from studied import config_of, fake_run
from support import TINY, halt, quiet, tiny_config
from trees import mask, picture

import ssn_core as ssn
from ssn_core.__main__ import main
from ssn_core.data.synthetic import SyntheticCounts, make_synthetic
from ssn_core.models import weights

BESIDE = Path(__file__).resolve().parents[2] / "shared"
#: ring, weave, thread: 8 training images, 3 + 4 test images; plates: 14 (3 defective), 5 (2 defective)
COUNTS = SyntheticCounts(8, 3, 4, 14, 3, 5, 2)


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder with ResNet18's weights and reference activations: SSN_WEIGHTS_DIR, else ../shared/weights."""
    folder = Path(os.environ.get("SSN_WEIGHTS_DIR") or BESIDE / "weights")
    if not (folder / "resnet18-imagenet1k-v1.pth").is_file():
        pytest.skip(f"no resnet18-imagenet1k-v1.pth in {folder}; set SSN_WEIGHTS_DIR to a folder that holds it")
    return folder


@pytest.fixture(scope="session")
def tiny_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four synthetic sets with a few 96 x 96 pictures each (plates: 192 x 72); read only."""
    return make_synthetic(tmp_path_factory.mktemp("tiny_sets"), size=96, counts=COUNTS)


@pytest.fixture
def failure(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line on stderr of a command that ends with a code."""

    def of(*words: object, code: int = 2) -> str:
        assert main([str(word) for word in words]) == code
        out, err = capsys.readouterr()
        assert err.count("\n") == 1 and err.startswith("ssn: ") and "Traceback" not in out + err, err
        return err

    return of


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that would reach beyond this machine fails instead."""
    original = weights.urlopen

    def local(request: Request, **options: Any) -> Any:
        assert request.host.startswith("127.0.0.1:"), f"a test tried to download {request.full_url}"
        return original(request, **options)

    monkeypatch.setattr(weights, "urlopen", local)


@pytest.fixture(scope="session")
def run(tiny_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> ssn.RunResult:
    """One run of one epoch, for what is made of a run."""
    store = tmp_path_factory.mktemp("store")
    return ssn.run(tiny_config(epochs=1), store, data_root=tiny_sets, device="cpu", log=quiet)


@pytest.fixture(scope="session")
def finished(tiny_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> ssn.RunResult:
    """One whole run, evaluated every epoch and with held-out images: what an interrupted one must equal; read only."""
    config = tiny_config(epochs=3, eval_every=1, validation_fraction=0.25)
    return ssn.run(config, tmp_path_factory.mktemp("finished"), data_root=tiny_sets, device="cpu", log=quiet)


@pytest.fixture
def copied(finished: ssn.RunResult, tmp_path: Path) -> ssn.RunResult:
    """The finished run in a store of its own, to be damaged."""
    return ssn.load_run(shutil.copytree(finished.path, tmp_path / finished.path.name))


@pytest.fixture
def halted(finished: ssn.RunResult, tiny_sets: Path, tmp_path: Path) -> Path:
    """The folder of the finished run's configuration, interrupted after its second epoch: two checkpoints."""
    folder = halt(finished.config, tmp_path, tiny_sets, at="epoch 2/3")
    assert {path.name for path in folder.iterdir()} == {"checkpoint.pt", "checkpoint.previous.pt"}
    return folder


@pytest.fixture(scope="session")
def parts(tiny_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good/ with eight images beside three folders of defects, names with a comma and a space; read only."""
    root = tmp_path_factory.mktemp("own") / "parts"
    for folder in (tiny_sets / "ring" / "test").iterdir():
        if folder.name != "good":
            shutil.copytree(folder, root / folder.name)
    (root / "good").mkdir()
    for path in (tiny_sets / "ring" / "train" / "good").iterdir():
        shutil.copy(path, root / "good" / f"a, {path.name}")
    return root


@pytest.fixture(scope="session")
def trained(parts: Path) -> ssn.RunResult:
    """A run on the good images of own parts alone."""
    store = parts.parent / "store"
    assert main(["train", str(parts / "good"), "--store", str(store), *TINY, "epochs=1"]) == 0
    (folder,) = (path.parent for path in store.glob("*/run.json"))
    return ssn.load_run(folder)


@pytest.fixture
def no_outside_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is found but what a test gives, in an empty working directory."""
    monkeypatch.delenv("SSN_DATA_DIR", raising=False)
    monkeypatch.setenv("SSN_KAGGLE_INPUT", str(tmp_path / "no_kaggle"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def widgets(tmp_path: Path) -> Path:
    """A sound category in MVTec's layout: 3 train, 2 good, 2 scratched."""
    root = tmp_path / "sets" / "widgets"
    for i in range(3):
        picture(root / "train" / "good" / f"{i:03d}.png", 90 + i)
    for i in range(2):
        picture(root / "test" / "good" / f"{i:03d}.png", 120 + i)
        picture(root / "test" / "scratch" / f"{i:03d}.png", 150 + i)
        mask(root / "ground_truth" / "scratch" / f"{i:03d}_mask.png")
    return root


@pytest.fixture
def ksdd(tmp_path: Path) -> Path:
    """A sound folder in KolektorSDD2's layout: 4 train (1 defective), 3 test (1 defective)."""
    root = tmp_path / "sets" / "KSDD2"
    for split, first, count in (("train", 10000, 4), ("test", 20000, 3)):
        for i in range(count):
            picture(root / split / f"{first + i}.png", 90 + i)
            mask(root / split / f"{first + i}_GT.png", marked=i == 1)
    return root


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def scenarios(tmp_path: Path) -> list[ssn.RunResult]:
    names = ("baseline", "scenario_a", "scenario_b")
    return [fake_run(tmp_path, config_of(name, seed=seed)) for name in names for seed in (0, 1)]


@pytest.fixture
def sweep(tmp_path: Path) -> list[ssn.RunResult]:
    """Two bounds, two seeds; the wider bound is the better one."""
    return [
        fake_run(tmp_path, config_of("learned_noise_v2", beta=beta, seed=seed), quality=10 * beta)
        for beta in (0.5, 0.1)
        for seed in (0, 1)
    ]
