"""JSON lines: both row forms, places as an editor counts, and every damaged line as one bad row."""

from __future__ import annotations

import pytest

from twoway.content import ContentError
from twoway.data.sources import open_source
from twoway.errors import TwowayError


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
        (b'{"image": ["a.png"]}', "is a list"),
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
