"""`data check`: every source is opened and counted, a row is shown as the model sees it, and what is bad is listed before any training."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from twoway.cli import main
from twoway.data.mixture import open_pairs
from twoway.errors import UsageError
from twoway.recipes.data_check import check_data, check_pairs, pairs_of


@pytest.fixture
def data(tmp_path):
    """Two sources and a recipe that names them and one that is not there; one picture in three is cut off behind its header."""
    file = io.BytesIO()
    Image.effect_noise((64, 48), 50).convert("RGB").save(file, "PNG")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    (tmp_path / "cut.png").write_bytes(file.getvalue()[:200])
    rows = [{"image": "a.png", "text": "a small cat"}, {"image": "cut.png"}, {"text": "words alone"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bad.jsonl").write_text('{"body": "one"}\n{"body": 2}\n{\n')
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"max_length: 128\ndata:\n  - spec: {tmp_path / 'rows.jsonl'}\n    weight: 2\n"
        f"  - {{spec: {tmp_path / 'bad.jsonl'}, row_template: '{{body}}', name: bodies}}\n  - spec: {tmp_path / 'gone.jsonl'}\n"
    )
    return tmp_path


def test_a_recipe_is_checked_source_by_source(data):
    report = check_data(str(data / "recipe.yaml"))
    rows, bodies, gone = report.sources
    assert (rows.ok, rows.rows, rows.rows_an_epoch, rows.texts, rows.pictures, rows.characters) == (True, 3, 6, 2, 2, 22)
    assert rows.megapixels == pytest.approx(2 * 64 * 48 / 1e6, abs=1e-3)
    assert (bodies.ok, bodies.rows, len(bodies.bad)) == (False, 2, 1)
    assert bodies.bad[0].startswith(f"{data / 'bad.jsonl'}:3: invalid JSON")
    assert (bodies.shown.identity, bodies.shown.parts) == ("bodies#1", ["one"])
    assert "there is no" in gone.error
    assert not report.ok


def test_pictures_in_a_column_that_is_not_read_are_said(data, capsys):
    """It is no error: a row may well have a picture that is not wanted."""
    rows = [{"text": "a cat", "photo": "a.png"}, {"text": "a dog", "photo": None}]
    path = data / "photos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (source,) = check_data(str(path)).sources
    assert (source.ok, source.unread) == (True, {"photo": 1})
    assert answer(path) == 0
    assert "not read: 1 rows have pictures in the column photo" in capsys.readouterr().out
    pairs = data / "pairs.jsonl"
    pairs.write_text(json.dumps({"query": "a cat", "positive": "Katze", "images": ["a.png"]}) + "\n")
    (found,) = check_pairs(str(pairs), pairs_of(str(pairs), [], pairs=True)).sources
    assert (found.ok, found.unread) == (True, {"images": 1})


def test_texts_that_name_pictures_are_said_once_and_stay_texts(data, capsys, caplog):
    rows = [{"query": f"what is {n}?", "positive": ("a.png", "none.png", "is a.png")[n % 3], "negative": "cut.png"} for n in range(30)]
    pairs, texts = data / "strings.jsonl", data / "texts.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts.write_text("".join(json.dumps({"text": "a.png"}) + "\n" for _ in range(3)))
    assert main(["data", "check", str(pairs)]) == 0
    said = '7 of 20 texts of `positive`, 20 of 20 texts of `negative` name existing image files (among the first rows); write {"image": …}'
    assert said in " ".join(capsys.readouterr().out.split())
    assert main(["data", "check", str(texts)]) == 0
    assert "3 of 3 texts of `text` name existing image files" in capsys.readouterr().out
    assert not caplog.records  # the report says it, once
    opened = open_pairs([str(pairs)])  # as training does
    assert [said in record.getMessage() for record in caplog.records] == [True]
    assert not opened.read(0)[1].positive.images


def test_cut_pictures_are_found_when_all_are_decoded(data):
    spec = str(data / "rows.jsonl")
    assert check_data(spec).ok
    (source,) = check_data(spec, decode=True).sources
    assert len(source.bad) == 1
    assert source.bad[0].startswith(f"{spec}:2: picture cut.png is broken")


def test_a_row_is_shown_as_the_model_sees_it(data, tiny_model):
    (source,) = check_data(str(data / "rows.jsonl"), model=tiny_model("qwen2_vl")).sources
    shown = source.shown
    assert "a small cat" in shown.prompt
    assert f"[{shown.tokens['image']} image tokens]" in shown.prompt
    (picture,) = shown.pictures
    assert (picture["size"], picture["tokens"]) == ([64, 48], shown.tokens["image"])
    frames, height, width = picture["image_grid_thw"]
    assert frames * height * width % picture["tokens"] == 0
    assert shown.tokens["words"] > 0
    assert shown.tokens["other"] > 0
    assert not shown.cut


def test_streams_are_not_fetched_whole(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text("".join(f'{{"text": "row {number}"}}\n' for number in range(200)))
    (source,) = check_data(f"hub:{tmp_path / 'data'}").sources
    assert (source.rows, source.only_first) == (64, 64)
    (source,) = check_data(f"hub:{tmp_path / 'data'}", rows=100).sources
    assert (source.rows, source.only_first) == (100, 100)


@pytest.mark.parametrize(("what", "words"), [("gone.yaml", "cannot be read"), ("gone.jsonl", "there is no gone.jsonl")])
def test_what_is_no_data_is_wrong_use(what, words):
    with pytest.raises(UsageError, match=words):
        check_data(what)


def test_a_recipe_without_data_and_one_with_a_mistyped_key_are_refused(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 1\n")
    with pytest.raises(UsageError, match="names no data"):
        check_data(str(recipe))
    recipe.write_text("data:\n  - spec: samples:texts\n    wieght: 2\n")
    with pytest.raises(UsageError, match=r"recipe.yaml:3: unknown key .*did you mean .*weight"):
        check_data(str(recipe))


def answer(*words):
    return main(["data", "check", *map(str, words)])


def test_the_command_prints_a_table_or_json_and_exits_by_what_it_found(data, capsys):
    assert answer(data / "rows.jsonl", "--rows", 1) == 0
    out = capsys.readouterr().out
    assert "all 1 sources are good" in out
    assert "row rows.jsonl#1 at " in out
    assert answer(data / "recipe.yaml", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert [source["name"] for source in said["sources"]] == ["rows.jsonl", "bodies", "gone.jsonl"]
    assert not said["ok"]
    assert answer(data / "recipe.yaml") == 1
    assert "2 of 3 sources are not good" in capsys.readouterr().out
