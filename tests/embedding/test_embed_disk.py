"""What the disk and the names of files may do to a run: it ends with a line or goes on, and never with half of anything."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from full_disk import disk_full
from twoway.embedding import open_embedder
from twoway.embedding.bulk import embed
from twoway.embedding.shards import Shards
from twoway.errors import TwowayError, UsageError
from twoway.search.index import index
from twoway.search.query import open_store


@pytest.fixture(scope="module")
def engine(tiny_encoder):
    return open_embedder(tiny_encoder("qwen2_vl"), device="cpu", window=16)


@pytest.mark.parametrize(("room", "whole"), [(64, 0), (4000, 0), (8000, 1)])
def test_a_full_disk_is_said_and_the_same_command_goes_on(engine, tmp_path, room, whole):
    rows = [{"id": f"{number}", "text": f"w{number % 7}", "note": os.urandom(1000 if number >= 8 else 1).hex()} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    with disk_full(room), pytest.raises(TwowayError, match=r"no space left on the disk while writing .*; nothing half-written is kept"):
        embed(engine, tmp_path / "rows.jsonl", out, shard_rows=8)
    assert not [path for path in out.iterdir() if path.suffix == ".tmp"]
    assert (Shards.open(out).done() if room > 1000 else len(list(out.glob("*.parquet")))) == whole
    result = embed(engine, tmp_path / "rows.jsonl", out, shard_rows=8)
    assert (result.vectors, result.embedded) == (40, 40 - 8 * whole)


def test_a_full_disk_ends_the_list_of_bad_rows_with_a_line(engine, tmp_path):
    rows = [{"text": "w1"}, {"words": "bad"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with disk_full(0), pytest.raises(TwowayError, match=r"no space left|cannot be written"):
        embed(engine, tmp_path / "rows.jsonl", tmp_path / "out", on_bad="skip")
    assert embed(engine, tmp_path / "rows.jsonl", tmp_path / "out", on_bad="skip").bad == 1


def test_half_a_line_in_the_list_of_bad_rows_ends_no_run(engine, tmp_path):
    rows = [{"words": f"bad {number}"} if number in (2, 5, 9) else {"text": f"w{number}"} for number in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    embed(engine, tmp_path / "rows.jsonl", out, on_bad="skip", shard_rows=4)
    for torn in (30, 20):
        (out / "bad-rows.jsonl").write_bytes((out / "bad-rows.jsonl").read_bytes()[:-torn])
        for part in (1, 2):
            (out / f"part-00000{part}.parquet").unlink()
        (out / "manifest.json").write_text((out / "manifest.json").read_text().replace('"finished": true', '"finished": false'))
        assert embed(engine, tmp_path / "rows.jsonl", out, on_bad="skip", shard_rows=4).bad == 3
    whole = [line for line in (out / "bad-rows.jsonl").read_text().splitlines() if line.endswith("}")]
    assert sorted(json.loads(line)["row"] for line in whole) == [3, 6, 10]


def test_a_folder_that_cannot_be_made_is_said(engine, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "rows.jsonl").write_text('{"text": "w1"}\n')
    with pytest.raises(UsageError, match="a file stands in its way"):
        embed(engine, tmp_path / "rows.jsonl", tmp_path / "file/out")


def test_names_and_columns_that_are_no_unicode_end_no_run(engine, tmp_path):
    (tmp_path / "data").mkdir()
    odd = os.fsdecode(b"odd\xff.png")
    Image.new("RGB", (20, 20), (9, 9, 99)).save(tmp_path / "data" / odd)
    (tmp_path / "data" / os.fsdecode(b"broken\xfe.png")).write_bytes(b"no picture")
    (tmp_path / "rows.jsonl").write_text('{"id": "\\udfff", "text": "w1", "note": "\\ud800"}\n{"id": "b", "text": "w2", "\\ud800": 1}\n')
    result = embed(engine, [tmp_path / "rows.jsonl", tmp_path / "data"], tmp_path / "out", on_bad="skip")
    assert (result.vectors, result.bad) == (3, 1)
    listed = json.loads((tmp_path / "out/bad-rows.jsonl").read_text())
    assert os.fsencode(listed["file"]).endswith(b"broken\xfe.png")
    assert index(tmp_path / "out", tmp_path / "db").pictures == 1
    store = open_store(tmp_path / "db")
    assert sorted(hit.item.id.split("/")[-1] for hit in store.search(None)) == ["\\udfff", "b", "odd\\udcff.png"]
    assert store.get("\\udfff").metadata["note"] == "\\ud800"
