"""The experiments by name, each as what it changes against the baseline alone, and such changes as words of a command
line; :func:`ssn_core.runs.profiles.run_command` writes them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import yaml

from ssn_core.errors import InputError
from ssn_core.runs.config import RunConfig

_A: dict[str, Any] = {"backbone": "resnet18"}
_B: dict[str, Any] = {**_A, "adaptor": "conv3x3_bn_relu"}
# a quarter of the features' standard deviation, where 0.015 is 7 % of it (erratum 3)
_LOUD: dict[str, Any] = {"noise_std": 0.25, "noise_unit": "feature_std"}
_C: dict[str, Any] = {**_A, **_LOUD}
_KSDD: dict[str, Any] = {
    "dataset": "ksdd2",
    "category": "ksdd2",
    "image_size": (640, 232),
    "batch_size": 8,
    "perlin_threshold": 0.6,
}
_LABELS: dict[str, Any] = {**_KSDD, "supervision": "weak"}
_WEAK: dict[str, Any] = {**_LABELS, "method": "gap_cam", "cls_features": "adapted"}
_FULL: dict[str, Any] = {**_KSDD, "supervision": "full", "noise_region": "outside_defects"}
_MEMORY: dict[str, Any] = {**_A, "method": "memory", "memory_size": 4096, "epochs": 1}
_V2: dict[str, Any] = {**_A, "noise": "learned_v2", "beta": 0.1}

PRESETS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "scenario_a": _A,
    "scenario_b": _B,
    "scenario_b_conv3x3": {**_A, "adaptor": "conv3x3"},
    "scenario_b_bn": {**_A, "adaptor": "bn"},
    "scenario_b_relu": {**_A, "adaptor": "relu"},
    # 7 % of the standard deviation is what 0.015 is to ResNet18's own features (erratum 3)
    "scenario_b_rescaled": {**_B, "noise_std": 0.07, "noise_unit": "adapted_std"},
    "scenario_b_loud": {**_B, "noise_std": 0.25, "noise_unit": "adapted_std"},  # with C's share
    "scenario_c": _C,
    "scenario_c_eighth": {**_C, "noise_std": 0.125},
    "scenario_c_half": {**_C, "noise_std": 0.5},
    "scenario_c_whole": {**_C, "noise_std": 1.0},
    "scenario_c_scales": {**_C, "noise_std": 0.1, "noise_std_high": 1.0},  # a different loudness for every image
    "scenario_c_equal": {**_C, "equal_brightness": True},
    "scenario_c_rotated": {**_C, "rotations": True, "epochs": 75},  # of four times as many images
    "learned_noise_v1": {**_A, "noise": "learned_v1"},
    "learned_noise_v1_as_published": {**_A, "noise": "learned_v1", "noise_rule": "as_published"},
    "learned_noise_v2": _V2,
    "learned_noise_v2_as_published": {**_V2, "noise_rule": "as_published"},
    "noise_control": _A,  # fixed Gaussian noise; noise_std is set to the RMS that learned noise reached
    "weak_gap_cam": _WEAK,
    "weak_gap_cam_as_published": {**_WEAK, "noise_region": "outside_defects", "pixel_values": "sigmoid"},
    "weak_mil": {**_WEAK, "method": "mil"},
    "weak": _LABELS,  # SuperSimpleNet from labels: its map learns from synthetic noise
    "weak_c": {**_LABELS, **_LOUD},  # with C's noise
    "mixed": {**_FULL, "masks": 16},
    "supervised": _FULL,
    "unsupervised": {**_KSDD, "perlin_threshold": 0.2},
    "simplenet": {"method": "simplenet"},
    "memory": _MEMORY,
    "memory_random": {**_MEMORY, "memory_choice": "random"},
    "memory_rotated": {**_MEMORY, "rotations": True},
    "memory_equal": {**_MEMORY, "equal_brightness": True},
}


def preset(name: str, **changes: Any) -> RunConfig:
    """The configuration of an experiment, with ``changes`` on top.

    Example: ``preset("scenario_a", category="screw", epochs=40, seed=0)``. An unknown preset or field is an
    :class:`InputError` that lists the known ones.
    """
    if name not in PRESETS:
        raise InputError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return RunConfig(**{"experiment": name, **PRESETS[name], **changes})


def parse_fields(pairs: Sequence[str] | None) -> dict[str, Any]:
    """``name=value`` pairs; values are YAML scalars, ``image_size=640,232`` is a pair, and a field of RunConfig that is
    text stays text (a category may be called 01 or on)."""
    text_fields = {name for name, field in RunConfig.model_fields.items() if isinstance(field.default, str)}
    fields: dict[str, Any] = {}
    for pair in pairs or ():
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise InputError(f"{pair!r} is not FIELD=VALUE, for example category=screw")
        fields[name] = text if name in text_fields else _value(pair, name, text)
    return fields


def _value(pair: str, name: str, text: str) -> Any:
    try:
        value = yaml.safe_load(f"[{text}]" if name == "image_size" else text)
    except yaml.YAMLError:
        raise InputError(
            f"{pair!r}: {text!r} is no value; write a number, a word or, for image_size, 640,232"
        ) from None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # YAML takes 1e-4 for text, since it has no point
            return float(value)
    return tuple(value) if isinstance(value, list) else value
