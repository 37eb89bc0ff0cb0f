"""Panels of images, maps and masks from run folders made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from studied import EPOCHS, SIZE, config_of, dataset_for, fake_run, texts

from ssn_core import InputError, RunResult, preset
from ssn_core.study import panels


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


def test_maps_have_a_row_per_run_on_one_scale_and_a_column_per_image(
    scenarios: list[RunResult], tmp_path: Path
) -> None:
    rows = panels.rows_of(scenarios[:2], ["test/dent/006.png", "test/good/000.png"])
    figure = panels.maps(rows)
    pictures = [ax.images[0] for ax in figure.axes]
    assert [ax.get_title().replace("\n", "") for ax in figure.axes] == ["dent/006.png", "good/000.png", "", ""]
    for line, run in zip((pictures[:2], pictures[2:]), scenarios, strict=False):
        expected = [row.anomaly_map for row in rows if row.run is run]
        assert all(np.array_equal(drawn.get_array(), values) for drawn, values in zip(line, expected, strict=True))
        assert {drawn.get_clim() for drawn in line} == {(min(map(np.min, expected)), max(map(np.max, expected)))}
    above = panels.maps(rows, dataset_for(scenarios[0], tmp_path / "data")).axes
    assert [ax.images[0].get_array().ndim for ax in above] == [3, 3, 2, 2, 2, 2]
    assert [bool(ax.collections) for ax in above[:2]] == [True, False]  # the defect's outline
