"""Questions about scenes: each side alone fits several answers, as the tables say; and a world that has them gives them as pairs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageDraw
from tools.samples.render import encode
from tools.samples.scenes import leaks, scene_rows
from tools.samples.split import HALVES
from tools.samples.tables import write_table

from twoway.data.sources.samples import HELD_STYLES, load_world, pairs

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = {"beside": 3, "changed": 12, "owner": 12, "label": 6}
HELD = HELD_STYLES[0]


@pytest.fixture(scope="module")
def world():
    """Return made concepts and pictures: a bar in a colour of its own, in two training styles and a held-out one."""
    concepts, pictures = [], []
    for number in range(40):
        name, half = f"thing {chr(97 + number // 26)}{chr(97 + number % 26)}", HALVES[number % 2]
        concepts.append(
            {"concept": name, "cluster": name, "half": half, "kind": "emoji", "names": {"en": name}, "keywords": {}, "gloss": None}
        )
        concepts[-1] |= {"group": None, "facts": {}}
        for style in ("one", "two", HELD):
            picture = Image.new("RGBA", (24, 24), (0, 0, 0, 0))
            ImageDraw.Draw(picture).rectangle((4, 4, 20, 6 + number % 14), fill=(6 * number, 255 - 6 * number, 40 * len(style), 255))
            row = {"id": f"{name}/{style}", "concept": name, "source": "near", "style": style, "half": half}
            pictures.append({**row, "image": encode(picture)})
    return concepts, pictures


@pytest.fixture(scope="module")
def made(world):
    return scene_rows(*world, groups=GROUPS)


def test_two_builds_give_the_same_bytes(world, made) -> None:
    assert scene_rows(*world, groups=GROUPS) == made


def test_scenes_stay_in_one_half_and_never_show_a_held_out_style(world, made) -> None:
    halves = {row["concept"]: row["half"] for row in world[0]}
    scenes, questions = made
    assert all(halves[concept] == row["half"] for row in scenes for concept in row["concepts"])
    used = {side["picture"] for row in questions for side in (row["query"], *row["answers"]) if side["picture"]}
    assert not [name for name in used if name.endswith(f"/{HELD}")]
    assert {row["id"] for row in scenes} <= used
    assert {row["half"] for row in questions} == set(HALVES)


def test_one_side_alone_leaves_several_answers(world, made) -> None:
    images = {row["id"]: row["image"] for row in (*world[1], *made[0])}
    for half in HALVES:
        found = {task: leaks(made[1], images)[f"{task} ({half})"] for task in (*GROUPS, "scene-names")}
        beside, changed, owner, label = (found[task] for task in ("beside", "changed", "owner", "label"))
        assert (beside["question's picture"], beside["question's text"]) == (0.25, pytest.approx(1 / 3, abs=0.05))
        assert changed["question's picture"] <= 0.25
        assert changed["question's text"] <= 0.5
        assert changed["pixels"] <= 0.35
        assert (owner["answer's picture"], owner["chance"]) == (0.5, pytest.approx(2 / owner["answers"]))
        assert owner["answer's text"] <= 0.5
        assert label["answer's picture"] <= 1 / 3
        assert label["answer's text"] <= 1 / 3
        assert beside["words"] < 0.2
        assert found["scene-names"]["question's picture"] is None  # there is no other part


def test_what_is_right_is_right(made) -> None:
    scenes = {row["id"]: row for row in made[0]}
    for row in made[1]:
        if row["task"] == "beside":
            shown, query = scenes[row["query"]["picture"]]["concepts"], row["query"]["text"]
            _, place, asked = next((word, word, query.split(" of the ")[1][:-1]) for word in ("left", "right") if f"is {word} of" in query)
            at = shown.index(asked)
            assert row["answers"][0]["text"] == shown[at - 1 if place == "left" else at + 1]
        if row["task"] == "owner":
            assert len(row["answers"]) == 2
            owners = dict(part.removeprefix("The ").split(" is ") for part in row["query"]["text"][:-1].split(", the "))
            for answer in row["answers"]:
                left, right = scenes[answer["picture"]]["concepts"]
                assert answer["text"] == f"The left one is {owners[left]}, the right one is {owners[right]}."


def test_a_world_with_scenes_asks_about_them_and_says_what_it_holds_out(world, made, tmp_path: Path) -> None:
    tables = {"concepts": world[0], "pictures": world[1], "texts": [], "pages": [], "scenes": made[0], "questions": made[1]}
    for name, rows in tables.items():
        write_table(tmp_path / f"{name}.parquet", rows)
    (tmp_path / "manifest.json").write_text(json.dumps({"twins": [f"thing aa/{HELD}"]}))
    read = load_world(tmp_path)
    assert {row["style"] for row in read.drawn()} == {"one", "two"}
    asked = list(pairs("train", folder=tmp_path))
    count = {task: sum(pair.task == task for pair in asked) for task in (*GROUPS, "scene-names")}
    assert count == {"beside": 3 * 24, "changed": 12 * 4, "owner": 12 * 2, "label": 6 * 9, "scene-names": 3 * 6}
    for pair in asked:
        if pair.task == "owner":
            assert (len(pair.positives), len(pair.negatives)) == (2, 2)
            assert all(len(one.images) == len(one.texts) == 1 for one in (*pair.positives, *pair.negatives))
        if pair.task == "label":
            assert len(pair.negatives) == 4
            right = pair.positives[0]
            assert all((one.texts == right.texts) != (one.images == right.images) for one in pair.negatives)
    held = list(pairs("test-style", folder=tmp_path))
    assert {pair.query.meta["id"].split("/")[-1] for pair in held} == {HELD}
