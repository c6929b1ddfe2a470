"""Specs: each kind is found by prefix, extension or content, and an unknown one is answered with what is possible."""

from __future__ import annotations

import itertools
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from twoway.content import ContentError, Image, Place
from twoway.data.dataset import open_source
from twoway.errors import TwowayError, UsageError


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nowhere.jsonl", "there is no nowhere.jsonl"),
        ("rows.jsnl", "there is no rows.jsnl; did you mean rows.jsonl?"),
        ("notes.txt", "notes.txt is not data of a known kind"),
        ("folder", "folder is not data of a known kind"),
        ("both", "both holds both Parquet files and PDFs; write parquet:both or pdf:both"),
        ("sample:pairs", "there is no kind 'sample'; did you mean samples?"),
        ("ftp:pairs", "there is no kind 'ftp' (possible: "),
        ("https://example.org/rows.jsonl", "there is no kind 'https'"),
        ("samples:", "write samples:NAME"),
        ("jsonl:", "write jsonl:PATH"),
        ("jsonl:nowhere", "there is no nowhere"),
        ("", "no data is named (possible: "),
    ],
)
def test_an_unusable_spec_is_refused_at_once_and_in_one_line(spec, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "notes.txt").write_text("a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "both").mkdir()
    (tmp_path / "both/a.pdf").write_bytes(b"")
    (tmp_path / "both/a.parquet").write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        open_source(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_kind_follows_extension_prefix_or_an_odd_but_existing_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = '{"text": "a"}\n'
    for name in ("a.jsonl", "a.NDJSON", "plain", "hub:odd.jsonl"):
        (tmp_path / name).write_text(line)
    for spec in ("a.jsonl", "a.NDJSON", "jsonl:plain", "hub:odd.jsonl"):
        assert [document.texts for document in open_source(spec)] == [("a",)]


def test_samples_are_asked_for_by_name():
    first, second = itertools.islice(open_source("samples:test", images="lazy"), 2)
    assert (first.place, first.meta["role"], second.meta["role"]) == (Place("samples:test", 1), "query", "positive")
    with pytest.raises(UsageError, match=r"samples:tests is not a view of the samples; did you mean test\?"):
        list(open_source("samples:tests"))


def test_pictures_are_decoded_unless_they_are_to_stay_closed(jsonl, png, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    path = jsonl({"image": "a.png"})
    (loaded,) = open_source(path)
    (closed,) = open_source(path, images="lazy")
    assert loaded.images[0].source.size == (4, 3)
    assert isinstance(closed.images[0], Image)
    assert str(closed.images[0].source) == "a.png"


def test_a_source_can_be_read_again_and_reports_its_latest_pass(jsonl):
    source = open_source(jsonl({"text": "a"}, {"text": "b"}))
    assert source.report().rows == 0
    assert list(source) == list(source)
    next(iter(source))
    assert source.report().rows == 1


def test_the_tail_of_a_pass_that_is_left_early_raises_nothing(jsonl):
    documents = iter(open_source(jsonl(b"{", {"text": "a"}, b"{"), on_bad="skip"))
    assert next(documents).texts == ("a",)
    documents.close()


def test_an_empty_folder_of_saved_data_is_said_in_one_line(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(TwowayError, match="not a readable folder of"):
        list(open_source(tmp_path))


def test_opening_data_needs_neither_torch_nor_what_only_one_reader_needs():
    script = "import sys, twoway.data.dataset; sys.exit(any(name in sys.modules for name in ('torch', 'datasets', 'pyarrow', 'pypdfium2')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def rows_of(folder):
    """Write rows of every kind below a folder and return their specs; some rows are bad."""
    lines = ['{"text": "a"}', "", "{", '{"text": "b"}', '{"image": "1.png"}', '{"text": "c"}']
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    table = pa.table({"text": [f"row {number}" for number in range(100)]})
    pq.write_table(table, folder / "rows.parquet", row_group_size=7)
    (folder / "pages").mkdir()
    pages = [PILImage.new("RGB", (60, 40), colour) for colour in ("red", "green", "blue")]
    pages[0].save(folder / "pages/a.pdf", save_all=True, append_images=pages[1:])
    (folder / "pages/b.pdf").write_bytes(b"no pdf")
    pages[0].save(folder / "pages/c.pdf")
    (folder / "pictures/deep").mkdir(parents=True)
    for name in ("2.png", "1.jpg", "deep/0.webp"):
        pages[0].save(folder / "pictures" / name)
    (folder / "pictures/note.txt").write_text("passed over: it is no picture")
    datasets.Dataset.from_dict({"text": [f"row {number}" for number in range(9)]}).save_to_disk(str(folder / "saved"))
    return ["rows.jsonl", "rows.parquet", "pages", "pictures", "saved", "rows.*", "pictures/**/*.*g"]


def test_rows_passed_over_are_the_first_ones_of_the_whole(tmp_path, monkeypatch):
    specs = rows_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    for spec in specs:
        source = open_source(spec, images="lazy")
        whole = [(str(row) if isinstance(row, ContentError) else row, row.place) for row in source.rows()]
        for skip in (0, 1, 2, 3, 8, 50, 101, len(whole), len(whole) + 5):
            rest = [(str(row) if isinstance(row, ContentError) else row, row.place) for row in source.rows(skip)]
            assert [place for _, place in rest] == [place for _, place in whole[skip:]], (spec, skip)
            if spec != "pages":  # a page is rendered anew
                assert rest == whole[skip:]


def test_pictures_are_read_from_folders_files_and_patterns(tmp_path, monkeypatch):
    rows_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    for spec, names in (
        ("pictures", ["pictures/1.jpg", "pictures/2.png", "pictures/deep/0.webp"]),
        ("pictures/2.png", ["pictures/2.png"]),
        ("pictures/*.?[np]g", ["pictures/1.jpg", "pictures/2.png"]),
        ("pictures/**/*.webp", ["pictures/deep/0.webp"]),
    ):
        found = list(open_source(spec))
        assert [document.place.file for document in found] == names
        assert all(document.images[0].source.size == (60, 40) for document in found)
    (tmp_path / "pictures/2.png").write_bytes(b"broken")
    source = open_source("pictures", on_bad="skip")
    assert len(list(source)) == 2
    assert source.report().first[0].place == Place("pictures/2.png")


def test_a_pattern_that_matches_nothing_or_too_much_is_refused(tmp_path, monkeypatch):
    rows_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pages/1.png").write_bytes((tmp_path / "pictures/2.png").read_bytes())
    for spec, said in (("*.tsv", "no file matches"), ("pictures/*", "note.txt, which"), ("pages", "both pictures and PDFs")):
        with pytest.raises(UsageError, match=said):
            open_source(spec)
