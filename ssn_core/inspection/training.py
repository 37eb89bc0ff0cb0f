"""Training on a folder of own images for somebody who has read nothing: every field has a default that fits."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ssn_core.data.datasets import Dataset, open_dataset
from ssn_core.data.find import OWN
from ssn_core.data.images import read_image
from ssn_core.errors import InputError
from ssn_core.files import read_json, write_json
from ssn_core.models.detectors import build_model
from ssn_core.models.weights import weights_path
from ssn_core.runs.config import RunConfig
from ssn_core.runs.features import extract
from ssn_core.runs.presets import preset
from ssn_core.runs.result import Log, RunResult
from ssn_core.runs.runner import trainer_of
from ssn_core.runs.store import memory_errors, run, usable_device
from ssn_core.runs.training_set import TrainingSet

FILLED, STEPPED = "memory", "scenario_c"  # the recipes: notebook 07 compares them on a hard object
#: fields that only a training in steps reads
_OF_STEPS = {"adaptor", "adaptor_lr", "batch_size", "beta", "cls_features", "epochs", "eval_every", "head_lr", "noise"}
_OF_STEPS |= {"noise_rule", "noise_std", "noise_std_high", "noise_unit", "perlin_threshold"}
MINUTES = 20.0
SIDE, BATCH = 256, 8
MOST_EPOCHS = 300  # the papers' training; more time than it needs is not spent
_PROBED_STEPS = 2


def train(
    folder: Path,
    minutes: float | None,
    fields: dict[str, Any],
    store: Path,
    device: str | None = None,
    recipe: str | None = None,
    log: Log = print,
) -> RunResult:
    """Train on a folder of own images, or go on with what an earlier call began.

    ``recipe``: a preset; by default a memory, which is filled in one pass, or scenario C where ``minutes`` or a field
    of its steps is given. What is trained in steps takes about ``minutes``. ``fields`` are fields of
    :class:`RunConfig`, which go before every default and, with ``epochs``, before ``minutes``. Forms of a folder:
    :mod:`ssn_core.data.layouts`. Raises :class:`InputError` as :func:`ssn_core.run` does.
    """
    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError(f"minutes={minutes:g} must be a number above 0")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    name = folder.resolve().name
    dataset = open_dataset(OWN, name, folder, training_masks=False)
    of_steps = sorted(_OF_STEPS & fields.keys()) + ["minutes"] * (minutes is not None)
    config = own_config(dataset, fields, recipe or (STEPPED if of_steps else FILLED))
    if config.method == "memory":
        if of_steps:
            raise InputError(f"a memory is filled in one pass: leave {', '.join(of_steps)} out, or take another recipe")
    elif "epochs" not in fields:
        if config.needs_training_masks:
            dataset = open_dataset(OWN, name, folder)
        config = config.replace(epochs=_epochs(config, dataset, minutes or MINUTES, store, device, log))
    return run(config, store, folder, device, log=log)


def own_config(dataset: Dataset, fields: dict[str, Any], recipe: str = FILLED) -> RunConfig:
    """The configuration for own images: ResNet18 where its weights lie, else EfficientNet-Lite0, whose come with pip;
    the first image's proportions at the area of 256 x 256; a memory no larger than the good images fill."""
    samples = dataset.train + dataset.test
    height, width = read_image(samples[0].image).shape[:2]
    root = math.sqrt(height / width)
    size = tuple(max(32, 8 * round(SIDE * ratio / 8)) for ratio in (root, 1 / root))
    backbone = "resnet18" if weights_path("resnet18") else "efficientnet_lite0"
    defaults = {"backbone": backbone, "image_size": size, "batch_size": BATCH}
    given = {"dataset": OWN, "category": dataset.category}
    if clash := sorted(given.keys() & fields.keys()):
        raise InputError(f"{clash[0]}={fields[clash[0]]!r}: leave it out, the folder decides it")
    config = preset(recipe, **{**defaults, **given, **fields})
    if config.memory_size is not None and "memory_size" not in fields:
        positions = sum(not s.label for s in dataset.train) * math.prod(side // 8 for side in config.image_size)
        config = config.replace(memory_size=max(1, min(config.memory_size, positions)))
    return config


def _epochs(config: RunConfig, dataset: Dataset, minutes: float, store: Path, device: str | None, log: Log) -> int:
    """Epochs that fit into the time; what was measured once is kept in the store, so that the same command means the
    same run and goes on with it."""
    kept = store / f"{config.replace(epochs=1).run_id}.minutes-{minutes:g}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return int(read_json(kept)["epochs"])
    on = usable_device(device)
    log(f"{config.category}: {dataset.counts}; measuring the first steps on {on}")
    with memory_errors(config, store):
        measured = epochs_within(minutes, config, dataset, on)
    write_json(kept, measured)
    log(
        f"{minutes:g} minutes: measured {measured['seconds_per_step']:.3g} s a step, "
        f"{measured['steps_per_epoch']} steps an epoch, so {measured['epochs']} epochs (at most {MOST_EPOCHS})"
    )
    return measured["epochs"]


def epochs_within(
    minutes: float,
    config: RunConfig,
    dataset: Dataset,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Measure the first steps; ``epochs``, 1 to 300, are those that fit beside features and evaluation of all."""
    training = TrainingSet.of(config, dataset)
    entries = training.entries[: _PROBED_STEPS * config.batch_size]
    with torch.random.fork_rng(devices=[]):
        model = build_model(**config.model_arguments()).to(device)
        start = clock()
        features = extract(model.trunk, entries, config.image_size, device, lambda _: None)
        image = (clock() - start) / len(entries)
        trainer = trainer_of(config)(config, model, features, TrainingSet(entries, len(entries), []), device)
        trainer.epoch()  # makes what is made once
        began, before = clock(), trainer.step
        trainer.epoch()
        now = clock()
    step = (now - began) / (trainer.step - before)
    drawn = training.epoch_order(torch.zeros(training.normal), torch.Generator())
    steps = math.ceil(len(drawn) / config.batch_size)
    left = 60 * minutes - (now - start) - 2 * image * (len(training.entries) + len(dataset.test))
    epochs = min(max(int(left / (steps * step)), 1), MOST_EPOCHS)
    return {"epochs": epochs, "seconds_per_step": step, "steps_per_epoch": steps}
