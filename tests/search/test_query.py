"""A question is answered by the model of the index and by no other; what is shown is what was found."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as PILImage
from rich.console import Console

import twoway
from made_vectors import pictures
from twoway.cli import main
from twoway.content import Document, Image, Text
from twoway.errors import TwowayError
from twoway.search.store import Hit, Item
from twoway.search.terminal import print_hits, thumbnail_cell

pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture(scope="module")
def shelf(tiny_encoder, tmp_path_factory):
    """A model, and an index of six rows of text and pictures by it."""
    home = tmp_path_factory.mktemp("shelf")
    pictures(home / "data")
    shutil.copytree(tiny_encoder("qwen2_vl"), home / "model")
    twoway.embed(home / "model", home / "data/data.jsonl", home / "vectors", side="document", device="cpu")
    twoway.index(home / "vectors", home / "db")
    return home


@pytest.fixture(scope="module")
def engine(shelf):
    return twoway.open_embedder(shelf / "model", device="cpu")


def test_a_hit_that_is_not_explained_says_why(shelf, engine, monkeypatch, capsys):
    finder = twoway.Finder(twoway.open_store(shelf / "db"), engine)
    search = finder.store.search

    def torn(*given, **how):
        return [
            replace(hit, item=replace(hit.item, thumbnail=b"torn" if hit.item.id == "n0" else hit.item.thumbnail))
            for hit in search(*given, **how)
        ]

    monkeypatch.setattr(finder.store, "search", torn)
    hits = {hit.item.id: hit for hit in finder.search("a fox", top_k=6, why=True)}
    assert {name: hit.why is None for name, hit in hits.items()} == {name: hit.why_not is not None for name, hit in hits.items()}
    assert {name for name, hit in hits.items() if hit.why is None} == {"n0", "n1", "n4"}
    assert hits["n1"].why_not == hits["n4"].why_not == "it has no picture"
    assert "broken or in an unknown format" in hits["n0"].why_not
    print_hits([hits["n0"]], Console(width=200))
    assert "not explained: the embedded picture is broken" in capsys.readouterr().out
    assert main(["search", str(shelf / "db"), "a fox", "--why", "--json", "--device", "cpu", "--top-k", "6"]) == 0
    said = {hit["id"]: hit for hit in json.loads(capsys.readouterr().out)}
    assert {name for name, hit in said.items() if hit.get("why_not") == "it has no picture"} == {"n1", "n4"}
    assert all(("why" in hit) != ("why_not" in hit) for hit in said.values())


def test_words_a_picture_and_both_are_one_vector_each(shelf, engine):
    finder = twoway.Finder(twoway.open_store(shelf / "db"), engine)
    file = Image(shelf / "data/2.png")
    for text, image, parts in (
        ("a fox", None, (Text("a fox"),)),
        (None, file, (file,)),
        ("a fox", file, (file, Text("a fox"))),
        (str(shelf / "data/2.png"), None, (Text(str(shelf / "data/2.png")),)),  # a text that looks like a path is a text
    ):
        expected = engine.array([Document(parts)], side="query")[0]
        np.testing.assert_allclose(finder.vector(text, image), expected, atol=1e-5)
        hits = finder.search(text, image, top_k=3)
        cosines = sorted((float(finder.store.get(f"n{number}").vector @ expected) for number in range(6)), reverse=True)
        np.testing.assert_allclose([hit.score for hit in hits], cosines[:3], atol=1e-4)
    assert [hit.item.id for hit in finder.search("number 4", hybrid=True, filter="year > 1993", top_k=1)] == ["n4"]


def test_a_row_is_found_by_itself(shelf, engine):
    found = twoway.find(shelf / "db", image=shelf / "data/0.png", top_k=1, side="document", model=engine)
    assert (found[0].item.id, round(found[0].score, 3)) == ("n0", 1.0)
    near = twoway.find(shelf / "db", like="n0", top_k=3)
    assert len(near) == 3
    assert "n0" not in [hit.item.id for hit in near]


def test_pictures_are_taken_as_they_come(shelf, engine):
    path = shelf / "data/0.png"
    for image in (str(path), path.read_bytes(), PILImage.open(path)):
        found = twoway.find(shelf / "db", image=image, top_k=1, side="document", model=engine)
        assert (found[0].item.id, round(found[0].score, 3)) == ("n0", 1.0)


def refused(said, *args, **options):
    with pytest.raises(TwowayError, match=said):
        twoway.find(*args, **options)


def test_what_cannot_be_answered_is_refused(shelf, engine, tmp_path):
    db = shelf / "db"
    refused(
        "holds vectors of .*model with the fingerprint .* it is another model", db, "x", model=shelf / "model", max_length=64, device="cpu"
    )
    refused("does not exist; make an index", tmp_path / "none", "x")
    refused("nothing is asked", db)
    refused("leave the words and the picture out", db, "x", like="n0")
    refused("no item with the id 'n9'", db, like="n9")
    refused("--hybrid looks for words, and --like asks by an item", db, like="n0", hybrid=True)
    refused(r"no field 'yaer'; did you mean year\?", db, "x", filter="yaer > 1", model="a model that is never opened")
    refused("top_k takes a whole number from 1, not '0'", db, like="n0", top_k=0)
    refused(r"find has no option 'where'; did you mean filter\? \(there are: index, text, image", db, "x", where="year > 1")
    refused("find has no option 'devise'; did you mean device", db, "x", devise="cpu")
    refused("the image of part 1 is a number, not a path, bytes or a PIL image", db, image=3, model=engine)
    refused("a hybrid search needs words", db, image=shelf / "data/0.png", hybrid=True, model=engine)
    refused("does not exist", db, image=shelf / "data/none.png", model=engine)
    twoway.index(shelf / "vectors", tmp_path / "db")
    twoway.index(None, tmp_path / "db", delete=[f"n{number}" for number in range(6)])
    refused("db is empty; add to it with 'twoway index", tmp_path / "db", "x")


def test_the_command_answers_in_a_table_and_in_json(shelf, capsys):
    asked = ["search", str(shelf / "db"), "--like", "n5", "--top-k", "2", "--filter", "year < 1995"]
    assert main(asked) == 0
    table = capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert len(hits) == 2
    for hit in hits:
        assert set(hit) == {"id", "score", "text", "place", "metadata"}
        assert hit["id"] in table
        assert f"{hit['score']:.3f}" in table
    assert main(["search", str(shelf / "db"), "--like", "n5", "--filter", "yaer < 1995"]) == 2
    assert "did you mean year?" in capsys.readouterr().err


def test_a_model_that_has_moved_is_said_with_what_to_do(shelf, capsys):
    (shelf / "model").rename(shelf / "moved")
    try:
        assert main(["search", str(shelf / "db"), "w1", "--device", "cpu"]) > 0
        assert "say so with --model" in capsys.readouterr().err
        assert main(["search", str(shelf / "db"), "w1", "--model", str(shelf / "moved"), "--device", "cpu", "-k", "1"]) == 0
    finally:
        (shelf / "moved").rename(shelf / "model")


def test_the_command_says_what_it_indexed(shelf, tmp_path, capsys):
    db = str(tmp_path / "db")
    assert main(["index", str(shelf / "vectors"), "--index", db, "--exact-below", "5", "--kind", "ivf"]) == 0
    said = capsys.readouterr().out
    assert f"{db}: 6 items (6 added); 4 thumbnails made" in said
    assert "search by ivf, effort 1" in said
    assert "effort  1: recall at 10 1.000" in said
    assert main(["index", "--index", db, "--delete", "n1", "n7", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["items"], answer["deleted"], answer["added"], answer["missing"]) == (5, 1, 0, ["n7"])
    assert main(["index", "--index", db, "--delete", "n7"]) == 0
    assert "not there, so not deleted: 'n7'" in capsys.readouterr().out
    assert main(["index", "--index", db]) == 2
    assert "nothing to do" in capsys.readouterr().err


def test_pictures_are_drawn_where_there_are_colours(shelf, monkeypatch):
    monkeypatch.setattr("os.environ", {"TERM": "xterm-256color"})
    hits = twoway.find(shelf / "db", like="n5", top_k=2)
    for colours, drawn in (("truecolor", True), (None, False)):
        out = io.StringIO()
        print_hits(hits, Console(file=out, force_terminal=bool(colours), color_system=colours, width=100))
        assert ("▀" in out.getvalue()) == drawn


def printed(hits, **options):
    out = io.StringIO()
    print_hits(hits, Console(file=out, force_terminal=True, width=200, **options), pictures="blocks")
    return out.getvalue()


def test_the_bytes_for_a_terminal_are_half_blocks_in_two_colours():
    def small(above, below):
        whole = PILImage.new("RGB", (2, 2), above)
        whole.paste(below, (0, 1, 2, 2))
        file = io.BytesIO()
        whole.save(file, "WEBP", lossless=True)
        return file.getvalue()

    said = printed([Hit(Item("n1", text="a fox", thumbnail=small((255, 0, 0), (0, 0, 255))), 0.5)], color_system="truecolor")
    cell = "\x1b[38;2;255;0;0;48;2;255;0;0m▀"
    assert cell in said
    assert "\x1b[38;2;0;0;255;48;2;0;0;255m▀" in said
    assert re.sub(r"\x1b\[[\d;]*m|▀|\s", "", said) == "10.500n1afox"  # colours, half blocks and words, and no other sequence
    few = printed([Hit(Item("n1", thumbnail=small((0, 255, 0), (255, 255, 0))), 0.5)], color_system="256")
    assert "\x1b[38;5;" in few
    assert "\x1b[38;2;" not in few


def test_what_an_index_says_is_shown_by_a_terminal_and_not_obeyed():
    bad = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\b\u202e[bold]fox[/bold]"
    said = printed([Hit(Item(bad, text=bad, place=f"at {bad}", metadata={bad: bad}), 0.5)], color_system="truecolor")
    assert not set("\x07\x08\x0d\x9b\u202e") & set(said)
    assert re.sub(r"\x1b\[[\d;]*m", "", said).count("\x1b") == 0
    assert "\x1b[2J" not in said
    assert said.count("[bold]fox[/bold]") == 5


def test_a_drawn_picture_has_its_colours_and_shape():
    whole = PILImage.new("RGB", (40, 40), (255, 0, 0))
    whole.paste((0, 0, 255), (0, 20, 40, 40))
    file = io.BytesIO()
    whole.save(file, "WEBP", lossless=True)
    drawn = thumbnail_cell(file.getvalue(), columns=4, rows=2)
    assert drawn.plain == "▀▀▀▀\n▀▀▀▀"
    assert [str(span.style) for span in drawn.spans[:1] + drawn.spans[-1:]] == ["#ff0000 on #ff0000", "#0000ff on #0000ff"]


@pytest.mark.parametrize("words", ["é cat", b"caf\xe9"])
def test_a_system_that_knows_ascii_alone_is_asked_in_any_letters(shelf, words):
    asked = [words, "--json", "--device", "cpu", "--filter", "text has 'é' or year > 0"]
    surroundings = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    surroundings.pop("PYTHONIOENCODING", None)
    command = [sys.executable, "-m", "twoway", "search", str(shelf / "db"), *asked]
    ended = subprocess.run(command, env=surroundings, capture_output=True, timeout=240)
    if isinstance(words, bytes):
        said = b"twoway search: WORDS holds bytes that are not text in UTF-8; write it in UTF-8\n"
        assert (ended.returncode, ended.stderr) == (2, said)
    else:
        assert ended.returncode == 0, ended.stderr
        right = twoway.find(shelf / "db", words, device="cpu")
        assert [hit["id"] for hit in json.loads(ended.stdout)] == [hit.item.id for hit in right]
