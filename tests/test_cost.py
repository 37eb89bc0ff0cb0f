"""The cost of the study: counts of the data sets, steps by the presets' protocols, seconds by the runs of a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssn_core.__main__ import main
from ssn_core.data.datasets import EXPECTED
from ssn_core.errors import InputError
from ssn_core.runs.config import RunConfig
from ssn_core.runs.presets import PRESETS, preset
from ssn_core.runs.profiles import NotRun
from ssn_core.runs.result import FORMAT, load_run
from ssn_core.study.cost import budget, cost, lines

TRAINED = [name for name in PRESETS if not name.startswith("memory")]


def measured(store: Path, config: RunConfig, seconds: float, steps: int, device: str = "cpu") -> None:
    """A finished run, as far as its cost is concerned."""
    folder = store / config.run_id
    folder.mkdir(parents=True)
    info = {"format": FORMAT, "config": config.as_dict(), "device": device, "threads": 1, "steps": steps}
    (folder / "run.json").write_text(json.dumps(info | {"wall_seconds": seconds}))
    (folder / "metrics.json").write_text("{}")


def test_mvtec_is_whole() -> None:
    counts = [c for (dataset, _), c in EXPECTED.items() if dataset == "mvtec"]
    totals = (sum(c.train for c in counts), sum(c.test for c in counts), sum(c.test_defective for c in counts))
    assert len(counts) == 15 and totals == (3629, 1725, 1258)  # Bergmann et al., CVPR 2019


def test_an_epoch_of_rotated_images_is_four_times_as_long() -> None:
    usual, rotated = (
        budget([NotRun(preset(name, category="screw"), "")]) for name in ("scenario_c", "scenario_c_rotated")
    )
    assert usual["steps a run"].item() == rotated["steps a run"].item() == 3000  # a quarter as many


def test_a_step_is_the_median_of_what_was_measured_scaled_to_the_protocol(tmp_path: Path) -> None:
    for seed, seconds in enumerate((100.0, 300.0, 900.0)):  # 1, 3, 9 seconds a step of 8 images
        measured(tmp_path, preset("scenario_a", batch_size=8, seed=seed), seconds, 100)
    measured(tmp_path, preset("supervised", backbone="resnet18", batch_size=16), 50.0, 100, device="cuda")
    table = cost(tmp_path, seeds=2).set_index(["device", "preset"])
    assert len(table) == 2 * len(TRAINED)
    row = table.loc[("cpu, 1 thread(s)", "scenario_a")]
    assert row["measured"] == 3 and row["s/step"] == pytest.approx(3 * 32 / 8)
    epochs = sum(int(np.ceil(c.train / 32)) for (dataset, _), c in EXPECTED.items() if dataset == "mvtec")
    assert row["runs"] == 30 and row["steps"] == 2 * 300 * epochs
    assert row["hours"] == pytest.approx(row["steps"] * 12 / 3600)
    assert table.loc[("cpu, 1 thread(s)", "noise_control"), "hours"] == row["hours"]  # the same operations
    assert np.isnan(table.loc[("cpu, 1 thread(s)", "scenario_b"), "hours"])
    assert np.isnan(table.loc[("cuda", "scenario_a"), "hours"])
    weak = table.loc[("cpu, 1 thread(s)", "weak_gap_cam")]  # eight images for each of 246 defective ones
    batch = preset("weak_gap_cam").batch_size
    assert (weak["runs"], weak["steps"]) == (2, 2 * 300 * int(np.ceil(8 * 246 / batch)))


def test_the_total_says_what_it_covers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(tmp_path, preset("scenario_a"), 100.0, 100)
    assert main(["cost", "--store", str(tmp_path), "--seeds", "1"]) == 0
    *rows, total = capsys.readouterr().out.splitlines()
    assert rows == lines(cost(tmp_path, 1))[:-1] and len(rows) == 1 + len(TRAINED)
    hours = cost(tmp_path, 1).set_index("preset")["hours"].dropna()
    # the noise's strength is no operation
    same = {"scenario_a", "noise_control"} | {name for name in PRESETS if name.startswith("scenario_c")}
    assert set(hours.index) == same
    classes = 15  # of MVTec AD
    assert total.startswith(f"cpu, 1 thread(s): {hours.sum():,.0f} hours for {classes * len(same)} of ")
    assert "not measured: baseline, scenario_b, " in total
    assert "nan" not in "".join(rows)


def test_a_store_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path} holds no finished run to measure a step from"):
        cost(tmp_path)


def test_a_budget_counts_what_was_made_and_estimates_the_rest(tmp_path: Path) -> None:
    made = [preset("scenario_a", category="screw", batch_size=8, epochs=2, seed=seed) for seed in (0, 1)]
    for config, seconds in zip(made, (80.0, 240.0), strict=True):
        measured(tmp_path, config, seconds, 80)
    filled = preset("memory")
    measured(tmp_path, filled, 7.0, 0)
    later = preset("scenario_c", category="screw", batch_size=16, epochs=3, validation_fraction=0.1)
    unknown = preset("scenario_b", category="screw", batch_size=8, epochs=1)
    waiting = [NotRun(config, "") for config in (made[0].replace(seed=2), later, unknown)]
    table = budget([*(load_run(tmp_path / c.run_id) for c in (*made, filled)), *waiting])
    assert table["runs"].tolist() == [3, 1, 1, 1] and table["made"].tolist() == [2, 1, 0, 0]
    # of screw's 320 images a tenth is held out: 288, in 18 batches of 16, three times
    assert table["steps a run"].tolist() == [80, 0, 54, 40]
    assert table["s/step"].tolist()[:3] == [2.0, 7.0, 4.0] and np.isnan(table["s/step"][3])
    assert table["hours"][0] == round(3 * 80 * 2 / 3600, 2) and table["hours"][2] == round(54 * 4 / 3600, 2)
