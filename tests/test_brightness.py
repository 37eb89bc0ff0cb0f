"""What light says of a test set, and what `check` says of that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssn_core.data.brightness import brightness
from ssn_core.data.datasets import check, open_dataset


def make_set(root: Path, good: Sequence[int], defective: Sequence[int]) -> Path:
    """A category in MVTec AD's layout whose images are of one grey value each."""
    for folder, greys in (("train/good", [100, 120]), ("test/good", good), ("test/cut", defective)):
        (root / folder).mkdir(parents=True)
        for number, grey in enumerate(greys):
            Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(root / folder / f"{number:03}.png")
    return root


def test_brightness_by_hand(tmp_path: Path) -> None:
    found = open_dataset("mvtec", "nut", make_set(tmp_path / "nut", good=[10, 30], defective=[20, 40]))
    values = brightness(found.train, found.test)
    assert values == pytest.approx({"training": 110, "normal": 20, "defective": 30, "auroc": 0.75})
    assert brightness(found.train, found.test[:1]).keys() == {"training", "defective"}


@pytest.mark.parametrize(
    ("good", "defective", "said"),
    [
        ([50] * 10, [90] * 10, True),
        ([90] * 10, [50] * 10, True),  # darker ones are as easily told
        ([50] * 9, [90] * 10, False),  # too few to say so
        ([50, 90] * 5, [90, 50] * 5, False),
    ],
)
def test_check_says_where_light_alone_tells_the_classes(
    good: list[int], defective: list[int], said: bool, tmp_path: Path
) -> None:
    [line] = check(make_set(tmp_path / "nut", good, defective))
    assert line.startswith("OK ") and ("equal_brightness=true" in line) == said
