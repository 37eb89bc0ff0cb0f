"""The benchmark: what is planned, what a row says, a tiny profile measured to its end, and what is shown of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from studied import EPOCHS, SIZE, fake_run
from support import ROOT, quiet

from ssn_core import InputError, load_profile, preset
from ssn_core.bench import forms, show
from ssn_core.bench import measure as bench
from ssn_core.bench.plan import GPU_FORMS, Form, Group, Point, plan, settings_of
from ssn_core.bench.process import count, timed
from ssn_core.bench.tradeoff import tradeoff
from ssn_core.metrics import evaluate
from ssn_core.models.product import product

TINY = {
    "side": 64, "turns": 1, "seconds": 0.1, "models": [["baseline", "resnet18"], ["scenario_a", "efficientnet_lite0"]],
    "training": [["scenario_a", "efficientnet_lite0"]], "precisions": [], "sides": [], "batches": [], "images": [4],
    "maps": [4, 32, 32], "scale": [6, 32, 32],
}  # fmt: skip


def profile(figures: Path, **changes: object):
    return dataclasses.replace(load_profile("demo"), figures=figures, bench=TINY | changes)


def committed() -> pd.DataFrame:
    return bench.read(ROOT / "figures" / "cpu" / bench.FILE)


def test_rows_compare_medians_with_the_first_form() -> None:
    group = Group("g", [Form("inference", "scenario_a", "resnet18", variant) for variant in ("plain", "fold")], [])
    times, memory = ((400, 200, 900), (100, 100, 200)), ((8, 8, 20), (2, 1, 2))
    turns = [
        [{"latency": (t, "ms/image"), "memory": (m, "MB")} for t, m in zip(*form, strict=True)] + [{"error": (0.5, "")}]
        for form in zip(times, memory, strict=True)
    ]
    turns[0].pop()  # what one form alone says has no ratio
    plain, fold, *others = bench.rows(group, Point("latency", 2, (64, 64)), turns, ["here", "there"])
    assert set(plain) == set(bench.COLUMNS) and plain["conditions"] == "64x64, batch 2, median of 3 turns, here"
    assert [plain[name] for name in ("value", "spread_low", "spread_high", "unit")] == ["400", "200", "900", "ms/image"]
    assert (plain["ratio_to_plain"], fold["ratio_to_plain"]) == ("1", "4")
    assert [(row["measurement"], row["value"], row["ratio_to_plain"]) for row in others] == [
        ("memory", "8", "1"), ("memory", "2", "4"), ("error", "0.5", ""),
    ]  # fmt: skip
    assert others[-1]["conditions"] == "64x64, batch 2, once, there"
    rates = [[{"throughput": (value, "images/s")}] for value in (5.0, 20.0)]
    assert bench.rows(group, Point("throughput", 2, (64, 64)), rates, ["here"] * 2)[1]["ratio_to_plain"] == "4"


def test_units_by_hand() -> None:
    assert timed(Point("latency_batch1", 1, (64, 64)), 0.25) == (250, "ms/image")
    assert timed(Point("training_step_batch8", 8, (64, 64)), 0.25) == (31.25, "ms/image")
    assert timed(Point("gpu_throughput_batch16", 16, (64, 64)), 0.25) == (64, "images/s")
    assert timed(Point("training_run", 4, (64, 64), 8), 0.25) == (0.25, "s")
    assert timed(Point("machine_product_half", 1, (1000, 1000)), 0.5) == (4, "GFLOP/s")
    assert timed(Point("machine_copy", 1, (1000, 1000)), 0.5) == (0.016, "GB/s")


def test_the_committed_table_is_what_the_profile_plans_with_peers() -> None:
    """Group by group, form by form, point by point; what is counted and the memory stand beside."""
    groups = plan(settings_of(load_profile("cpu")), "cpu", peers=True)
    planned = [
        (g.name, p.measurement, f.variant, p.batch, p.size[0]) for g in groups for p in g.points for f in g.forms
    ]
    table = committed()
    timed = table[~table["measurement"].str.match("memory|parameters|operations|traffic|error")]
    assert planned == list(
        timed[["group", "measurement", "variant", "batch", "height"]].itertuples(index=False, name=None)
    )
    without = plan(settings_of(load_profile("cpu")), "cpu", peers=False)
    assert not any(form.variant == "anomalib" for group in without for form in group.forms)


def test_a_gpu_takes_every_form_at_three_batches() -> None:
    settings = settings_of(load_profile("full"))
    groups = {g.name: g for g in plan(settings, "cuda", peers=False)}
    for network in ("baseline wide_resnet50_2", "scenario_a resnet18"):
        group = groups.pop(f"gpu inference {network}")
        assert [form.variant for form in group.forms] == list(GPU_FORMS) and group.forms[0].device == "cuda"
        assert [point.batch for point in group.points] == [1, 16, 256]
    assert groups.pop("machine product half").points[0].measurement == "machine_product_half"
    assert list(groups) == [g.name for g in plan(settings, "cpu", peers=False)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cycles": 3}, r"bench: cycles \(Extra inputs"),
        ({"side": "wide"}, r"bench: side \(Input should be a valid integer"),
        ({"models": [["scenario_z", "resnet18"]]}, "bench: preset 'scenario_z' is unknown"),
        ({"training": [["scenario_a", "resnet19"]]}, "bench: RunConfig: backbone='resnet19'"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench.measure(profile(tmp_path, **changes), "cpu")


@pytest.mark.parametrize(
    ("kind", "variant", "images"),
    [
        *(("inference", variant, 0) for variant in ("plain", "fold", "fold_bfloat16", "graph")),
        *(("runtime", variant, 0) for variant in ("fold_onnx", "fold_int8")),
        *(("training", variant, images) for variant in ("plain", "fast") for images in (0, 4)),
    ],
)
def test_every_form_of_a_network_runs(kind: str, variant: str, images: int) -> None:
    if kind == "runtime":
        pytest.importorskip("onnxscript", reason="needs the extra deploy")
    facts: forms.Facts = {}
    call = getattr(forms, kind)(Form(kind, "scenario_a", "resnet18", variant), facts)(Point("", 2, (64, 64), images))
    call()
    if variant in ("plain", "fast"):
        operations, traffic = count(call)
        assert operations > 1e8 and traffic > 1e7
    if kind == "runtime":
        maps, scores = call()
        assert maps.shape == (2, 64, 64) and scores.shape == (2,)
    assert (0 < facts["error"][0] < 0.5) if variant == "fold_bfloat16" else "error" not in facts


def test_both_forms_of_the_metrics_agree() -> None:
    maps = forms.draw_maps(Point("metrics", 1, (48, 40), 6))
    assert maps[3].any((1, 2)).tolist() == [False, True] * 3
    exact, usual = evaluate(*maps), forms.scikit_learn_metrics(*maps)
    for name, wanted in usual.items():
        assert exact[name] == pytest.approx(wanted, abs=2e-3), name  # its AUPRO is read off a grid of 1001 rates


def test_operations_and_bytes_by_hand() -> None:
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert count(lambda: a @ b) == (2 * 60, 4 * (12 + 20 + 15))
    x, w = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(5, 3, 3, 3, requires_grad=True)
    forward = 2 * (2 * 5 * 64) * 27
    assert count(lambda: F.conv2d(x, w, padding=1))[0] == forward
    assert count(lambda: F.conv2d(x, w, padding=1).sum().backward())[0] == 3 * forward
    c = torch.zeros(7, 3, 5)  # in place, as the fast forms do it
    assert count(lambda: c.baddbmm_(a.expand(7, -1, -1), b.expand(7, -1, -1)))[0] == 7 * 120
    assert count(lambda: c[0].addmm_(a, b))[0] == count(lambda: torch.mv(b.T, a[0]))[0] * 3 == 120
    assert count(lambda: product(a, b)) == count(lambda: a @ b)
    assert count(lambda: a.view(4, 3).T)[1] == 0


@pytest.mark.slow
def test_a_tiny_profile_is_measured_to_its_end(tmp_path: Path) -> None:
    """Its ratios follow from its values; a group measured again replaces its own rows alone; and the report and the
    tables take a table that was measured in part."""
    path = tmp_path / "figures" / "cpu" / bench.FILE
    tiny = profile(path.parent)
    for name in ("metrics", "training", "machine", "inference scenario_a"):
        table = bench.measure(tiny, "cpu", name, log=quiet)
    assert list(dict.fromkeys(table["group"].str.split().str[0])) == ["machine", "inference", "training", "metrics"]
    for _, rows in table.groupby(["group", "measurement", "batch", "height", "images"], dropna=False):
        first = rows["value"].iloc[0]
        ratios = rows["value"] / first if rows["unit"].iloc[0].endswith("/s") else first / rows["value"]
        if len(rows) > 1:
            assert rows["ratio_to_plain"].tolist() == pytest.approx(ratios.tolist(), rel=0.01)
    networks = show.wide(table)
    assert networks["operations"][:, :, "fold"].item() < 0.5 * networks["operations"][:, :, "plain"].item()
    assert show.table3(table)["form"].tolist() == ["plain form", "fast form"]
    assert set(show.derived(table)["what"]) == {"forward", "training step"}

    before = table.drop(columns="precision").assign(conditions="as it was")
    foreign = before.iloc[[0]].assign(group="gpu inference", variant="graph")  # of another machine
    pd.concat([before, foreign]).to_csv(path, index=False)
    said: list[str] = []
    after = bench.measure(tiny, "cpu", "metrics at scale", log=said.append)
    kept = after["conditions"] == "as it was"
    assert after["group"].tolist() == [*before["group"], "gpu inference"] and len(said) == 2
    assert set(after["group"][~kept]) == {"metrics at scale seven"} == {*after["group"]} - {*after["group"][kept]}
    assert after["value"][kept].tolist() == [*before["value"][: kept.sum() - 1], foreign["value"].item()]


@pytest.mark.parametrize("kept", ["metrics", "machine product"])
def test_a_table_that_was_measured_in_part_is_drawn_as_far_as_it_goes(kept: str) -> None:
    part = committed()[lambda table: table["group"].str.startswith(kept)]
    assert show.growth(part) is None and tradeoff(part, []) is None and show.speedups(part) is not None


def test_a_system_that_tells_no_peak_memory_has_a_trade_off_without_it(tmp_path: Path) -> None:
    table, run = committed(), fake_run(tmp_path, preset("scenario_a", image_size=SIZE, epochs=EPOCHS))
    figure = tradeoff(table[table["measurement"] != "memory_throughput_batch16"], [run])
    sizes = np.concatenate([marks.get_sizes() for ax in figure.axes for marks in ax.collections])
    assert set(sizes) == {12, 500}  # networks without a training, and with one


def test_a_network_trained_otherwise_stands_at_its_own_speed(tmp_path: Path) -> None:
    """Scenario C has A's network, so A's latency, and a mark of its own at its own height; and none without runs."""
    runs = [fake_run(tmp_path, preset("scenario_c", image_size=SIZE, epochs=EPOCHS))]
    with_c, without = ([line.get_data() for line in tradeoff(committed(), own).axes[0].lines] for own in (runs, []))
    [(places, heights)] = [line for line in with_c if list(line[1][:1]) == [runs[0].metrics["I-AUROC"]]]
    a = show.wide(committed()).loc[[("scenario_a", "resnet18", form) for form in ("plain", "fold")], "latency_batch1"]
    assert list(places) == a.tolist() and len(heights) == 2
    assert len(with_c) == len(without) + 2  # its line and its place in the legend


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to measure is called 'x'; there are machine product"):
        bench.measure(profile(tmp_path), "cpu", only="x")
    (tmp_path / bench.FILE).write_text("measurement,value\nlatency,1\n")
    with pytest.raises(InputError, match=r"bench\.csv has no column group"):
        bench.measure(profile(tmp_path), "cpu", only="machine")
    (tmp_path / bench.FILE).unlink()
    with pytest.raises(InputError, match=r"the benchmark's process of Form\(kind='metrics'.*stopped"):
        bench.measure(profile(tmp_path, scale=[0, 32, 32]), "cpu", only="metrics at scale")
    assert not any(tmp_path.iterdir())
