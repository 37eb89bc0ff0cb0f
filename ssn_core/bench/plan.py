"""What the benchmark measures: forms that take turns, at which sizes, by the key ``bench`` of a profile."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

from pydantic import BaseModel, ValidationError

from ssn_core.errors import InputError
from ssn_core.runs.presets import preset
from ssn_core.runs.profiles import Profile

Model = tuple[str, str]  # experiment, backbone
#: forms that are timed on a GPU alone, of the first two models of a profile: see :func:`ssn_core.bench.forms.inference`
GPU_FORMS = ("plain", "compiled", "fold", "graph", "graph_compiled")
PEER = "anomalib"
_FORMS = ("plain", "fold", PEER)
_FILES = ("fold_onnx", "fold_int8", "trunk_onnx", f"{PEER}_onnx", f"{PEER}_openvino")  # exported
_SHARED = [("baseline", "wide_resnet50_2"), ("scenario_a", "resnet18"), ("aupro", "")]  # what the peer has too
_NONE = ("", "")


class Form(NamedTuple):
    """Which computation a process makes. ``experiment``: a preset, or what is measured; ``variant``: which form."""

    kind: str
    experiment: str
    backbone: str
    variant: str
    device: str = "cpu"


class Point(NamedTuple):
    """A measurement's name and size: ``images`` counts the images of a whole training, or maps; 0: only a batch."""

    measurement: str
    batch: int
    size: tuple[int, int]
    images: int = 0


class Group(NamedTuple):
    """Forms that take turns; the others are compared with the first."""

    name: str
    forms: list[Form]
    points: list[Point]


class Settings(BaseModel, extra="forbid"):
    """The key ``bench``. Of the second model and the first training the cost is also measured as it grows with the
    image's side, the batch and the number of training images. ``maps``: (count, height, width) for the comparison with
    scikit-learn, ``scale`` the same for the exact form alone."""

    side: int
    turns: int
    seconds: float
    models: list[Model]
    training: list[Model]
    precisions: list[str]
    sides: list[int]
    batches: list[int]
    images: list[int]
    maps: tuple[int, int, int]
    scale: tuple[int, int, int]


def settings_of(profile: Profile) -> Settings:
    """Raises :class:`InputError` for a key that is unknown, missing or of another type, and for an unknown model."""
    try:
        settings = Settings(**profile.bench)
        for experiment, backbone in (*settings.models, *settings.training):
            preset(experiment, backbone=backbone)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))} ({e['msg']})" for e in error.errors()]
        raise InputError(f"profile {profile.name!r}: bench: {'; '.join(problems)}") from None
    except InputError as error:
        raise InputError(f"profile {profile.name!r}: bench: {error}") from None
    return settings


def inference_dtype(variant: str, device: str) -> str:
    """What a forward computes in: on a CUDA device always in half precision, as in the course report."""
    lower = {"fold_half": "float16", "fold_bfloat16": "bfloat16", "fold_int8": "int8"}
    return lower.get(variant, "float16" if device.startswith("cuda") else "float32")


def plan(settings: Settings, device: str, peers: bool) -> list[Group]:
    """Everything that a profile measures, in order; a group without a point is left out."""

    def at(measurement: str, batch: int = 1, side: int = settings.side, images: int = 0) -> Point:
        return Point(measurement, batch, (side, side), images)

    def of_maps(measurement: str, size: tuple[int, int, int]) -> Point:
        return Point(measurement, 1, size[1:], size[0])

    models, trained, cuda = settings.models, settings.training, device.startswith("cuda")
    shared, lower = _SHARED if peers else [], settings.precisions
    usual = [at("latency_batch1"), at("throughput_batch16", 16)]
    files = [at("runtime_batch1"), at("runtime_batch8", 8)] if find_spec("onnxscript") else []  # the extra deploy
    growth = [at("growth_side", 1, side) for side in settings.sides]
    growth += [at("growth_batch", batch) for batch in settings.batches]
    runs = [at("training_run", 4, images=images) for images in settings.images]
    gpu = [at("gpu_latency_batch1"), at("gpu_throughput_batch16", 16), at("gpu_throughput_batch256", 256)]
    groups = [  # title, kind, model, variants, points
        ("machine product", "machine", _NONE, ["plain", "product"][: 2 - cuda], [at("machine_product", 1, 2048)]),
        ("machine copy", "machine", _NONE, ["copy"], [at("machine_copy", 1, 4096)]),
        # larger, to fill a GPU's arithmetic units for halves
        ("machine product half", "machine", _NONE, ["product_half"], cuda * [at("machine_product_half", 1, 8192)]),
        *(("gpu inference", "inference", model, GPU_FORMS, cuda * gpu) for model in models[:2]),
        *(("inference", "inference", m, _FORMS, usual + (i == 1) * growth) for i, m in enumerate(models)),
        *(("runtime", "runtime", m, _FILES, files) for m in models if m in _SHARED),
        ("precision", "inference", models[1], ["fold", *lower], bool(lower) * [at("precision")]),
        *(("training", "training", m, ["plain", "fast", PEER], [at("training_step_batch8", 8)]) for m in trained),
        ("training run", "training", trained[0], ["plain", "fast"], runs),
        ("metrics", "metrics", ("seven", ""), ["scikit_learn", "exact"], [of_maps("metrics", settings.maps)]),
        ("metrics", "metrics", ("aupro", ""), [PEER, "exact"], bool(shared) * [of_maps("aupro", settings.maps)]),
        ("metrics at scale", "metrics", ("seven", ""), ["exact"], [of_maps("metrics_scale", settings.scale)]),
    ]
    planned = []
    for title, kind, model, variants, points in groups:
        where = "cpu" if kind == "runtime" else device
        forms = [Form(kind, *model, form, where) for form in variants if model in shared or not form.startswith(PEER)]
        planned += [Group(" ".join([title, *filter(None, model)]), forms, points)] if points else []
    return planned
