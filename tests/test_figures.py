"""Figures, panels, tables and gating from run folders made by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from ssn_core import InputError, NotRun, RunConfig, RunResult, load_run, metrics, preset, run_command
from ssn_core.data.datasets import Dataset, Sample
from ssn_core.files import write_csv, write_json
from ssn_core.runs.evaluation import Outputs, Truth, curve_arrays, measure, score_rows, thresholds
from ssn_core.runs.presets import PRESETS
from ssn_core.runs.result import FORMAT, SCORES, pixel_threshold
from ssn_core.runs.runner import HISTORY, VALIDATION
from ssn_core.study import gating, labels, noise_view, panels, reference, style, tables
from ssn_core.study import score_curves as figures
from ssn_core.study import training_curves as histories
from ssn_core.study.mask_curve import mask_curve
from ssn_core.study.run_values import run_values

SIZE = (32, 32)
KINDS = ("good",) * 6 + ("dent",) * 4 + ("scratch",) * 4
EPOCHS = 12


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def config_of(experiment: str = "scenario_a", **fields) -> RunConfig:
    return preset(
        experiment, **{"dataset": "synthetic", "category": "ring", "image_size": SIZE, "epochs": EPOCHS, **fields}
    )


def fake_run(store: Path, config: RunConfig, quality: float = 2.0) -> RunResult:
    """A run folder with curves, examples and a history evaluated every epoch; higher quality separates more."""
    rng = np.random.default_rng(config.seed)
    height, width = config.image_size
    samples = tuple(
        Sample(f"test/{kind}/{i:03}.png", Path("absent.png"), None, int(kind != "good"), kind)
        for i, kind in enumerate(KINDS)
    )
    labels = np.array([s.label for s in samples])
    masks = np.zeros((len(samples), height, width), bool)
    masks[labels == 1, 8:14, 10:20] = True
    outputs = Outputs(
        rng.normal(size=len(labels)) + quality * labels,
        (rng.normal(size=masks.shape) + quality * masks - 1).astype(np.float32),
    )
    truth = Truth(labels, masks)
    values = measure(outputs, truth)
    validation = {name: round(value * 0.9, 4) for name, value in zip(VALIDATION, values.values(), strict=True)}
    folder = store / config.run_id
    extra = {"evaluation_size": list(SIZE), "parameters": 1000} | thresholds(outputs, truth, outputs)
    if config.pixel_values != "logits":
        extra["on_logits"] = {name: values[name] + 0.01 for name in metrics.PIXEL_METRICS}
    write_json(folder / "metrics.json", values | validation | extra)
    rows = [
        {"epoch": e, "step": 10 * e, "loss": 1 / e, "noise_rms": 0.1, "loss_generator": -1 / e, **values, **validation}
        for e in range(1, config.epochs + 1)
    ]
    write_csv(folder / "history.csv", rows, HISTORY + VALIDATION)
    write_csv(folder / "scores.csv", score_rows(samples, outputs, pixel_threshold(config, extra)), SCORES)
    np.savez(folder / "curves.npz", **curve_arrays(outputs, truth))
    shown = [0, 6, 10]
    names = np.array([samples[i].name for i in shown])
    np.savez(folder / "examples.npz", images=names, maps=outputs.maps[shown].astype(np.float16))
    info = {"format": FORMAT, "config": config.as_dict(), "status": "finished", "note": "", "device": "cpu"}
    counts = {"train_used": 20, "train_defective": 8, "test": len(samples)}
    noise = {"noise": {"unit": "absolute", "std": 0.015, "feature_std": 0.25}}
    write_json(
        folder / "run.json", info | {"steps": 120, "seed": config.seed, "wall_seconds": 3.0, "data": counts, **noise}
    )
    return load_run(folder)


@pytest.fixture
def scenarios(tmp_path: Path) -> list[RunResult]:
    names = ("baseline", "scenario_a", "scenario_b")
    return [fake_run(tmp_path, config_of(name, seed=seed)) for name in names for seed in (0, 1)]


@pytest.fixture
def sweep(tmp_path: Path) -> list[RunResult]:
    """Two bounds, two seeds; the wider bound is the better one."""
    return [
        fake_run(tmp_path, config_of("learned_noise_v2", beta=beta, seed=seed), quality=10 * beta)
        for beta in (0.5, 0.1)
        for seed in (0, 1)
    ]


def not_run(config: RunConfig) -> NotRun:
    return NotRun(config, "data: not here")


def texts(figure) -> str:
    figure.canvas.draw()
    found = [text.get_text() for text in figure.findobj(plt.Text)]
    return "\n".join(found)


# Style and saving


def test_methods_that_meet_in_a_figure_have_different_colours() -> None:
    for together in (
        ("baseline", *(name for name in PRESETS if name.startswith("scenario") and name != "scenario_b_relu")),
        ("scenario_a", *(name for name in PRESETS if name.startswith("learned_noise")), "noise_control"),
        ("weak_gap_cam", "weak_gap_cam_as_published", "supervised", "unsupervised", "simplenet"),
    ):
        assert len({labels.METHOD_COLOURS[name] for name in together}) == len(together)


def test_the_stand_in_is_called_version_1() -> None:
    assert labels.data_label(preset("supervised", dataset="ksdd1", category="ksdd1")) == "KolektorSDD (version 1)"


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(InputError, match="language='de'"):
        labels.pick("de", "yes", "sì")


def test_saving_writes_both_languages_once_and_equal_bytes_each_time(
    scenarios: list[RunResult], tmp_path: Path
) -> None:
    for folder in ("one", "two"):
        style.save(figures.image_curves(scenarios), tmp_path / folder, "roc")
        style.save(panels.panel(panels.rows_of(scenarios[:1], ["test/dent/006.png"])), tmp_path / folder, "panel")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["panel.en.png", "panel.it.png", "roc.en.svg", "roc.it.svg"]  # pictures as pixels, lines as lines
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one" / "roc.en.svg").read_bytes() != (tmp_path / "one" / "roc.it.svg").read_bytes()


def test_nothing_is_drawn_without_runs_and_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert style.save(figures.image_curves([]), tmp_path, "roc") is None
    assert capsys.readouterr().out == "image_curves: nothing to draw, no run of it is finished\n"
    assert not list(tmp_path.iterdir())


# Curves, histograms, histories


@pytest.mark.parametrize("kind", ["roc", "pr"])
def test_curves_draw_the_stored_curve_and_name_both_scores(scenarios: list[RunResult], kind: str) -> None:
    run = scenarios[2]
    figure = figures.image_curves([run], kind)
    x = run.curves["roc_score_fpr" if kind == "roc" else "pr_score_recall"]
    drawn = figure.axes[0].lines[0].get_xdata()
    np.testing.assert_array_equal(drawn, x)
    shown = texts(figure)
    assert "image score\n(classification head)" in shown and "map score\n(maximum of the anomaly map)" in shown
    assert f"{run.metrics['I-AUROC' if kind == 'roc' else 'AP-det']:.3f}" in shown


def test_histogram_shows_both_thresholds(scenarios: list[RunResult]) -> None:
    run = scenarios[0]
    figure = figures.histogram([run])
    places = [line.get_xdata()[0] for line in figure.axes[0].lines]
    assert places == [run.metrics["youden"]["score"]["threshold"], run.metrics["train_quantile"]["score"]]


def test_bars_show_the_mean_over_seeds_and_leave_a_missing_method_empty(scenarios: list[RunResult]) -> None:
    missing = not_run(config_of("simplenet"))
    figure = figures.metric_bars([*scenarios, missing], ["I-AUROC"])
    heights = [bar.get_height() for bar in figure.axes[0].patches if bar.get_height() > 0]
    assert "not run" in texts(figure) and "published" not in texts(figure)
    wanted = [np.mean([run.metrics["I-AUROC"] for run in scenarios[i : i + 2]]) for i in (0, 2, 4)]
    np.testing.assert_allclose(heights, wanted)
    assert "SimpleNet" in texts(figure)


def test_learning_puts_the_course_log_beside_our_evaluations(tmp_path: Path) -> None:
    config = preset("scenario_a", category="screw", image_size=SIZE, epochs=EPOCHS)
    figure = histories.learning([fake_run(tmp_path, config)])
    log, ours = figure.axes[0].lines[:2]
    assert len(log.get_xdata()) == 76 and log.get_xdata()[-1] == 300 * 10  # 320 images in batches of 32
    assert list(ours.get_xdata()) == [10 * e for e in range(1, EPOCHS + 1)]


def test_learning_needs_a_log_or_several_evaluations(capsys: pytest.CaptureFixture) -> None:
    assert histories.learning([not_run(config_of())]) is None
    assert "nothing to draw" in capsys.readouterr().out


@pytest.mark.parametrize("language", labels.LANGUAGES)
@pytest.mark.parametrize(
    "draw", [histories.convergence, histories.noise_histories, histories.beta_histories, histories.beta_band]
)
def test_histories_draw_every_run(sweep: list[RunResult], draw, language: str) -> None:
    figure = draw(sweep, language=language)
    assert sum(len(line.get_xdata()) > 0 for ax in figure.axes for line in ax.lines) >= len(sweep)
    assert not re.search(r"\bnan\b", texts(figure), re.IGNORECASE)


@pytest.mark.parametrize("draw", [histories.beta_histories, histories.beta_band])
def test_the_courses_log_is_shown_for_bounds_that_were_not_run(draw) -> None:
    absent = [not_run(config_of("learned_noise_v2", beta=beta)) for beta in (0.5, 0.1)]
    assert sum(len(line.get_xdata()) > 0 for ax in draw(absent).axes for line in ax.lines) >= len(absent)


@pytest.mark.parametrize("references", [True, False])
def test_the_mask_curve_leads_from_labels_over_some_masks_to_all(tmp_path: Path, references: bool) -> None:
    """Two of eight masks are a quarter; what sees labels alone stands at zero and is no part of the line."""
    ladder = [config_of("weak"), config_of("mixed", masks=2), config_of("supervised"), config_of("weak_mil")]
    runs = [fake_run(tmp_path, config.replace(seed=seed)) for config in ladder for seed in (0, 1)]
    figure = mask_curve(runs, references)
    lines = {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}
    ours = lines[labels.data_label(runs[0].config)]
    assert list(ours.get_xdata()) == [0, 25, 100]
    means = [np.mean([r.metrics["AP-loc"] for r in runs[i : i + 2]]) for i in (0, 2, 4)]
    assert list(ours.get_ydata()) == pytest.approx(means)
    assert list(lines[labels.experiment_label("weak_mil")].get_xdata()) == [0, 0]
    theirs = lines.get("KolektorSDD2, published")
    assert (theirs is not None) == references
    if references:
        assert list(theirs.get_xdata())[-1] == 100 and theirs.get_ydata()[0] == pytest.approx(0.476404)


def test_selection_marks_the_bound_that_validation_chooses(sweep: list[RunResult]) -> None:
    figure = histories.beta_selection(sweep)
    ring = next(line for line in figure.axes[0].lines if line.get_label() == "chosen by validation")
    means = tables.beta_means(sweep, "I-AUROC")
    assert ring.get_xdata()[0] == pytest.approx(means.loc[0.5, "validation"])


# Panels


def picture(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (value, 40, 40)).save(path)
    return path


def dataset_for(run: RunResult, root: Path, name: str = "synthetic") -> Dataset:
    samples = []
    for _, row in run.scores.iterrows():
        image = picture(root / row["image"], 200)
        mask = picture(root / "mask.png", 255) if row["label"] else None
        samples.append(Sample(row["image"], image, mask, row["label"], row["defect"]))
    return Dataset(name, "ring", "mvtec", root, (), tuple(samples))


def test_panels_show_five_columns_with_photographs_and_three_without(
    scenarios: list[RunResult], tmp_path: Path
) -> None:
    runs = scenarios[::2]
    rows = panels.rows_of(runs, panels.example_names(runs[0], defective=True, count=1))
    assert [row.name for row in rows] == ["test/dent/006.png"] * 3
    with_pictures = panels.panel(rows, dataset_for(runs[0], tmp_path / "data"))
    without = panels.panel(rows, None)
    assert sum(bool(ax.images) for ax in with_pictures.axes) == 15
    assert sum(bool(ax.images) for ax in without.axes) == 9
    shown = texts(without)
    assert "test/dent/006.png" in shown and "(classification head)" in shown and "(maximum of the map)" in shown
    assert "mask: above logit 0" in shown


def test_a_panel_names_no_head_where_a_method_has_none(tmp_path: Path) -> None:
    run = fake_run(tmp_path, preset("memory", dataset="synthetic", category="ring", image_size=SIZE))
    run.scores["score"] = run.scores["map_score"]
    shown = texts(panels.panel(panels.rows_of([run], ["test/dent/006.png"])))
    assert "classification head" not in shown and shown.count("(maximum of the map)") == 2


def test_panels_draw_the_mask_above_the_rule(scenarios: list[RunResult]) -> None:
    row = panels.rows_of(scenarios[:1], ["test/dent/006.png"])[0]
    mask = panels.panel([row]).axes[1].images[0].get_array()
    np.testing.assert_array_equal(mask, row.anomaly_map > 0)


def test_a_class_activation_map_is_cut_at_the_quantile_of_normal_images(tmp_path: Path) -> None:
    run = fake_run(tmp_path, preset("weak_gap_cam", image_size=SIZE, epochs=EPOCHS))
    assert run.pixel_threshold == run.metrics["train_quantile"]["map_score"]


def test_tall_pictures_lie_on_their_side(tmp_path: Path) -> None:
    run = fake_run(tmp_path, config_of(image_size=(64, 32)))
    figure = panels.panel(panels.rows_of([run], panels.example_names(run)))
    assert figure.axes[0].images[0].get_array().shape == (32, 64)


def test_an_image_without_a_stored_map_is_an_error(scenarios: list[RunResult]) -> None:
    with pytest.raises(InputError, match="holds no map of test/other.png"):
        panels.rows_of(scenarios, ["test/other.png"])


# Tables


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


def test_controls_of_several_seeds_are_one_row(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path, config_of("noise_control", seed=s, noise_std=0.1 + s / 100)) for s in (0, 1)]
    frame = tables.comparison(runs, ["I-AUROC"], references=False)
    assert list(frame["n"]) == ["2"]


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


# Gating


def test_gating_counts_masks_and_pixels_on_normal_images_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = fake_run(tmp_path, config_of("simplenet"))
    frame = gating.gating([run]).set_index(["mask", "gate"])
    normal = run.scores[run.scores["label"] == 0]
    threshold = run.metrics["youden"]["score"]["threshold"]
    before, after = frame.loc[(gating.ABSOLUTE, "no gate")], frame.loc[(gating.ABSOLUTE, "Youden (test)")]
    passed = normal[normal["score"] >= threshold]
    assert int(before["normal_with_mask"]) == (normal["map_score"] > 0).sum()
    assert int(after["normal_with_mask"]) == (passed["map_score"] > 0).sum()
    assert frame.loc[(gating.RELATIVE, "no gate"), "normal_with_mask"] == "6"  # scaling gives every image a mask
    assert int(before["false_positive_pixels"]) == normal["marked"].sum() > int(after["false_positive_pixels"])
    assert int(after["false_positive_pixels"]) == passed["marked"].sum()
    assert gating.gating_bars([run]).axes[0].patches[0].get_height() == 1.0
    assert not capsys.readouterr().out


def test_a_run_without_counted_pixels_loads_and_is_told_how_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = fake_run(tmp_path, config_of("simplenet"))
    run.scores.drop(columns=["marked", "marked_scaled"]).to_csv(run.path / "scores.csv", index=False)
    old = load_run(run.path)
    assert set(gating.gating([old])["false_positive_pixels"]) == {"n/a"}
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


def test_the_noise_is_drawn_as_the_run_kept_it(sweep: list[RunResult], capsys: pytest.CaptureFixture) -> None:
    assert noise_view.noise_fields(sweep) is None
    printed = capsys.readouterr().out
    assert "keeps no noise field: it is an older run" in printed and run_command(sweep[0].config) in printed
    rng = np.random.default_rng(0)
    field = {"features": rng.random((8, 8)), "mask": np.eye(8, dtype=bool), "image": np.array("train/good/000.png")}
    channel = np.stack(
        [np.where(np.indices((8, 8)).sum(0) % 4, 1.0, -1.0), np.full((8, 8), 0.5)]
    )  # +-1 by turns, and 0.5
    field |= {"rms": rng.random((2, 8, 8)), "channel": channel}
    np.savez(sweep[0].path / "noise.npz", **field)
    figure = noise_view.noise_fields(sweep, language="it")
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), field["rms"][0])
    assert "dopo 120 passi" in texts(figure)
    assert "costante per il 0 %" in texts(figure) and "costante per il 100 %" in texts(figure)
    assert run_values(sweep[0])["noise-constant"] == 1 and "noise-constant" not in run_values(sweep[1])
