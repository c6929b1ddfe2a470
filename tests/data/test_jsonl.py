"""JSON lines: both row forms, places as an editor counts, and every damaged line as one bad row."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from twoway.content import ContentError
from twoway.data.dataset import open_source, open_table
from twoway.data.mixture import open_pairs
from twoway.data.rows import Policy, ReadOptions
from twoway.data.sources.readers import _no_twins
from twoway.embedding.writing import row_of
from twoway.errors import TwowayError
from twoway.limits import Limits


def test_long_and_short_rows_blank_lines_and_meta(jsonl, png, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").write_bytes(png())
    path = jsonl(
        {"parts": [{"text": "before"}, {"image": "pictures/a.png"}, {"text": "after"}], "id": 7},
        b"",
        {"text": "a caption", "image": "pictures/a.png"},
        b"   ",
        {"text": "only text", "image": None, "source": "x"},
    )
    first, second, third = open_source(path)
    assert [part.text if hasattr(part, "text") else "image" for part in first.parts] == ["before", "image", "after"]
    assert [hasattr(part, "text") for part in second.parts] == [False, True]
    assert (first.meta, second.meta, third.meta) == ({"id": 7}, {}, {"source": "x"})
    assert [document.place.row for document in (first, second, third)] == [1, 3, 5]
    assert str(third.place) == f"{path}:5"
    assert first.images[0].source.getpixel((0, 0)) == (255, 0, 0)


def test_pictures_are_relative_to_the_file_not_to_the_working_folder(jsonl, png, tmp_path, monkeypatch):
    path = jsonl({"image": "a.png"})
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(list(open_source(path))) == 1
    assert len(list(open_source("../rows.jsonl"))) == 1


def test_a_root_moves_and_bounds_the_pictures(jsonl, png, tmp_path):
    (tmp_path / "sub").mkdir()
    path = jsonl({"image": "a.png"}, name="sub/rows.jsonl")
    (tmp_path / "a.png").write_bytes(png())
    assert len(list(open_source(path, root=tmp_path))) == 1
    with pytest.raises(ContentError, match=r"rows.jsonl:1: picture a.png does not exist in .*sub"):
        list(open_source(path))


def test_a_text_that_looks_like_a_picture_stays_text(jsonl, png, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    texts = ["a.png", str(tmp_path / "a.png"), "https://example.org/a.png", "data:image/png;base64,AA"]
    assert [document.texts for document in open_source(jsonl(*({"text": text} for text in texts)))] == [(text,) for text in texts]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "a"', "invalid JSON (Expecting ',' delimiter at column "),
        (b"text", "invalid JSON (Expecting value at column 1)"),
        (b'{"text": "a", "text": "b"}', "invalid JSON (the key 'text' is there twice)"),
        (b"[" * 100_000, "invalid JSON ("),
        (b'{"text": "a", "score": NaN}', "invalid JSON (NaN is not JSON; write null)"),
        (b'{"text": "a", "scores": {"best": [-Infinity]}}', "invalid JSON (-Infinity is not JSON; write null)"),
        (b'{"text": "' + b"a" * ((1 << 20) + 1) + b'"}', "the text of part 1 has 1,048,577 characters (the bound is 1,048,576)"),
        (b'{"text": "caf\xe9"}', "not UTF-8 (byte 0xe9 at column 14)"),
        (b'["a"]', "not an object"),
        (b'"a"', "not an object"),
        (b"{}", "neither parts nor image nor text"),
        (b'{"txt": "a"}', "neither parts nor image nor text; did you mean text?"),
        (b'{"parts": []}', "the document is empty"),
        (b'{"parts": "a"}', "a list of parts, not a string"),
        (b'{"parts": [{"text": "a"}], "text": "b"}', "parts and image or text"),
        (b'{"text": ""}', "is empty"),
        (b'{"text": 5}', "is a number, not a string"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
        (b'{"image": ["none.png"]}', "does not exist"),
        (b'{"images": "a.png", "text": "a"}', "images is a list; a single one"),
        (b'{"images": ["a.png"], "image": "b.png"}', "put all into images"),
        (b'{"images": [null], "text": "a"}', "part 1 has neither text nor image"),
        (b'{"images": ["a.png"], "text": "a <image> and an <image>"}', "the text has 2 times <image> for 1 pictures"),
        (b'{"images": ["a.png", "b.png"], "text": "a <|image_2|> and an <|image_2|>"}', "numbered marks of pictures are 2, 2"),
        (b'{"messages": [{"role": "user", "content": "a"}], "text": "a"}', "the row has messages and text"),
        (b'{"messages": []}', "not a list of chat messages"),
        (b'{"messages": [{"role": "user"}]}', "a message is not"),
        (b'{"messages": [{"role": "user", "content": [{"type": "mesh", "mesh": "a.obj"}]}]}', "a part of type 'mesh'"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image"}]}], "images": []}', "1 places for pictures, and the row has 0"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.org/b.png"}}]}]}',
            "nothing is downloaded",
        ),
        (b'{"image": "https://example.org/a.png"}', "nothing is downloaded"),
        (b'{"image": "../secret.png"}', "leaves the data folder"),
        (b'{"image": "/etc/passwd"}', "leaves the data folder"),
        (b'{"image": {"path": "../secret.png", "bytes": null}}', "leaves the data folder"),
        (b'{"image": "gone.png"}', "does not exist"),
        (b'{"image": "rows.jsonl"}', "unknown format"),
    ],
)
def test_a_bad_line_is_one_line_of_error_with_its_place(line, words, jsonl):
    path = jsonl({"text": "good"}, b"", line, {"text": "good too"})
    with pytest.raises(ContentError) as caught:
        list(open_source(path))
    message = str(caught.value)
    assert message.startswith(f"{path}:3: ")
    assert words in message
    assert "\n" not in message
    assert message.endswith("pass --on-bad skip to leave such rows out")
    assert [document.texts for document in open_source(path, on_bad="skip")] == [("good",), ("good too",)]


def test_only_a_newline_ends_a_line(jsonl):
    path = jsonl('{"text": "a\u2028b\u0085c"}'.encode(), b'{"text": "d"}\r')
    assert [document.texts for document in open_source(path)] == [("a\u2028b\u0085c",), ("d",)]


def test_a_byte_order_mark_is_passed_over(jsonl):
    assert len(list(open_source(jsonl(b'\xef\xbb\xbf{"text": "a"}')))) == 1


def test_reading_is_lazy(jsonl):
    path = jsonl({"text": "first"}, b"broken")
    assert next(iter(open_source(path))).texts == ("first",)


def test_a_file_that_may_not_be_read_is_one_line(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(TwowayError, match=r"folder\.jsonl cannot be read"):
        list(open_source(f"jsonl:{tmp_path / 'folder.jsonl'}"))


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"images": ["a.png", "b.png"], "text": "two\n"}, ["A", "B", "two\n"]),
        ({"image": ["a.png", "b.png"], "text": "two"}, ["A", "B", "two"]),
        ({"images": ["a.png", "b.png"], "text": "<image>\nis not <image>."}, ["A", "\nis not ", "B", "."]),
        ({"images": ["a.png", "b.png"], "text": "see <|image_2|> and <|image_1|>"}, ["see ", "B", " and ", "A"]),
        ({"images": ["a.png"], "text": "a <|vision_start|><|image_pad|><|vision_end|> b"}, ["a ", "A", " b"]),
        ({"images": ["a.png"]}, ["A"]),
        ({"images": [], "text": "about the tag <image>"}, ["about the tag <image>"]),
        ({"image": "a.png", "text": "<image> stands for a picture"}, ["A", "<image> stands for a picture"]),
        (
            {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": " A cat.\n"}]},
            ["What?\n A cat.\n"],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
                    {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "image"}, "?"]},
                ],
                "images": ["a.png", {"bytes": None, "path": "b.png"}],
            },
            ["A", "What?\nA cat.\nAnd ", "B", "?"],
        ),
        ({"messages": [{"role": "user", "content": "<image>What?"}], "images": ["b.png"]}, ["B", "What?"]),
        ({"messages": [{"role": "user", "content": "What?"}], "images": ["a.png", "b.png"]}, ["A", "B", "What?"]),
        ({"messages": [{"role": "user", "content": [{"type": "image", "image": "b.png"}]}]}, ["B"]),
    ],
)
def test_lists_of_pictures_and_chats_are_documents(jsonl, png, tmp_path, row, shape):
    (tmp_path / "a.png").write_bytes(png(size=(4, 4)))
    (tmp_path / "b.png").write_bytes(png(size=(8, 4)))
    (document,) = open_source(jsonl(row | {"source": "x"}))
    names = {(4, 4): "A", (8, 4): "B"}
    assert [part.text if hasattr(part, "text") else names[part.source.size] for part in document.parts] == shape
    assert document.meta == {"source": "x"}


@pytest.mark.parametrize(
    ("row", "unread"),
    [
        ({"text": "a cat", "photo": "cat.png"}, ["photo"]),
        ({"text": "a cat", "photos": [{"bytes": None, "path": "cat.jpg"}]}, ["photos"]),
        ({"image": "a.png", "text": "a cat", "file_name": "a.png"}, []),  # the name of a picture that is read
        ({"text": "a cat", "source": "a.png is its name"}, []),
    ],
)
def test_a_column_with_pictures_that_is_not_read_is_said(jsonl, png, tmp_path, caplog, row, unread):
    (tmp_path / "a.png").write_bytes(png())
    path = jsonl(row, row)
    assert len(list(open_source(path))) == 2
    table = open_table(str(path))
    assert table.unread_pictures == dict.fromkeys(unread, 2)
    said = [record.getMessage() for record in caplog.records if "are not read" in record.getMessage()]
    assert len(said) == 2 * bool(unread)
    assert all(f"rows.jsonl: pictures in {name} " in line for name in unread for line in said)


def test_a_key_that_is_there_twice_is_found_in_linear_time():
    class Key(str):
        compared = 0

        def __eq__(self, other):
            Key.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    keys = [Key(number) for number in range(2000)]
    with pytest.raises(ValueError, match="the key '1999' is there twice"):
        _no_twins([(key, None) for key in [*keys, Key(1999)]])
    assert Key.compared < 10 * len(keys)


@pytest.mark.parametrize("last", [b"\n" + b'{"text": "after"}\n', b""])
def test_a_line_above_the_bound_is_a_bad_row_that_is_never_in_memory(tmp_path, last):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "before"}\n')
        file.truncate(96 << 20)  # zeros without a newline, which take no room
        file.seek(0, 2)
        file.write(last)
    limits = Limits(max_line_bytes=1 << 20)
    source = open_source(path, limits=limits, on_bad="skip", bad_rows=tmp_path / "bad-rows.jsonl")
    tracemalloc.start()
    texts = [document.texts for document in source]
    table = open_table(str(path), options=ReadOptions(limits=limits), policy=Policy("skip"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts == [table.read(row).texts for row in range(len(table))] == [("before",), ("after",)][: 1 + bool(last)]
    assert peak < 16 << 20
    (bad,) = map(json.loads, (tmp_path / "bad-rows.jsonl").read_text().splitlines())
    assert (bad["row"], bad["reason"]) == (2, "the line is longer than 1,048,576 bytes; cut it into several rows")
    assert [str(error) for error in table.bad] == [f"{path}:2: {bad['reason']}"]


def test_the_bound_of_a_text_is_one_of_each_side_of_a_pair(jsonl):
    path = jsonl({"query": "a", "positive": "b" * 11}, {"query": "a", "positive": "b"})
    with pytest.raises(ContentError, match=r"rows.jsonl:1: positive: the text of part 1 has 11 characters \(the bound is 10\)"):
        open_pairs([str(path)], limits=Limits(max_characters=10))


def test_a_number_beyond_all_bounds_leaves_metadata_that_is_json(jsonl):
    (document,) = open_source(jsonl(b'{"text": "a", "far": 1e999, "deep": {"list": [1.5, -1e999]}}'))
    assert document.meta == {"far": None, "deep": {"list": [1.5, None]}}
    assert json.loads(row_of(0, document).meta, parse_constant=pytest.fail) == document.meta
