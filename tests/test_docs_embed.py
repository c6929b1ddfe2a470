"""The page on embedding says what happens: its files are written, its commands and its code are run, its output compared."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

from PIL import Image

from twoway.cli import main

PAGE = Path(__file__).parents[1] / "docs/embed.md"
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_on_embedding(tiny_encoder, tmp_path, monkeypatch, capsys):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (30, 30), "red").save(tmp_path / "pictures/cat.png")
    (tmp_path / "my-model").symlink_to(tiny_encoder("qwen2_vl"))
    monkeypatch.chdir(tmp_path)
    promised = printed = ""
    for number, (kind, name, body) in enumerate(BLOCK.findall(PAGE.read_text(encoding="utf-8"))):
        if name:
            Path(name).write_text(body, encoding="utf-8")
        if kind == "sh":
            assert [main(shlex.split(line)[1:]) for line in body.splitlines()] == [0] * len(body.splitlines())
            said = capsys.readouterr().out
            assert "vectors: 3 vectors of 32 x float32; 3 embedded now" in said
            assert "more: 4 vectors of 16 x int8; 4 embedded now" in said
        if kind == "python":
            Path(f"{number}.py").write_text(body, encoding="utf-8")
            runpy.run_path(f"{number}.py")
            printed += capsys.readouterr().out
        if kind == "output":
            promised += body
    assert promised
    assert printed == promised
