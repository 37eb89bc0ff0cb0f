"""Figures from run folders made by hand, and how they are saved."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studied import EPOCHS, SIZE, config_of, fake_run, not_run, texts

from ssn_core import InputError, RunResult, preset, run_command
from ssn_core.runs.presets import PRESETS
from ssn_core.study import labels, noise_view, panels, reference, style, sweeps, tables
from ssn_core.study import score_curves as figures
from ssn_core.study import training_curves as histories
from ssn_core.study.mask_curve import mask_curve
from ssn_core.study.run_values import run_values


def test_methods_that_meet_in_a_figure_have_different_colours() -> None:
    for together in (
        ("baseline", *(name for name in PRESETS if name.startswith("scenario") and name != "scenario_b_relu")),
        ("scenario_a", *(name for name in PRESETS if name.startswith("learned_noise")), "noise_control"),
        ("weak_gap_cam", "weak_gap_cam_as_published", "supervised", "unsupervised", "simplenet"),
    ):
        assert len({labels.METHOD_COLOURS[name] for name in together}) == len(together)


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


@pytest.mark.parametrize(("language", "sign", "other"), [("en", ".", ","), ("it", ",", ".")])
def test_numbers_are_written_as_the_language_does(
    scenarios: list[RunResult], language: str, sign: str, other: str
) -> None:
    for draw in (figures.image_curves, functools.partial(figures.metric_bars, metrics=("I-AUROC", "AUPRO"))):
        written = texts(draw(scenarios, language=language))
        assert re.search(rf"\d\{sign}\d", written) and not re.search(rf"\d\{other}\d", written)


def test_nothing_is_drawn_without_runs_and_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert style.save(figures.image_curves([]), tmp_path, "roc") is None
    assert capsys.readouterr().out == "image_curves: nothing to draw, no run of it is finished\n"
    assert not list(tmp_path.iterdir())


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


def heights(figure: Any) -> list[float]:
    """Of all points of all lines."""
    return [float(y) for ax in figure.axes for line in ax.lines for y in line.get_ydata()]


@pytest.mark.parametrize("language", labels.LANGUAGES)
@pytest.mark.parametrize(
    "draw",
    [histories.convergence, histories.noise_histories, sweeps.beta_histories, sweeps.beta_band, sweeps.noise_scale],
)
def test_histories_draw_every_run(sweep: list[RunResult], draw, language: str) -> None:
    """Without any of them there are fewer points."""
    figure = draw(sweep, language=language)
    assert not re.search(r"\bnan\b", texts(figure), re.IGNORECASE)
    for run in sweep:
        rest = draw([other for other in sweep if other is not run], language=language)
        assert len(heights(rest)) < len(heights(figure)), run.config.run_id


@pytest.mark.parametrize("draw", [sweeps.beta_histories, sweeps.beta_band])
def test_the_courses_log_is_shown_for_bounds_that_were_not_run(draw) -> None:
    absent = [not_run(config_of("learned_noise_v2", beta=beta)) for beta in (0.5, 0.1)]
    drawn = heights(draw(absent))
    for beta in (0.5, 0.1):
        assert reference.periodic(f"learned_noise_v2_beta{beta}")["I-AUROC"].iloc[-1] in drawn, beta


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
    figure = sweeps.beta_selection(sweep)
    ring = next(line for line in figure.axes[0].lines if line.get_label() == "chosen by validation")
    means = tables.beta_means(sweep, "I-AUROC")
    assert ring.get_xdata()[0] == pytest.approx(means.loc[0.5, "validation"])


def test_the_loudness_of_noise_is_told_in_deviations_of_the_features(tmp_path: Path) -> None:
    """A's 0.015 stands at its share of the features' deviation, which the run folder knows."""
    made = [fake_run(tmp_path, config_of(n, seed=s)) for n in ("scenario_c", "scenario_a") for s in (0, 1)]
    line, *dots = sweeps.noise_scale(made).axes[2].lines
    assert list(line.get_xdata()) == pytest.approx([0.06, 0.25])
    of_a = [run.metrics["AUPRO"] for run in made[2:]]
    assert line.get_ydata()[0] == pytest.approx(np.mean(of_a)) and list(dots[0].get_ydata()) == pytest.approx(of_a)
    made.append(fake_run(tmp_path, config_of("scenario_c", backbone="efficientnet_lite0")))
    lines = sweeps.noise_scale(made).axes[2].lines
    assert [len(x.get_xdata()) for x in lines if x.get_linestyle() == "-"] == [2, 1], "one line for each network"
    assert [x.get_marker() for x in lines if len(x.get_xdata()) == 1][-1] == "s"


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
