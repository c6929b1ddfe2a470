"""The index of papers leads to what is there: each idea to its file, and to a test that would fail without it."""

from __future__ import annotations

import re

import pytest

from snippets import ROOT

PAGE = (ROOT / "docs/papers.md").read_text(encoding="utf-8")
IDEAS = [line for line in PAGE.split("\n## ")[0].splitlines() if line.startswith("| ")][1:]


def test_each_idea_has_a_paper_a_file_and_a_test():
    assert len(IDEAS) >= 15
    for line in IDEAS:
        idea, paper, file, test = (cell.strip() for cell in line.strip("|").split(" | "))
        assert idea
        assert paper
        assert re.search(r"`(src|recipes)/", file), line
        assert re.search(r"`tests/\S+::test_\w+`", test), line


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:src|tests|recipes|docs|golden)/[^`]+)`", PAGE))))
def test_what_the_page_names_is_there(path):
    file, _, test = path.partition("::")
    assert (ROOT / file).exists()
    assert not test or f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8")
