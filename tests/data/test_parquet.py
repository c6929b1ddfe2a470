"""Parquet: embedded pictures in every storage form, rows counted within their file, damage said in one line."""

from __future__ import annotations

import pyarrow
import pyarrow.parquet
import pytest

from twoway.content import ContentError, Text
from twoway.data.dataset import open_source, open_table
from twoway.data.rows import Policy
from twoway.data.sources import parquet
from twoway.errors import TwowayError, UsageError

RED = (255, 0, 0)


def table(path, rows, **options):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def pixel(document, number=0):
    return document.images[number].source.getpixel((0, 0))


def test_short_form_bytes_struct_and_path(tmp_path, png):
    (tmp_path / "a.png").write_bytes(png())
    plain = table(tmp_path / "plain.parquet", [{"image": png(), "text": "a", "id": 1}, {"image": None, "text": "b", "id": 2}])
    struct = table(
        tmp_path / "struct.parquet", [{"image": {"bytes": png(), "path": "gone.png"}}, {"image": {"bytes": None, "path": "a.png"}}]
    )
    path = table(tmp_path / "path.parquet", [{"image": "a.png"}])
    first, second = open_source(plain)
    assert (pixel(first), first.texts, first.meta) == (RED, ("a",), {"id": 1})
    assert isinstance(first.parts[1], Text)
    assert (second.images, second.texts, second.place.row) == ((), ("b",), 2)
    assert [pixel(document) for source in (struct, path) for document in open_source(source)] == [RED, RED, RED]


def test_long_form_keeps_the_order(tmp_path, png):
    parts = [
        {"text": "a", "image": None},
        {"text": None, "image": png()},
        {"text": "b", "image": None},
        {"text": None, "image": png("blue")},
    ]
    (document,) = open_source(table(tmp_path / "rows.parquet", [{"parts": parts}]))
    assert [isinstance(part, Text) for part in document.parts] == [True, False, True, False]
    assert (document.texts, pixel(document), pixel(document, 1)) == (("a", "b"), RED, (0, 0, 255))


def test_a_folder_is_read_in_order_of_names_with_rows_counted_in_each_file(tmp_path):
    for name in ("b", "a"):
        table(tmp_path / f"{name}.parquet", [{"text": f"{name}{number}"} for number in (1, 2)])
    documents = list(open_source(tmp_path))
    assert [document.texts[0] for document in documents] == ["a1", "a2", "b1", "b2"]
    assert str(documents[2].place) == f"{tmp_path / 'b.parquet'}:1"


def test_rows_keep_their_number_across_batches(tmp_path):
    count = 2 * parquet._BATCH_ROWS + 1
    documents = list(open_source(table(tmp_path / "rows.parquet", [{"text": str(number + 1)} for number in range(count)])))
    assert [document.place.row for document in documents] == [int(document.texts[0]) for document in documents]
    assert len(documents) == count


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image": b"no picture", "text": "a"}, "unknown format"),
        ({"image": b"", "text": "a"}, "the image of part 1 is empty"),
        ({"image": None, "text": None}, "neither parts nor image nor text"),
        ({"image": None, "text": " "}, "the text of part 1 is empty"),
    ],
)
def test_a_bad_row_has_its_place(row, words, tmp_path, png):
    path = table(tmp_path / "rows.parquet", [{"image": png(), "text": "good"}, row])
    with pytest.raises(ContentError) as caught:
        list(open_source(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert words in str(caught.value)
    assert len(list(open_source(path, on_bad="skip"))) == 1


def test_an_embedded_path_may_not_leave_the_folder(tmp_path):
    path = table(tmp_path / "rows.parquet", [{"image": {"bytes": None, "path": "/etc/passwd"}}])
    with pytest.raises(ContentError, match="leaves the data folder"):
        list(open_source(path))


def test_text_that_is_not_utf8_is_one_bad_row(tmp_path):
    raw = pyarrow.array([b"good", b"caf\xe9", b"good"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": raw}), tmp_path / "rows.parquet")
    source = open_source(tmp_path / "rows.parquet", on_bad="skip")
    assert [document.place.row for document in source] == [1, 3]
    assert "rows.parquet:2: the row cannot be read" in str(source.report())


def test_wrong_columns_are_named_before_any_row(tmp_path):
    path = table(tmp_path / "rows.parquet", [{"txt": "a", "id": 1}])
    for on_bad in ("fail", "skip"):
        with pytest.raises(UsageError, match=r"images, .*messages, text; did you mean text\? \(it has txt, id\)"):
            list(open_source(path, on_bad=on_bad))


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_file_is_an_error_even_when_skipping(keep, tmp_path):
    path = table(tmp_path / "rows.parquet", [{"text": "a"}])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TwowayError, match=r"not a readable Parquet file") as caught:
        list(open_source(path, on_bad="skip"))
    assert "\n" not in str(caught.value)


def test_reading_is_lazy(tmp_path, png):
    rows = [{"text": "first", "image": None}, {"text": None, "image": b"broken"}]
    assert next(iter(open_source(table(tmp_path / "rows.parquet", rows)))).texts == ("first",)


def test_numbers_that_are_none_are_null_in_what_rows_keep(tmp_path):
    nan = float("nan")
    path = table(tmp_path / "rows.parquet", [{"text": "a", "score": nan, "deep": [{"of": [nan, 1.5, float("-inf")]}]}])
    (document,) = open_source(path)
    assert document.meta == {"score": None, "deep": [{"of": [None, 1.5, None]}]}


@pytest.mark.parametrize("how", ["stream", "table"])
def test_a_date_out_of_range_is_a_bad_row(tmp_path, how):
    path = tmp_path / "rows.parquet"
    columns = {"text": ["a", "b"], "far": pyarrow.array([0, 2**62], pyarrow.duration("s"))}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(ContentError, match=r"rows.parquet:2: the row cannot be read"):
        list(open_source(path)) if how == "stream" else [open_table(str(path)).read(1)]


@pytest.mark.parametrize("how", ["stream", "table"])
@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (["text", "text"], "has the column text twice"),
        (["text", "more"], r"more in row group 1 unpacks from [\d,]+ to [\d,]+ bytes"),
    ],
)
def test_a_file_that_names_a_column_twice_or_is_a_bomb_is_refused(tmp_path, monkeypatch, how, columns, words):
    monkeypatch.setattr(parquet, "_LARGE", 1 << 20)
    path = tmp_path / "rows.parquet"
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b" * (8 << 20)])], names=columns)
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    with pytest.raises(TwowayError, match=words):
        list(open_source(path)) if how == "stream" else open_table(str(path))


def test_one_value_in_very_many_rows_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 16 << 20)
    path = tmp_path / "rows.parquet"
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 2000, pyarrow.int32()), pyarrow.array(["b" * 100_000]))
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path, store_schema=False)
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(TwowayError, match=r"every row .* is bad .*:1: the row cannot be read \(its row group unpacks to more than 16 MB"):
        open_table(str(path), policy=Policy("skip"))
    assert pyarrow.total_allocated_bytes() - before < 1 << 20
    assert len(list(open_source(path))) == 2000


@pytest.fixture
def lying(tmp_path):
    """Return `lying(old, new, number)`: a file of 40 rows in two row groups whose metadata has other bytes in a place."""

    def make(old, new, number=0):
        path = table(tmp_path / "rows.parquet", [{"text": f"text {number}", "n": number} for number in range(40)], row_group_size=20)
        data = path.read_bytes()
        at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        for _ in range(number + 1):
            at = data.index(old, at + 1)
        path.write_bytes(data[:at] + new + data[at + len(old) :])
        return path

    return make


@pytest.mark.parametrize("how", ["stream", "table"])
@pytest.mark.parametrize(
    ("old", "new", "number", "words"),
    [
        (b"\x16\x50", b"\x16\x4e", 0, "it says that it has 39 rows, and its row groups 40"),
        (b"\x16\x28", b"\x16\x2a", 0, "text in row group 1 has 21 values for 20 rows"),
        (b"\x16\x28", b"\x16\x28\x16\x28", 2, "not a readable Parquet file"),
        (b"\x25\x02", b"\x25\x00", 0, "not a readable Parquet file"),  # a text that is always there; pyarrow aborts at its statistics
    ],
)
def test_metadata_that_lies_is_one_line_and_loses_no_row_in_silence(lying, how, old, new, number, words):
    path = lying(old, new, number)
    with pytest.raises(TwowayError, match=words) as caught:
        list(open_source(path, on_bad="skip")) if how == "stream" else open_table(str(path), policy=Policy("skip"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["stream", "table"])
def test_rows_that_are_not_there_are_missed(tmp_path, monkeypatch, how):
    """Whatever the metadata says of them: a row group whose pages hold fewer."""
    path = table(tmp_path / "rows.parquet", [{"text": f"text {number}"} for number in range(40)], row_group_size=20)
    whole = pyarrow.parquet.ParquetFile.iter_batches
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", lambda *of, **how: (one[:-1] for one in whole(*of, **how)))
    with pytest.raises(TwowayError, match=r"of its (20|40) rows"):
        list(open_source(path, on_bad="skip")) if how == "stream" else open_table(str(path), policy=Policy("skip"))
