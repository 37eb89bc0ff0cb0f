"""Every notebook, executed by `make report` with a smaller demo profile in a copy of the checkout; the stored ones;
what the setup line refuses, and what it never shows."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from studied import config_of, dataset_for, fake_run
from support import ROOT, copy_checkout, environment

from ssn_core import InputError, load_profile, preset
from ssn_core.inspection.gallery import example_config
from ssn_core.runs import profiles
from ssn_core.study import freeze, notebook

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
TABLES = (
    *("table2_scenarios", "table3_efficiency", "table4_learned_v1", "table5_beta", "table_beta_selection"),
    *("table6_versions", "table7_weak", "table8_comparison", "table9_beyond"),
)
LINE_ART = (
    *("ablation_b", "fig06_tradeoff", "fig14_convergence", "beta_band", "bench_speedup", "bench_growth"),
    *("fig16_roc_weak", "fig17_histogram_weak", "fig18_pixel_pr_weak"),
)
PICTURES = (
    "panels_thread",
    "panels_ring",
    "fig13_noise_fields",
    "fig19_panel_defective",
    "fig20_panel_normal",
    "maps_beyond",
)


def shrink(profile: Path) -> None:
    """Fewer epochs and smaller images: what is tested is that everything runs and is written, not what it finds."""
    settings = yaml.safe_load(profile.read_text(encoding="utf-8"))
    settings["defaults"] |= {"epochs": 3, "image_size": [64, 64], "batch_size": 8}
    for value in settings["experiments"].values():
        for entry in value if isinstance(value, list) else [value]:
            for field in ("epochs", "batch_size"):
                if entry.get(field) != 1:  # a memory takes one look at its images
                    entry.pop(field, None)
            if "plates" in entry["categories"]:
                entry["image_size"] = [128, 48]
    del settings["experiments"]["learned_noise_v2"][2:]  # two bounds are a sweep
    for entry in settings["experiments"]["learned_noise_v2"]:
        entry["eval_every"] = 1
    settings["bench"] |= {"turns": 1, "sides": [96]}
    profile.write_text(yaml.safe_dump(settings), encoding="utf-8")


def state(root: Path) -> dict[Path, int]:
    files = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="session")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which `make report` ran; what it changed is in changed.txt."""
    names = ("ssn_core", "notebooks", "profiles", "data/reference", "figures/diagrams", "report", "Makefile")
    copy = copy_checkout(tmp_path_factory.mktemp("checkout") / "project", *names)
    shrink(copy / "profiles" / "demo.yaml")
    before = state(copy)
    command = ["make", "report", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=copy, env=environment(), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    changed = [path.as_posix() for path, time in state(copy).items() if before.get(path) != time]
    (copy / "changed.txt").write_text("\n".join(changed), encoding="utf-8")
    return copy


# Executed on the demo profile


@pytest.mark.slow
def test_the_demo_writes_nothing_that_git_sees(executed: Path) -> None:
    """Hence `make report` in a fresh clone leaves git's status empty: both places are ignored."""
    changed = (executed / "changed.txt").read_text(encoding="utf-8").splitlines()
    assert len(changed) > 100
    assert [path for path in changed if not path.startswith(("build/", "data/synthetic/"))] == []
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", "build/demo", "data/synthetic/ring"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ignored.stdout.split() == ["build/demo", "data/synthetic/ring"] or "not a git" in ignored.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_every_notebook_runs_to_its_end(executed: Path, name: str) -> None:
    book = nbformat.read(executed / "build" / "demo" / "notebooks" / name, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in o.get("data", {}) for cell in code for o in cell.outputs), f"{name} shows nothing"
    warnings = [o.text for cell in code for o in cell.outputs if o.get("name") == "stderr"]
    assert not warnings, warnings
    assert code[-1].outputs[0].data["text/markdown"].startswith("- ")


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_written_and_whole(executed: Path, name: str) -> None:
    path = executed / "build" / "demo" / "figures" / f"{name}.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert len(frame) > 0
    assert not re.search(r"\bnan\b|\bnone\b|\binf\b", path.read_text(encoding="utf-8"), re.IGNORECASE)
    assert "published_mean" not in frame.columns  # other images than the published ones


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "it"])
def test_figures_are_written_once_and_not_blank(executed: Path, language: str) -> None:
    folder = executed / "build" / "demo" / "figures"
    for name in PICTURES:
        with Image.open(folder / f"{name}.{language}.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.shape[1] > 700 and (pixels < 200).mean() > 0.005, name
    for name in LINE_ART:
        drawing = (folder / f"{name}.{language}.svg").read_text(encoding="utf-8")
        assert drawing.count("<path") > 20 and not re.search(r"\bnan\b", drawing, re.IGNORECASE), name
    assert not {path.stem for path in folder.glob("*.png")} & {path.stem for path in folder.glob("*.svg")}


@pytest.mark.slow
def test_a_second_execution_from_the_notebooks_own_folder_loads_every_run(executed: Path) -> None:
    """As JupyterLab does: the working directory is notebooks/."""
    trained = {path: path.stat().st_mtime for path in executed.glob("build/demo/results/*/run.json")}
    source, target = executed / "notebooks" / "04_beta_sweep.ipynb", executed / "build" / "by_hand.ipynb"
    command = [sys.executable, "-m", "papermill", str(source), str(target), "-p", "profile", "demo"]
    subprocess.run(
        command, cwd=source.parent, env=environment(PYTHONPATH=str(executed)), check=True, capture_output=True,
        timeout=600,
    )  # fmt: skip
    assert "demo: synthetic data" in target.read_text(encoding="utf-8")
    assert not (executed / "notebooks" / "build").exists()
    assert {path: path.stat().st_mtime for path in executed.glob("build/demo/results/*/run.json")} == trained


# The stored notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_notebooks_show_what_their_sources_and_results_give(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    assert book.metadata.get("digest") == freeze.digest(book), (
        f"{path.name} is older than its cells or the results it shows; refresh it with `make notebooks`"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_notebooks_are_executed_small_and_say_nothing_of_a_machine(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert book.cells[0].source.startswith("# ")
    own = "\nfolder = None\nrun = None" if path.stem == "08_your_own_images" else ""  # None: images drawn here
    assert code[0].metadata.get("tags") == ["parameters"] and code[0].source == 'profile = "cpu"\ndevice = None' + own
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(len(cell.source.splitlines()) <= 16 for cell in code), "cells are thin: work belongs into ssn_core"
    assert path.stat().st_size < 500_000
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    for output in outputs:
        text = str({kind: value for kind, value in output.get("data", {}).items() if kind != "image/png"})
        assert not re.search(r"(?<![\w.])/(home|tmp|root|work|Users)/", text + output.get("text", ""))
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert kinds <= {"text/plain", "text/html", "text/markdown", "image/png"}
    for output in outputs:
        if picture := output.get("data", {}).get("image/png"):
            Image.open(io.BytesIO(base64.b64decode(picture))).verify()


def test_notebook_08_is_stored_with_the_example_that_is_made_now() -> None:
    assert f"40 images, run {example_config().run_id}" in (ROOT / "notebooks" / "08_your_own_images.ipynb").read_text()


def test_figures_in_git_are_few_each_in_one_format_and_shown() -> None:
    """By README or the PDFs; what only a notebook shows is in the stored notebook."""
    listed = subprocess.run(["git", "ls-files", "figures"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [Path(line) for line in listed.stdout.splitlines()]
    assert 0 < len(files) < 90
    assert len({path.with_suffix("") for path in files}) == len(files)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "report").rglob("*.typ"))
    drawn = tuple(re.findall(r'(?:drawing|diagram)\("(\w+)"', sources))
    hidden = [path.name for path in files if not path.name.startswith(drawn) and path.name.split(".")[0] not in readme]
    assert hidden == []


@pytest.mark.parametrize("kind", ["panel", "maps"])
def test_panels_and_maps_of_real_data_show_no_photograph(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """So no output holds one: photographs go below build/ and nowhere else. Those of synthetic data are shown."""
    run = fake_run(tmp_path / "store", config_of())
    monkeypatch.setattr(notebook, "project_root", lambda: tmp_path)
    shown = {}
    for name in ("mvtec", "synthetic"):
        dataset = dataset_for(run, tmp_path / "data", name)
        monkeypatch.setattr(profiles.Profile, "dataset", lambda self, config, found=dataset: found)
        shown[name] = getattr(notebook.Notebook(load_profile("cpu")), kind)([run])
    photograph = np.array([200, 40, 40])

    def reddish(figure: Any) -> int:
        figure.savefig(buffer := io.BytesIO())
        pixels = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
        return int((np.abs(pixels - photograph).max(2) < 6).sum())

    assert reddish(shown["mvtec"]) == 0 and reddish(shown["synthetic"]) > 1000
    kept = sorted(path.name for path in (tmp_path / "build" / "cpu" / "panels").iterdir())
    assert kept == [f"{kind}_ring_test_dent_006.png.{language}.png" for language in ("en", "it")]
    assert "with photographs: build/cpu/panels" in capsys.readouterr().out


def test_only_the_panel_method_opens_a_data_set() -> None:
    for path in NOTEBOOKS:
        sources = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
        assert not re.search(r"\.dataset\(|open_dataset|read_image|find_root|panels\.(panel|maps)\(", sources), (
            path.name
        )


# The setup line


def test_an_unknown_parameter_is_refused() -> None:
    declared = 'profile = "cpu"\ndevice = None'
    notebook.refuse_unknown(["", declared, '# Parameters\nprofile = "demo"\n', "%matplotlib inline"])
    with pytest.raises(InputError, match=r"no parameter 'epohcs'; it has device, profile"):
        notebook.refuse_unknown(["", declared, '# Parameters\nprofile = "demo"\nepohcs = 3\n'])


@pytest.mark.slow
def test_papermill_stops_at_an_unknown_parameter(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "papermill", str(NOTEBOOKS[3]), str(tmp_path / "out.ipynb"), "-p", "epohcs", "3"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and "this notebook has no parameter 'epohcs'" in done.stderr


def test_the_setup_line_goes_to_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "notebooks")
    nb = notebook.notebook("demo")
    assert Path.cwd() == ROOT and nb.profile.name == "demo" and not nb.references
    with pytest.raises(InputError, match="profile 'huge' is unknown"):
        notebook.notebook("huge")


def test_simplenet_sees_what_the_unsupervised_run_sees() -> None:
    config = profiles.simplenet_like(preset("unsupervised", dataset="ksdd1", category="ksdd1", seed=3))
    assert (config.method, config.experiment, config.category, config.seed) == ("simplenet", "simplenet", "ksdd1", 3)


def test_kolektorsdd2_rows_stand_beside_the_stand_in_only() -> None:
    peers = profiles.ksdd2_peers(load_profile("cpu"))
    assert {peer.config.dataset for peer in peers} == {"ksdd2"} and len(peers) == 6
    assert profiles.ksdd2_peers(load_profile("full")) == []
