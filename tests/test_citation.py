"""CITATION.cff and CHANGELOG.md say what pyproject.toml, LICENSE and the report's bibliography say."""

from __future__ import annotations

import re

import yaml
from support import ROOT


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_has_the_projects_version_licence_and_author() -> None:
    cited = yaml.safe_load(read("CITATION.cff"))
    assert cited["cff-version"] == "1.2.0" and cited["title"] == read("README.md").splitlines()[0].lstrip("# ")
    assert re.search(r'^version = "(.+)"$', read("pyproject.toml"), re.MULTILINE)[1] == cited["version"]
    assert read("LICENSE").splitlines()[0] == f"{cited['license']} License"
    assert read("LICENSE").splitlines()[2].endswith(cited["authors"][0]["name"])


def test_the_papers_it_cites_stand_in_the_reports_bibliography() -> None:
    bibliography = re.sub("[{}]", "", read("report/references.bib"))
    cited = yaml.safe_load(read("CITATION.cff"))["references"]
    assert {paper["year"] for paper in cited} == {2024, 2025, 2026}
    for paper in cited:
        first = paper["authors"][0]
        entry = next(e for e in bibliography.split("\n@") if paper["title"] in e)
        assert f"{first['family-names']}, {first['given-names']}" in entry and f"year = {paper['year']}" in entry
        assert paper.get("doi", "") in entry and paper.get("url", "") in entry


def test_the_changelogs_newest_version_is_the_projects() -> None:
    newest = re.search(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)[1]
    assert newest == yaml.safe_load(read("CITATION.cff"))["version"]
