"""The benchmark's table: every form measured, ratios against the plain form of the same run."""

from __future__ import annotations

from ssn_core import bench


def test_rows_compare_medians_with_the_plain_form() -> None:
    seconds = {"plain": [0.4, 0.2, 0.9], "fold": [0.1, 0.1, 0.2]}
    plain, fold = bench.rows("latency_batch1", "resnet18", seconds)
    assert (plain["ratio_to_plain"], fold["ratio_to_plain"]) == ("1", "4")
    assert (plain["value"], plain["spread_low"], plain["spread_high"], plain["unit"]) == (
        "400",
        "200",
        "900",
        "ms/image",
    )
    assert bench.rows("throughput_batch16", "resnet18", seconds)[1]["value"] == "10"
    assert set(plain) == set(bench.COLUMNS)


def test_both_forms_of_every_measurement_run() -> None:
    for measure, _ in bench.MEASUREMENTS.values():
        seconds = measure("efficientnet_lite0", 2, 1)
        assert len(seconds) == 2 and "plain" in seconds
        assert all(len(times) == 1 and times[0] > 0 for times in seconds.values())
