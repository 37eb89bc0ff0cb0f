"""Where data are looked for: a given root, SSN_DATA_DIR, Kaggle's mounts, data/; and what is not found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ssn_core.data.datasets import check, find_root, open_dataset
from ssn_core.errors import InputError

pytestmark = pytest.mark.usefixtures("no_outside_data")


def test_ladder(widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = shutil.copytree(widgets, tmp_path / "data" / "mine" / "widgets")
    assert find_root("mvtec", "widgets") == local
    kaggle = shutil.copytree(widgets, tmp_path / "kaggle" / "a" / "b" / "c" / "widgets")
    monkeypatch.setenv("SSN_KAGGLE_INPUT", str(tmp_path / "kaggle"))
    assert find_root("mvtec", "widgets") == kaggle
    variable = shutil.copytree(widgets, tmp_path / "variable" / "widgets")
    monkeypatch.setenv("SSN_DATA_DIR", str(tmp_path / "variable"))
    assert find_root("mvtec", "widgets") == variable
    assert find_root("mvtec", "widgets", widgets.parent) == widgets
    assert find_root("mvtec", "widgets", widgets) == widgets  # the category's own folder will do


def test_kaggle_mount_of_ksdd2_is_found_by_marker(ksdd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = shutil.copytree(ksdd, tmp_path / "kaggle" / "some-upload" / "defects")
    monkeypatch.setenv("SSN_KAGGLE_INPUT", str(tmp_path / "kaggle"))
    assert find_root("ksdd2", "ksdd2") == mount
    with pytest.raises(InputError, match="holds KolektorSDD .version 1."):
        find_root("ksdd1", "ksdd1")


@pytest.mark.parametrize("mount", ["some-upload", "datasets/owner/some-upload", "datasets/owner/slug/archive/mvtec"])
def test_kaggle_mounts_are_searched_at_any_depth(
    mount: str, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle = tmp_path / "kaggle"
    found = shutil.copytree(widgets, kaggle / mount / "widgets")
    (found.parent / "circle").symlink_to(kaggle)
    monkeypatch.setenv("SSN_KAGGLE_INPUT", str(kaggle))
    assert find_root("mvtec", "widgets") == find_root("mvtec", "widgets", kaggle) == found
    assert [line.split()[0] for line in check(kaggle)] == ["OK"]


def test_links_lead_to_one_folder_or_nowhere(widgets: Path, tmp_path: Path) -> None:
    root = tmp_path / "links"
    root.mkdir()
    (root / "itself").symlink_to(root / "itself")
    (root / "up").symlink_to(tmp_path)
    for name in ("a", "b"):
        (root / name).symlink_to(widgets.parent)
    assert find_root("mvtec", "widgets", root) == root / "a" / "widgets"


def test_version_1_is_never_taken_for_ksdd2(ksdd: Path) -> None:
    older = ksdd.rename(ksdd.parent / "kolektor_sdd1_in_ksdd2_layout")
    assert open_dataset("ksdd1", "ksdd1", ksdd.parent).title == "KolektorSDD (version 1)"
    for root in (older.parent, older):
        with pytest.raises(InputError, match="does not hold KolektorSDD2"):
            find_root("ksdd2", "ksdd2", root)


def test_a_given_root_is_not_passed_over(widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(widgets, tmp_path / "data" / "widgets")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="data_root is .*nothing, which does not hold"):
        find_root("mvtec", "widgets", tmp_path / "nothing")
    monkeypatch.setenv("SSN_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="SSN_DATA_DIR is .*absent, which is not a folder"):
        find_root("mvtec", "widgets")


def test_unknown_names(widgets: Path) -> None:
    with pytest.raises(InputError, match="Found there: mvtec widgets"):
        find_root("mvtec", "wigdets", widgets.parent)
    with pytest.raises(InputError, match="Unknown data set 'mvtech'; known: mvtec, ksdd2, ksdd1, synthetic"):
        find_root("mvtech", "widgets", widgets.parent)
    with pytest.raises(InputError, match="its categories: ring, weave, thread, plates"):
        find_root("synthetic", "bottle", widgets.parent)
    with pytest.raises(InputError, match="set SSN_DATA_DIR"):
        find_root("mvtec", "widgets")


def test_two_folders_of_one_category(widgets: Path) -> None:
    for place in ("a", "b"):
        shutil.copytree(widgets, widgets.parent / place / "widgets")
    shutil.rmtree(widgets)
    with pytest.raises(InputError, match="Several folders hold mvtec widgets: .*a/widgets, .*b/widgets"):
        find_root("mvtec", "widgets", widgets.parent)
