"""Tars of WebDataset: rows by their stem, read by position; a torn one, a key that comes twice and the like are one line with the place."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import tarfile

import pytest

from twoway.content import ContentError, Document
from twoway.data.config import PairSource
from twoway.data.dataset import open_source, open_table, source_files, source_kind
from twoway.data.mixture import open_pairs
from twoway.data.rows import Policy
from twoway.data.sources.formats import ToDocument, document_format
from twoway.errors import TwowayError, UsageError
from twoway.methods.bridge.config import BridgeSource
from twoway.methods.bridge.rows import open_bridge_mixture


def tar(path, *members, form=tarfile.PAX_FORMAT):
    """Write (name, content) pairs; a name alone is a folder."""
    with tarfile.open(path, "w", format=form) as archive:
        for name, *content in members:
            info = tarfile.TarInfo(name)
            if content:
                info.size = len(content[0])
                archive.addfile(info, io.BytesIO(content[0]))
            else:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
    return path


@pytest.fixture
def shard(tmp_path, png):
    """Three rows."""
    return tar(
        tmp_path / "rows.tar",
        ("pictures",),
        ("pictures/0001.png", png(size=(5, 4))),
        ("pictures/0001.txt", "ä cat".encode()),
        ("pictures/0001.json", json.dumps({"source": "album"}).encode()),
        ("pictures/0001.cls", b"7"),
        ("0002.txt", b"only text"),
        (f"{'long' * 60}.png", png(size=(9, 8))),
    )


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_files_of_one_stem_are_a_row_in_a_stream_and_by_number(form, shard, png, tmp_path):
    if form == tarfile.GNU_FORMAT:
        with tarfile.open(shard) as archive:
            members = [(one.name, *([archive.extractfile(one).read()] if one.isfile() else [])) for one in archive]
        shard = tar(tmp_path / "gnu.tar", *members, form=form)
    streamed = list(open_source(shard, images="lazy"))
    table = pickle.loads(pickle.dumps(open_table(str(shard), folder=tmp_path / "kept")))
    for number in (2, 0, 1):  # in no order
        assert table.read(number) == streamed[number]
    assert streamed[0] == Document.from_parts([{"image": png(size=(5, 4))}, {"text": "ä cat"}])
    assert (streamed[0].meta["source"], streamed[0].meta["cls"], streamed[0].meta["__key__"]) == ("album", "7", "pictures/0001")
    assert [one.texts for one in streamed] == [("ä cat",), ("only text",), ()]
    assert [str(one.place) for one in streamed] == [f"{shard}:{row}" for row in (1, 2, 3)]
    assert (table.characters.tolist(), table.sizes.tolist()) == ([5, 9, 0], [[0, 5, 4, 1], [0, 9, 8, 1]])


def test_a_folder_a_pattern_and_a_file_are_sources(shard, tmp_path):
    home = tmp_path / "shards"
    home.mkdir()
    for number in range(3):
        tar(home / f"{number}.tar", *((f"{row:04d}.txt", f"{number} {row}".encode()) for row in range(2)))
    for spec in (str(home), str(home / "*.tar"), f"tars:{home}/[0-2].tar"):
        assert source_kind(spec)[0] == "tars"
        table = open_table(spec)
        assert [table.read(row).texts[0] for row in range(6)] == ["0 0", "0 1", "1 0", "1 1", "2 0", "2 1"]
        assert [path.name for path in source_files(spec)] == ["0.tar", "1.tar", "2.tar"]
    assert open_table(str(home), cap=3).read(2).place.file.endswith("1.tar")
    (home / "a.pdf").touch()
    with pytest.raises(UsageError, match="holds both PDFs and tars; write pdf:"):
        source_kind(str(home))


def test_pairs_and_formats_read_tars_as_tables(png, tmp_path):
    path = tar(
        tmp_path / "pairs.tar",
        ("a.query.txt", b"a red one"),
        ("a.positive.png", png()),
        ("a.negatives.json", b'["wrong", "worse"]'),
        ("b.json", b'{"query": "two", "positive": "words", "task": "other"}'),
    )
    pairs = open_pairs([PairSource(str(path))])
    (_, first), (_, second) = pairs.read(0), pairs.read(1)
    assert (first.query.texts, len(first.positive.images), [one.texts[0] for one in first.negatives]) == (
        ("a red one",),
        1,
        ["wrong", "worse"],
    )
    assert (second.positive.texts, pairs.tasks) == (("words",), ("pairs.tar", "other"))
    assert len(open_bridge_mixture([BridgeSource(str(path))])) == 2
    captions = tar(tmp_path / "captions.tar", ("1.png", png()), ("1.json", b'{"caption": "red"}'))
    table = open_table(str(captions), convert=ToDocument(document_format("{image} It is {caption}")))
    assert table.read(0).texts == (" It is red",)


def test_a_row_that_is_wrong_is_a_bad_row(png, tmp_path):
    path = tar(
        tmp_path / "rows.tar",
        ("1.txt", b"\xff"),
        ("2.json", b"{"),
        ("3.txt", b"a"),
        ("3.json", b'{"text": "b"}'),
        ("4.txt", b"fine"),
        ("5.png", b"no picture"),
    )
    with pytest.raises(ContentError, match=r"rows.tar:1: 1.txt is not UTF-8 \(byte 0xff\)"):
        open_table(str(path))
    table = open_table(str(path), policy=Policy("skip"))
    assert (table.numbers.tolist(), len(table.bad)) == ([4], 4)
    assert "two files of 3 say what text is (one of them is 3.json)" in str(table.bad[2])


def test_a_torn_tar_is_one_line_with_the_place_wherever_it_is_torn(shard, tmp_path):
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        archive.getmembers()
        end = archive.offset  # of the last content; zeros follow
    torn = tmp_path / "torn.tar"
    for size in [*range(0, end, 97), *range(512, end + 512, 512)]:
        torn.write_bytes(whole[: min(size, end)])
        with pytest.raises(TwowayError) as raised:
            open_table(str(torn), policy=Policy("skip"))
        line = str(raised.value)
        assert str(torn) in line
        assert "byte" in line
        assert "\n" not in line
    torn.write_bytes(whole[: end + 512])  # one block of zeros is an end
    assert len(open_table(str(torn))) == 3


def test_what_is_damaged_in_the_middle_or_written_behind_the_end_is_said(shard, tmp_path):
    whole, other = shard.read_bytes(), tmp_path / "other.tar"
    with tarfile.open(shard) as archive:
        third = archive.getmembers()[3].offset
    other.write_bytes(whole[:third] + b"x" * 512 + whole[third + 512 :])
    with pytest.raises(TwowayError, match=rf"other.tar is not a readable tar from byte {third:,} on"):
        open_table(str(other))
    other.write_bytes(whole + whole)
    with pytest.raises(TwowayError, match="more is written behind the end of the archive at byte"):
        open_table(str(other))
    other.write_bytes(gzip.compress(whole + random.Random(0).randbytes(4096)))
    with pytest.raises(TwowayError, match=r"other.tar is not a readable tar from byte 0 on"):
        open_table(str(other))
    with tarfile.open(other, "w") as archive:
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(TwowayError, match=r"1.png at byte 0 is a link"):
        open_table(str(other))


def test_a_key_that_comes_twice_is_an_error_with_its_place(tmp_path):
    path = tar(tmp_path / "rows.tar", ("1.txt", b"a"), ("2.txt", b"b"), ("1.cls", b"3"))
    with pytest.raises(TwowayError, match=r"rows.tar: the key 1 comes a second time, at byte 2,048; the files of a row stand together"):
        open_table(str(path))
