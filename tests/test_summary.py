"""What the summary keeps: groups over seeds, whether a metric was still rising, scores on the published scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_runs import write_run

from report.summary import summarise
from ssn_core import preset
from ssn_core.bench.measure import COLUMNS
from ssn_core.errors import InputError
from ssn_core.files import write_csv, write_json
from ssn_core.metrics import METRICS, youden
from ssn_core.runs.result import load_run
from ssn_core.study.gating import as_published
from ssn_core.study.run_values import aggregate, run_values
from ssn_core.study.trend import RISE, rise

ROOT = Path(__file__).parents[1]
COST = {"epochs": 12, "batch_size": 4}


def flat(value: float) -> dict[str, float]:
    return dict.fromkeys(METRICS, value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with the reference files and no runs."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "reference").symlink_to(ROOT / "data" / "reference")
    return tmp_path


# Groups


def test_controls_are_one_group_though_each_seed_has_its_own_noise(root: Path) -> None:
    for seed, value in enumerate((0.8, 0.9, 0.85)):
        config = preset("noise_control", category="screw", seed=seed, noise_std=0.02 + seed / 1000, **COST)
        write_run(root / "data" / "results", config, flat(value))
    [group] = summarise(root)["groups"]
    found = group["values"]["I-AUROC"]
    assert (group["n"], group["seeds"], group["noise_std"]) == (3, [0, 1, 2], None)
    assert found["seeds"] == {"0": 0.8, "1": 0.9, "2": 0.85} and found["std"] == pytest.approx(0.05)


def test_other_noise_is_another_group_except_for_controls(root: Path) -> None:
    for seed, level in ((0, 0.015), (1, 0.03)):
        config = preset("scenario_a", category="screw", seed=seed, noise_std=level, **COST)
        write_run(root / "data" / "results", config, flat(0.8))
    assert [(g["n"], g["noise_std"]) for g in summarise(root)["groups"]] == [(1, 0.015), (1, 0.03)]


def test_two_controls_of_one_seed_are_named(root: Path) -> None:
    for level in (0.02, 0.03):
        config = preset("noise_control", category="screw", noise_std=level, **COST)
        write_run(root / "data" / "results", config, flat(0.8))
    with pytest.raises(InputError, match="noise_control-.* and noise_control-.* are controls of one seed"):
        summarise(root)


def test_a_seed_that_was_looked_at_twice_counts_once(root: Path) -> None:
    for every, value in ((0, 0.7), (2, 0.8), (4, 0.9)):
        write_run(root / "data" / "results", preset("scenario_a", eval_every=every, **COST), flat(value))
    [group] = summarise(root)["groups"]
    assert (group["n"], group["values"]["I-AUROC"]["seeds"]) == (1, {"0": 0.8})  # the one with the most evaluations


def test_a_value_that_some_seeds_lack_counts_those_that_have_it() -> None:
    out = aggregate({0: {"a": 1.0, "b": 2.0}, 7: {"a": 3.0}})
    assert (out["a"]["n"], out["b"]["n"], out["a"]["min"], out["a"]["max"]) == (2, 1, 1.0, 3.0)
    assert (out["a"]["seeds"], out["b"]["seeds"], out["b"]["std"]) == ({"0": 1.0, "7": 3.0}, {"0": 2.0}, None)


# Still rising?


def history(values: list[float | None], every: int = 1) -> pd.Series:
    return pd.Series(values, index=every * np.arange(1, len(values) + 1), dtype=float)


def test_a_line_through_the_last_third_tells_what_was_gained() -> None:
    assert rise(history([0.1] * 8 + [0.50, 0.52, 0.54, 0.56])) == pytest.approx(0.06)  # the early jump is no matter
    assert rise(history([0.1 * i for i in range(9)], every=4)) == pytest.approx(0.2)  # three of nine, whatever the step
    assert rise(history([0.9, 0.7, 0.5])) == pytest.approx(-0.4)
    assert rise(history([0.5, None, 0.6, None, 0.7])) == pytest.approx(0.2)  # epochs without an evaluation are skipped
    assert rise(history([0.5, None, 0.6])) is None


def test_swings_without_a_trend_are_no_rise() -> None:
    rng = np.random.default_rng(0)
    rises = [rise(history(list(0.6 + rng.normal(0, 0.02, 75)))) for _ in range(200)]
    assert np.mean(np.array(rises) > RISE) < 0.15
    assert abs(np.mean(rises)) < 0.003


def test_a_run_tells_what_its_metrics_still_gained(tmp_path: Path) -> None:
    for name, gained in (("settled", 0.0), ("rising", 0.05)):
        write_run(tmp_path / name, preset("scenario_a", **COST), flat(0.8), rising=gained)
        run = load_run(next((tmp_path / name).glob("*")))
        values = run_values(run)
        assert [values[f"{metric} rise"] for metric in METRICS] == [pytest.approx(gained, abs=1e-12)] * 7


def test_the_reports_log_was_still_rising_on_screw_and_settled_on_bottle(root: Path) -> None:
    log = {(r["experiment"], r["category"], r["metric"]): r for r in summarise(root)["log"]}
    assert log["scenario_a", "screw", "seg-I-AUROC"]["rise"] > RISE
    assert abs(log["scenario_a", "bottle", "seg-I-AUROC"]["rise"]) < RISE
    # erratum 13: a loss near one with a map that has learnt
    assert log["scenario_a", "bottle", "seg-I-AUROC"]["near_one"] > 0.99
    assert log["learned_noise_v1", "screw", "I-AUROC"]["near_one"] is None


# Scores on the published scales


def test_scores_are_stretched_as_the_published_code_prints_them() -> None:
    scores = pd.DataFrame({"score": [-2.0, 0.0, 3.0], "map_score": [4.0, 12.0, 8.0]})
    printed, threshold = as_published(scores, 0.0)
    sigmoid = 1 / (1 + np.exp(-scores["score"]))
    wanted = (sigmoid - sigmoid.min()) / (sigmoid.max() - sigmoid.min())
    assert list(printed["score"]) == pytest.approx(list(wanted)) and threshold == pytest.approx(wanted[1])
    assert list(printed["map_score"]) == [0.0, 1.0, 0.5]


def test_the_gate_by_the_wrong_score_is_judged_on_the_published_scales(tmp_path: Path) -> None:
    """Map scores all above the raw threshold would let every good image pass; stretched, none does."""
    folder = write_run(tmp_path, preset("scenario_a", **COST), flat(0.8))
    labels = np.repeat([0, 1], [4, 4])
    scores = pd.DataFrame({"image": [f"{i}" for i in range(8)], "defect": "x", "label": labels})
    scores["score"] = [-2.0, -1.9, -1.8, -1.7, 1.0, 1.1, 1.2, 1.3]
    scores["map_score"] = [10.0, 10.5, 11.0, 11.5, 12.0, 18.0, 19.0, 20.0]
    scores.to_csv(folder / "scores.csv", index=False)
    run = load_run(folder)
    points = {name: youden(labels, scores[name])._asdict() for name in ("score", "map_score")}
    write_json(folder / "metrics.json", {**run.metrics, "youden": points})
    values = run_values(load_run(folder))
    assert (values["Youden TPR"], values["Youden FPR"]) == (1.0, 0.0)
    assert (values["crossed FPR"], values["crossed TPR"]) == (0.0, 0.25)
    assert (scores["map_score"][labels == 0] >= points["score"]["threshold"]).all()  # raw, all would be false alarms


# Measurements


def test_bench_rows_say_what_they_were_measured_in(root: Path) -> None:
    blank = dict.fromkeys(COLUMNS, "1")
    forms = [("inference a", "plain", "cpu"), ("inference a", "plain", "cuda:0"), ("precision a", "fold_half", "cpu")]
    forms += [("inference a", "fold_bfloat16", "cpu"), ("training a", "plain", "cuda")]
    rows = [blank | {"group": g, "variant": v, "device": d, "measurement": "m"} for g, v, d in forms]
    write_csv(root / "figures" / "cpu" / "bench.csv", rows, COLUMNS)
    found = [(r["device"], r["precision"]) for r in summarise(root)["bench"]]
    assert found[:2] == [("cpu", "float32"), ("cuda", "float16")]
    assert found[3:] == [("cpu", "bfloat16"), ("cuda", None)]
