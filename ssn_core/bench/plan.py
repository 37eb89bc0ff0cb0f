"""What the benchmark measures: forms that take turns, at which sizes, by the key ``bench`` of a profile."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ssn_core.bench.forms import Form, Point
from ssn_core.errors import InputError
from ssn_core.runs.config import PRESETS
from ssn_core.runs.profiles import Profile

#: forms that only a GPU has: see :class:`ssn_core.bench.forms.Inference`
GPU_FORMS = ("plain", "compiled", "fold", "graph", "graph_compiled")
GPU_MODELS = 2  # how many of a profile's models take all of them
#: networks that anomalib has too
_SHARED = (("baseline", "wide_resnet50_2"), ("scenario_a", "resnet18"))


@dataclass(frozen=True)
class Settings:
    """The key ``bench`` of a profile: which models at which sizes, and how long.

    ``models`` and ``training`` hold pairs [experiment, backbone]; of the second model and the first training the cost
    is also measured as it grows with the image's side, the batch and the number of training images. ``maps``: (count,
    height, width) for the comparison with scikit-learn, ``scale`` the same for the exact form alone.
    """

    side: int
    turns: int
    seconds: float
    models: list[list[str]]
    training: list[list[str]]
    precisions: list[str]
    sides: list[int]
    batches: list[int]
    images: list[int]
    maps: list[int]
    scale: list[int]

    @classmethod
    def of(cls, profile: Profile) -> Settings:
        """Raises :class:`InputError` for a key that is unknown or missing and an experiment that is no preset."""
        known = {field.name for field in dataclasses.fields(cls)}
        if wrong := sorted(set(profile.bench) ^ known):
            raise InputError(f"profile {profile.name!r}: bench: keys {', '.join(wrong)} are unknown or missing")
        settings = cls(**profile.bench)
        if unknown := [name for name, _ in (*settings.models, *settings.training) if name not in PRESETS]:
            raise InputError(f"profile {profile.name!r}: bench: unknown experiments {', '.join(unknown)}")
        return settings


@dataclass(frozen=True)
class Group:
    """Forms that take turns, the one that the others are compared with first, and the points: (measurement, point)."""

    name: str
    forms: list[Form]
    points: list[tuple[str, Point]]


def plan(settings: Settings, device: str, peers: bool) -> list[Group]:
    """Everything that a profile measures, in order."""
    square = (settings.side, settings.side)

    def group(kind: str, model: Sequence[str], variants: Iterable[str], points: Iterable[tuple[str, Point]], name: str):
        forms = [Form(kind, *model, variant, device) for variant in variants]
        return Group(" ".join(filter(None, (name, *model))), forms, list(points))

    def others(model: Sequence[str]) -> list[str]:
        return ["anomalib"] if peers and tuple(model) in _SHARED else []

    product, copy = Point(1, (2048, 2048)), Point(1, (4096, 4096))
    groups = [
        group("machine", ("", ""), ["product"], [("machine_product", product)], "machine product"),
        group("machine", ("", ""), ["copy"], [("machine_copy", copy)], "machine copy"),
    ]
    if device.startswith("cuda"):
        larger = Point(1, (8192, 8192))  # the smaller product would not fill a GPU's arithmetic units for halves
        groups.append(
            group("machine", ("", ""), ["product_half"], [("machine_product_half", larger)], "machine product half")
        )
        for model in settings.models[:GPU_MODELS]:
            points = [(f"gpu_{'throughput' if n > 1 else 'latency'}_batch{n}", Point(n, square)) for n in (1, 16, 256)]
            groups.append(group("inference", model, GPU_FORMS, points, "gpu inference"))
    for i, model in enumerate(settings.models):
        points = [("latency_batch1", Point(1, square)), ("throughput_batch16", Point(16, square))]
        if i == 1:
            points += [("growth_side", Point(1, (side, side))) for side in settings.sides]
            points += [("growth_batch", Point(batch, square)) for batch in settings.batches]
        groups.append(group("inference", model, ["plain", "fold", *others(model)], points, "inference"))
    if settings.precisions:
        variants = ["fold", *settings.precisions]
        groups.append(group("inference", settings.models[1], variants, [("precision", Point(1, square))], "precision"))
    for model in settings.training:
        points = [("training_step_batch8", Point(8, square))]
        groups.append(group("training", model, ["plain", "fast", *others(model)], points, "training"))
    runs = [("training_run", Point(4, square, images)) for images in settings.images]
    groups.append(group("training", settings.training[0], ["plain", "fast"], runs, "training run"))
    maps, scale = (Point(1, (h, w), n) for n, h, w in (settings.maps, settings.scale))
    groups.append(group("metrics", ("seven", ""), ["scikit_learn", "exact"], [("metrics", maps)], "metrics"))
    if peers:
        groups.append(group("metrics", ("aupro", ""), ["anomalib", "exact"], [("aupro", maps)], "metrics"))
    groups.append(group("metrics", ("seven", ""), ["exact"], [("metrics_scale", scale)], "metrics at scale"))
    return groups
