"""The ONNX file: equal to torch for any batch, with what it needs to decide, and absent where it would not be equal."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import ROOT, SIZE, calibrate, enliven, images, lively
from torch import Tensor

import ssn_core as ssn
from ssn_core import InputError
from ssn_core.fast import export
from ssn_core.inspection.threshold import Threshold
from ssn_core.models.detectors import MemoryNet
from ssn_core.models.upscale import upscale

onnx = pytest.importorskip("onnx", reason="needs the extra deploy")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra deploy")
pytest.importorskip("onnxscript", reason="needs the extra deploy")


def pictures(count: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *size, 3), np.uint8)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def memory(backbone: str) -> MemoryNet:
    """The method that ``ssn train`` uses without further words, with features that a network has."""
    config = ssn.preset("memory", backbone=backbone, memory_size=40, image_size=SIZE)
    torch.manual_seed(0)
    model = calibrate(enliven(ssn.build_model(**config.model_arguments(), pretrained=False)), images(4))
    model.memory.copy_(upscale(*model.trunk(images(4)), model.upscaling).permute(0, 2, 3, 1).flatten(0, 2)[::4][:40])
    return model


@pytest.mark.parametrize(
    ("name", "backbone", "equal_brightness"),
    [
        ("ssn-linear-raw-stopped", "resnet18", False),
        ("ssn-linear-adapted-stopped", "efficientnet_lite0", True),
        ("ssn-conv3x3_bn_relu-adapted-stopped", "efficientnet_lite0", False),
        ("gap_cam-linear", "efficientnet_lite0", False),
        ("mil-linear", "efficientnet_lite0", False),
        ("simplenet-linear", "efficientnet_lite0", False),
        ("memory", "efficientnet_lite0", True),
    ],
)
def test_any_batch_gives_the_plain_forms_logits(
    name: str, backbone: str, equal_brightness: bool, tmp_path: Path
) -> None:
    model = memory(backbone) if name == "memory" else lively(name, backbone)
    model.trunk.equal_brightness = equal_brightness
    session = open_session(export.write_onnx(model, tmp_path / "model.onnx", {}, 0.0))
    for count in (1, 3):
        pixels = pictures(count)
        maps, scores = session.run(["anomaly_map", "image_score"], {"images": pixels})
        assert maps.shape == (count, *SIZE) and scores.shape == (count,)
        for anomaly_map, score, wanted in zip(maps, scores, map(model.predict, pixels), strict=True):
            assert wanted.anomaly_map.std() > 1e-3
            tolerance = 2e-4 * (wanted.map_score if name == "memory" else 1)  # its distances are no logits
            assert np.abs(anomaly_map - wanted.anomaly_map).max() < tolerance and abs(score - wanted.score) < tolerance


@pytest.fixture(scope="module")
def exported(run: ssn.RunResult) -> tuple[Path, list[str]]:
    said: list[str] = []
    return ssn.export_onnx(run.path, log=said.append), said


def test_a_runs_file_knows_how_to_decide(run: ssn.RunResult, exported: tuple[Path, list[str]]) -> None:
    path, said = exported
    facts = open_session(path).get_modelmeta().custom_metadata_map
    assert path == run.path / "model.onnx" and [p.name for p in run.path.glob("*.onnx*")] == ["model.onnx"]
    assert (facts["run_id"], facts["image_size"], facts["decides_by"]) == (run.config.run_id, "64,64", "map_score")
    assert float(facts["threshold"]) == Threshold.of(run).value
    assert len(said) == 1 and "ONNX Runtime" in said[0] and "ratio" in said[0]
    assert str(Path(export.__file__).parents[2]).encode() not in path.read_bytes()


def test_a_file_that_was_tampered_with_is_refused(
    run: ssn.RunResult, exported: tuple[Path, list[str]], tmp_path: Path
) -> None:
    model = ssn.load_model(run.path)
    assert export.difference(exported[0], model, 0.0) == ""
    proto = onnx.load(exported[0])
    largest = max(proto.graph.initializer, key=lambda x: len(x.raw_data))
    values = onnx.numpy_helper.to_array(largest) * np.float32(1.01)
    largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
    onnx.save(proto, tmp_path / "tampered.onnx")
    assert "in ONNX Runtime differ from torch's" in export.difference(tmp_path / "tampered.onnx", model, 0.0)


def test_a_graph_that_is_not_equal_leaves_the_file_as_it_was(
    run: ssn.RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmentation = export._OnnxForm._segmentation

    def shifted(*args: object) -> Tensor:
        return segmentation(*args) + 0.01

    monkeypatch.setattr(export._OnnxForm, "_segmentation", shifted)
    target = tmp_path / "model.onnx"
    target.write_text("an earlier export")
    with pytest.raises(InputError, match=r"model.onnx is not written: anomaly map .* differ from torch's \(by 0.01,"):
        ssn.export_onnx(run.path, target)
    assert target.read_text() == "an earlier export" and [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_decision_that_differs_is_refused(
    run: ssn.RunResult, exported: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal within the tolerance, with the threshold in between."""
    model, call = ssn.load_model(run.path), export.session(exported[0])
    threshold = ssn.fold(model).predict(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).map_score
    monkeypatch.setattr(export, "session", lambda path: lambda images: [x + np.float32(5e-5) for x in call(images)])
    assert export.difference(exported[0], model, threshold + 2e-5).startswith("decision in ONNX Runtime differ")
    assert export.difference(exported[0], model, threshold + 1.0) == ""


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_line(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"export needs {package}, which is not installed; pip install"):
        export.write_onnx(lively("simplenet-linear", "efficientnet_lite0"), tmp_path / "m.onnx", {}, 0.0)
    assert not list(tmp_path.iterdir())


def test_the_example_inspects_a_folder(
    run: ssn.RunResult,
    exported: tuple[Path, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the file alone: scores as ``predict`` gives them from the same files, once each, and broken files named."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    example, session, seen = importlib.import_module("inspect_folder"), open_session(exported[0]), set()
    smooth = Image.fromarray(pictures(1, (9, 7))[0]).resize((150, 110), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a,b.png")
    smooth.convert("L").save(tmp_path / "grey.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a,b.png").read_bytes()[:500])
    Image.new("I;16", (8, 8)).save(tmp_path / "deep.png")
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    smooth.save(tmp_path / "under way.png")
    os.utime(tmp_path / "under way.png", (2**32, 2**32))
    for _ in range(2):
        example.watch(session, tmp_path, seen)
    said = capsys.readouterr()
    threshold = run.metrics["train_quantile"]["map_score"]
    model = ssn.load_model(run.path)
    wanted = {name: model.predict(tmp_path / name).map_score for name in ("a,b.png", "grey.png")}
    rows = [line.rsplit(",", 2) for line in said.out.splitlines()]
    assert [row[0].strip('"') for row in rows] == list(wanted)
    for (_, score, decision), expected in zip(rows, wanted.values(), strict=True):
        assert float(score) == pytest.approx(
            expected, abs=0.05
        )  # Pillow rounds grey levels once where OpenCV does twice
        assert decision == ("defective" if float(score) > threshold else "good")
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in said.err.splitlines()] == ["broken.png", "deep.png"]
