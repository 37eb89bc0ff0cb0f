"""One run under way: prepare, train, save between epochs, evaluate, and write the run folder."""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save
from tqdm.auto import tqdm

from ssn_core.data.brightness import brightness
from ssn_core.data.datasets import Dataset
from ssn_core.errors import Stopped
from ssn_core.fast.inference import FoldedDetector, fold
from ssn_core.files import write_bytes, write_csv, write_json, write_npz
from ssn_core.models.detectors import build_model
from ssn_core.models.names import FIXED_NOISES
from ssn_core.models.weights import digest
from ssn_core.runs import evaluation as evaluate
from ssn_core.runs.checkpoint import Checkpoints, tidy
from ssn_core.runs.config import RunConfig
from ssn_core.runs.features import Features, extract
from ssn_core.runs.held_out import altered_copies
from ssn_core.runs.learned_noise import LearnedNoiseTrainer, noise_field
from ssn_core.runs.memory_trainer import MemoryTrainer
from ssn_core.runs.provenance import git_revision, versions
from ssn_core.runs.result import FORMAT, MODEL, NOISE, SCORES, Log, pixel_threshold
from ssn_core.runs.trainer import NonFiniteLoss, Trainer, trained_state
from ssn_core.runs.training_set import TrainingSet

HISTORY = ["epoch", "step", "loss", "loss_map", "loss_image", "noise_rms", "loss_generator", *evaluate.MEASURED]
VALIDATION = [f"validation {name}" for name in evaluate.MEASURED]


class Runner:
    """A run, prepared when this is made; :class:`ssn_core.errors.InputError` then, where its data do not serve."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        dataset: Dataset,
        device: torch.device,
        checkpoint_seconds: float,
        log: Log,
    ) -> None:
        self.config, self.folder, self.dataset = config, folder, dataset
        self.training = TrainingSet.of(config, dataset)
        self.device, self.checkpoint_seconds = device, checkpoint_seconds
        self.log: Log = lambda text: log(f"[{config.run_id}] {text}")
        self.fingerprint = dataset.fingerprint()
        self.history: list[dict[str, Any]] = []
        self.seconds, self.diverged, self.note = 0.0, False, ""
        self.clock, self.before = time.monotonic(), {"epochs_done": -1}  # state at the beginning of an epoch
        self.checkpoints = Checkpoints(folder, config, self.fingerprint)
        saved = self.checkpoints.read(device, self.log)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = build_model(**config.model_arguments()).to(device)
            train = self._extract(self.training.entries, "training")
            self.trainer = trainer_of(config)(config, self.model, train, self.training, device)
        self.test = self._extract([(s, 0) for s in dataset.test], "test")
        self.truth = evaluate.Truth.of(dataset.test, config.image_size)
        self.validation = altered_copies(self.training.held_out, config, self.model.trunk, device)
        if saved is not None:
            self.trainer.load_state_dict(saved["trainer"])
            self.history, self.seconds = saved["history"], saved["seconds"]

    def _extract(self, entries: list[tuple[Any, int]], what: str) -> Features:
        return extract(
            self.model.trunk, entries, self.config.image_size, self.device, lambda t: self.log(f"{what}: {t}")
        )

    def complete(self) -> None:
        """Train the remaining epochs and write the folder; run.json comes last and marks it finished.

        Interrupted at any point, it saves the last whole epoch and raises :class:`Stopped`.
        """
        self.checkpoints.probe(sum(v.numel() * v.element_size() for v in trained_state(self.model).values()))
        self.log(f"training on {self.device}, epoch {self.trainer.epochs_done} of {self.config.epochs}")
        try:
            self._train()
            self._write_results()
        except KeyboardInterrupt:
            self._stop()
        tidy(self.folder)

    def _train(self) -> None:
        self.clock = time.monotonic()
        epochs, done = self.config.epochs, self.trainer.epochs_done
        shown = {"desc": self.config.run_id, "leave": False, "disable": None, "dynamic_ncols": True}  # for who watches
        with tqdm(total=epochs, initial=done, **shown) as bar:
            while self.trainer.epochs_done < epochs and not self.diverged:
                self._one_epoch(bar)
                if time.monotonic() - self.clock >= self.checkpoint_seconds and not self.diverged:
                    self._write_checkpoint()
        self._count_seconds()

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.seconds, self.clock = self.seconds + now - self.clock, now

    def _stop(self) -> NoReturn:
        """Save the end of the last whole epoch, that is one whose row is in the history."""
        if len(self.history) == self.before["epochs_done"]:  # interrupted after its beginning and before its row
            self.trainer.load_state_dict(self.before)
        self._write_checkpoint()
        done = f"epoch {self.trainer.epochs_done} of {self.config.epochs}"
        raise Stopped(f"run {self.config.run_id} was stopped; {done} is saved, and the same command goes on from there")

    def _one_epoch(self, bar: tqdm) -> None:
        before = self.before = copy.deepcopy(self.trainer.state_dict())
        try:
            row = self.trainer.epoch()
        except NonFiniteLoss as error:
            self.trainer.load_state_dict(before)
            self._on_divergence(error)
            return
        epoch, epochs, every = row["epoch"], self.config.epochs, self.config.eval_every
        if every and epoch % every == 0 and epoch < epochs:
            row |= self._evaluate()[0]
        self.history.append(row)
        line = f"epoch {epoch}/{epochs}" + (f" loss {row['loss']:.4f}" if "loss" in row else "")
        bar.set_postfix_str(line)
        bar.update()
        if bar.disable and 10 * epoch // epochs > 10 * (epoch - 1) // epochs:  # no terminal: a line for each tenth
            self.log(line)

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
        folded = fold(self.model.eval())
        outputs = self._outputs(folded, self.test)
        values = evaluate.measure(outputs, self.truth)
        if self.validation is not None:
            features, truth = self.validation
            measured = evaluate.measure(self._outputs(folded, features), truth)
            values |= {f"validation {name}": value for name, value in measured.items()}
        self.model.train()
        return values, outputs

    def _outputs(self, folded: FoldedDetector, features: Features) -> evaluate.Outputs:
        return evaluate.predict_features(folded, features, self.device, self.config.pixel_values)

    def _write_results(self) -> None:
        values, outputs = self._evaluate()
        if self.history and not self.diverged:
            self.history[-1] |= values
        train, good = self.trainer.features, self.training.normal
        normal = Features(train.layer2[:good], train.layer3[:good])
        on_normal = evaluate.predict_features(fold(self.model.eval()), normal, self.device)
        samples, folder = self.dataset.test, self.folder
        values["evaluation_size"] = list(self.config.image_size)
        values |= evaluate.thresholds(outputs, self.truth, on_normal)
        if self.config.pixel_values != "logits":  # beside the metrics, what the logits would have given
            values["on_logits"] = evaluate.pixel_metrics(outputs.maps, self.truth)
        values["parameters"] = sum(p.numel() for p in self.model.parameters())
        write_csv(folder / "history.csv", self.history, HISTORY + (VALIDATION if self.validation else []))
        marking = pixel_threshold(self.config, values)
        write_csv(folder / "scores.csv", evaluate.score_rows(samples, outputs, marking), SCORES)
        write_npz(folder / "curves.npz", evaluate.curve_arrays(outputs, self.truth))
        write_npz(folder / "examples.npz", evaluate.example_arrays(samples, outputs))
        if self.trainer.generator is not None:
            write_npz(folder / NOISE, noise_field(self.trainer))
        state = {name: value.contiguous().cpu() for name, value in trained_state(self.model).items()}
        write_bytes(folder / MODEL, save(state))
        write_json(folder / "metrics.json", values)
        write_json(folder / "run.json", self._info())

    def _info(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "run_id": self.config.run_id,
            "config": self.config.as_dict(),
            "status": "diverged" if self.diverged else "finished",
            "note": self.note,
            "versions": versions(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "feature_cache": str(self.trainer.features.layer2.dtype).removeprefix("torch."),
            "seed": self.config.seed,
            "steps": self.trainer.step,
            "epochs_done": self.trainer.epochs_done,
            "wall_seconds": round(self.seconds, 1),
            "git_revision": git_revision(),
            "weights_sha256": digest(self.model.trunk),
            "data": {
                "fingerprint": self.fingerprint,
                **dataclasses.asdict(self.dataset.counts),
                "train_used": len(self.training.entries),
                "brightness": brightness(self.dataset.train, self.dataset.test),
            },
            "noise": {
                "unit": self.config.noise_unit,
                "std": self.trainer.sigma if self.config.noise_unit != "adapted_std" else None,
                "feature_std": self.trainer.feature_std,
            },
        }

    def _write_checkpoint(self) -> None:
        self._count_seconds()
        self.checkpoints.write({"history": self.history, "seconds": self.seconds, "trainer": self.trainer.state_dict()})


def trainer_of(config: RunConfig) -> type[Trainer] | type[MemoryTrainer]:
    """What trains a configuration."""
    if config.method == "memory":
        return MemoryTrainer
    return Trainer if config.noise in FIXED_NOISES else LearnedNoiseTrainer
