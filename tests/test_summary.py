"""The table of results and what the summary keeps of it: which runs, groups over seeds, what a run tells of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_runs import flat, write_run
from support import ROOT

from report.summary import summarise
from ssn_core import preset
from ssn_core.bench.measure import COLUMNS
from ssn_core.errors import InputError
from ssn_core.files import write_csv, write_json
from ssn_core.metrics import METRICS, youden
from ssn_core.runs.profiles import NotRun, load_profile, matched_control
from ssn_core.runs.result import load_run
from ssn_core.study import results
from ssn_core.study.results import aggregate
from ssn_core.study.run_values import as_published, run_values
from ssn_core.study.trend import RISE, rise

COST = {"epochs": 12, "batch_size": 4}
CPU = load_profile("cpu")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with the reference files and no runs."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "reference").symlink_to(ROOT / "data" / "reference")
    return tmp_path


# Which runs


def test_a_run_that_no_profile_names_changes_nothing(root: Path) -> None:
    """Another backbone, another rate, more epochs: of the same experiment and data, and yet none of the report's."""
    store = root / "data" / "results"
    for config in CPU.configs("scenario_a")[:2]:
        write_run(store, config, flat(0.8))
    before = summarise(root)
    assert [(g["experiment"], g["n"]) for g in before["groups"]] == [("scenario_a", 2)]
    for change in ({"backbone": "efficientnet_lite0"}, {"head_lr": 1e-3}, {"epochs": 900}, {"seed": 77}):
        write_run(store, CPU.configs("scenario_a")[0].replace(**change), flat(0.1))
    assert summarise(root) == before


def test_the_full_protocol_takes_the_place_of_the_reduced_one(root: Path) -> None:
    store = root / "data" / "results"
    full = load_profile("full").configs("scenario_a")[:2]
    for config in (*CPU.configs("scenario_a")[:3], *full):
        write_run(store, config, flat(0.8))
    found = summarise(root)
    assert [(g["epochs"], g["n"]) for g in found["groups"]] == [(300, 2)]
    bottle = [c for c in found["commands"] if (c["experiment"], c["category"]) == ("scenario_a", "bottle")]
    assert [c["there"] for c in bottle] == [True, True, False, False, False]


def test_the_full_protocol_leaves_the_runs_on_other_backbones(root: Path) -> None:
    """A memory costs the same in both profiles, so what the full one has of it takes no other's place."""
    configs = [config for config in CPU.configs("memory") if config.category == "bottle"]
    for config in configs:
        write_run(root / "data" / "results", config, flat(0.8))
    assert {config.backbone for config in configs} == {"resnet18", "efficientnet_lite0"}
    assert {run["run_id"] for run in summarise(root)["runs"]} == {config.run_id for config in configs}


def test_controls_are_those_matched_to_the_learned_runs(root: Path) -> None:
    store = root / "data" / "results"
    learned = [config for config in CPU.configs("learned_noise_v2") if config.beta == 0.1]
    results = [load_run(write_run(store, config, flat(0.6))) for config in learned]
    for result, value in zip(results, (0.8, 0.9, 0.85), strict=True):
        write_run(store, matched_control(result), flat(value))
    write_run(store, matched_control(results[0]).replace(noise_std=0.5), flat(0.1))  # of a learned run that is gone
    [group] = [g for g in summarise(root)["groups"] if g["experiment"] == "noise_control"]
    found = group["values"]["I-AUROC"]
    assert found["seeds"] == {"0": 0.8, "1": 0.9, "2": 0.85} and found["std"] == pytest.approx(0.05)


def test_synthetic_runs_stand_for_the_courses_classes(root: Path) -> None:
    demo = load_profile("demo")
    for name in ("scenario_a", "weak_gap_cam"):
        for config in demo.configs(name):
            write_run(root / "build" / "demo" / "results", config, flat(0.8))
    found = summarise(root, "demo")
    assert {(g["dataset"], g["category"]) for g in found["groups"]} == {
        ("mvtec", "bottle"), ("mvtec", "carpet"), ("mvtec", "screw"), ("ksdd1", "ksdd1"),
    }  # fmt: skip
    assert found["synthetic"]["screw"] == "thread" and summarise(root)["synthetic"] is None


# Groups


def test_controls_of_several_seeds_are_one_group_and_other_noise_is_another(tmp_path: Path) -> None:
    levels = ((0, 0.02), (1, 0.021))
    for experiment, members in (("noise_control", 1), ("scenario_a", 2)):
        configs = [preset(experiment, category="screw", seed=seed, noise_std=level) for seed, level in levels]
        runs = [load_run(write_run(tmp_path, config, flat(0.8))) for config in configs]
        assert len(results.groups(runs)) == members


def test_groups_never_share_a_name() -> None:
    changes = [{}, {"epochs": 3}, {"noise_std": 0.0150001}, {"noise_unit": "feature_std"}, {"cls_features": "adapted"}]
    changes += [{"image_size": (64, 64)}, {"head_lr": 1e-3}, {"adaptor_lr": 1e-3}, {"validation_fraction": 0.1}]
    changes += [{"adaptor": "bn"}, {"backbone": "wide_resnet50_2"}, {"category": "screw"}, {"batch_size": 3}]
    configs = [preset("scenario_a", **change) for change in changes]
    configs += [preset("learned_noise_v2", beta=beta) for beta in (0.1, 0.1000001)]
    found = results.groups(NotRun(config.replace(seed=seed), "") for config in configs for seed in (0, 1))
    assert [len(group.outcomes) for group in found] == [2] * len(configs)
    assert len({tuple(group.key.values()) for group in found}) == len(configs)
    assert found[1].key["setting"] == "3 epochs" and found[-1].key["setting"] == "β = 0.1000001"


def test_two_runs_of_one_seed_are_named_and_one_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path, preset("scenario_a", eval_every=n, **COST), flat(0.8))) for n in (0, 2)]
    assert [len(group.outcomes) for group in results.groups([runs[0], runs[0]])] == [1]
    with pytest.raises(InputError, match="scenario_a-.* and scenario_a-.* are two runs of one seed"):
        results.groups(runs)


def test_a_look_up_that_fits_several_groups_asks_which() -> None:
    found = [{"experiment": "a", "beta": beta, "setting": f"β = {beta}"} for beta in (0.1, 0.5)]
    assert results.only(found, experiment="a", beta=0.5) == found[1]
    assert results.only(found, experiment="b") is None
    with pytest.raises(InputError, match="2 results fit experiment: a; add one of beta, setting"):
        results.only(found, experiment="a")


def test_the_table_has_every_seed_their_mean_and_what_others_give(tmp_path: Path) -> None:
    configs = [preset("baseline", category="screw", seed=seed) for seed in (0, 3)]
    runs = [load_run(write_run(tmp_path, c, flat(v))) for c, v in zip(configs, (0.8, 0.9), strict=True)]
    frame = results.table([*runs, NotRun(preset("scenario_b"), "")])
    rows = frame[(frame["experiment"] == "baseline") & (frame["metric"] == "AUPRO")]
    cells = rows[["source", "seed", "n", "mean"]].astype(object).where(lambda f: f.notna(), None).values.tolist()
    assert cells[:3] == [["ours", None, 2, pytest.approx(0.85)], ["ours", 0, 1, 0.8], ["ours", 3, 1, 0.9]]
    assert [(row[0], row[2]) for row in cells[3:]] == [("published", 5), ("course", 1)]
    absent = frame[(frame["experiment"] == "scenario_b") & (frame["source"] == "ours")]
    assert list(absent["n"]) == [0] * 7 and absent["mean"].isna().all()


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


def test_on_screw_the_reports_classification_score_never_rose_and_its_map_score_did(root: Path) -> None:
    log = {(r["experiment"], r["category"], r["metric"]): r for r in summarise(root)["log"]}
    head, on_map = (log["scenario_a", "screw", metric] for metric in ("I-AUROC", "seg-I-AUROC"))
    assert head["least"] < head["late_min"] <= head["late_max"] < head["first"]
    assert on_map["least"] < on_map["first"] < on_map["late_min"]
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


def test_fused_scores_are_each_held_against_their_quantile_of_normal_images(tmp_path: Path) -> None:
    """Past 1.5 and 2.5 the images reach 1.5, -1.5 (good), 1.1 and 3.5: three pairs of four are in order."""
    folder = write_run(tmp_path, preset("scenario_a", **COST), flat(0.8))
    scores = pd.DataFrame({"image": list("abcd"), "defect": "x", "label": [0, 0, 1, 1]})
    scores["score"], scores["map_score"] = [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 3.6, 6.0]
    scores.to_csv(folder / "scores.csv", index=False)
    assert run_values(load_run(folder))["fused-I-AUROC"] == 0.75


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
