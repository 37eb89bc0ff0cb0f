"""CONTRIBUTING.md, followed literally: a toy backbone, noise, data set and notebook, each added where the page says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from support import ROOT, copy_checkout, environment

BLOCKS = re.findall(r"```\w+\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
#: what the page leaves to the reader's machine: ResNet34's weights, and minutes
TOY = "epochs=1 batch_size=2 image_size=64,64 --data-root data --store build/runs --device cpu"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with the page's lines at the end of their tables, and a folder of eight pictures in MVTec AD's layout."""
    backbone, noise, *_ = BLOCKS
    copy = copy_checkout(tmp_path_factory.mktemp("contributing") / "project", "ssn_core", "profiles", "data/reference")
    names = copy / "ssn_core" / "models" / "names.py"
    source = names.read_text(encoding="utf-8")
    for table, line in (("BACKBONES", backbone), ("FIXED_NOISES", noise)):
        source, count = re.subn(rf"(?ms)^({table}: .*?)^}}", lambda found, line=line: found[1] + line + "}", source)
        assert count == 1
    names.write_text(source, encoding="utf-8")
    rng = np.random.default_rng(0)
    for split, count in (("train/good", 4), ("test/good", 2), ("test/broken", 2)):
        (copy / "data" / "toys" / split).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(copy / "data" / "toys" / split / f"{i}.png")
    return copy


def run(command: list[str], checkout: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=checkout, env=environment(), capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_backbone_a_noise_and_a_data_set_make_a_run(checkout: Path) -> None:
    """By the page's own command; the backbone's weights are random ones in a file, as if they had been downloaded."""
    make = "import torch, torchvision as t; torch.save(t.models.resnet34().state_dict(), 'resnet34-imagenet1k-v1.pth')"
    assert run([sys.executable, "-c", make], checkout).returncode == 0
    [line] = [block for block in BLOCKS if block.startswith("python -m ssn_core run")]
    words = shlex.split(f"env SSN_WEIGHTS_DIR=. OMP_NUM_THREADS=1 {line} {TOY}")
    words[words.index("python")] = sys.executable
    done = run(words, checkout)
    assert done.returncode == 0, done.stderr
    assert "run folder: build/runs/scenario_a-resnet34-mvtec-toys-s0-" in done.stdout
    assert re.search(r"^I-AUROC: \d", done.stdout, re.MULTILINE) and "P-AUROC: n/a" in done.stdout  # no masks


@pytest.mark.slow
def test_a_notebook_is_found_executed_and_stored(checkout: Path) -> None:
    parameters, setup = BLOCKS[-2:]
    cells = [nbformat.v4.new_markdown_cell("# 99 · A toy"), *map(nbformat.v4.new_code_cell, (parameters, setup))]
    cells[1].metadata["tags"] = ["parameters"]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (checkout / "notebooks").mkdir()
    nbformat.write(book, checkout / "notebooks" / "99_toy.ipynb")
    copy_checkout(checkout, "Makefile")
    done = run(["make", "notebooks", f"PYTHON={sys.executable}"], checkout)
    assert done.returncode == 0, done.stderr
    stored = nbformat.read(checkout / "notebooks" / "99_toy.ipynb", as_version=4)
    assert stored.cells[2].outputs[0].text.startswith("cpu: real data") and len(stored.metadata.digest) == 64
