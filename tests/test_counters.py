"""The two counters of operations: what the published one leaves out, and the committed table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from support import ROOT
from torch import nn

from ssn_core.bench import counters

COMMITTED = ROOT / "data" / "results" / counters.FILE


def test_the_profiler_skips_a_padding_given_by_name() -> None:
    images = torch.zeros(1, 4, 8, 8)
    operations = 2 * 6 * 8 * 8 * 4 * 5 * 5
    by_name, by_number = (nn.Conv2d(4, 6, 5, padding=padding) for padding in ("same", 2))
    found = counters.measure(by_number, images), counters.measure(by_name, images)
    assert [f["torch.profiler"] for f in found] == [operations, 0]
    assert [f["torch.utils.flop_counter"] for f in found] == [operations, operations]


def test_the_table_holds_both_counters_for_both_paddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "_NETWORKS", {"layer": "", "scenario_a": "resnet18"})
    counters.main(tmp_path)
    measured = pd.read_csv(tmp_path / "data" / "results" / counters.FILE, dtype={"padding": str})
    committed = pd.read_csv(COMMITTED, dtype={"padding": str})
    keys = ["network", "padding", "counter", "gflops"]
    wanted = committed[committed["network"] != "baseline"]
    pd.testing.assert_frame_equal(measured[keys], wanted[keys].reset_index(drop=True))


def test_the_published_figure_is_the_count_without_the_convolution() -> None:
    table = pd.read_csv(COMMITTED, dtype={"padding": str}).set_index(["network", "padding", "counter"])["gflops"]
    published = pd.read_csv(COMMITTED.parents[1] / "reference" / "supersimplenet_published_speed.csv")["tflops"].mean()
    skipped = table["baseline", "same", "torch.profiler"]
    assert abs(published - skipped) < 0.1  # the rest is a blur that is made otherwise there
    convolution = 2 * 128 * (1536 + 1) * 25 * 64 * 64 / 1e9
    assert table["baseline", "2", "torch.profiler"] - skipped == pytest.approx(convolution, abs=1e-5)
