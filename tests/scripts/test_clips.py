"""The report on clips says at the start and at the end what frames and words give each other."""

from __future__ import annotations

import re

from scripts import clips


def test_the_gaps_are_printed_at_the_start_and_at_the_end(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(clips, "RECIPE", clips.RECIPE | {"dataloader_num_workers": 0, "budget": 200})
    clips.main([str(tmp_path), "--base", str(tiny_model("qwen2_vl")), "--steps", "1", "--things", "10"])
    said = capsys.readouterr().out
    assert "On 3 held-out clips" in said
    assert re.findall(r"^ +(\d+) +[\d.]+( +-?[\d.]+ \+- [\d.]+){3} +[\d.]+ +-?[\d.]+ \+- [\d.]+$", said, re.MULTILINE)
    assert re.search("frames in order|frames backwards", (tmp_path / "run" / "report.html").read_text())
