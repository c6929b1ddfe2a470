"""Tables: any row by its number without the others, sizes from headers alone, kept and used again, bad rows found before training."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pypdfium2
import pytest
from PIL import Image as PILImage

from twoway.content import ContentError, Place
from twoway.data.dataset import open_source, open_table
from twoway.data.rows import Policy, ReadOptions
from twoway.data.sources import parquet as data_parquet
from twoway.data.sources import pdf as pdf_reader
from twoway.data.sources.formats import ToDocument, document_format
from twoway.errors import TwowayError, UsageError


def parquet(path, rows, **options):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def pdf(path, *pages):
    document = pypdfium2.PdfDocument.new()
    for size in pages:
        document.new_page(*size)
    document.save(path)
    return path


@pytest.fixture
def sources(tmp_path, png, jsonl):
    """One source of each kind, with three rows or pages."""
    rows = [{"text": f"row {number}" + "x" * number, "image": png(size=(4 + number, 3))} for number in range(3)]
    (tmp_path / "a.png").write_bytes(png(size=(9, 8)))
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "disk")
    (tmp_path / "pages").mkdir()
    pdf(tmp_path / "pages/a.pdf", (72, 36), (50.5, 20))
    pdf(tmp_path / "pages/b.pdf", (30, 30))
    return {
        "jsonl": str(
            jsonl({"image": "a.png", "text": "ä"}, b"", {"text": "bb"}, {"parts": [{"text": "c"}, {"image": "a.png"}, {"image": "a.png"}]})
        ),
        "parquet": str(parquet(tmp_path / "rows.parquet", rows, row_group_size=2)),
        "disk": str(tmp_path / "disk"),
        "pdf": str(tmp_path / "pages"),
    }


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "disk", "pdf"])
def test_rows_are_those_of_the_stream_in_any_order(kind, sources):
    table = open_table(sources[kind])
    stream = list(open_source(sources[kind], images="lazy"))
    assert len(table) == len(stream) == 3
    for index in (2, 0, 1, 2):
        found = table.read(index)
        assert (found.place, found.fingerprint()) == (stream[index].place, stream[index].fingerprint())
        assert table.characters[index] == sum(map(len, stream[index].texts))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "disk", "pdf"])
def test_sizes_are_those_of_the_decoded_pictures(kind, sources):
    table = open_table(sources[kind])
    for index, document in enumerate(open_source(sources[kind])):
        sizes = table.sizes[table.first[index] : table.first[index + 1]].tolist()
        assert sizes == [[0, *image.source.size, 1] for image in document.images]
    assert table.images().tolist() == ([1, 0, 2] if kind == "jsonl" else [1, 1, 1])


def test_no_pixel_is_decoded_while_the_table_is_made(sources, monkeypatch):
    monkeypatch.setattr(PILImage.Image, "load", lambda self: pytest.fail("a picture was decoded"))
    ask = pdf_reader._call
    monkeypatch.setattr(pdf_reader, "_call", lambda *a, **k: pytest.fail("a page was rendered") if k.get("render") else ask(*a, **k))
    for spec in sources.values():
        assert len(open_table(spec)) == 3


def test_a_turned_picture_has_its_upright_size(tmp_path, jsonl):
    exif = PILImage.Exif()
    exif[0x0112] = 6
    PILImage.new("RGB", (8, 5)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_table(str(jsonl({"image": "turned.jpg"}))).sizes.tolist() == [[0, 5, 8, 1]]


def test_the_latest_row_groups_alone_are_held(tmp_path, monkeypatch):
    path = parquet(tmp_path / "rows.parquet", [{"text": "x" * 1000} for _ in range(40)], row_group_size=4)
    monkeypatch.setattr("twoway.data.sources.parquet._CACHE_BYTES", 9000)
    tables = [open_table(str(path)) for _ in range(3)]  # of all sources together
    for index in np.random.default_rng(0).permutation(40):
        for table in tables:
            assert len(table.read(int(index)).texts[0]) == 1000
    assert len(data_parquet.ROW_GROUPS.held) == 2


def test_a_folder_may_hold_more_files_than_are_open_at_a_time(tmp_path, monkeypatch):
    (tmp_path / "rows").mkdir()
    for number in range(7):
        parquet(tmp_path / "rows" / f"{number}.parquet", [{"text": f"{number} {row}"} for row in range(2)])
    monkeypatch.setattr("twoway.data.sources.parquet._OPEN_FILES", 2)
    table = open_table(str(tmp_path / "rows"))
    for index in np.random.default_rng(0).permutation(14):
        assert table.read(int(index)).texts == (f"{index // 2} {index % 2}",)
        assert len(table.reader._files) <= 2


def test_a_table_is_kept_and_used_again_until_the_source_changes(sources, tmp_path, monkeypatch, jsonl):
    folder = tmp_path / "tables"
    for kind, spec in sources.items():
        first = open_table(spec, folder=folder)
        with monkeypatch.context() as patch:
            patch.setattr(type(first.reader), "positions", lambda self: pytest.fail("the source was read again"))
            again = open_table(spec, folder=folder)
        assert again.digest() == first.digest() == open_table(spec).digest(), kind
        assert [again.read(index).texts for index in range(3)] == [first.read(index).texts for index in range(3)]
    jsonl({"text": "bb"}, {"text": "ccc"})
    assert open_table(sources["jsonl"], folder=folder).characters.tolist() == [2, 3]
    assert open_table(sources["jsonl"], folder=folder, cap=1).characters.tolist() == [2]


@pytest.mark.parametrize("kept", [True, False])
def test_a_table_can_be_sent_to_a_worker(kept, sources, tmp_path):
    for spec in sources.values():
        table = open_table(spec, folder=tmp_path / "tables" if kept else None)
        table.read(0)
        copy = pickle.loads(pickle.dumps(table))
        assert copy.digest() == table.digest()
        assert copy.read(2).fingerprint() == table.read(2).fingerprint()


def test_a_forked_process_shares_no_open_file(sources):
    """Its place in the file is one: a worker that reads would move it under the others, and they would get other rows."""
    table, context = open_table(sources["jsonl"]), multiprocessing.get_context("fork")
    table.read(2)
    before, said = table.reader._file, context.SimpleQueue()
    assert before is not None

    def worker():
        said.put((table.read(2).texts, table.reader._file is before))

    child = context.Process(target=worker)
    child.start()
    child.join()
    assert said.get() == (table.read(2).texts, False)
    assert table.reader._file is before


def test_a_damaged_table_says_what_to_delete(sources, tmp_path):
    folder = tmp_path / "tables"
    kept = open_table(sources["jsonl"], folder=folder).folder
    (kept / "sizes.npy").write_bytes(b"")
    with pytest.raises(TwowayError, match="delete that folder"):
        open_table(sources["jsonl"], folder=folder)


def test_a_picture_that_was_mended_is_looked_at_again_and_no_other(jsonl, png, tmp_path, monkeypatch):
    """Missing, broken, and broken still: what the kept table then has is what a new one would."""
    rows = [{"text": "good"}, {"image": "a.png", "text": "was missing"}, b"{", {"image": "b.png"}, {"image": "c.png"}, {"text": "last"}]
    spec, folder = str(jsonl(*rows)), tmp_path / "tables"
    for name in "bc":
        (tmp_path / f"{name}.png").write_bytes(b"nothing")
    before = open_table(spec, policy=Policy("skip"), folder=folder)
    assert before.numbers.tolist() == [1, 6]
    looked = []
    measure = type(before.reader).measure
    monkeypatch.setattr(type(before.reader), "measure", lambda self, at: looked.append(at[1]) or measure(self, at))
    assert open_table(spec, policy=Policy("skip"), folder=folder).digest() == before.digest()
    assert looked == []
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png(size=(30, 20)))
    (tmp_path / "c.png").write_bytes(b"nothing still")
    listed = tmp_path / "bad-rows.jsonl"
    after = open_table(spec, policy=Policy("skip", listed), folder=folder)
    assert looked == [2, 4, 5]
    assert after.numbers.tolist() == [1, 2, 4, 6]
    assert after.sizes.tolist() == [[0, 30, 20, 1]] * 2
    assert [after.read(row).texts for row in (0, 1, 3)] == [("good",), ("was missing",), ("last",)]
    assert [json.loads(line)["row"] for line in listed.read_text().splitlines()] == [3, 5]
    new = open_table(spec, policy=Policy("skip"))
    assert after.digest() == new.digest()
    assert (after.bad_rows, list(map(str, after.bad))) == (new.bad_rows, list(map(str, new.bad)))
    looked.clear()
    assert open_table(spec, policy=Policy("skip"), folder=folder).digest() == after.digest()
    assert looked == []


def test_bad_rows_are_left_out_and_listed_each_time_the_table_is_opened(jsonl, png, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    spec = str(jsonl({"text": "good"}, b"{", {"image": "gone.png"}, {"image": "a.png"}))
    with pytest.raises(ContentError, match=r"rows.jsonl:2: invalid JSON"):
        open_table(spec)
    for _ in range(2):
        listed = tmp_path / "bad-rows.jsonl"
        table = open_table(spec, policy=Policy("skip", listed), folder=tmp_path / "tables")
        assert [json.loads(line)["row"] for line in listed.read_text().splitlines()] == [2, 3]
        assert (len(table), table.numbers.tolist(), len(table.bad)) == (2, [1, 4], 2)
    with pytest.raises(ContentError, match=r"rows.jsonl:2: invalid JSON"):
        open_table(spec, folder=tmp_path / "tables")


def test_a_kept_table_takes_the_old_list_away_at_once_and_not_what_others_have_listed_since(jsonl, tmp_path):
    spec, listed = str(jsonl({"text": "good"}, {"text": "good too"})), tmp_path / "bad-rows.jsonl"
    open_table(spec, folder=tmp_path / "tables")
    listed.write_text("old\n")
    first, other = Policy("skip", listed), Policy("skip", listed, keep=True)
    open_table(spec, policy=first, folder=tmp_path / "tables")
    for policy, row in ((other, 1), (first, 2)):  # the ranks of a run meet rows that went bad
        policy.refuse(ContentError("broken", Place(spec, row)))
    assert [json.loads(line)["row"] for line in listed.read_text().splitlines()] == [1, 2]


def test_a_broken_pdf_among_others_is_one_bad_row(sources, tmp_path):
    (tmp_path / "pages/aa.pdf").write_bytes(b"no pdf")
    table = open_table(sources["pdf"], policy=Policy("skip"))
    assert (len(table), table.numbers.tolist()) == (3, [1, 2, 4])


def test_a_source_without_a_good_row_is_an_error(jsonl):
    with pytest.raises(TwowayError, match=r"every row of .* is bad .2., the first: .*:1"):
        open_table(str(jsonl(b"{", b"[")), policy=Policy("skip"))
    with pytest.raises(TwowayError, match="holds no rows"):
        open_table(str(jsonl(b"", name="empty.jsonl")))


def test_a_cap_takes_the_first_rows_and_reads_no_further(jsonl):
    table = open_table(str(jsonl({"text": "a"}, {"text": "b"}, b"{")), cap=2)
    assert [table.read(index).texts[0] for index in range(len(table))] == ["a", "b"]


def test_columns_of_other_names_need_a_form(tmp_path, png):
    path = str(parquet(tmp_path / "rows.parquet", [{"photo": png(size=(6, 5)), "caption": "a cat"}]))
    with pytest.raises(UsageError, match=r"none of the columns parts, image, images, .*messages, text"):
        open_table(path)
    table = open_table(path, convert=ToDocument(document_format("{photo:image} {caption}")), folder=tmp_path / "tables")
    assert (table.read(0).texts, table.sizes.tolist()) == ((" a cat",), [[0, 6, 5, 1]])
    other = open_table(path, convert=ToDocument(document_format("{caption}")), folder=tmp_path / "tables")
    assert (len(other.read(0).parts), other.images().tolist()) == (1, [0])


def test_a_row_that_goes_bad_later_is_an_error_with_its_place(tmp_path, png, jsonl):
    (tmp_path / "a.png").write_bytes(png())
    table = open_table(str(jsonl({"image": "a.png"})))
    file = io.BytesIO()
    PILImage.new("RGB", (4, 3)).save(file, "PNG")
    jsonl(b'{"image": "a.png"')
    with pytest.raises(ContentError, match=r"rows.jsonl:1: invalid JSON"):
        type(table.reader)(str(tmp_path / "rows.jsonl"), ReadOptions(), ToDocument()).read((0, 1))


def test_samples_are_a_table_too():
    table = open_table("samples:texts", cap=5)
    assert len(table) == 5
    assert pickle.loads(pickle.dumps(table)).read(3).texts == table.read(3).texts


def stream(folder, png, count):
    """A folder that `load_dataset` reads as a stream."""
    folder.mkdir()
    parquet(folder / "train.parquet", [{"text": f"row {number}", "image": {"bytes": png(), "path": None}} for number in range(count)])
    return f"hub:{folder}"


def test_a_stream_is_copied_up_to_its_cap_once(tmp_path, png, monkeypatch):
    spec = stream(tmp_path / "data", png, 40)
    with pytest.raises(UsageError, match="stream without an end; say with cap"):
        open_table(spec, folder=tmp_path / "tables")
    monkeypatch.setattr(data_parquet, "GROUP_ROWS", 8)
    table = open_table(spec, folder=tmp_path / "tables", cap=20)
    assert (len(table), table.read(19).texts, str(table.read(19).place)) == (20, ("row 19",), f"{spec}:20")
    assert table.read(0).images[0].source == png()
    monkeypatch.setattr(data_parquet, "open_stream", lambda argument: pytest.fail("the stream was opened again"))
    assert open_table(spec, folder=tmp_path / "tables", cap=20).read(7).texts == ("row 7",)


def test_a_stream_that_fails_leaves_no_copy_and_the_next_call_goes_on_behind_the_last_file(tmp_path, png, monkeypatch):
    spec = stream(tmp_path / "data", png, 20)
    monkeypatch.setattr(data_parquet, "GROUP_ROWS", 2)
    monkeypatch.setattr(data_parquet, "FILE_ROWS", 4)
    whole, asked = data_parquet.stream_rows, []

    def broken(table, label, root, passed):
        for number, row in enumerate(whole(table, label, root, passed)):
            if number == 11:
                raise TwowayError("the line broke")
            yield row

    def noted(table, label, root, passed):
        asked.append(passed)
        return whole(table, label, root, passed)

    monkeypatch.setattr(data_parquet, "stream_rows", broken)
    with pytest.raises(TwowayError, match="the line broke"):
        open_table(spec, folder=tmp_path / "tables", cap=18)
    assert not [path for path in (tmp_path / "tables").glob("hub-*") if path.suffix != ".part"]
    monkeypatch.setattr(data_parquet, "stream_rows", noted)
    table = open_table(spec, folder=tmp_path / "tables", cap=18)
    assert asked == [8]
    assert [table.read(row).texts[0] for row in range(18)] == [f"row {row}" for row in range(18)]
    assert [str(table.read(row).place) for row in (0, 11, 17)] == [f"{spec}:1", f"{spec}:12", f"{spec}:18"]


def test_row_groups_of_a_copy_end_by_their_bytes(tmp_path, png, monkeypatch):
    monkeypatch.setattr(data_parquet, "GROUP_BYTES", 3 * len(png()))
    copy = open_table(stream(tmp_path / "data", png, 12), folder=tmp_path / "tables", cap=12).reader.paths
    (metadata,) = (pyarrow.parquet.read_metadata(path) for path in copy)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [3, 3, 3, 3]


def test_a_column_that_comes_late_in_a_stream_is_not_lost_in_silence(tmp_path, png, monkeypatch):
    spec = stream(tmp_path / "data", png, 4)
    rows = [{"text": "a"}] * data_parquet.GROUP_ROWS + [{"text": "a", "page": "b"}]
    monkeypatch.setattr(data_parquet, "stream_rows", lambda *_: iter(rows))
    with pytest.raises(TwowayError, match="its first rows have no column page, and later ones do"):
        open_table(spec, folder=tmp_path / "tables", cap=len(rows))


def test_other_rows_of_the_same_lengths_are_other_data(jsonl, tmp_path):
    path = jsonl({"parts": [{"text": "abc"}]})
    first = open_table(str(path), folder=tmp_path / "kept").digest()
    moved = tmp_path / "elsewhere" / "other-name.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(path.read_bytes())
    assert open_table(str(moved), folder=tmp_path / "kept").digest() == first
    path.write_text(path.read_text().replace("abc", "abd"))
    assert open_table(str(path), folder=tmp_path / "kept").digest() != first
