"""Sets of icons become concepts: joined by code point, name and meaning; marks and what too few draw stay out, and are counted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tools.samples.concepts import Concept, Drawing
from tools.samples.iconify import EMOJI_SETS, ICON_SETS, Dropped, Icons, add_emoji, code_of, read_icons
from tools.samples.render import render
from tools.samples.wordnet import WordNet

if TYPE_CHECKING:
    from pathlib import Path

DOT = '<circle cx="8" cy="8" r="6" fill="currentColor"/>'


@pytest.fixture
def icons(tmp_path: Path):
    """Return what makes a set of some names."""

    def make(*names, aliases=None, codes=None, categories=None):
        folder = tmp_path / f"set-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        content = {"icons": {name: {"body": DOT} for name in names}, "aliases": aliases or {}, "width": 16, "height": 16}
        (folder / "icons.json").write_text(json.dumps(content))
        if codes:
            (folder / "chars.json").write_text(json.dumps(codes))
        if categories:
            (folder / "metadata.json").write_text(json.dumps({"categories": categories}))
        return Icons(folder)

    return make


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    """Return a dictionary of four things: sofa and couch are one, a kettle, a mouse; and an idea."""
    senses = {
        "1": (6, ["sofa", "couch"], "a seat"),
        "2": (6, ["kettle"], "a pot"),
        "3": (5, ["mouse"], "a rodent"),
        "4": (9, ["idea"], "a notion"),
    }
    data = [
        f"{key} {kind:02d} n {len(words):02x} {' '.join(f'{word} 0' for word in words)} 000 | {gloss}"
        for key, (kind, words, gloss) in senses.items()
    ]
    index = [f"{word} n 1 0 1 0 {key}" for key, (_, words, _) in senses.items() for word in words]
    (tmp_path / "data.noun").write_text("\n".join(data) + "\n")
    (tmp_path / "index.noun").write_text("\n".join(index) + "\n")
    return WordNet(tmp_path)


def emoji(name: str) -> Concept:
    return Concept(name.replace(" ", "-"), "emoji", {"en": name})


def test_a_drawing_is_whole_and_may_have_other_names(icons) -> None:
    found = icons("kettle", aliases={"pot": {"parent": "kettle"}, "turned": {"parent": "kettle", "hFlip": True}, "lost": {"parent": "no"}})
    assert "pot" in found
    assert "turned" not in found
    assert "lost" not in found
    drawing = found.drawing("pot", "set", "style")
    assert (drawing.source, drawing.style) == ("set", "style")
    picture = render(drawing, 32)
    assert picture.size == (32, 32)
    assert picture.getpixel((16, 16)) == (0x1F, 0x29, 0x37, 255)
    assert picture.getpixel((0, 0))[3] == 0


def test_emoji_are_joined_by_code_point_and_by_name(icons) -> None:
    face, car = emoji("grinning face"), emoji("automobile")
    sets = {one.name: icons("other") for one in EMOJI_SETS}
    sets["noto"] = icons("big-grin", "car", codes={"1f600": "big-grin", "1f697-fe0f": "car"}, aliases={"auto-mobile": {"parent": "car"}})
    sets["fxemoji"] = icons("grinningface")
    sets["emojione"] = icons("car")
    dropped = Dropped()
    add_emoji(sets, [face, car, emoji("no such")], {"grinning-face": "\U0001f600", "automobile": "\U0001f697\ufe0f"}, dropped)
    assert [one.style for one in face.drawings] == ["noto", "fxemoji"]
    assert [one.style for one in car.drawings] == ["noto", "emojione"]
    assert dropped.rows()["emoji that twemoji does not draw"] == {"count": 2, "examples": ["automobile", "grinning-face"]}
    assert code_of("\U0001f697\ufe0f") == "1f697"


def test_icons_are_joined_by_name_and_meaning(icons, wordnet) -> None:
    sets = {one.name: icons("plus") for one in ICON_SETS}
    sets["mdi"] = icons("sofa", "sofa-outline", "kettle", "sofa-plus", "apple", categories={"Brand / Logo": ["apple"]})
    sets["ph"] = icons("couch", "couch-fill", "couch-bold", "bicycle", "teapot-stand")
    sets["lucide"] = icons("kettle", "idea", "teapot-stand", "bike")
    sets["carbon"] = icons("teapot-stand", "mouse")
    bicycle = emoji("bicycle")
    tabler = [Concept("kettle", "icon", {"en": "kettle"}, drawings=[Drawing("tabler-icons", "outline", sets["mdi"].path)])]
    dropped = Dropped()
    found = {one.id: sorted(drawing.style for drawing in one.drawings) for one in read_icons(sets, tabler, [bicycle], wordnet, dropped)}
    assert found == {
        "bicycle": ["lucide", "phosphor"],
        "kettle": ["lucide", "mdi", "outline"],
        "couch": ["mdi", "mdi-outline", "phosphor", "phosphor-fill"],
        "teapot-stand": ["carbon", "lucide", "phosphor"],
    }
    rows = dropped.rows()
    assert rows["icons of categories of marks, letters and brands"]["examples"] == ["mdi:apple"]
    unnamed = dropped.by_reason["icons whose name says no thing that can be drawn"]
    assert {"mdi:sofa-plus", "lucide:idea"} <= set(unnamed)
