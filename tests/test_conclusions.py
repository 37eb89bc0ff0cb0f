"""Conclusions say what the numbers allow: a difference, an open question, or what was not run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from studied import config_of, fake_run, not_run

from ssn_core import RunResult, preset
from ssn_core.metrics import METRICS
from ssn_core.study import conclusions


def test_a_difference_over_shared_seeds_is_named_with_its_interval(tmp_path: Path) -> None:
    good = [fake_run(tmp_path, config_of("scenario_a", seed=seed), quality=6.0) for seed in range(3)]
    poor = [fake_run(tmp_path, config_of("scenario_b", seed=seed), quality=0.0) for seed in range(3)]
    gap = sum(g.metrics["P-AUROC"] - p.metrics["P-AUROC"] for g, p in zip(good, poor, strict=True)) / 3
    [sentence] = conclusions.contrasts([(good, poor, "P-AUROC")])
    assert sentence.startswith("ring (synthetic), P-AUROC: scenario A ") and "(n = 3)" in sentence
    assert f"higher by {gap:.3f} (95 % interval +" in sentence
    [turned] = conclusions.contrasts([(poor, good, "P-AUROC")])
    assert f"lower by {gap:.3f} (95 % interval -" in turned


def test_a_side_that_was_still_rising_is_not_behind(tmp_path: Path) -> None:
    good = [fake_run(tmp_path, config_of("scenario_a", seed=seed), quality=6.0) for seed in range(3)]
    poor = [fake_run(tmp_path, config_of("scenario_b", seed=seed), quality=0.0) for seed in range(3)]
    for run in poor:
        run.history["P-AUROC"] += 0.05 * (run.history["epoch"] - run.history["epoch"].max())
    [sentence] = conclusions.contrasts([(good, poor, "P-AUROC")])
    assert ": open, scenario B still rising when training ended; 95 % interval +" in sentence
    [same_map] = conclusions.contrasts([(good, poor, "AP-loc")])
    assert "scenario B still rising" in same_map  # the map was not done, whichever of its metrics moved
    [other] = conclusions.contrasts([(good, poor, "I-AUROC")])
    assert "rising" not in other
    for run in good:
        run.history["I-AUROC"] += 0.05 * (run.history["epoch"] - run.history["epoch"].max())
    assert conclusions.contrasts([(good, poor, "I-AUROC")]) == [other]  # it could only have led by more


def test_equal_runs_differ_in_nothing_and_single_seeds_are_open(tmp_path: Path) -> None:
    first = [fake_run(tmp_path / "one", config_of("scenario_a", seed=seed)) for seed in (0, 1, 2)]
    second = [fake_run(tmp_path / "two", config_of("baseline", seed=seed)) for seed in (0, 1, 2)]
    [same] = conclusions.contrasts([(first, second, "AUPRO")])
    assert same.endswith("(n = 3): no difference to three decimals.")
    for run in second:  # one that still rose may have ended higher
        run.history["AUPRO"] += 0.05 * (run.history["epoch"] - run.history["epoch"].max())
    [open_end] = conclusions.contrasts([(first, second, "AUPRO")])
    assert ": open, 95 % interval +0.000 to +0.000" in open_end
    [single] = conclusions.contrasts([(first[:1], second, "AUPRO")])
    assert single.endswith("open, one seed has no spread.") and "(n = 1)" in single


def test_runs_on_other_conditions_are_not_compared_seed_by_seed(tmp_path: Path) -> None:
    """A tenth of the images held out of one side: the seeds pair nothing, and the interval is Welch's."""
    first = [fake_run(tmp_path, config_of("scenario_a", seed=seed), quality=1 + seed) for seed in (0, 1, 2)]
    second = [fake_run(tmp_path, config_of("scenario_b", seed=seed), quality=1 + seed) for seed in (0, 1, 2)]
    held = [fake_run(tmp_path, r.config.replace(validation_fraction=0.1), quality=1 + r.config.seed) for r in second]
    paired, welch = (conclusions.contrasts([(first, other, "AUPRO")]) for other in (second, held))
    assert paired != welch and "no difference to three decimals" not in welch[0]


def test_too_few_evaluations_leave_it_open_but_a_memory_has_settled(tmp_path: Path) -> None:
    good = [fake_run(tmp_path, config_of("scenario_a", seed=seed), quality=6.0) for seed in range(3)]
    poor = [fake_run(tmp_path, config_of("scenario_b", seed=seed), quality=0.0) for seed in range(3)]
    memory = [fake_run(tmp_path, config_of("memory", seed=seed, epochs=1), quality=0.0) for seed in range(3)]
    for run in (*poor, *memory):
        run.history.loc[run.history.index[:-1], list(METRICS)] = None
    [sentence] = conclusions.contrasts([(good, poor, "AUPRO")])
    assert sentence.endswith("open, too few evaluations to tell whether it had settled.")
    [sentence] = conclusions.contrasts([(good, memory, "AUPRO")])
    assert "higher by" in sentence


def test_what_was_not_run_gives_the_courses_values_and_the_command_once(tmp_path: Path) -> None:
    a, baseline = ([not_run(preset(name, category="screw"))] for name in ("scenario_a", "baseline"))
    *sentences, missing = conclusions.contrasts([(a, baseline, "I-AUROC"), (a, baseline, "AUPRO")])
    assert "open, scenario A and baseline not run here; the course report has 0.511 against 0.912" in sentences[0]
    assert len(sentences) == 2 and missing.count("python -m ssn_core run") == 2
    assert conclusions.contrasts([(a, [not_run(preset("baseline", category="carpet"))], "AUPRO")]) == []


def test_the_baseline_is_held_against_the_published_spread(tmp_path: Path) -> None:
    config = preset("baseline", category="screw", image_size=(32, 32), epochs=12)
    [sentence] = conclusions.reproduction([not_run(config)])
    assert "0.943 lies 4.6 standard deviations below the published 0.952 ± 0.002 (n = 5); ours is not run" in sentence
    run = fake_run(tmp_path, config)
    [sentence] = conclusions.reproduction([run])
    assert f"ours is {run.metrics['AUPRO']:.3f} (n = 1)" in sentence


def test_the_chosen_bound_and_its_price(sweep: list[RunResult]) -> None:
    sentence = conclusions.selection(sweep)[0]
    assert "choose β = 0.5" in sentence and "costs 0.0000 (mean over 2 seed(s), bounds 0.5 0.1)" in sentence
    assert "no run of the sweep is finished" in conclusions.selection([])[0]
    [alone] = conclusions.selection([run for run in sweep if run.config.beta == 0.1])
    assert alone == "No bound is chosen: only β = 0.1 was run."


def test_speed_is_the_tables_own_ratio() -> None:
    row = {"measurement": "latency_batch1", "experiment": "scenario_a", "backbone": "resnet18"}
    table = pd.DataFrame(
        [row | {"variant": v, "value": t, "ratio_to_plain": 30 / t} for v, t in (("plain", 30.0), ("fold", 12.0))]
    )
    assert conclusions.efficiency(table) == [
        "scenario A, ResNet18: the fast form takes 12 ms and is 2.50 times faster than the plain one."
    ]
