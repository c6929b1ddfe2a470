"""The pages on embedding and mining say what happens: their files are written, commands and code are run, output is compared."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
from PIL import Image

from twoway.cli import main

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tiny_encoder, tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    for name in ("pictures/cat", "red", "green", "blue"):
        Image.new("RGB", (30, 30), "white" if "/" in name else name).save(tmp_path / f"{name}.png")
    (tmp_path / "my-model").symlink_to(tiny_encoder("qwen2_vl"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_page(page, capsys):
    """Return what the page's commands printed, what its code printed, and what it promises."""
    promised = printed = said = ""
    for number, (kind, name, body) in enumerate(BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))):
        if name:
            Path(name).write_text(body, encoding="utf-8")
        if kind == "sh":
            assert [main(shlex.split(line)[1:]) for line in body.splitlines()] == [0] * len(body.splitlines())
            said += capsys.readouterr().out
        if kind == "python":
            Path(f"{number}.py").write_text(body, encoding="utf-8")
            runpy.run_path(f"{number}.py")
            printed += capsys.readouterr().out
        if kind == "output":
            promised += body
    assert promised
    return said, printed, promised


def test_the_page_on_embedding(folder, capsys):
    said, printed, promised = run_page("embed.md", capsys)
    assert "vectors: 3 vectors of 32 x float32; 3 embedded now" in said
    assert "more: 4 vectors of 16 x int8; 4 embedded now" in said
    assert printed == promised


def test_the_page_on_mining(folder, capsys):
    said, _, promised = run_page("mining.md", capsys)
    assert said.startswith(promised)
    assert f"root: {folder}" in said


def test_the_page_on_the_page_of_the_server(folder, capsys):
    _, printed, promised = run_page("page.md", capsys)
    assert printed == promised
