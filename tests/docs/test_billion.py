"""The plan on the page is what its command prints, and the figures that it says were measured are those that go in."""

from __future__ import annotations

import re

from benchmarks import billion

from snippets import ROOT
from twoway.recipes.plan import Pages

PAGE = (ROOT / "docs/billion.md").read_text(encoding="utf-8")


def test_the_plan_is_what_the_command_prints(capsys):
    billion.main([])
    assert f"```text\n{capsys.readouterr().out}```" in PAGE
    billion.main(["--many", "--count", "1e6"])
    assert capsys.readouterr().out in PAGE


def test_what_was_measured_is_what_goes_in_rounded_up():
    seconds = [float(said) for said in re.findall(r"^  (?:render|instead|resize).* (0\.\d{4})$", PAGE, re.MULTILINE)]
    (kept,) = (float(said.replace(",", "")) for said in re.findall(r"kept beside a vector: ([\d,]+) bytes", PAGE))
    render, decode, resize = seconds
    assert 0.7 * Pages().core_seconds < max(render, decode) + resize <= Pages().core_seconds
    assert 0.9 * Pages().record < kept <= Pages().record
