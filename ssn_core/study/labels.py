"""What things are called, in two languages, and the methods' colours: read from ``labels.yaml``, as by the report."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

from ssn_core.errors import InputError
from ssn_core.models import names
from ssn_core.runs.config import RunConfig

LANGUAGES = ("en", "it")
LABELS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("labels.yaml").read_text(encoding="utf-8"))
METHOD_COLOURS: dict[str, str] = {name: entry["colour"] for name, entry in LABELS["experiments"].items()}
BACKBONES: dict[str, str] = {name: name for name in names.BACKBONES} | LABELS["backbones"]


def pick(language: str, english: str, italian: str) -> str:
    """The text in the chosen language."""
    if language not in LANGUAGES:
        raise InputError(f"language={language!r} is unknown; choose one of {', '.join(LANGUAGES)}")
    return (english, italian)[LANGUAGES.index(language)]


def _text(kind: str, name: str, language: str = "en") -> str:
    """The name to print; what has none in the file keeps its own."""
    entry = LABELS[kind].get(name, name)
    return entry if isinstance(entry, str) else pick(language, entry["en"], entry["it"])


experiment_label = functools.partial(_text, "experiments")
metric_label = functools.partial(_text, "metrics")
measurement_label = functools.partial(_text, "measurements")  # of the benchmark


def method_label(config: RunConfig, language: str = "en") -> str:
    """The method's name to print; learned noise v2 carries its bound, mixed supervision its masks."""
    name = experiment_label(config.experiment, language)
    if config.masks is not None:
        return f"{name}, {config.masks} {pick(language, 'masks', 'maschere')}"
    return f"{name}, β = {config.beta:g}" if config.experiment == "learned_noise_v2" else name


def method_colour(config: RunConfig) -> str:
    """The method's colour, the same in every figure."""
    return METHOD_COLOURS[config.experiment]


def data_label(config: RunConfig, language: str = "en") -> str:
    """The name of a configuration's data to print."""
    return data_name(config.dataset, config.category, language)


def data_name(dataset: str, category: str, language: str = "en") -> str:
    """A data set's name to print, with its category; version 1 of KolektorSDD is always called so."""
    title = _text("datasets", dataset, language)
    if dataset == "synthetic":
        return f"{category} ({title})"
    return title if category == dataset else f"{title} {category}"


def category_label(config: RunConfig, language: str = "en") -> str:
    """The category's name where the data set is clear, the data set's where it has but one."""
    return _text("datasets", config.category, language)
