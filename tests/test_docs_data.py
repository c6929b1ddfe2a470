"""The pages on data and configuration say what happens: their files are written, their code is run, their output compared."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

from twoway.config import load
from twoway.errors import UsageError

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "pictures/cat.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_page(page, capsys):
    """Write the files of a page, run its code in order, and return its last namespace with what was promised and printed."""
    found = blocks(page)
    for _, name, text in found:
        if name:
            Path(name).write_text(text, encoding="utf-8")
    names = {}
    for number, (_, _, text) in enumerate(block for block in found if block[0] == "python"):
        script = Path(f"script{number}.py")
        script.write_text(text, encoding="utf-8")
        names = runpy.run_path(str(script), run_name=f"docs_{number}")
    return names, "".join(text for kind, _, text in found if kind == "output"), capsys.readouterr().out


@pytest.mark.parametrize("page", ["data.md", "configuration.md"])
def test_the_examples_print_what_the_page_says(page, folder, capsys):
    _, promised, printed = run_page(page, capsys)
    assert promised
    assert printed == promised


def test_the_errors_of_the_configuration_page_are_the_real_ones(folder, capsys):
    names, _, _ = run_page("configuration.md", capsys)
    rows = re.findall(r"^\| `(.*?)` \| `(train.*?)` \|$", (DOCS / "configuration.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 6
    for written, answer in rows:
        Path("train.yaml").write_text(f"model: m\n{written}\n")
        with pytest.raises(UsageError) as caught:
            load(names["Train"], "train.yaml")
        assert str(caught.value) == answer
