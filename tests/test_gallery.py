"""The gallery of notebook 08: decisions over a folder, the explorer and its threshold."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import ssn_core as ssn
from ssn_core.errors import InputError
from ssn_core.inspection import evaluation
from ssn_core.inspection.gallery import Gallery, open_gallery
from ssn_core.inspection.threshold import decide
from ssn_core.runs.result import RunResult
from ssn_core.study import explore


@pytest.fixture(scope="module")
def gallery(trained: RunResult, parts: Path) -> Gallery:
    return Gallery.of(trained, parts)


def test_a_threshold_parts_found_from_false_alarms() -> None:
    scores, labels = np.array([1.0, 2.0, 2.0, 3.0, 5.0]), np.array([0, 0, 1, 0, 1])
    counts = {t: decide(scores, labels, t) for t in (0.5, 2.0, 4.0, 5.0)}
    assert {t: found.count for t, (found, _) in counts.items()} == {0.5: 2, 2.0: 1, 4.0: 1, 5.0: 0}
    assert {t: false_alarms.count for t, (_, false_alarms) in counts.items()} == {0.5: 3, 2.0: 1, 4.0: 0, 5.0: 0}
    assert [rate.total for rate in counts[4.0]] == [2, 3]


def test_thresholds_worth_a_look_hold_the_runs_own() -> None:
    scores = np.array([-3.0, 0.5, 4.0])
    for own in (0.123, -7.0, 9.0):
        points = explore.grid(scores, own)
        assert own in points and points[0] < min(own, -3) and points[-1] > max(own, 4)
        assert np.allclose(np.diff(points), points[1] - points[0])
        share = explore.shares(scores, points)
        assert (share[0], share[-1]) == (1, 0) and share[np.searchsorted(points, 1.0)] == pytest.approx(1 / 3)
    assert len(explore.grid(np.array([2.0]), 2.0)) > 2


def test_a_gallery_decides_as_prediction_does(gallery: Gallery, trained: RunResult, parts: Path) -> None:
    model = ssn.load_model(trained.path)
    expected = [model.predict(sample.image).map_score for sample in gallery.samples]
    assert gallery.map_scores == pytest.approx(expected, abs=1e-3)
    look = gallery.look(3)
    assert look.pixels.shape == (64, 64, 3) and look.truth is None and gallery.labelled
    assert look.anomaly_map.max() == pytest.approx(gallery.map_scores[3], abs=1e-3)
    found = evaluation.evaluate(trained, parts)
    decided = decide(gallery.map_scores, gallery.labels, gallery.threshold.value)
    assert [found[name]["count"] for name in ("found", "false_alarms")] == [rate.count for rate in decided]


def test_an_image_that_is_gone_is_named(
    trained: RunResult, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(parts, tmp_path / "parts")
    opened = Gallery.of(trained, tmp_path / "parts")
    opened.samples[0].image.unlink()
    monkeypatch.setattr(evaluation, "labelled_samples", lambda folder: opened.samples)
    for look in (lambda: opened.look(0), lambda: evaluation.evaluate(trained, tmp_path / "parts")):
        with pytest.raises(InputError, match=f"{opened.samples[0].image.name}: no such file"):
            look()


def test_marked_defects_are_shown(trained: RunResult, tiny_sets: Path) -> None:
    marked = Gallery.of(trained, tiny_sets / "ring")
    truths = [bool(marked.look(number).truth.any()) for number in range(len(marked))]
    assert truths == [bool(label) for label in marked.labels] and len(marked) == 7


def test_moving_a_widget_changes_what_is_shown(gallery: Gallery) -> None:
    shown = explore.Explorer(gallery)
    assert gallery.labels[shown.image.value] == 1 and shown.threshold.value == gallery.threshold.value
    still = shown._repr_mimebundle_()
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= still.keys()
    before = shown.picture.value
    shown.threshold.value = shown.threshold.min
    assert "found 4 of 4" in shown.text.value and "false alarms 8 of 8" in shown.text.value
    assert shown.picture.value != before
    shown.image.value = (good := int(gallery.labels.argmin()))
    assert f"{gallery.samples[good].name}: map score" in shown.text.value
    assert "so defective (labelled good)" in shown.text.value
    shown.threshold.value = shown.threshold.max
    assert "found 0 of 4" in shown.text.value and "so good (labelled good)" in shown.text.value


def test_images_that_nobody_labelled_are_not_called_false_alarms(trained: RunResult, parts: Path) -> None:
    shown = explore.Explorer(Gallery.of(trained, parts / "good"))
    assert "false" not in shown.text.value and "labelled good" not in shown.text.value
    assert "false" not in explore.sentences(shown.gallery)[1] and len(explore.sentences(shown.gallery)) == 2


def test_what_a_gallery_lacks_is_named(trained: RunResult, parts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder is given without run"):
        open_gallery(str(parts), None)
    with pytest.raises(InputError, match="run is given without folder"):
        open_gallery(None, str(trained.path))
    with pytest.raises(InputError, match="absent is not a folder"):
        open_gallery(str(tmp_path / "absent"), str(trained.path))
    with pytest.raises(InputError, match="holds no finished run"):
        open_gallery(str(parts), str(tmp_path))
    assert len(open_gallery(str(parts), str(trained.path.parent))) == 12
