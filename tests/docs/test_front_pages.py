"""CITATION.cff and SECURITY.md: what a machine or a stranger reads first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import private_distdd

yaml = pytest.importorskip("yaml")  # it comes with the tool that builds the docs
ROOT = Path(__file__).parents[2]
METHODS = {"DistDD": "2410.08665", "CollabDM": "2408.02266", "FedDGM": "2312.01537"}


def citation() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_citation_has_what_its_format_requires() -> None:
    # The required keys of the Citation File Format 1.2.0, for the software and for each reference.
    found = citation()
    assert found["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(found)
    assert found["type"] == "software"
    assert str(found["version"]) == private_distdd.__version__
    assert found["license"] == "Apache-2.0"
    for source in [found, *found["references"]]:
        assert source["authors"]
        assert all(set(author) in ({"name"}, {"family-names", "given-names"}) for author in source["authors"])
    assert all({"type", "title", "authors"} <= set(reference) for reference in found["references"])


def test_the_citation_names_the_paper_of_each_method_as_the_docs_do() -> None:
    papers = {
        reference["notes"].removeprefix("The method "): reference["identifiers"][0]["value"].removeprefix("arXiv:")
        for reference in citation()["references"]
    }
    assert papers == METHODS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for reference in citation()["references"]:
        assert reference["url"].removeprefix("https://arxiv.org/abs/") in readme
        assert isinstance(reference["year"], int)


def test_the_security_page_sends_nobody_to_an_address() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "private security advisory" in text
    assert not re.search(r"[\w.+-]+@[\w-]+\.\w+|https?://", text)
    assert private_distdd.__version__.rpartition(".")[0] in text
