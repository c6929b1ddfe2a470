"""The site builds strictly, whole, with nothing from outside, and its reference is that of the program."""

from __future__ import annotations

import logging
import re

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

import twoway
from snippets import ROOT
from twoway.cli.verbs import VERBS

LOADS = re.compile(r"<(?:script|img|iframe|source|video|link(?![^>]*rel=.?canonical))[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^\s\"'>]+")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)  # strict: a link that leads nowhere, or a page without a place, ends it
    return folder


def text(site, page):
    return (site / page / "index.html").read_text(encoding="utf-8")


def test_every_page_is_there_and_in_the_navigation(site):
    home = text(site, ".")
    pages = [path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert {"how-to/pdfs", "concepts/bridge", "billion"} <= set(pages)
    for page in pages:
        where = "." if page == "index" else page
        assert (site / where / "index.html").exists(), page
        assert page == "index" or f'href="{page}/"' in home, page


def test_nothing_is_loaded_from_outside(site):
    files = list(site.rglob("*.html"))
    assert len(files) > 25
    found = {str(file.relative_to(site)): LOADS.findall(file.read_text(encoding="utf-8")) for file in files}
    assert {name: hits for name, hits in found.items() if hits} == {}
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()[\"' ]*(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_the_reference_has_every_verb_option_and_public_name(site):
    commands, names = text(site, "reference/commands"), text(site, "reference/python")
    assert [verb for verb in VERBS if f">twoway {verb}<" not in commands] == []
    assert "--shard-rows" in commands
    assert [name for name in twoway._HOME if f">{name}<" not in names and f"{name}</span>" not in names] == []
    assert "attention.py" in text(site, "reference/map")


def test_links_to_code_are_names_and_drawings_have_words(site):
    assert 'href="../src' not in text(site, "cocoa")
    assert "src/twoway/models/bridge_mask.py" in text(site, "cocoa")
    for drawing in (ROOT / "docs/pictures").glob("*.svg"):
        said = drawing.read_text(encoding="utf-8")
        assert 'role="img"' in said
        assert "<title>" in said
        assert "prefers-color-scheme:dark" in said
