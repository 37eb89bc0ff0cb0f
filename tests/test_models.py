"""The models in their plain form: sizes, structure, gradients, the way from an image to a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support import VARIANTS, calibrate, enliven, relative, rng
from torch import Tensor, nn

import ssn_core as ssn
from ssn_core.errors import InputError
from ssn_core.models.detectors import (
    Detector,
    GapCamNet,
    MilNet,
    SimpleNet,
    SuperSimpleNet,
    build_model,
    resize_map,
)
from ssn_core.models.heads import make_adaptor, smooth_maximum
from ssn_core.models.names import ADAPTORS
from ssn_core.models.trunk import to_tensor
from ssn_core.models.upscale import upscale
from ssn_core.runs.presets import PRESETS, preset

SIZE = (64, 40)


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def model() -> Detector:
    torch.manual_seed(0)
    net = VARIANTS["ssn-linear-raw-stopped"](image_size=SIZE)
    return calibrate(net, torch.randn(4, 3, *SIZE, generator=rng()))


@pytest.mark.parametrize(
    ("name", "count"), [("baseline", 33_719_363), ("scenario_a", 4_560_579), ("scenario_b", 5_740_995)]
)
def test_parameter_counts_of_the_report(name: str, count: int) -> None:
    with torch.device("meta"):
        assert size_of(build_model(**preset(name).model_arguments(), pretrained=False)) == count


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_its_model(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        net = build_model(**config.model_arguments(), pretrained=False)
    kinds = {
        "supersimplenet": SuperSimpleNet,
        "gap_cam": GapCamNet,
        "mil": MilNet,
        "simplenet": SimpleNet,
        "memory": ssn.MemoryNet,
    }
    assert type(net) is kinds[config.method]
    assert (net.backbone, net.image_size) == (config.backbone, config.image_size)
    if isinstance(net, SuperSimpleNet):
        assert net.cls_features == config.cls_features
        assert net.stop_gradient is (config.supervision == "unsupervised")


def test_adaptors_change_one_thing_each() -> None:
    layers = {kind: [type(m).__name__ for m in make_adaptor(kind, 6)] for kind in ADAPTORS}
    assert layers == {
        "linear": ["Conv2d"],
        "conv3x3": ["Conv2d"],
        "bn": ["Conv2d", "BatchNorm2d"],
        "relu": ["Conv2d", "ReLU"],
        "conv3x3_bn_relu": ["Conv2d", "BatchNorm2d", "ReLU"],
    }
    kernels = {kind: make_adaptor(kind, 6)[0].kernel_size for kind in layers}
    assert [kernels[k] for k in layers] == [(1, 1), (3, 3), (1, 1), (1, 1), (3, 3)]
    with pytest.raises(InputError, match="adaptor='mlp' is unknown; choose one of linear"):
        make_adaptor("mlp", 6)


def test_heads_have_the_published_shape(model: Detector) -> None:
    c, segmentation, classification = model.channels, model.segmentation, model.classification
    assert segmentation.conv.weight.shape == (1024, c, 1, 1)
    assert segmentation.project.weight.shape == (1, 1024, 1, 1) and segmentation.project.bias is None
    assert classification.conv.weight.shape == (128, c + 1, 5, 5)
    assert classification.score.weight.shape == (1, 258)


def test_forward_is_the_formula_of_the_papers(model: Detector) -> None:
    """Both heads written out once more from the design, on the model's own weights."""
    images = torch.randn(2, 3, *SIZE, generator=rng(1))
    state = model.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{n}"] for n in names))

    with torch.no_grad():
        found = model(images)
        raw = upscale(*model.trunk(images))
        assert raw.shape == (2, model.channels, SIZE[0] // 4, SIZE[1] // 4)
        adapted = F.conv2d(raw, state["adaptor.0.weight"], state["adaptor.0.bias"])
        hidden = norm(
            F.conv2d(adapted, state["segmentation.conv.weight"], state["segmentation.conv.bias"]), "segmentation.bn"
        )
        low = F.conv2d(torch.where(hidden > 0, hidden, 0.2 * hidden), state["segmentation.project.weight"])
        both = torch.cat([raw, low], 1)
        response = F.conv2d(both, state["classification.conv.weight"], state["classification.conv.bias"], padding=2)
        x = norm(response, "classification.bn").clamp(min=0).flatten(2)
        flat = low.flatten(1)
        pooled = torch.cat([x.amax(2), x.mean(2), flat.amax(1, True), flat.mean(1, True)], 1)
        score = pooled @ state["classification.score.weight"][0] + state["classification.score.bias"]
    assert found[0].shape == (2, *SIZE) and found[1].shape == (2,)
    assert relative(found[0], resize_map(low, SIZE)) < 1e-5 and relative(found[1], score) < 1e-5


def test_classification_head_reads_raw_or_adapted_features() -> None:
    torch.manual_seed(0)
    nets = {reads: VARIANTS[f"ssn-linear-{reads}-stopped"](image_size=SIZE) for reads in ("raw", "adapted")}
    nets["adapted"].load_state_dict(nets["raw"].state_dict())
    raw, adapted, low = torch.randn(3, 1, nets["raw"].channels, 6, 5, generator=rng()).unbind(0)
    scores = {}
    for reads, net in nets.items():
        net.eval()
        with torch.no_grad():
            low = net.segmentation(adapted)
            scores[reads] = net.heads(raw, adapted)[1]
            assert torch.equal(scores[reads], net.classification(raw if reads == "raw" else adapted, low))
    assert not torch.allclose(scores["raw"], scores["adapted"])


@pytest.mark.parametrize("stop", [True, False])
def test_gradient_from_the_score_to_the_segmentation_head(stop: bool) -> None:
    torch.manual_seed(0)
    net = SuperSimpleNet("efficientnet_lite0", stop_gradient=stop).train()
    raw = torch.randn(2, net.channels, 6, 6, generator=rng())
    net.heads(raw, net.adaptor(raw))[1].sum().backward()
    reached = [p.grad is not None and bool(p.grad.any()) for p in net.segmentation.parameters()]
    assert not any(reached) if stop else all(p.grad is not None for p in net.segmentation.parameters())
    assert stop or net.segmentation.project.weight.grad.abs().max() > 0
    assert net.classification.conv.weight.grad.abs().max() > 0


def test_class_activation_map_is_the_score_before_averaging() -> None:
    """Mean of the map plus the bias equals the score (Zhou et al. 2016, equation 2)."""
    torch.manual_seed(0)
    net = enliven(GapCamNet("efficientnet_lite0")).eval()
    with torch.no_grad():
        low, score = net.cam(torch.randn(3, net.channels, 7, 5, generator=rng()))
    assert low.shape == (3, 1, 7, 5)
    assert torch.allclose(low.mean((1, 2, 3)) + net.cam.score.bias, score, atol=1e-4)
    assert not hasattr(net, "segmentation")


def test_simplenet_scores_by_the_maximum_of_its_map_at_layer2_size() -> None:
    torch.manual_seed(0)
    net = calibrate(SimpleNet("efficientnet_lite0", image_size=SIZE), torch.randn(4, 3, *SIZE, generator=rng()))
    images = torch.randn(2, 3, *SIZE, generator=rng(1))
    with torch.no_grad():
        anomaly_map, score = net(images)
        layers = net.trunk(images)
        low = net.segmentation(net.adaptor(upscale(*layers, factor=1)))
    assert low.shape[2:] == layers[0].shape[2:]
    assert torch.equal(score, anomaly_map.amax((1, 2)))


def test_noise_is_added_where_the_mask_is_and_to_both_copies_apart(model: Detector) -> None:
    layers = model.trunk(torch.randn(2, 3, *SIZE, generator=rng(1)))
    size = tuple(2 * side for side in layers[0].shape[2:])
    masks = torch.zeros(4, 1, *size)
    masks[3, :, 2:5, 1:3] = 1
    noise = torch.randn(4, model.channels, *size, generator=rng(2))
    with torch.no_grad():
        maps, scores = model.noisy_forward(*layers, masks, noise)
        clean, clean_scores = model.noisy_forward(*layers, 0 * masks, noise)
    assert maps.shape == (4, 1, *size) and scores.shape == (4,)
    changed = ((maps - clean).abs() > 1e-4).float()
    assert torch.equal(changed, masks)
    assert torch.allclose(clean[:2], clean[2:]) and torch.equal(scores[:3], clean_scores[:3])
    assert abs(scores[3] - clean_scores[3]) > 1e-4


def test_training_mode_never_moves_the_trunk(model: Detector) -> None:
    net = VARIANTS["ssn-linear-raw-stopped"](image_size=SIZE).train()
    before = {k: v.clone() for k, v in net.trunk.state_dict().items()}
    assert net.training and not any(module.training for module in net.trunk.modules())
    net(torch.randn(2, 3, *SIZE, generator=rng()))[1].sum().backward()
    assert all(p.grad is None for p in net.trunk.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.trunk.state_dict().items())


def test_initialisation_is_xavier_normal() -> None:
    torch.manual_seed(0)
    net = SuperSimpleNet("resnet18")
    for module in (net.adaptor[0], net.segmentation.conv, net.classification.conv, net.classification.score):
        fan = module.weight[0].numel() + len(module.weight) * module.weight[0, 0].numel()
        deviation = float(module.weight.detach().std())
        assert deviation == pytest.approx((2 / fan) ** 0.5, rel=0.15 if module.weight.numel() < 1000 else 0.02)
        assert float(module.weight.detach().abs().max()) > 2 * deviation  # not uniform


def test_predict_takes_a_path_a_picture_and_an_array(model: Detector, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    found = [model.predict(x) for x in (tmp_path / "picture.png", str(tmp_path / "picture.png"), pixels)]
    found.append(model.predict(Image.fromarray(pixels)))
    with torch.no_grad():
        maps, scores = model(to_tensor(pixels, SIZE)[None])
    for prediction in found:
        assert isinstance(prediction, ssn.Prediction)
        assert prediction.score == pytest.approx(float(scores[0]), rel=1e-5)
        assert prediction.anomaly_map.dtype == np.float32 and prediction.anomaly_map.shape == SIZE
        assert np.allclose(prediction.anomaly_map, maps[0].numpy(), atol=1e-5)
        assert prediction.map_score == pytest.approx(float(prediction.anomaly_map.max()))


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8)]
)
def test_predict_refuses_other_arrays(model: Detector, image: Any) -> None:
    with pytest.raises(InputError, match=r"uint8 \(H, W, 3\)"):
        model.predict(image)


def test_predict_refuses_a_model_in_training_mode(model: Detector) -> None:
    net = VARIANTS["ssn-linear-raw-stopped"](image_size=SIZE).train()
    with pytest.raises(InputError, match="call model.eval"):
        net.predict(np.zeros((8, 8, 3), np.uint8))


def test_the_smooth_maximum_lies_between_mean_and_maximum_and_shares_the_gradient() -> None:
    maps = torch.randn(3, 5, 7, generator=rng()).requires_grad_()
    pooled = smooth_maximum(maps)
    assert (pooled > maps.mean((1, 2))).all() and (pooled < maps.amax((1, 2))).all()
    assert torch.allclose(smooth_maximum(torch.full((1, 4, 4), 1.5)), torch.tensor([1.5]))
    pooled.sum().backward()
    assert torch.allclose(maps.grad.sum((1, 2)), torch.ones(3)) and (maps.grad > 0).all()
    assert torch.equal(maps.grad.flatten(1).argmax(1), maps.flatten(1).argmax(1))
