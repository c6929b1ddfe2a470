"""A folder of vectors becomes a database: whole, added to, gone on with, and nothing lost or replaced in silence."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from full_disk import disk_full
from made_vectors import pictures, vectors_of
from twoway.errors import TwowayError, UsageError
from twoway.search.index import index
from twoway.search.lance import LanceStore
from twoway.search.milvus import MilvusStore
from twoway.search.query import open_store

pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "data")
    return tmp_path


def open_and(db, ask):
    store = open_store(db)
    try:
        return ask(store)
    finally:
        store.close()


def ids(db):
    return open_and(db, lambda store: sorted(hit.item.id for hit in store.search(None, top_k=1000)))


@pytest.mark.parametrize("db", ["db", "index.db"])
def test_rows_come_with_what_a_page_shows(folder, db):
    rows = vectors_of(folder / "data/data.jsonl", folder / "vectors")
    result = index("vectors", db)
    assert (result.items, result.added, result.pictures, result.bad_pictures, result.kind) == (6, 6, 4, 0, "exact")
    store = open_store(db)
    try:
        item = store.get("n5")
        np.testing.assert_allclose(item.vector, rows[5], atol=1e-6)
        assert item.text == "number 5, a fox"
        assert item.place == f"{folder}/data/data.jsonl:6"
        assert item.metadata == {"file": f"{folder}/data/data.jsonl", "row": 6, "year": 1995, "price": 1.5}
        with Image.open(io.BytesIO(item.thumbnail)) as small:
            assert small.format == "WEBP"
            assert max(small.size) == 240
        assert store.get("n1").thumbnail is None
        assert store.fields["price"] == "number"  # whole in the first file of vectors, not in the second
        assert [hit.item.id for hit in store.search(rows[0], filter="year > 1993 and price = 1.5", top_k=1)] != []
        assert store.info.model == "my-model"
    finally:
        store.close()


def test_the_same_again_does_nothing_and_what_changed_takes_its_place(folder):
    vectors_of(folder / "data/data.jsonl", folder / "vectors")
    index("vectors", "db")
    again = index("vectors", "db")
    assert (again.items, again.added, again.replaced, again.unchanged, again.pictures) == (6, 0, 0, 6, 0)
    rows = vectors_of(folder / "data/data.jsonl", folder / "other", seed=1)
    shutil.copy(folder / "vectors/part-000001.parquet", folder / "other/part-000001.parquet")
    changed = index("other", "db")
    assert (changed.items, changed.added, changed.replaced, changed.unchanged) == (6, 0, 4, 2)
    np.testing.assert_allclose(open_store("db").get("n2").vector, rows[2], atol=1e-6)
    gone = index(None, "db", delete=["n2", "nobody"], compact=True)
    assert (gone.items, gone.deleted) == (5, 1)
    back = index("other", "db")
    assert (back.items, back.added, back.replaced, back.unchanged) == (6, 1, 3, 2)


def test_a_run_that_fails_midway_leaves_whole_shards_and_is_gone_on_with(folder, monkeypatch):
    vectors_of(folder / "data/data.jsonl", folder / "vectors", shard_rows=2)
    add, calls = LanceStore.add, []

    def full(self, items, *, origin=""):
        calls.append(origin)
        if len(calls) == 2:
            from twoway.search.store import engine_errors

            with engine_errors(self.location, "writing"):
                raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)")
        return add(self, items, origin=origin)

    with monkeypatch.context() as patched:
        patched.setattr(LanceStore, "add", full)
        with pytest.raises(TwowayError, match=r"no space left on the disk while writing db; .* \(the same command goes on; 1 of 3"):
            index("vectors", "db")
    assert ids("db") == ["n0", "n1"]
    result = index("vectors", "db")
    assert (result.items, result.added, result.unchanged) == (6, 4, 2)


@pytest.mark.parametrize(("db", "store"), [("db", LanceStore), ("index.db", MilvusStore)])
@pytest.mark.parametrize("fails", ["add", "publish"])
def test_an_index_that_is_to_be_replaced_stands_until_the_new_one_is_whole(folder, monkeypatch, db, store, fails):
    data = folder / "data/data.jsonl"
    vectors_of(data, folder / "vectors", shard_rows=2)
    index("vectors", db, delete=["n5"])
    rows = vectors_of(data, folder / "other", shard_rows=2, fingerprint="0" * 64, dim=8, seed=1)
    whole, calls = getattr(store, fails), []

    def full(self, *args, **options):
        calls.append(args)
        if len(calls) == (2 if fails == "add" else 1):
            raise TwowayError("no space left")
        return whole(self, *args, **options)

    with monkeypatch.context() as patched, pytest.raises(TwowayError, match="no space left"):
        patched.setattr(store, fails, full)
        index("other", db, overwrite=True)
    assert ids(db) == [f"n{number}" for number in range(5)]
    assert open_and(db, lambda one: (one.fingerprint, one.count("year = 1990"))) == ("f" * 64, 1)
    assert index("other", db, overwrite=True).items == 6
    assert open_and(db, lambda one: one.search(rows[5], top_k=1)[0].item.id) == "n5"


@pytest.mark.parametrize(("db", "room"), [("db", 0), ("db", None), ("index.db", 6000)])
def test_a_full_disk_costs_nothing_that_was_there(folder, db, room):
    """With no room at all nothing is begun; with nearly enough, a file lacks its end, which Lance takes for done."""
    rows = pictures(folder / "data", 40)
    vectors_of(rows, folder / "vectors", shard_rows=20)
    (folder / "data/more.jsonl").write_text(rows.read_text().replace('"id": "n', '"id": "m'))
    vectors_of(folder / "data/more.jsonl", folder / "more", shard_rows=20)
    if room is None:
        index("vectors", "whole")
        room = max(path.stat().st_size for path in Path("whole/items.lance/data").iterdir()) - 700
    with disk_full(room), pytest.raises(TwowayError, match="no space left on the disk while"):
        index("vectors", db)
    assert index("vectors", db).items == 40
    with disk_full(room), pytest.raises(TwowayError, match=r"no space left on the disk while .* what it held before is whole"):
        index("more", db)
    assert {f"n{number}" for number in range(40)} <= set(ids(db))
    with disk_full(room), pytest.raises(TwowayError, match=r"no space left on the disk while"):
        index("more", db, overwrite=True)
    assert {f"n{number}" for number in range(40)} <= set(ids(db))
    with disk_full(room), contextlib.suppress(TwowayError):
        index(None, db, delete=["n1"], compact=True)
    assert {f"n{number}" for number in range(40) if number != 1} <= set(ids(db))
    assert index("more", db).items in (79, 80)


@pytest.mark.parametrize("db", ["db", "index.db"])
def test_too_little_room_is_met_before_anything_is_written(folder, monkeypatch, db):
    vectors_of(folder / "data/data.jsonl", folder / "vectors")
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 20))
    with pytest.raises(TwowayError, match=f"no space left on the disk for {db}: 1 MiB are free, and .* free some space and try again"):
        index("vectors", db)


@pytest.mark.parametrize(("db", "broken"), [("db", "*.manifest"), ("db", "*.lance"), ("index.db", "*")])
def test_a_damaged_database_is_said_and_built_anew_only_when_asked(folder, db, broken):
    vectors_of(folder / "data/data.jsonl", folder / "vectors")
    index("vectors", db)
    for path in Path(db).rglob(broken):
        if path.is_file():
            path.write_bytes(b"garbage")
    for asked in (lambda: ids(db), lambda: index("vectors", db), lambda: index(None, db, delete=["n1"])):
        with pytest.raises(TwowayError, match="may be damaged; restore it, or build it anew with 'twoway index … --overwrite'") as said:
            asked()
        assert len(str(said.value).splitlines()) == 1
    assert index("vectors", db, overwrite=True).items == 6
    assert len(ids(db)) == 6


def test_what_is_asked_wrongly_is_refused_before_anything_is_done(folder):
    vectors_of(folder / "data/data.jsonl", folder / "vectors")
    with pytest.raises(UsageError, match="recall takes a number from 0 to 1, not '7'"):
        index("vectors", "db", recall=7)
    assert not Path("db").exists()
    index("vectors", "db")
    gone = index(None, "db", delete=["nobody", "n1", "it's"])
    assert (gone.items, gone.deleted, gone.missing) == (5, 1, ["nobody", "it's"])


KILLED = """
import sys, time
from twoway.search.index import index
from twoway.search.lance import LanceStore
from twoway.search.milvus import MilvusStore
add = LanceStore.add
def slow(self, items, *, origin=""):
    done = add(self, items, origin=origin)
    print("added", flush=True)
    return done
LanceStore.add = slow
index("vectors", "db")
"""


def test_a_kill_loses_nothing_and_leaves_nothing_half(folder):
    pictures(folder / "data", 60)
    vectors_of(folder / "data/data.jsonl", folder / "vectors", shard_rows=3)
    child = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE)
    for _ in range(5):
        child.stdout.readline()
    time.sleep(0.01)
    child.kill()
    child.wait()
    there = ids("db")
    assert 15 <= len(there) < 60
    assert len(there) % 3 == 0
    result = index("vectors", "db")
    assert result.unchanged == len(there)
    assert ids("db") == sorted(f"n{number}" for number in range(60))
    assert open_store("db").count("id = 'n0'") == 1


@pytest.mark.parametrize(("precision", "least"), [("float16", 0.999), ("int8", 0.99), ("binary", 0.6)])
def test_coarser_vectors_are_restored(folder, precision, least):
    rows = vectors_of(folder / "data/data.jsonl", folder / "vectors", precision=precision)
    index("vectors", "db", thumbnails=False)
    for row, name in zip(rows, ("n0", "n1", "n2"), strict=False):
        best = open_store("db").search(row, top_k=1)[0]
        assert best.item.id == name
        assert best.score > least
        assert best.item.thumbnail is None


def test_a_picture_that_cannot_be_read_is_listed_and_tried_again(folder):
    vectors_of(folder / "data/data.jsonl", folder / "vectors", bad=(1,))
    whole = (folder / "data/2.png").read_bytes()
    (folder / "data/2.png").write_bytes(whole[:40])
    result = index("vectors", "db")
    assert (result.items, result.pictures, result.bad_pictures, result.bad_rows) == (5, 3, 1, "db/bad-rows.jsonl")
    listed = [json.loads(line) for line in Path(result.bad_rows).read_text().splitlines()]
    assert [(one["row"], "2.png" in one["reason"]) for one in listed] == [(3, True)]
    assert open_store("db").get("n2").thumbnail is None
    assert open_store("db").get("n3").thumbnail
    (folder / "data/2.png").write_bytes(whole)
    mended = index("vectors", "db")
    assert (mended.replaced, mended.unchanged, mended.bad_pictures) == (3, 2, 0)
    assert open_store("db").get("n2").thumbnail
    assert not Path("db/bad-rows.jsonl").exists()


@pytest.mark.parametrize("db", ["milvus-shelf", "milvus_demo.db"])
def test_a_folder_or_a_file_may_be_called_milvus(folder, monkeypatch, db):
    vectors_of(folder / "data/data.jsonl", folder / "vectors")
    (folder / "data/2.png").write_bytes(b"no picture")
    result = index("vectors", db)
    assert (result.items, result.bad_pictures) == (6, 1)
    assert result.bad_rows == (f"{db}.bad-rows.jsonl" if db.endswith(".db") else f"{db}/bad-rows.jsonl")
    asked = []
    monkeypatch.setattr("twoway.embedding.bulk.embed", lambda model, data, out, **_: asked.append(out) or SimpleNamespace(out="vectors"))
    index("data", db, model="my-model")
    assert asked == [f"{db}-vectors"]


def test_rows_that_left_the_data_keep_their_place_and_are_listed(folder):
    vectors_of(folder / "data/data.jsonl", folder / "vectors")
    lines = (folder / "data/data.jsonl").read_text().splitlines(keepends=True)
    (folder / "data/data.jsonl").write_text("".join([*lines[:2], "{}\n", *lines[3:]]))
    result = index("vectors", "db")
    assert (result.items, result.pictures, result.bad_pictures) == (6, 3, 1)
    assert "no longer in the data" in Path(result.bad_rows).read_text()


def refused(said, *args, **options):
    with pytest.raises(TwowayError, match=said):
        index(*args, **options)


def test_what_does_not_belong_together_is_refused(folder):
    data = folder / "data/data.jsonl"
    vectors_of(data, folder / "vectors")
    index("vectors", "db")
    vectors_of(data, folder / "other-model", fingerprint="0" * 64)
    refused("db holds vectors of another model", "other-model", "db")
    vectors_of(data, folder / "shorter", dim=8)
    refused("db holds vectors of 16 numbers, and these have 8", "shorter", "db")
    assert ids("db") == [f"n{number}" for number in range(6)]
    assert index("other-model", "db", overwrite=True).items == 6
    assert open_store("db").fingerprint == "0" * 64
    refused("nothing to do", None, "db")
    refused("does not exist; make an index", None, "nowhere", compact=True)
    refused("holds no vectors: it has no manifest.json", "data", "fresh")
    refused("holds other files", "vectors", "data")
    refused("kind takes one of hnsw, ivf, ivf-pq, not 'flat'", "vectors", "fresh", kind="flat")


def test_ids_that_stand_twice_are_refused_with_both_places(folder):
    data = folder / "data/data.jsonl"
    data.write_text(data.read_text().replace('"n4"', '"n0"'))
    vectors_of(data, folder / "vectors")
    refused(r"two rows have the id 'n0' \(.*data.jsonl:1 and .*data.jsonl:5\), .* pass --ids place", "vectors", "db")
    assert not (folder / "db").exists()
    assert index("vectors", "db", ids="place").items == 6
    assert f"{data}:5" in ids("db")


def test_data_that_is_gone_is_said_before_anything_is_written(folder):
    vectors_of(folder / "data/data.jsonl", folder / "vectors")
    shutil.rmtree(folder / "data")
    refused("pictures cannot be read from where they were embedded .*--no-thumbnails", "vectors", "db")
    assert not (folder / "db").exists()
    assert index("vectors", "db", thumbnails=False).items == 6


def test_a_manifest_that_lacks_something_is_said(folder):
    vectors_of(folder / "data/data.jsonl", folder / "vectors")
    manifest = json.loads((folder / "vectors/manifest.json").read_text())
    del manifest["dim"], manifest["data"]
    (folder / "vectors/manifest.json").write_text(json.dumps(manifest))
    refused("says nothing of dim, data; restore it", "vectors", "db")


def test_a_folder_without_vectors_is_refused(folder):
    vectors_of(folder / "data/data.jsonl", folder / "vectors", bad=range(6))
    refused("holds no vectors yet", "vectors", "db")


@pytest.mark.parametrize("harm", ["data", "_versions"])
def test_a_damaged_database_is_said_and_built_anew_on_demand(folder, harm):
    vectors_of(folder / "data/data.jsonl", folder / "vectors")
    index("vectors", "db")
    for path in (folder / "db/items.lance" / harm).iterdir():
        path.write_bytes(b"no longer what it was" * 9)
    with pytest.raises(TwowayError, match=r"db fails while .*damaged.*--overwrite"):
        open_store("db").search(np.ones(16, np.float32))
    if harm == "data":
        assert index("vectors", "db", overwrite=True).items == 6
        assert len(ids("db")) == 6


def test_a_file_in_the_way_is_refused(folder):
    vectors_of(folder / "data/data.jsonl", folder / "vectors")
    (folder / "file").write_text("x")
    (folder / "file.db").write_text("x")
    refused("is a file", "vectors", "file")
    refused("is a file", "vectors", "file.db")
    assert (folder / "file.db").read_text() == "x"
    with pytest.raises(UsageError, match="does not exist"):
        open_store("none.db")
    assert not (folder / "none.db").exists()


def test_a_larger_index_is_measured_and_set_to_a_recall(folder):
    (folder / "many.jsonl").write_text("".join(json.dumps({"text": f"t{number}"}) + "\n" for number in range(1500)))
    vectors_of(folder / "many.jsonl", folder / "vectors", shard_rows=500)
    result = index("vectors", "db", exact_below=1000, kind="ivf-pq", recall=0.9, thumbnails=False)
    assert result.kind == "ivf-pq"
    assert result.measured[-1].recall >= 0.9
    assert all(one.recall < 0.9 for one in result.measured[:-1])
    assert result.effort == result.measured[-1].effort == open_store("db").index_settings()["effort"]
    assert index("vectors", "db", exact_below=1000, kind="ivf-pq", thumbnails=False).measured == []
    again = index("vectors", "db", delete=["0"], compact=True, recall=0, thumbnails=False)
    assert (again.kind, again.effort) == ("ivf-pq", result.effort), "what is not said stays as it stands"
    assert index("vectors", "db", kind="ivf", recall=0, thumbnails=False).kind == "ivf"
    assert index("vectors", "db", exact_below=2000, thumbnails=False).kind == "exact"
    assert index("vectors", "db", thumbnails=False).kind == "exact"
