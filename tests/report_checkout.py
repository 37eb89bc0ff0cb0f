"""What the report reads, copied and filled with runs that nobody trained; and what a built PDF says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from report_runs import flat, write_run
from support import copy_checkout

from report.summary import wanted_runs
from ssn_core.bench import measure as bench
from ssn_core.bench.plan import Form, Group, Point
from ssn_core.runs.config import RunConfig
from ssn_core.runs.profiles import load_profile

pymupdf = pytest.importorskip("pymupdf", reason="reading the PDFs back needs the package pymupdf")

FORBIDDEN = re.compile(r"\b(none|nan|inf|undefined|not found)\b", re.IGNORECASE)
FIGURES, DIAGRAMS, TABLES = 20, 6, 15  # at least; diagrams are figures


def wanted(experiment: str, category: str, **where: object) -> list[RunConfig]:
    """The three seeds that the report reads of an experiment."""
    where = {"experiment": experiment, "category": category, **where}
    return [c for c in wanted_runs(load_profile("cpu")) if all(getattr(c, k) == v for k, v in where.items())]


def a_bottle(store: Path, value: float, seeds: int = 3, final_loss: float = 0.1, rising: float = 0.0) -> None:
    for config in wanted("scenario_a", "bottle")[:seeds]:
        write_run(store, config, flat(value + 0.0001 * config.seed), final_loss, rising=rising)


def checkout(folder: Path, figures: bool = True) -> Path:
    """What the report reads, without any result."""
    names = ("report", "data/reference", "ssn_core/study/labels.yaml", *(["figures"] if figures else []))
    return copy_checkout(folder, *names)


def speed_rows(partial: bool = False) -> list[dict]:
    """A benchmark that nobody ran: the fast forms take the time that makes a ratio of 2.05; in part: training alone."""

    def add(kind: str, model: tuple[str, str], variants: tuple[str, ...], *answers: dict) -> None:
        forms = [Form(kind, *model, variant) for variant in variants]
        point, turns = Point("", 1, (256, 256)), [[answer] * 2 for answer in answers]
        table.extend(bench.rows(Group(" ".join((kind, *model)), forms, []), point, turns, ["nowhere"] * len(forms)))

    def forward(ms: float, megabytes: float) -> dict:
        found = {"latency_batch1": (ms, "ms/image"), "throughput_batch16": (1000 / ms, "images/s")}
        found |= {f"memory_{name}": (megabytes, "MB") for name in found}
        return found | {"operations": (20, "GFLOP/image"), "traffic": (300, "MB/image"), "parameters": (10, "M")}

    table: list[dict] = []
    networks = (("baseline", "wide_resnet50_2"), ("scenario_a", "resnet18"), ("scenario_b", "resnet18"))
    for model in networks if not partial else ():
        add("inference", model, ("plain", "fold"), forward(205, 300), forward(100, 100))
    if not partial:
        products = [{"machine_product": (rate, "GFLOP/s")} for rate in (50, 100)]
        add("machine", ("", ""), ("plain", "product"), *products)
        add("machine", ("", ""), ("copy",), {"machine_copy": (100, "GB/s")})
    for model in networks[:2]:
        step = [
            {"training_step_batch8": (ms, "ms/image"), "memory_training_step_batch8": (300, "MB")} for ms in (400, 100)
        ]
        add("training", model, ("plain", "fast"), *step)
    return table


def text_of(pdf: Path) -> str:
    """The text in reading order on one line, hyphenation undone, ligatures and spaces as typed."""
    with pymupdf.open(pdf) as document:
        text = "\n".join(page.get_text() for page in document)
    for ligature, letters in {"ﬁ": "fi", "ﬂ": "fl", "ﬀ": "ff", "ﬃ": "ffi", "ﬄ": "ffl"}.items():
        text = text.replace(ligature, letters)
    text = re.sub(r"(?<=\w)[-\u00ad\u2010]\n(?=[a-zà-ù])", "", text)
    return re.sub(r"[\s\u00a0\u2009\u202f\u200b]+", " ", text)
