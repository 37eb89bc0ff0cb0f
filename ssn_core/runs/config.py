"""RunConfig: the whole description of a run, checked when it is made; a preset is a difference from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ssn_core.errors import InputError
from ssn_core.models.names import ADAPTORS, BACKBONES, EDGE, FIXED_NOISES

Method = Literal["supersimplenet", "gap_cam", "mil", "simplenet", "memory"]
Backbone = Literal[tuple(BACKBONES)]
Noise = Literal[(*FIXED_NOISES, "learned_v1", "learned_v2")]
Adaptor = Literal[ADAPTORS]

# of a folder
Name = Annotated[
    str, Field(pattern=r"^[^/\x00]+$", max_length=100, description="a name without a slash, to 100 letters")
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=32, multiple_of=8)]
Size = Annotated[
    tuple[Side, Side],
    BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v),  # JSON and YAML know no tuples
    Field(description="(height, width), each a multiple of 8 and at least 32"),
]


MAX_NAME = 240  # bytes; most file systems have 255, and names of half-written files are longer


class RunConfig(BaseModel):
    """One training and its evaluation. The defaults are the baseline of the course report.

    Sizes are (height, width) in pixels; ``noise_std`` and ``beta`` are in the unit of ``noise_unit``: the features'
    own scale (``absolute``, the paper's 0.015), or a multiple of the standard deviation of the trunk's
    features on the training set (``feature_std``) or of the adapted features (``adapted_std``).
    Unknown or contradictory values raise :class:`InputError` at construction, naming the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    experiment: Name = "baseline"
    dataset: Literal["mvtec", "ksdd2", "ksdd1", "synthetic", "own"] = "mvtec"
    category: Name = "bottle"
    method: Method = "supersimplenet"
    backbone: Backbone = "wide_resnet50_2"
    adaptor: Adaptor = "linear"
    cls_features: Literal["raw", "adapted"] = "raw"  # read by the classification head: JIMS 2025 raw, ICPR 2024 adapted
    noise: Noise = "gaussian"
    noise_std: Positive = 0.015
    noise_std_high: Positive | None = None  # with it each copy draws its own, log-uniformly from noise_std to this
    noise_unit: Literal["absolute", "feature_std", "adapted_std"] = "absolute"
    noise_region: Literal["anywhere", "outside_defects"] = "anywhere"  # may it fall on real defects? (erratum 6)
    beta: Positive | None = None  # bound of the learned noise, learned_v2 only
    noise_rule: Literal["adversarial", "as_published"] = "adversarial"  # who gets which gradient (erratum 1)
    supervision: Literal["unsupervised", "weak", "full"] = "unsupervised"
    masks: Annotated[int, Field(ge=1)] | None = None  # how many are read, the others give their label; None: all
    pixel_values: Literal["logits", "sigmoid"] = "logits"  # what the pixel metrics rank (erratum 12)
    image_size: Size = (256, 256)
    equal_brightness: bool = False  # each image is scaled to ImageNet's mean grey value first
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    epochs: Annotated[int, Field(ge=1)] = 300
    batch_size: Annotated[int, Field(ge=2)] = 32
    # Perlin noise lies in [-1, 1]: above 0.9 few masks mark anything, from 1 on none
    perlin_threshold: Annotated[float, Field(gt=-1, le=0.9, allow_inf_nan=False)] = 0.2
    rotations: bool = False  # an epoch takes every normal image at all four right angles
    memory_size: Annotated[int, Field(ge=1)] | None = None  # features that method="memory" keeps
    memory_choice: Literal["coreset", "random"] = "coreset"  # which ones: the farthest from each other, or any
    flips: Annotated[int, Field(ge=1, le=4)] = 4  # versions of every defective image in an epoch of a supervised run
    adaptor_lr: Positive = 1e-4
    head_lr: Positive = 2e-4
    eval_every: Annotated[int, Field(ge=0)] = 0  # epochs between evaluations in the history; 0: the final epoch only
    validation_fraction: Annotated[float, Field(ge=0, lt=0.5)] = 0.0  # of the normal training images, for selection

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError("RunConfig: " + "; ".join(dict.fromkeys(_lines(error, values)))) from None

    @model_validator(mode="after")
    def _no_contradiction(self) -> RunConfig:
        problems = [*_in_its_name(self), *_in_its_noise(self), *_in_its_method(self), *_in_its_supervision(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def replace(self, **changes: Any) -> RunConfig:
        """The same with other values of some fields, checked anew."""
        return RunConfig(**{**dict(self), **changes})

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready (the image size as a list)."""
        return self.model_dump(mode="json")

    @property
    def run_id(self) -> str:
        """Readable name of the run folder, unique per configuration.

        Only fields that differ from the defaults enter the hash, so a field added later renames no old run.
        """
        changed = {name: value for name, value in self if value != type(self).model_fields[name].default}
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
        data = self.dataset if self.category == self.dataset else f"{self.dataset}-{self.category}"
        return f"{self.experiment}-{self.backbone}-{data}-s{self.seed}-{digest}"

    def model_arguments(self) -> dict[str, Any]:
        """What :func:`ssn_core.models.detectors.build_model` takes. Unsupervised, the classification loss does not
        reach the segmentation head."""
        names = ("method", "backbone", "adaptor", "image_size", "cls_features", "memory_size", "equal_brightness")
        return {name: getattr(self, name) for name in names} | {"stop_gradient": self.supervision == "unsupervised"}

    @property
    def edge(self) -> bool:
        """Whether it is a variant on the backbone that the report has not; on synthetic data that stands for all."""
        return self.backbone == EDGE and self.dataset != "synthetic"

    @property
    def needs_training_masks(self) -> bool:
        """Whether training reads the masks of the training set at all."""
        return self.supervision == "full" or self.noise_region == "outside_defects"


def _in_its_name(c: RunConfig) -> Iterator[str]:
    if (length := len(os.fsencode(c.run_id))) > MAX_NAME:
        yield f"experiment and category make a folder name of {length} bytes; at most {MAX_NAME}"
    if c.experiment.startswith("scenario_b") and c.adaptor == "linear":
        yield (
            "experiment='scenario_b' needs a nonlinear or spatial adaptor, got adaptor='linear'; "
            "choose adaptor='conv3x3_bn_relu' or the preset 'scenario_a'"
        )


def _in_its_noise(c: RunConfig) -> Iterator[str]:
    learned = c.noise not in FIXED_NOISES
    if learned and c.method != "supersimplenet":
        yield f"noise={c.noise!r} is defined for method='supersimplenet'"
    if c.noise == "learned_v2" and c.beta is None:
        yield "noise='learned_v2' needs beta, the bound of the noise (the report used 0.1)"
    if c.noise != "learned_v2" and c.beta is not None:
        yield f"beta={c.beta!r} belongs to noise='learned_v2', not to noise={c.noise!r}"
    if c.noise_std_high is not None and (learned or c.noise_std_high <= c.noise_std):
        yield f"noise_std_high={c.noise_std_high!r} must exceed noise_std, and belongs to a noise of fixed shape"
    if c.noise_rule == "as_published" and not (learned and c.supervision == "unsupervised"):
        yield "noise_rule='as_published' is the published unsupervised update of noise='learned_v1' or 'learned_v2'"
    if c.noise_unit == "adapted_std" and c.adaptor == "linear":
        yield (
            "noise_unit='adapted_std' is for adaptors that change the features' scale; "
            "with adaptor='linear' use 'feature_std'"
        )
    if c.noise_unit == "adapted_std" and learned:
        yield (
            f"noise={c.noise!r} with noise_unit='adapted_std': a generator's bound cannot follow features that "
            "are being trained; use 'absolute' or 'feature_std'"
        )


def _in_its_method(c: RunConfig) -> Iterator[str]:
    if c.method in ("gap_cam", "mil") and c.supervision != "weak":
        yield f"method={c.method!r} learns from image labels: supervision must be 'weak'"
    if c.method in ("simplenet", "memory") and c.supervision != "unsupervised":
        yield f"method={c.method!r} is unsupervised only"
    if c.method == "memory" and (c.memory_size is None or c.epochs != 1 or c.adaptor != "linear"):
        yield "method='memory' needs memory_size, is filled in one epoch (epochs=1) and has no adaptor to choose"
    if c.method != "memory" and (c.memory_size is not None or c.memory_choice != "coreset"):
        yield "memory_size and memory_choice belong to method='memory'"


def _in_its_supervision(c: RunConfig) -> Iterator[str]:
    if c.rotations and (c.image_size[0] != c.image_size[1] or c.supervision != "unsupervised"):
        yield "rotations=True needs square images and supervision='unsupervised'"
    if c.masks is not None and c.supervision != "full":
        yield f"masks={c.masks!r} belongs to supervision='full'; from image labels alone it is 'weak'"
    if c.noise_region == "outside_defects" and c.supervision == "unsupervised":
        yield "noise_region='outside_defects' needs training masks; an unsupervised run has no defects to avoid"


def _lines(error: ValidationError, values: dict[str, Any]) -> Iterator[str]:
    """Each problem with the field's name, its value and the way out."""
    for problem in error.errors():
        field = problem["loc"][0] if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            yield f"no field {field!r}; its fields are {', '.join(RunConfig.model_fields)}"
        elif not field:
            yield problem["msg"].removeprefix("Value error, ")
        else:
            known = RunConfig.model_fields[field].description
            rule = f"must be {known}" if known else problem["msg"].replace("Input should", "must")
            yield f"{field}={_shown(values[field])} {rule}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"
