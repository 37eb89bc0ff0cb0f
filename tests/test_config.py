"""RunConfig: presets are differences, contradictions are refused at construction, each message names its field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ssn_core.errors import InputError
from ssn_core.runs.config import RunConfig
from ssn_core.runs.presets import preset


def refused(**fields: Any) -> str:
    with pytest.raises(InputError) as caught:
        RunConfig(**fields)
    return str(caught.value)


def test_presets_hold_the_published_protocol() -> None:
    base = preset("baseline")
    assert (base.backbone, base.epochs, base.batch_size, base.image_size) == ("wide_resnet50_2", 300, 32, (256, 256))
    assert (base.noise_std, base.noise_unit, base.perlin_threshold) == (0.015, "absolute", 0.2)
    assert (base.adaptor_lr, base.head_lr) == (1e-4, 2e-4)
    full = preset("supervised")
    assert (full.image_size, full.perlin_threshold, full.flips) == ((640, 232), 0.6, 4)
    assert (full.supervision, full.noise_region) == ("full", "outside_defects")
    assert preset("weak_gap_cam").needs_training_masks is False
    assert preset("weak_gap_cam_as_published").needs_training_masks is True
    assert preset("unsupervised").perlin_threshold == 0.2


def test_scenario_b_ablations_change_one_thing_each() -> None:
    assert [preset(f"scenario_b{x}").adaptor for x in ("", "_conv3x3", "_bn", "_relu", "_rescaled")] == [
        "conv3x3_bn_relu",
        "conv3x3",
        "bn",
        "relu",
        "conv3x3_bn_relu",
    ]
    assert preset("scenario_b_rescaled").noise_unit == "adapted_std"


def test_unknown_preset_and_field_list_the_known_ones() -> None:
    with pytest.raises(InputError, match="'scenario_z' is unknown; choose one of baseline, scenario_a"):
        preset("scenario_z")
    with pytest.raises(InputError, match="no field 'epoch'; its fields are experiment, dataset"):
        preset("scenario_a", epoch=3)
    with pytest.raises(InputError, match="no field 'colour'"):
        RunConfig(**{"colour": 1})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"experiment": "scenario_b"}, "needs a nonlinear or spatial adaptor"),
        ({"noise_std": 0}, "noise_std=0 must be greater than 0"),
        ({"noise_std": -0.1}, "noise_std=-0.1 must"),
        ({"noise_std": float("nan")}, "noise_std=nan must"),
        ({"noise_std": "0.1"}, "noise_std='0.1' must"),
        ({"noise": "learned_v2", "beta": 0}, "beta=0 must be greater than 0"),
        ({"noise": "learned_v2", "beta": -1.0}, "beta=-1.0 must"),
        ({"noise": "learned_v2"}, "needs beta"),
        ({"beta": 0.1}, "beta=0.1 belongs to noise='learned_v2'"),
        ({"noise_std": 0.2, "noise_std_high": 0.1}, "noise_std_high=0.1 must exceed noise_std"),
        ({"noise": "learned_v1", "noise_std_high": 1.0}, "belongs to a noise of fixed shape"),
        ({"noise_rule": "as_published"}, "noise_rule='as_published'"),
        ({"noise": "learned_v1", "noise_rule": "as_published", "supervision": "full"}, "noise_rule='as_published'"),
        ({"pixel_values": "softmax"}, "pixel_values='softmax' must be 'logits' or 'sigmoid'"),
        ({"noise": "learned_v1", "method": "simplenet"}, "noise='learned_v1' is defined for"),
        ({"image_size": (24, 64)}, "image_size=(24, 64) must be"),
        ({"image_size": (64, 100)}, "image_size=(64, 100) must be"),
        ({"image_size": 256}, "image_size=256 must be"),
        ({"image_size": (256, 256, 3)}, "image_size=(256, 256, 3) must be"),
        ({"image_size": (64.0, 64)}, "image_size=(64.0, 64) must be"),
        ({"flips": 5}, "flips=5 must be less than or equal to 4"),
        ({"flips": 0}, "flips=0 must be greater than or equal to 1"),
        ({"flips": True}, "flips=True must be a valid integer"),
        ({"epochs": 0}, "epochs=0 must be greater than or equal to 1"),
        ({"epochs": 1.5}, "epochs=1.5 must be a valid integer"),
        ({"batch_size": 1}, "batch_size=1 must be greater than or equal to 2"),
        ({"seed": -1}, "seed=-1 must be greater than or equal to 0"),
        ({"eval_every": -1}, "eval_every=-1 must"),
        ({"adaptor_lr": 0}, "adaptor_lr=0 must be greater than 0"),
        ({"head_lr": float("inf")}, "head_lr=inf must be a finite number"),
        ({"validation_fraction": 0.5}, "validation_fraction=0.5 must be less than 0.5"),
        ({"perlin_threshold": None}, "perlin_threshold=None must be a valid number"),
        ({"perlin_threshold": 5}, "perlin_threshold=5 must be less than or equal to 0.9"),
        ({"perlin_threshold": -1}, "perlin_threshold=-1 must be greater than -1"),
        ({"seed": 10**5000}, "seed=a number of thousands of digits must be less than"),
        ({"seed": 10**200}, f"seed=1{'0' * 59}… (201 characters) must be less than"),
        ({"category": "x" * 101}, "must be a name without a slash, to 100 letters"),
        ({"category": "裂" * 80}, "make a folder name of 2"),
        ({"category": "a\0b"}, "must be a name without a slash"),
        ({"backbone": "resnet50"}, "backbone='resnet50' must be 'wide_resnet50_2', 'resnet18' or 'efficientnet_lite0'"),
        ({"adaptor": "conv5x5"}, "adaptor='conv5x5' must be 'linear', 'conv3x3'"),
        ({"dataset": "visa"}, "dataset='visa' must be 'mvtec', 'ksdd2'"),
        ({"noise_unit": "percent"}, "noise_unit='percent' must be 'absolute'"),
        ({"supervision": "mixed"}, "supervision='mixed' must be 'unsupervised'"),
        ({"category": ""}, "category='' must be a name without a slash"),
        ({"category": "a/b"}, "category='a/b' must be a name without a slash"),
        ({"category": 5}, "category=5 must be a name without a slash"),
        ({"experiment": 5}, "experiment=5 must be a name without a slash"),
        ({"noise_unit": "adapted_std"}, "noise_unit='adapted_std' is for adaptors"),
        (
            {"noise": "learned_v1", "noise_unit": "adapted_std", "adaptor": "bn"},
            "a generator's bound cannot follow features",
        ),
        ({"method": "gap_cam"}, "method='gap_cam' learns from image labels"),
        ({"method": "mil"}, "method='mil' learns from image labels"),
        ({"method": "simplenet", "supervision": "full"}, "method='simplenet' is unsupervised only"),
        ({"method": "memory", "epochs": 1}, "method='memory' needs memory_size"),
        ({"method": "memory", "memory_size": 9}, "is filled in one epoch (epochs=1)"),
        ({"method": "memory", "memory_size": 9, "epochs": 1, "adaptor": "bn"}, "has no adaptor to choose"),
        ({"memory_size": 9}, "memory_size and memory_choice belong to method='memory'"),
        ({"memory_choice": "random"}, "memory_size and memory_choice belong to method='memory'"),
        ({"rotations": True, "image_size": (64, 128)}, "rotations=True needs square images"),
        ({"noise_region": "outside_defects"}, "noise_region='outside_defects' needs training masks"),
    ],
)
def test_bad_values_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    assert message in refused(**fields)


def test_every_problem_is_listed_at_once() -> None:
    text = refused(noise_std=0, flips=9, backbone="vgg")
    assert all(part in text for part in ("noise_std=0", "flips=9", "backbone='vgg'"))


def test_round_trip_through_json_keeps_configuration_and_name() -> None:
    made = preset("supervised", seed=3, noise_std=0.02)
    again = RunConfig(**json.loads(json.dumps(made.as_dict())))
    assert again == made and again.image_size == (640, 232)
    assert again.run_id == made.run_id


def test_run_id_is_readable_and_unique() -> None:
    made = preset("scenario_a", category="screw", seed=4)
    assert made.run_id.startswith("scenario_a-resnet18-mvtec-screw-s4-")
    assert preset("weak_gap_cam").run_id.startswith("weak_gap_cam-wide_resnet50_2-ksdd2-s0-")
    others = [preset("scenario_a", category="screw", seed=4, **x) for x in ({"epochs": 3}, {"noise_std": 0.02})]
    assert len({made.run_id, *(other.run_id for other in others)}) == 3


def test_equal_configurations_share_one_run_folder() -> None:
    """A number may be written 1 or 1.0; an equal configuration must find the run that is already there."""
    whole, point = preset("scenario_a", noise_std=1), preset("scenario_a", noise_std=1.0)
    assert whole == point and whole.run_id == point.run_id
