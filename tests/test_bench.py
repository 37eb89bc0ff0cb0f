"""The benchmark: what is planned, what a row says, one real measurement, and the counting of operations."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from ssn_core import InputError, load_profile
from ssn_core.bench import gpu_table
from ssn_core.bench import measure as bench
from ssn_core.bench import show as efficiency
from ssn_core.bench.forms import Form, Point, draw_maps, scikit_learn_metrics
from ssn_core.bench.operations import count
from ssn_core.bench.plan import GPU_FORMS, Group, Settings, plan
from ssn_core.bench.process import make
from ssn_core.metrics import evaluate
from ssn_core.models.detectors import SuperSimpleNet

SIZE = Point(2, (64, 64))
TINY = {
    "side": 64, "turns": 1, "seconds": 0.1, "models": [["baseline", "efficientnet_lite0"], ["scenario_a", "resnet18"]],
    "training": [["scenario_a", "efficientnet_lite0"]], "precisions": ["fold_bfloat16"], "sides": [96], "batches": [2],
    "images": [4], "maps": [4, 32, 32], "scale": [6, 32, 32],
}  # fmt: skip


def group(*variants: str, kind: str = "inference") -> Group:
    return Group("g", [Form(kind, "scenario_a", "resnet18", variant) for variant in variants], [])


def test_rows_compare_medians_with_the_first_form() -> None:
    def turn(seconds: float, peak: float) -> dict[str, float]:
        return {"seconds": seconds, "peak": peak}

    turns = [[turn(0.4, 8e6), turn(0.2, 8e6), turn(0.9, 20e6)], [turn(0.1, 2e6), turn(0.1, 1e6), turn(0.2, 2e6)]]
    plain, fold, *memory = bench.rows(group("plain", "fold"), "latency_batch1", SIZE, turns)
    assert (plain["value"], plain["spread_low"], plain["spread_high"], plain["unit"]) == (
        "200",
        "100",
        "450",
        "ms/image",
    )
    assert (plain["ratio_to_plain"], fold["ratio_to_plain"]) == ("1", "4")
    assert [row["value"] for row in memory] == ["8", "2"] and memory[1]["ratio_to_plain"] == "4"
    assert memory[0]["measurement"] == "memory_latency_batch1"
    untold = [[turn | {"peak": None} for turn in form] for form in turns]  # a system that does not tell
    rates = bench.rows(group("plain", "fold"), "throughput_batch16", SIZE, untold)
    assert [(row["value"], row["ratio_to_plain"]) for row in rates] == [("5", "1"), ("20", "4")]
    assert set(plain) == set(bench.COLUMNS)


@pytest.mark.parametrize("profile", ["demo", "cpu", "full"])
def test_every_profile_plans_what_the_report_shows(profile: str) -> None:
    settings = Settings.of(load_profile(profile))
    without, with_peers = plan(settings, "cpu", peers=False), plan(settings, "cpu", peers=True)
    names = [g.name for g in without]
    assert len(names) == len(set(names))
    measured = {measurement for g in without for measurement, _ in g.points}
    assert {"latency_batch1", "throughput_batch16", "training_step_batch8", "training_run", "metrics"} <= measured
    assert {"growth_side", "growth_batch", "metrics_scale", "machine_product", "machine_copy"} <= measured
    experiments = {g.forms[0].experiment for g in without if g.name.startswith("inference")}
    assert {"baseline", "scenario_a", "scenario_b", "learned_noise_v2", "weak_gap_cam"} <= experiments
    assert not any(form.variant == "anomalib" for g in without for form in g.forms)
    peers = {form.kind for g in with_peers for form in g.forms if form.variant == "anomalib"}
    assert peers == ({"metrics"} if profile == "demo" else {"inference", "training", "metrics"})


def test_a_gpu_takes_every_form_at_three_batches() -> None:
    groups = {g.name: g for g in plan(Settings.of(load_profile("full")), "cuda", peers=False)}
    for network in ("baseline wide_resnet50_2", "scenario_a resnet18"):
        group = groups[f"gpu inference {network}"]
        assert [form.variant for form in group.forms] == list(GPU_FORMS) and group.forms[0].device == "cuda"
        assert [(name, point.batch) for name, point in group.points] == [
            ("gpu_latency_batch1", 1),
            ("gpu_throughput_batch16", 16),
            ("gpu_throughput_batch256", 256),
        ]
    assert groups["machine product half"].points[0][0] == "machine_product_half"
    assert {g.name for g in plan(Settings.of(load_profile("full")), "cpu", peers=False)} == {
        name for name in groups if not name.startswith("gpu") and "half" not in name
    }


def gpu_rows(*variants: str) -> pd.DataFrame:
    """What a GPU would have written of ResNet18."""
    turn = [{"seconds": 0.512, "peak": 3e9}]
    forms = [Form("inference", "scenario_a", "resnet18", variant) for variant in variants]
    table = [
        row
        for name, batch in (("gpu_latency_batch1", 1), ("gpu_throughput_batch16", 16), ("gpu_throughput_batch256", 256))
        for row in bench.rows(Group("gpu inference", forms, []), name, Point(batch, (256, 256)), len(forms) * [turn])
    ]
    return pd.DataFrame(table, columns=bench.COLUMNS)


def test_the_gpu_table_names_the_command_of_what_was_not_run() -> None:
    table = gpu_table.gpu_table(gpu_rows("plain", "graph")).set_index(["backbone", "form"])
    own = table.loc[("ResNet18", "fast form as a graph")]
    assert own["latency, batch 1 (ms)"] == "512" and own["throughput, batch 256 (images/s)"] == "500"
    assert own["peak memory, batch 256 (MB)"] == "3000" and "256x256, batch 1" in own["conditions"]
    missing = table.loc[("ResNet18", "plain form, compiled")]
    assert set(missing[:-1]) == {"not run"} and missing["conditions"] == gpu_table.COMMAND
    assert table.loc[("ResNet18", "course report")]["latency, batch 1 (ms)"] == "7.78"
    assert table.loc[("WRN50", "SuperSimpleNet as published")]["throughput, batch 16 (images/s)"] == "268.9"


@pytest.mark.parametrize("on_gpu", [False, True])
def test_derived_limits_by_hand(on_gpu: bool) -> None:
    """10 GFLOP and 400 MB of float32; on a GPU the forward's bytes are counted in half precision."""
    measured = {"operations": 10.0, "traffic": 200.0 if on_gpu else 400.0, "latency_batch1": 2.0}
    machine = {"machine_product": 1e4, "machine_copy": 1e3} | ({"machine_product_half": 1e5} if on_gpu else {})
    rows = [{"measurement": name, "value": number} for name, number in machine.items()]
    network = {"experiment": "scenario_a", "backbone": "resnet18", "variant": "fold"}
    table = pd.DataFrame(rows + [network | {"measurement": m, "value": v} for m, v in measured.items()])
    [row] = efficiency.derived(table).to_dict("records")
    assert float(row["MB moved"]) == 400 and float(row["Tesla P100: derived ms"]) == pytest.approx(10 / 9.3, rel=1e-2)
    assert float(row["H100: derived ms"]) == pytest.approx(200 / 3350, rel=1e-2)
    assert float(row["this machine: derived ms"]) == pytest.approx(0.2 if on_gpu else 1.0)


def test_a_profile_with_a_wrong_key_or_experiment_is_refused() -> None:
    demo = load_profile("demo")
    with pytest.raises(InputError, match="bench: keys cycles are unknown or missing"):
        Settings.of(dataclasses.replace(demo, bench={**demo.bench, "cycles": 3}))
    wrong = {**demo.bench, "models": [["scenario_z", "resnet18"]]}
    with pytest.raises(InputError, match="unknown experiments scenario_z"):
        Settings.of(dataclasses.replace(demo, bench=wrong))


@pytest.mark.parametrize(
    ("kind", "variant", "images"),
    [
        *(("inference", variant, 0) for variant in ("plain", "fold", "fold_bfloat16", "graph")),
        *(("training", variant, images) for variant in ("plain", "fast") for images in (0, 4)),
    ],
)
def test_every_form_of_a_network_runs(kind: str, variant: str, images: int) -> None:
    subject = make(Form(kind, "scenario_a", "resnet18", variant))
    subject.prepare(Point(2, (64, 64), images))()
    if variant == "fold_bfloat16":
        assert 0 < subject.facts["error"] < 0.5


def test_both_forms_of_the_metrics_agree() -> None:
    maps = draw_maps(Point(1, (48, 40), 6))
    assert maps[3].any((1, 2)).tolist() == [False, True] * 3
    exact, usual = evaluate(*maps), scikit_learn_metrics(*maps)
    for name, wanted in usual.items():
        assert exact[name] == pytest.approx(wanted, abs=2e-3), name  # its AUPRO is read off a grid of 1001 rates


def test_operations_and_bytes_by_hand() -> None:
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert count(lambda: a @ b) == (2 * 60, 4 * (12 + 20 + 15))
    x, w = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(5, 3, 3, 3, requires_grad=True)
    forward = 2 * (2 * 5 * 64) * 27
    assert count(lambda: F.conv2d(x, w, padding=1)).flops == forward
    assert count(lambda: F.conv2d(x, w, padding=1).sum().backward()).flops == 3 * forward
    c = torch.zeros(7, 3, 5)
    assert count(lambda: c.baddbmm_(a.expand(7, -1, -1), b.expand(7, -1, -1))).flops == 7 * 120
    assert count(lambda: a.view(4, 3).T).traffic == 0


def test_the_trunk_and_heads_are_counted() -> None:
    """Three quarters of the plain form of ResNet18 are its 1x1 and 5x5 convolutions at full feature size."""
    model, images = SuperSimpleNet("resnet18").eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        whole, trunk = count(lambda: model(images)).flops, count(lambda: model.trunk(images)).flops
    heads = 2 * 16 * 16 * (384 * 384 + 384 * 1024 + 1024 + 25 * 385 * 128)
    assert whole - trunk == pytest.approx(heads, rel=0.01)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("bench")
    profile = dataclasses.replace(load_profile("demo"), figures=folder, bench=TINY)
    with pytest.raises(InputError, match="nothing to measure is called 'x'"):
        bench.measure(profile, "cpu", only="x")
    for name in ("metrics", "machine", "inference baseline"):
        bench.measure(profile, "cpu", only=name, log=lambda line: None)
    return folder / bench.FILE, bench.measure(profile, "cpu", only="metrics", log=pytest.fail)  # nothing is missing


@pytest.mark.slow
def test_processes_take_turns_and_the_table_is_whole(measured: tuple[Path, pd.DataFrame]) -> None:
    path, table = measured
    assert list(table.columns) == bench.COLUMNS and len(pd.read_csv(path)) == len(table)
    assert list(dict.fromkeys(table["group"].str.split().str[0])) == ["machine", "inference", "metrics"]
    fold = table[(table["measurement"] == "latency_batch1") & (table["variant"] == "fold")].iloc[0]
    assert fold["value"] > 0 and fold["ratio_to_plain"] > 0 and "64x64, batch 1" in fold["conditions"]
    operations = table[table["measurement"] == "operations"].set_index("variant")["value"]
    assert operations["fold"] < 0.5 * operations["plain"]
    derived = efficiency.derived(table)
    assert len(derived) == 2 and (derived["what"] == "forward").all()
    assert efficiency.derived(table[~table["measurement"].str.startswith("machine")]).empty  # measured in part
    rows = efficiency.table3(table)
    assert list(rows["form"]) == ["plain form", "fast form"] and rows["course report: latency"].tolist() == ["", ""]


@pytest.mark.slow
def test_a_process_that_stops_is_named(tmp_path: Path) -> None:
    profile = dataclasses.replace(load_profile("demo"), figures=tmp_path, bench=TINY | {"scale": [6, 1, 1]})
    with pytest.raises(InputError, match=r"the benchmark's process of Form\(kind='metrics'.*stopped"):
        bench.measure(profile, "cpu", only="metrics at scale")
    assert not np.any(list(tmp_path.iterdir()))
