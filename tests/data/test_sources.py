"""Specs: each kind is found by prefix, extension or content, and an unknown one is answered with what is possible."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

import twoway.data
from twoway.content import Document, Image, Place
from twoway.data.sources import open_source
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


def test_samples_are_asked_for_by_name(monkeypatch):
    module = types.ModuleType("twoway.data.samples")
    module.documents = lambda name: iter([Document.from_parts([{"text": name}], place=Place("samples", 1))])
    monkeypatch.setitem(sys.modules, "twoway.data.samples", module)
    monkeypatch.setattr(twoway.data, "samples", module, raising=False)
    assert [document.texts for document in open_source("samples:pairs/train")] == [("pairs/train",)]


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
    with pytest.raises(TwowayError, match="no readable folder of"):
        list(open_source(tmp_path))


def test_opening_data_needs_neither_torch_nor_what_only_one_reader_needs():
    script = "import sys, twoway.data.sources; sys.exit(any(name in sys.modules for name in ('torch', 'datasets', 'pyarrow', 'pypdfium2')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
