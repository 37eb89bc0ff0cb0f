"""What a gate by the image score takes away from normal images."""

from __future__ import annotations

from pathlib import Path

import pytest
from studied import config_of, fake_run

from ssn_core import RunResult, load_run, run_command
from ssn_core.study import gating


def test_gating_counts_masks_and_pixels_on_normal_images_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = fake_run(tmp_path, config_of("simplenet"))
    frame = gating.gating([run]).set_index(["mask", "gate"])
    normal = run.scores[run.scores["label"] == 0]
    threshold = run.metrics["youden"]["score"]["threshold"]
    before, after = frame.loc[(gating.ABSOLUTE, "no gate")], frame.loc[(gating.ABSOLUTE, "Youden (test)")]
    passed = normal[normal["score"] >= threshold]
    assert before["normal images with a mask"] == (normal["map_score"] > 0).sum()
    assert after["normal images with a mask"] == (passed["map_score"] > 0).sum()
    by_range = frame.loc[(gating.RELATIVE, "no gate"), "normal images with a mask"]
    assert by_range == 6  # scaling gives every image a mask
    assert before["false positive pixels"] == normal["marked"].sum() > after["false positive pixels"]
    assert after["false positive pixels"] == passed["marked"].sum()
    defective = run.scores[run.scores["label"] == 1]
    silent = (defective["map_score"] <= 0) | (defective["score"] < threshold)
    assert after["defective images without a mask"] == silent.sum() > 0
    quantile = run.metrics["train_quantile"]["score"]
    by_normal = frame.loc[(gating.RELATIVE, "quantile (normal training)")]
    assert by_normal["normal images with a mask"] == (normal["score"] >= quantile).sum()
    assert gating.gating_bars([run]).axes[0].patches[0].get_height() == 1.0
    assert not capsys.readouterr().out


def test_a_run_without_counted_pixels_loads_and_is_told_how_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = fake_run(tmp_path, config_of("simplenet"))
    run.scores.drop(columns=["marked", "marked_scaled"]).to_csv(run.path / "scores.csv", index=False)
    old = load_run(run.path)
    assert set(gating.gating([old])["false positive pixels"]) == {"n/a"}
    printed = capsys.readouterr().out
    assert run_command(old.config) in printed and "counts of marked pixels" in printed and printed.count("\n") == 1
    assert gating.gating_bars([old]) is not None


def test_counted_pixels_are_those_above_the_rule(scenarios: list[RunResult]) -> None:
    """Against the map itself, of the image that the run keeps one of (as float16)."""
    run = scenarios[0]
    maps = dict(zip(run.examples["images"], run.examples["maps"].astype(float), strict=True))
    counted = run.scores.set_index("image")
    for name, values in maps.items():
        half = (values.min() + values.max()) / 2
        assert abs(counted.loc[name, "marked"] - (values > 0).sum()) <= 2
        assert abs(counted.loc[name, "marked_scaled"] - (values > half).sum()) <= 2
