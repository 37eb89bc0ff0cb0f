"""The course report's tables from run folders made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from studied import EPOCHS, SIZE, config_of, fake_run, not_run, texts

from ssn_core import InputError, RunResult, metrics, preset
from ssn_core.study import labels, reference, tables
from ssn_core.study import score_curves as figures
from ssn_core.study import training_curves as histories


def test_a_table_has_a_row_per_source_and_a_column_per_metric(tmp_path: Path) -> None:
    configs = [preset("baseline", category="screw", image_size=SIZE, epochs=EPOCHS, seed=s) for s in (0, 1)]
    runs = [fake_run(tmp_path, config) for config in configs]
    frame = tables.table2(runs)
    assert list(frame.columns[-3:]) == ["I-AUROC", "seg-I-AUROC", "AUPRO"]
    values = [run.metrics["AUPRO"] for run in runs]
    ours, published, course = frame.to_dict("records")
    assert ours["AUPRO"] == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert (ours["source"], ours["n"], ours["setting"]) == ("ours", "2", f"image size 32x32, {EPOCHS} epochs")
    assert (published["AUPRO"], published["n"], published["setting"]) == ("0.952 ± 0.002", "5", "JIMS 2025")
    assert (course["source"], course["AUPRO"], course["n"]) == ("course", "0.943", "1")


def test_what_a_method_is_worth_is_its_difference_seed_by_seed(tmp_path: Path) -> None:
    """One seed has no interval, another backbone no partner, a method that was not run no number."""
    runs = [fake_run(tmp_path, config_of(name, seed=s)) for name in ("scenario_a", "scenario_c") for s in (0, 1)]
    alone = fake_run(tmp_path, config_of("memory", epochs=1))
    away = fake_run(tmp_path, config_of("scenario_c", backbone="efficientnet_lite0"))
    frame = tables.worth([*runs, alone, away, not_run(config_of("scenario_b"))], "scenario_a", ("AUPRO",))
    gaps = [runs[2 + i].metrics["AUPRO"] - runs[i].metrics["AUPRO"] for i in (0, 1)]
    mean, half = np.mean(gaps), 12.706 * np.std(gaps, ddof=1) / 2**0.5  # Student's quantile with one degree of freedom
    shown = frame.set_index("against scenario A")["Δ AUPRO"]
    assert shown["scenario C"] == f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"
    assert shown["memory, coreset"].endswith("(one seed has no interval)") and shown["scenario B"] == "not run"
    assert len(frame) == 3
    with pytest.raises(InputError, match="two results are .*leave one of them out"):
        tables.worth([*runs, fake_run(tmp_path, config_of("scenario_a", epochs=6))], "scenario_a", ("AUPRO",))


def test_synthetic_tables_have_rows_of_ours_only(scenarios: list[RunResult]) -> None:
    frame = tables.table2(scenarios, references=False)
    assert list(frame["source"]) == ["ours"] * 3 and list(frame["n"]) == ["2"] * 3


def test_what_was_not_run_says_so_and_its_command_comes_once(tmp_path: Path) -> None:
    absent = [not_run(preset("baseline", category="carpet", epochs=7, seed=seed)) for seed in (0, 1)]
    frame = tables.comparison(absent, ["I-AUROC"], references=False)
    assert frame[["n", "I-AUROC"]].values.tolist() == [["0", "not run"]]
    [row] = tables.missing(absent).to_dict("records")
    assert (
        row["command"] == "python -m ssn_core run baseline category=carpet epochs=7 --store data/results"
        and row["seeds"] == "0 1"
    )
    written = tables.write(frame, tmp_path, "table")
    assert (tmp_path / "table.csv").read_text().splitlines()[0] == ",".join(written.columns)


def test_a_metric_that_some_runs_lack_is_not_available(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path, config_of(seed=seed)) for seed in (0, 1)]
    runs[0].metrics["AUPRO"] = metrics.NOT_AVAILABLE
    [row] = tables.comparison(runs, ["AUPRO", "AP-loc"], references=False).to_dict("records")
    assert row["AUPRO"] == "n/a" and "±" in row["AP-loc"]


def test_course_values_of_learned_noise_belong_to_the_published_rule() -> None:
    for name, value in (("learned_noise_v1", 0.3987), ("learned_noise_v2", 0.6784)):
        adversarial, published = (preset(name + rule, category="screw") for rule in ("", "_as_published"))
        assert reference.course_report(adversarial) == {}
        assert reference.course_report(published)["I-AUROC"] == value


def test_the_first_table_of_the_course_has_the_say_and_its_log_fills_in() -> None:
    found = reference.course_report(preset("weak_gap_cam_as_published"))
    assert found["AP-loc"] == pytest.approx(0.074) and found["seg-AP-det"] == pytest.approx(0.861, abs=5e-4)


def test_the_courses_log_of_v1_has_the_colour_of_the_rule_that_made_it(sweep: list[RunResult]) -> None:
    figure = histories.convergence(sweep)
    [line] = [line for line in figure.axes[1].lines if line.get_label() == "v1"]
    assert line.get_color() == labels.METHOD_COLOURS["learned_noise_v1_as_published"]


def test_table7_has_the_localisation_by_the_logits_where_the_sigmoid_ranked(tmp_path: Path) -> None:
    names = ("weak_gap_cam", "weak_gap_cam_as_published")
    runs = [fake_run(tmp_path, preset(name, image_size=SIZE, epochs=EPOCHS)) for name in names]
    missing = not_run(preset(names[1], dataset="ksdd1", category="ksdd1"))
    frame = tables.table7([*runs, missing])
    cells = frame[frame["source"] == "ours"][labels.metric_label("AP-loc on logits")]
    assert list(cells) == ["n/a", f"{runs[1].metrics['AP-loc'] + 0.01:.3f}", "not run"]


def test_table8_says_by_how_much_each_differs_from_full_supervision() -> None:
    frame = tables.table8([not_run(preset(name)) for name in ("supervised", "simplenet", "weak_gap_cam_as_published")])
    course = frame[frame["source"] == "course"].set_index("method")["Δ AP-det"]
    assert course[labels.experiment_label("weak_gap_cam_as_published")] == "-0.029"


def test_published_kolektorsdd2_is_never_given_to_the_stand_in() -> None:
    weak = preset("weak_gap_cam")
    for config, ap_loc in ((preset("weak"), 0.476404), (preset("mixed"), 0.590710)):
        source, rows = reference.published(config)
        assert source == "JIMS 2025" and rows.set_index("metric")["mean"]["AP-loc"] == pytest.approx(ap_loc)
    assert reference.published(weak)[1].empty  # nobody else published GAP+CAM
    stand_in = weak.replace(dataset="ksdd1", category="ksdd1")
    assert reference.published(stand_in)[1].empty
    assert reference.course_report(stand_in.replace(experiment="weak_gap_cam_as_published")) == {}


def test_table5_gives_final_values_and_the_band_of_the_last_ten(sweep: list[RunResult]) -> None:
    on_screw = [not_run(preset("learned_noise_v2", category="screw", beta=beta)) for beta in (0.1, 0.5)]
    frame = tables.table5([*sweep, *on_screw])
    assert list(frame["setting"].str.partition(",")[0]) == ["β = 0.5", "β = 0.1"] * 3
    mean, spread = map(labels.metric_label, ("I-AUROC late mean", "I-AUROC late range"))
    course = frame[frame["source"] == "course"].iloc[1]
    assert (course["I-AUROC"], course[mean], course[spread]) == ("0.678", "0.607", "0.184")
    ours = frame[frame["source"] == "ours"].iloc[0]
    assert ours[spread] == "0 ± 0.000" and "±" in ours[labels.metric_label("validation I-AUROC")]


def test_selection_table_states_choice_oracle_and_loss(sweep: list[RunResult]) -> None:
    frame = tables.beta_selection(sweep)
    mean = frame[frame["seed"] == "mean"].iloc[0]
    assert (mean["chosen_beta"], mean["oracle_beta"], mean["lost"]) == ("0.5", "0.5", "0.0000")


def test_selection_table_without_runs_is_empty_and_has_its_columns() -> None:
    frame = tables.beta_selection([])
    assert frame.empty and "chosen_beta" in frame.columns


def test_the_stand_in_is_named_on_the_axes_too(tmp_path: Path) -> None:
    run = fake_run(tmp_path, preset("supervised", dataset="ksdd1", category="ksdd1", image_size=SIZE, epochs=EPOCHS))
    for figure in (figures.metric_bars([run], ["AP-loc"]), figures.image_curves([run]), figures.histogram([run])):
        assert "KolektorSDD (version 1)" in texts(figure)


def test_runs_table_lists_finished_and_missing(scenarios: list[RunResult]) -> None:
    frame = tables.runs([*scenarios, not_run(preset("baseline"))])
    assert list(frame["status"]) == ["finished"] * 6 + ["not run"]
    assert list(frame["steps"]) == ["120"] * 6 + [""]
