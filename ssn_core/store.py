"""The run store: ``run(config)`` trains what is absent, resumes what is half done and loads what is finished."""

from __future__ import annotations

import copy
import functools
import io
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torchvision
from safetensors.torch import load_file, save_file

from . import __version__, evaluate
from .config import RunConfig
from .datasets import Dataset, open_dataset
from .errors import InputError
from .features import Features, extract
from .files import read_json, write_atomic, write_csv, write_json
from .fold import fold
from .metrics import METRICS
from .models import Detector, build_model
from .supervision import TrainingSet, real_defects
from .train import NonFiniteLoss, Trainer, trained_state
from .validation import Validation

FORMAT = 1
HISTORY = ["epoch", "step", "loss", "loss_map", "loss_image", "noise_rms", "loss_generator", *METRICS]
VALIDATION = [f"validation {name}" for name in METRICS]
CHECKPOINT, MODEL = "checkpoint.pt", "model.safetensors"
Log = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """A finished run, read from its folder. ``metrics`` values are floats or "n/a"; ``info`` is run.json."""

    config: RunConfig
    path: Path
    info: dict[str, Any]
    metrics: dict[str, Any]

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """One row per epoch: losses, noise RMS and, where evaluated, the metrics."""
        return pd.read_csv(self.path / "history.csv")

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        """One row per test image: image, defect, label, score, map_score (logits)."""
        return pd.read_csv(self.path / "scores.csv")

    @functools.cached_property
    def curves(self) -> dict[str, np.ndarray]:
        """ROC and precision-recall arrays, see :func:`ssn_core.evaluate.curve_arrays`."""
        return _read_npz(self.path / "curves.npz")

    @functools.cached_property
    def examples(self) -> dict[str, np.ndarray]:
        """``images`` (n,) names and ``maps`` (n, H, W) float16 logits."""
        return _read_npz(self.path / "examples.npz")


def run(
    config: RunConfig,
    store: str | Path = "data/results",
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    checkpoint_seconds: float = 30.0,
    log: Log = print,
) -> RunResult:
    """Train and evaluate one configuration, or load it when its folder in ``store`` is finished.

    An interrupted run resumes from its checkpoint and, on a CPU, ends with the same bits as an uninterrupted one.
    ``data_root``: see :func:`ssn_core.find_root`. All input is checked before training (:class:`InputError`).
    A non-finite loss ends a Gaussian run with :class:`ssn_core.train.NonFiniteLoss` and keeps the checkpoint of the
    last good epoch; a learned-noise run is then recorded as diverged and evaluated as of that epoch.
    """
    folder = Path(store) / config.run_id
    if (finished := find_run(config, store)) is not None:
        return finished
    device = _usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dataset = open_dataset(config.dataset, config.category, data_root, training_masks=config.needs_training_masks)
    training = TrainingSet.of(config, dataset)
    _Run(config, folder, dataset, training, device, checkpoint_seconds, log).complete()
    result = find_run(config, store)
    assert result is not None
    return result


def _usable_device(device: str | torch.device) -> torch.device:
    try:
        torch.zeros((), device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch was built without it, or it is absent
        reason = str(error).splitlines()[0]
        raise InputError(f"device={str(device)!r} cannot be used here ({reason}); choose cpu or cuda") from error


def find_run(config: RunConfig, store: str | Path = "data/results") -> RunResult | None:
    """The finished run of a configuration, or None; another configuration's or format's folder is an error."""
    folder = Path(store) / config.run_id
    if not (folder / "run.json").is_file():
        return None
    result = load_run(folder)
    if result.config != config:
        raise InputError(
            f"{folder} was written by another configuration ({_difference(result.config, config)}); "
            "move that folder away or choose another store"
        )
    return result


def load_run(folder: str | Path) -> RunResult:
    """Read a finished run folder."""
    folder = Path(folder)
    path = folder / "run.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no finished run (no run.json); run its configuration first")
    info = _read(path, read_json)
    if info.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {info.get('format')!r}, this version reads format {FORMAT}; "
            "delete the folder and run the configuration again"
        )
    config = _read(path, lambda _: RunConfig.from_dict(info["config"]))
    return RunResult(config, folder, info, _read(folder / "metrics.json", read_json))


def load_model(path: str | Path) -> Detector:
    """The trained model of a run folder, in eval mode on the CPU."""
    config = load_run(path).config
    file = Path(path) / MODEL
    if not file.is_file():
        raise InputError(
            f"{file} is missing: weights are not kept with committed results. Delete the folder {path} "
            "(or choose another store) and run its configuration again"
        )
    model = build_model(config)
    wanted, state = trained_state(model), _read(file, load_file)
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in wanted.items()}:
        raise InputError(f"{file} does not fit its run.json; delete the folder {path} and run the configuration again")
    model.load_state_dict(state, strict=False)
    return model.eval()


class _Run:
    """One run under way: prepares, trains, saves between epochs, evaluates, and writes its folder."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        dataset: Dataset,
        training: TrainingSet,
        device: torch.device,
        checkpoint_seconds: float,
        log: Log,
    ) -> None:
        self.config, self.folder, self.dataset, self.training = config, folder, dataset, training
        self.device, self.checkpoint_seconds = device, checkpoint_seconds
        self.log: Log = lambda text: log(f"[{config.run_id}] {text}")
        self.fingerprint = dataset.fingerprint()
        self.history: list[dict[str, Any]] = []
        self.seconds, self.diverged, self.note = 0.0, False, ""
        saved = self._read_checkpoint()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = build_model(config).to(device)
            train = self._extract(training.entries, "training")
            defects = None
            if config.needs_training_masks:
                size = tuple(self.model.upscaling * side for side in train.sizes[0])
                defects = real_defects(training, config.image_size, size)
            self.trainer = Trainer(config, self.model, train, training, defects, device)
        self.test = self._extract([(s, 0) for s in dataset.test], "test")
        self.truth = evaluate.Truth.of(dataset.test, config.image_size)
        self.validation = Validation.of(training.held_out, config, self.model.trunk, device)
        if saved is not None:
            self._restore(saved)

    def _extract(self, entries: list[tuple[Any, int]], what: str) -> Features:
        return extract(
            self.model.trunk, entries, self.config.image_size, self.device, lambda t: self.log(f"{what}: {t}")
        )

    def complete(self) -> None:
        """Train the remaining epochs and write the folder; run.json comes last and marks it finished."""
        started = saved = time.monotonic()
        self.log(f"training on {self.device}, epoch {self.trainer.epochs_done} of {self.config.epochs}")
        while self.trainer.epochs_done < self.config.epochs and not self.diverged:
            self._one_epoch()
            now = time.monotonic()
            if now - saved >= self.checkpoint_seconds and not self.diverged:
                self.seconds, started, saved = self.seconds + now - started, now, now
                self._write_checkpoint()
        self.seconds += time.monotonic() - started
        self._write_results()
        for leftover in (self.folder / CHECKPOINT, *self.folder.glob(".*.part.*")):  # the latter of a killed process
            leftover.unlink(missing_ok=True)

    def _one_epoch(self) -> None:
        before = copy.deepcopy(self.trainer.state_dict())
        try:
            row = self.trainer.epoch()
        except NonFiniteLoss as error:
            self.trainer.load_state_dict(before)
            self._on_divergence(error)
            return
        every = self.config.eval_every
        if every and row["epoch"] % every == 0 and row["epoch"] < self.config.epochs:
            row |= self._evaluate()[0]
        self.history.append(row)
        self.log(f"epoch {row['epoch']}/{self.config.epochs} loss {row['loss']:.4f}")

    def _on_divergence(self, error: NonFiniteLoss) -> None:
        """The trainer is back at the end of the last good epoch, and the history is whole."""
        last = self.trainer.epochs_done
        if self.trainer.generator is None:
            self._write_checkpoint()
            raise NonFiniteLoss(
                f"run {self.config.run_id}: the loss is not finite ({error}). The checkpoint of epoch {last}, the last "
                f"good one, stays in {self.folder}; lower adaptor_lr, head_lr or noise_std"
            ) from error
        self.diverged = True
        self.note = f"non-finite loss in epoch {last + 1}; evaluated as of epoch {last}"
        self.log(self.note)

    def _evaluate(self) -> tuple[dict[str, Any], evaluate.Outputs]:
        """Metrics on the test set and, where images are held out, on synthetic anomalies."""
        self.model.eval()
        folded = fold(self.model)
        outputs = evaluate.predict_features(folded, self.test, self.device)
        values = evaluate.measure(outputs, self.truth)
        if self.validation is not None:
            measured = self.validation.measure(folded, self.device)
            values |= {f"validation {name}": value for name, value in measured.items()}
        self.model.train()
        return values, outputs

    def _write_results(self) -> None:
        values, outputs = self._evaluate()
        if self.history and not self.diverged:
            self.history[-1] |= values
        normal = self.model.eval() and evaluate.predict_features(fold(self.model), self._normal(), self.device)
        samples, folder = self.dataset.test, self.folder
        values |= {"evaluation_size": list(self.config.image_size)} | evaluate.thresholds(outputs, self.truth, normal)
        values["parameters"] = sum(p.numel() for p in self.model.parameters())
        write_csv(folder / "history.csv", self.history, HISTORY + (VALIDATION if self.validation else []))
        write_csv(
            folder / "scores.csv",
            evaluate.score_rows(samples, outputs),
            ["image", "defect", "label", "score", "map_score"],
        )
        _write_npz(folder / "curves.npz", evaluate.curve_arrays(outputs, self.truth))
        _write_npz(folder / "examples.npz", evaluate.example_arrays(samples, outputs))
        state = {name: value.contiguous().cpu() for name, value in trained_state(self.model).items()}
        write_atomic(folder / MODEL, lambda part: save_file(state, part))
        write_json(folder / "metrics.json", values)
        write_json(folder / "run.json", self._info())

    def _normal(self) -> Features:
        features = self.trainer.features
        return Features(features.layer2[: self.training.normal], features.layer3[: self.training.normal])

    def _info(self) -> dict[str, Any]:
        counts = self.dataset.counts
        return {
            "format": FORMAT,
            "run_id": self.config.run_id,
            "config": self.config.as_dict(),
            "status": "diverged" if self.diverged else "finished",
            "note": self.note,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "numpy": np.__version__,
                "ssn_core": __version__,
            },
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "seed": self.config.seed,
            "steps": self.trainer.step,
            "epochs_done": self.trainer.epochs_done,
            "wall_seconds": round(self.seconds, 1),
            "git_revision": _git_revision(),
            "data": {
                "fingerprint": self.fingerprint,
                "train": counts.train,
                "train_defective": counts.train_defective,
                "train_used": len(self.training.entries),
                "test": counts.test,
                "test_defective": counts.test_defective,
            },
            "noise": {
                "unit": self.config.noise_unit,
                "std": self.trainer.sigma if self.config.noise_unit != "adapted_std" else None,
                "feature_std": self.trainer.feature_std,
            },
        }

    def _write_checkpoint(self) -> None:
        state = {
            "format": FORMAT,
            "config": self.config.as_dict(),
            "fingerprint": self.fingerprint,
            "history": self.history,
            "seconds": self.seconds,
            "trainer": self.trainer.state_dict(),
        }
        write_atomic(self.folder / CHECKPOINT, lambda part: torch.save(state, part))

    def _read_checkpoint(self) -> dict[str, Any] | None:
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return None
        state = _read(path, lambda file: torch.load(file, map_location=self.device, weights_only=True))
        same = {
            "format": FORMAT,
            "config": self.config.as_dict(),
            "fingerprint": self.fingerprint,
        }
        wrong = [name for name, value in same.items() if state.get(name) != value]
        if wrong:
            raise InputError(
                f"{path} belongs to another {' and '.join(wrong)}; delete the folder to start this run anew"
            )
        return state

    def _restore(self, saved: dict[str, Any]) -> None:
        self.trainer.load_state_dict(saved["trainer"])
        self.history, self.seconds = saved["history"], saved["seconds"]


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    """Read one file of a run folder; whatever is wrong with it names the file and the way out."""
    try:
        return read(path)
    except Exception as error:  # every reader has its own types for a truncated or a foreign file
        raise InputError(
            f"{path} cannot be read ({error}); delete the folder {path.parent} and run its configuration again"
        ) from error


def _difference(found: RunConfig, wanted: RunConfig) -> str:
    a, b = found.as_dict(), wanted.as_dict()
    return ", ".join(f"{name}: {a[name]!r} there, {b[name]!r} asked" for name in a if a[name] != b[name])


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, lambda part: part.write_bytes(buffer.getvalue()) and None)


def _git_revision() -> str | None:
    """Revision of the checkout that holds this package, marked when it has changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
