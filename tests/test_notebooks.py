"""Every notebook, executed with a smaller demo profile in a copy of the checkout; and what the workflow refuses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from ssn_core import InputError, load_profile, preset
from ssn_core.study import workflow

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
NUMBERS = ("01", "02", "03", "04", "05", "06")
TABLES = (
    *("table_baseline", "table2_scenarios", "table_ablation_b", "table4_learned_v1", "table6_versions", "table5_beta"),
    *("table_beta_selection", "table7_weak", "table8_comparison", "table_gating"),
    *("runs_baseline", "runs_scenarios", "runs_learned_noise", "runs_beta", "runs_weak"),
    *("table3_efficiency", "bench_metrics", "bench_derived"),
)
LINE_ART = (
    *("roc_baseline", "pr_baseline", "histogram_baseline", "scenarios", "ablation_b", "roc_thread", "histogram_thread"),
    *("roc_scenario_a_ring", "pr_scenario_a_ring", "histogram_scenario_a_ring", "pixel_pr_ring", "versions"),
    *("fig14_convergence", "noise_history", "roc_learned_noise", "beta_band", "beta_history", "beta_selection"),
    *("fig16_roc_weak", "fig17_histogram_weak", "fig18_pixel_pr_weak", "gating", "supervision", "roc_supervision"),
    *("fig06_tradeoff", "bench_speedup", "bench_growth"),
)
PICTURES = (
    *("panels_baseline_thread", "panels_thread", "panels_ring", "panels_learned_noise", "fig13_noise_fields"),
    *("fig19_panel_defective", "fig20_panel_normal"),
)


def shrink(profile: Path) -> None:
    """Fewer epochs and smaller images: what is tested is that everything runs and is written, not what it finds."""
    settings = yaml.safe_load(profile.read_text(encoding="utf-8"))
    settings["defaults"] |= {"epochs": 3, "image_size": [64, 64], "batch_size": 8}
    for value in settings["experiments"].values():
        for entry in value if isinstance(value, list) else [value]:
            for field in ("epochs", "batch_size"):
                entry.pop(field, None)
            if "plates" in entry["categories"]:
                entry["image_size"] = [128, 48]
    settings["experiments"]["learned_noise_v2"] |= {"betas": [0.5, 0.1], "eval_every": 1}
    settings["bench"] |= {"turns": 1, "sides": [96]}
    profile.write_text(yaml.safe_dump(settings), encoding="utf-8")


@pytest.fixture(scope="session")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which the notebooks 01 to 06 were executed; its printed report is in output.txt."""
    copy = tmp_path_factory.mktemp("checkout") / "project"
    for folder in ("ssn_core", "notebooks", "profiles", "data/reference", "figures/diagrams"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    shrink(copy / "profiles" / "demo.yaml")
    environment = {k: v for k, v in os.environ.items() if k not in ("SSN_DATA_DIR", "PYTHONPATH")}
    command = [sys.executable, "-m", "ssn_core", "notebooks", "--profile", "demo", "--only", *NUMBERS]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    (copy / "output.txt").write_text(done.stdout, encoding="utf-8")
    return copy


@pytest.mark.slow
def test_every_notebook_runs_to_its_end(executed: Path) -> None:
    for number in NUMBERS:
        (path,) = (executed / "build" / "demo" / "notebooks").glob(f"{number}_*.ipynb")
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code)
        assert any("image/png" in o.get("data", {}) for cell in code for o in cell.outputs), (
            f"{path.name} shows nothing"
        )
        warnings = [o.text for cell in code for o in cell.outputs if o.get("name") == "stderr"]
        assert not warnings, warnings


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_written_and_whole(executed: Path, name: str) -> None:
    path = executed / "figures" / "demo" / f"{name}.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert len(frame) > 0
    assert not re.search(r"\bnan\b|\bnone\b|\binf\b", path.read_text(encoding="utf-8"), re.IGNORECASE)
    assert "published_mean" not in frame.columns  # other images than the published ones
    if name.startswith("runs"):
        assert set(frame["status"]) <= {"finished", "diverged"}


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "it"])
@pytest.mark.parametrize("name", [*LINE_ART, *PICTURES])
def test_figures_are_written_and_not_blank(executed: Path, name: str, language: str) -> None:
    path = executed / "figures" / "demo" / f"{name}.{language}.png"
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] > 700 and (pixels < 200).mean() > 0.005
    drawing = path.with_suffix(".svg")
    assert drawing.is_file() == (name not in PICTURES)
    if name not in PICTURES:
        assert not re.search(r"\bnan\b", drawing.read_text(encoding="utf-8"), re.IGNORECASE)


@pytest.mark.slow
def test_the_site_opens_from_disk_and_links_every_notebook(executed: Path) -> None:
    site = executed / "build" / "demo" / "site"
    links = re.findall(r'href="([^"]+)"', (site / "index.html").read_text(encoding="utf-8"))
    assert [link[:2] for link in links] == list(NUMBERS)
    for link in links:
        page = (site / link).read_text(encoding="utf-8")
        assert len(page) > 100_000
        assert all((site / src).is_file() for src in re.findall(r'<img [^>]*src="(\.\./[^"]+)"', page))
    output = (executed / "output.txt").read_text(encoding="utf-8")
    assert "06_efficiency.ipynb: done in" in output and str(site / "index.html") in output


@pytest.mark.slow
def test_a_second_execution_loads_every_run(executed: Path) -> None:
    trained = {path: path.stat().st_mtime for path in executed.glob("build/demo/results/*/run.json")}
    command = [sys.executable, "-m", "ssn_core", "notebooks", "--profile", "demo", "--only", "04"]
    subprocess.run(command, cwd=executed, check=True, capture_output=True, timeout=600)
    assert {path: path.stat().st_mtime for path in executed.glob("build/demo/results/*/run.json")} == trained


@pytest.mark.slow
def test_a_notebook_opens_by_hand_from_its_own_folder(executed: Path) -> None:
    """As JupyterLab does: the working directory is notebooks/, and the package need not be installed."""
    import papermill

    source, target = executed / "notebooks" / "04_beta_sweep.ipynb", executed / "by_hand.ipynb"
    papermill.execute_notebook(str(source), str(target), cwd=str(source.parent), progress_bar=False)
    printed = target.read_text(encoding="utf-8")
    assert "demo: synthetic data" in printed and not (executed / "notebooks" / "build").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_clean_with_a_parameters_cell(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert code[0].metadata.get("tags") == ["parameters"]
    assert 'profile = "demo"' in code[0].source
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].source.startswith("# ")
    assert all(len(cell.source.splitlines()) <= 16 for cell in code), "cells are thin: work belongs into ssn_core"


def test_an_unknown_parameter_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "_execute", lambda *_, **__: pytest.fail("a notebook was executed"))
    with pytest.raises(InputError, match=r"has no parameter 'epohcs'; it has .*profile"):
        workflow.execute_notebooks("demo", ["01"], {"epohcs": 3})


def test_an_unknown_notebook_or_profile_is_refused() -> None:
    with pytest.raises(InputError, match="no notebook numbered 99; there are 01, "):
        workflow.execute_notebooks("demo", ["99"])
    with pytest.raises(InputError, match="profile 'huge' is unknown"):
        workflow.execute_notebooks("huge")


def test_a_number_may_lack_its_zero() -> None:
    assert [path.name[:2] for path in workflow.choose(ROOT / "notebooks", [4, "01", "4"])] == ["01", "04"]


def test_a_failing_cell_names_notebook_and_cell_and_leaves_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = nbformat.v4.new_code_cell('profile = "demo"\ndevice = None', metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell("print('so far')"), nbformat.v4.new_code_cell("1 / 0")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "01_broken.ipynb")
    monkeypatch.setattr(workflow, "project_root", lambda: tmp_path)
    with pytest.raises(workflow.NotebookFailed, match=r"01_broken\.ipynb, cell \d+: ZeroDivisionError"):
        workflow.execute_notebooks("demo")
    copy = tmp_path / "build" / "demo" / "notebooks" / "01_broken.ipynb"
    assert "so far" in copy.read_text(encoding="utf-8")


def test_the_log_of_a_notebook_keeps_milestones(capsys: pytest.CaptureFixture) -> None:
    for epoch in range(1, 11):
        workflow.milestones(f"[run] epoch {epoch}/10 loss 0.5")
    workflow.milestones("[run] training on cpu")
    printed = capsys.readouterr().out
    assert re.findall(r"epoch (\d+)", printed) == ["2", "4", "6", "8", "10"] and "training on cpu" in printed


def test_simplenet_sees_what_the_unsupervised_run_sees() -> None:
    config = workflow.simplenet_like(preset("unsupervised", dataset="ksdd1", category="ksdd1", seed=3))
    assert (config.method, config.experiment, config.category, config.seed) == ("simplenet", "simplenet", "ksdd1", 3)


def test_kolektorsdd2_rows_stand_beside_the_stand_in_only(tmp_path: Path) -> None:
    peers = workflow.ksdd2_peers(load_profile("cpu"))
    assert {peer.config.dataset for peer in peers} == {"ksdd2"} and len(peers) == 5
    assert workflow.ksdd2_peers(load_profile("full")) == []
