"""RunConfig: the whole description of a run, checked when it is made; a preset is a difference from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from .errors import InputError

METHODS = ("supersimplenet", "gap_cam", "simplenet")
BACKBONES = ("wide_resnet50_2", "resnet18", "efficientnet_lite0")
ADAPTORS = ("linear", "conv3x3", "bn", "relu", "conv3x3_bn_relu")
DATASETS = ("mvtec", "ksdd2", "ksdd1", "synthetic")
NOISES = ("gaussian", "learned_v1", "learned_v2")
CHOICES: dict[str, tuple[str, ...]] = {
    "method": METHODS,
    "backbone": BACKBONES,
    "adaptor": ADAPTORS,
    "cls_features": ("raw", "adapted"),
    "dataset": DATASETS,
    "noise": NOISES,
    "noise_unit": ("absolute", "feature_std", "adapted_std"),
    "noise_rule": ("adversarial", "as_published"),
    "supervision": ("unsupervised", "weak", "full"),
    "noise_region": ("anywhere", "outside_defects"),
    "pixel_values": ("logits", "sigmoid"),
}


@dataclass(frozen=True)
class RunConfig:
    """One training and its evaluation. The defaults are the baseline of the course report.

    Sizes are (height, width) in pixels; ``noise_std`` and ``beta`` are in the unit of ``noise_unit``: the features'
    own scale (``absolute``, the paper's 0.015), or a multiple of the standard deviation of the trunk's
    features on the training set (``feature_std``) or of the adapted features (``adapted_std``).
    Unknown or contradictory values raise :class:`InputError` at construction, naming the field.
    """

    experiment: str = "baseline"
    dataset: str = "mvtec"
    category: str = "bottle"
    method: str = "supersimplenet"
    backbone: str = "wide_resnet50_2"
    adaptor: str = "linear"
    cls_features: str = "raw"  # what the classification head reads: JIMS 2025 raw, ICPR 2024 adapted
    noise: str = "gaussian"
    noise_std: float = 0.015
    noise_unit: str = "absolute"
    noise_region: str = "anywhere"  # may synthetic noise fall on real defects? (erratum 6)
    beta: float | None = None  # bound of the learned noise, learned_v2 only
    noise_rule: str = "adversarial"  # who gets which gradient, learned noise only (erratum 1)
    supervision: str = "unsupervised"
    pixel_values: str = "logits"  # what the pixel metrics rank; the published code took the map's sigmoid (erratum 12)
    image_size: tuple[int, int] = (256, 256)
    seed: int = 0
    epochs: int = 300
    batch_size: int = 32
    perlin_threshold: float = 0.2
    flips: int = 4  # versions of every defective image in an epoch of a supervised run
    adaptor_lr: float = 1e-4
    head_lr: float = 2e-4
    eval_every: int = 0  # epochs between evaluations recorded in the history; 0: the final epoch only
    validation_fraction: float = 0.0  # part of the normal training images held out for model selection

    def __post_init__(self) -> None:
        if isinstance(self.image_size, list):  # JSON and YAML know no tuples
            object.__setattr__(self, "image_size", tuple(self.image_size))
        problems = [
            f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(known)}"
            for name, known in CHOICES.items()
            if getattr(self, name) not in known
        ]
        problems += [
            f"{name}={value!r} must be {what}"
            for name, what in (("experiment", "a name"), ("category", "a folder's name"))
            if not isinstance(value := getattr(self, name), str) or not value or "/" in value
        ]
        problems += [text for broken, text in (*self._range_checks(), *self._contradictions()) if broken]
        if problems:
            raise InputError("RunConfig: " + "; ".join(problems))
        for field in dataclasses.fields(self):  # equal configurations have one spelling, hence one run folder
            if type(value := getattr(self, field.name)) is int and "float" in str(field.type):
                object.__setattr__(self, field.name, float(value))

    def _range_checks(self) -> list[tuple[bool, str]]:
        size = self.image_size
        good_size = (
            isinstance(size, tuple) and len(size) == 2 and all(type(s) is int and s >= 32 and s % 8 == 0 for s in size)
        )
        integers = {"seed": 0, "epochs": 1, "batch_size": 2, "eval_every": 0}
        return [
            *(
                (
                    type(value := getattr(self, name)) is not int or value < least,
                    f"{name}={value!r} must be an integer >= {least}",
                )
                for name, least in integers.items()
            ),
            (
                not good_size,
                f"image_size={size!r} must be (height, width), each a multiple of 8 and at least 32",
            ),
            (not _positive(self.noise_std), f"noise_std={self.noise_std!r} must be a number > 0"),
            (self.beta is not None and not _positive(self.beta), f"beta={self.beta!r} must be a number > 0"),
            (
                type(self.flips) is not int or self.flips not in (1, 2, 3, 4),
                f"flips={self.flips!r} must be 1 to 4: as is, vertical, horizontal, rotated by 180 degrees",
            ),
            (
                not (_number(self.validation_fraction) and 0 <= self.validation_fraction < 0.5),
                f"validation_fraction={self.validation_fraction!r} must lie in [0, 0.5)",
            ),
            (
                not _number(self.perlin_threshold),
                f"perlin_threshold={self.perlin_threshold!r} must be a number",
            ),
            *(
                (not _positive(getattr(self, name)), f"{name}={getattr(self, name)!r} must be > 0")
                for name in ("adaptor_lr", "head_lr")
            ),
        ]

    def _contradictions(self) -> list[tuple[bool, str]]:
        learned = self.noise != "gaussian"
        return [
            (
                str(self.experiment).startswith("scenario_b") and self.adaptor == "linear",
                "experiment='scenario_b' needs a nonlinear or spatial adaptor, got adaptor='linear'; "
                "choose adaptor='conv3x3_bn_relu' or the preset 'scenario_a'",
            ),
            (
                self.noise == "learned_v2" and self.beta is None,
                "noise='learned_v2' needs beta, the bound of the noise (the report used 0.1)",
            ),
            (
                self.noise != "learned_v2" and self.beta is not None,
                f"beta={self.beta!r} belongs to noise='learned_v2', not to noise={self.noise!r}",
            ),
            (
                self.noise_rule == "as_published" and (not learned or self.supervision != "unsupervised"),
                "noise_rule='as_published' is the published unsupervised update of noise='learned_v1' or 'learned_v2'",
            ),
            (
                self.noise_unit == "adapted_std" and self.adaptor == "linear",
                "noise_unit='adapted_std' is for adaptors that change the features' scale; "
                "with adaptor='linear' use 'feature_std'",
            ),
            (
                learned and self.noise_unit == "adapted_std",
                f"noise={self.noise!r} with noise_unit='adapted_std': a generator's bound cannot follow features that "
                "are being trained; use 'absolute' or 'feature_std'",
            ),
            (
                learned and self.method != "supersimplenet",
                f"noise={self.noise!r} is defined for method='supersimplenet'",
            ),
            (
                self.method == "gap_cam" and self.supervision != "weak",
                "method='gap_cam' learns from image labels: supervision must be 'weak'",
            ),
            (
                self.method == "simplenet" and self.supervision != "unsupervised",
                "method='simplenet' is unsupervised only",
            ),
            (
                self.noise_region == "outside_defects" and self.supervision == "unsupervised",
                "noise_region='outside_defects' needs training masks; an unsupervised run has no defects to avoid",
            ),
        ]

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready (the image size as a list)."""
        values = dataclasses.asdict(self)
        values["image_size"] = list(self.image_size)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """Inverse of :meth:`as_dict`; an unknown field is an :class:`InputError`."""
        _reject_unknown_fields(values)
        return cls(**values)

    @property
    def run_id(self) -> str:
        """Readable name of the run folder, unique per configuration.

        Only fields that differ from the defaults enter the hash, so a field added later renames no old run.
        """
        changed = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default
        }
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
        data = self.dataset if self.category == self.dataset else f"{self.dataset}-{self.category}"
        return f"{self.experiment}-{self.backbone}-{data}-s{self.seed}-{digest}"

    @property
    def needs_training_masks(self) -> bool:
        """Whether training reads the masks of the training set at all."""
        return self.supervision == "full" or self.noise_region == "outside_defects"


_A: dict[str, Any] = {"backbone": "resnet18"}
_B: dict[str, Any] = {**_A, "adaptor": "conv3x3_bn_relu"}
_KSDD: dict[str, Any] = {
    "dataset": "ksdd2",
    "category": "ksdd2",
    "image_size": (640, 232),
    "batch_size": 8,
    "perlin_threshold": 0.6,
}
_WEAK: dict[str, Any] = {**_KSDD, "method": "gap_cam", "supervision": "weak", "cls_features": "adapted"}
_V2: dict[str, Any] = {**_A, "noise": "learned_v2", "beta": 0.1}

#: What each experiment of the course report changes against the baseline, and nothing else.
PRESETS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "scenario_a": _A,
    "scenario_b": _B,
    "scenario_b_conv3x3": {**_A, "adaptor": "conv3x3"},
    "scenario_b_bn": {**_A, "adaptor": "bn"},
    "scenario_b_relu": {**_A, "adaptor": "relu"},
    # 7 % of the standard deviation is what 0.015 is to ResNet18's own features (erratum 3)
    "scenario_b_rescaled": {**_B, "noise_std": 0.07, "noise_unit": "adapted_std"},
    # a quarter of the features' standard deviation, where 0.015 is 7 % of it (erratum 3)
    "scenario_c": {**_A, "noise_std": 0.25, "noise_unit": "feature_std"},
    "learned_noise_v1": {**_A, "noise": "learned_v1"},
    "learned_noise_v1_as_published": {**_A, "noise": "learned_v1", "noise_rule": "as_published"},
    "learned_noise_v2": _V2,
    "learned_noise_v2_as_published": {**_V2, "noise_rule": "as_published"},
    "noise_control": _A,  # fixed Gaussian noise; noise_std is set to the RMS that learned noise reached
    "weak_gap_cam": _WEAK,
    "weak_gap_cam_as_published": {**_WEAK, "noise_region": "outside_defects", "pixel_values": "sigmoid"},
    "supervised": {**_KSDD, "supervision": "full", "noise_region": "outside_defects"},
    "unsupervised": {**_KSDD, "perlin_threshold": 0.2},
    "simplenet": {"method": "simplenet"},
}


def preset(name: str, **changes: Any) -> RunConfig:
    """The configuration of an experiment, with ``changes`` on top.

    Example: ``preset("scenario_a", category="screw", epochs=40, seed=0)``. An unknown preset or field is an
    :class:`InputError` that lists the known ones.
    """
    if name not in PRESETS:
        raise InputError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    _reject_unknown_fields(changes)
    return RunConfig(**{"experiment": name, **PRESETS[name], **changes})


def _reject_unknown_fields(values: dict[str, Any]) -> None:
    known = [f.name for f in dataclasses.fields(RunConfig)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(f"RunConfig has no field {', '.join(map(repr, unknown))}; its fields are {', '.join(known)}")


def _number(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and value == value
        and abs(value) != float("inf")
    )


def _positive(value: Any) -> bool:
    return _number(value) and value > 0
