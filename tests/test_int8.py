"""The int8 file: what is quantised in it, that its cost is stated, and that it is absent where it costs too much."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import quiet

import ssn_core as ssn
from ssn_core import InputError
from ssn_core.__main__ import main
from ssn_core.fast import export
from ssn_core.fast import int8 as quantise
from ssn_core.inspection import int8
from ssn_core.metrics import METRICS

onnx = pytest.importorskip("onnx", reason="needs the extra deploy")
pytest.importorskip("onnxruntime", reason="needs the extra deploy")
pytest.importorskip("onnxscript", reason="needs the extra deploy")


def test_a_run_in_int8_says_what_it_costs(
    run: ssn.RunResult, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "ALLOWED", 1.0)  # a training of two steps separates nothing
    said: list[str] = []
    float32 = ssn.export_onnx(run.path, tmp_path / "float32.onnx", log=said.append)
    path = int8.export_int8(run, tmp_path / "int8.onnx", str(tiny_sets), log=said.append)
    assert path.stat().st_size < 0.5 * float32.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["float32.onnx", "int8.onnx"]
    rows = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in said if line.split()[0] in METRICS}
    assert list(rows) == list(METRICS)
    for name, (before, after, change) in rows.items():
        assert before == pytest.approx(run.metrics[name], abs=1e-3) and after - before == pytest.approx(
            change, abs=2e-4
        )
    assert any(line.startswith("decisions that change: ") and line.endswith(" of 7") for line in said)
    assert "ratio" in said[-1] and "VNNI" in said[-1]
    properties = [{p.key: p.value for p in onnx.load(file).metadata_props} for file in (float32, path)]
    assert properties[1].items() >= properties[0].items() and "threshold" in properties[0]
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    maps = [export.session(file)(images)[0] for file in (float32, path)]
    assert 0 < np.abs(maps[1] - maps[0]).mean() < 0.3 * maps[0].std()


def test_what_costs_too_much_leaves_no_file(
    run: ssn.RunResult, tiny_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(int8, "ALLOWED", -2.0)
    words = ["export", str(run.path), "--int8", "--data-root", str(tiny_sets), "--out", str(tmp_path / "m.onnx")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "m.onnx is not written: I-AUROC falls by" in error and "without --int8" in error
    assert not any(tmp_path.iterdir())


def test_other_images_than_the_runs_are_refused(run: ssn.RunResult, tiny_sets: Path, tmp_path: Path) -> None:
    info = run.info | {"data": run.info["data"] | {"fingerprint": "another"}}
    with pytest.raises(InputError, match="holds other images than"):
        int8.export_int8(dataclasses.replace(run, info=info), tmp_path / "m.onnx", str(tiny_sets))
    assert not any(tmp_path.iterdir())


def test_without_defects_good_images_are_compared(
    trained: ssn.RunResult, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, good, said = ssn.load_run(shutil.copytree(trained.path, tmp_path / trained.path.name)), parts / "good", []
    path = int8.export_int8(run, None, str(good), log=said.append)
    assert path == run.path / "model.int8.onnx" and path.is_file()
    assert [line for line in said if line.startswith("not checked: whether defects are still found (no defective")]
    path.unlink()
    monkeypatch.setattr(int8, "write_int8", lambda *_: shifted(run, tmp_path / "shifted.onnx"))
    with pytest.raises(InputError, match="of the good images are rejected, the threshold allows"):
        int8.export_int8(run, None, str(good), log=quiet)
    assert not path.exists()


def shifted(run: ssn.RunResult, path: Path) -> Path:
    """The exact file with every map raised by much."""
    proto = onnx.load(ssn.export_onnx(run.path, path, log=quiet))
    last = next(node for node in proto.graph.node if "anomaly_map" in node.output)
    last.output[0] = "lower"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1e3), "much"))
    proto.graph.node.append(onnx.helper.make_node("Add", ["lower", "much"], ["anomaly_map"]))
    onnx.save(proto, path)
    return path


def test_trunk_and_constant_weights_are_quantised_and_nothing_else(run: ssn.RunResult, tmp_path: Path) -> None:
    nodes = list(onnx.load(ssn.export_onnx(run.path, tmp_path / "m.onnx", log=quiet)).graph.node)
    weights = {node.name: node.input[1] for node in nodes if node.op_type in ("Conv", "MatMul")}
    chosen = set(quantise.quantised_nodes(nodes))
    kept = [weight for name, weight in weights.items() if name not in chosen]
    assert len(chosen & set(weights)) > 30 and "map_taps" in kept and "score_weight" in kept
    assert not [weight for weight in kept if weight.startswith(("trunk.", "hidden.split", "response.split"))]
    first = next(i for i, node in enumerate(nodes) if node.op_type == "MatMul")  # where the trunk has ended
    assert {node.name for node in nodes[first:]} & chosen == {n for n in chosen if ".split." in weights.get(n, "")}


def test_the_processors_units_are_read_from_linux(tmp_path: Path) -> None:
    for flags, has in (("sse2 avx512_vnni fma", True), ("sse2 avx2 fma", False)):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
        assert quantise.int8_units(tmp_path / "cpuinfo") is has
    assert quantise.int8_units(tmp_path / "nowhere") is None
