"""The architecture page tells the truth: its pictures are those of today's imports, and what it names is there."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache

import pytest

from scripts import architecture
from snippets import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src/twoway"
NAMED = sorted(set(re.findall(r"`([\w./]+\.(?:py|toml|yml))(?:::([\w.]+))?`", PAGE)))


@cache
def names(path):
    """Return what a file defines: functions, classes, and the methods and attributes of classes."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
        for target in [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []:
            found.add(getattr(target, "id", ""))
    return found


def test_the_pictures_are_those_of_the_imports():
    for name, drawing in architecture.drawings().items():
        assert (ROOT / "docs/pictures" / name).read_text(encoding="utf-8") == drawing, "run: python -m scripts.architecture"
        assert f"](pictures/{name})" in PAGE


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_what_the_page_names_is_there(file, name):
    path = SOURCE / file if (SOURCE / file).exists() else ROOT / file
    assert path.is_file()
    assert not name or name in names(path)


def test_tables_that_additions_go_into_are_where_the_page_says():
    for table, file in re.findall(r"`([A-Z]+)` of\s+`([\w./]+)`", PAGE):
        assert table in names(SOURCE / file)
    assert len(re.findall(r"`[A-Z]+` of\s+`[\w./]+`", PAGE)) == 3


def test_no_public_name_stands_for_two_things():
    homes = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                homes[node.name].add(path.relative_to(SOURCE).as_posix())
    twice = {name: places for name, places in homes.items() if len(places) > 1}
    assert twice.pop("main") == {"__main__.py", "cli/__init__.py"}
    assert twice.pop("run_check") == {"cli/data.py", "cli/models.py"}  # `twoway data check` and `twoway check`
    # A method is a folder, and all methods' folders have the same parts.
    for name in ("prepare", "open_data", "require", "write_report"):
        assert all(place.startswith("methods/") for place in twice.pop(name))
    assert not twice


def names_a_kind(path):
    """Say whether a file asks if a part is an image, by its class or by a document's `images`."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    asked = [node.args[1] for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance"]
    taken = {getattr(node.value, "id", "") for node in nodes if isinstance(node, ast.Attribute) and node.attr == "images"}
    return "document" in taken or "Image" in {getattr(node, "id", "") for one in asked for node in ast.walk(one)}


def test_every_file_that_a_content_kind_touches_is_listed():
    section = PAGE.split("### A content kind")[1]
    table = re.findall(r"^\| `([\w./]+)` \|", section, re.MULTILINE)
    assert len(table) <= 10
    listed = set(re.findall(r"`([\w./]+\.py)`", section))
    assert {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if names_a_kind(path)} <= listed
