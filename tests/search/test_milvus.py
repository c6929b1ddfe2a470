"""A Milvus server over the network is the same index: collections by name, one address for all of them, and a word when it is away."""

from __future__ import annotations

import socket
import sys

import numpy as np
import pytest

from twoway.errors import TwowayError, UsageError
from twoway.search import milvus_client
from twoway.search.milvus_client import MilvusAddress
from twoway.search.query import create_store, open_store, store_exists
from twoway.search.store import IndexInfo, Item

pytestmark = pytest.mark.xdist_group("engines")
ABOUT = IndexInfo("my-model", "f" * 64, 4)


@pytest.fixture
def address(tmp_path):
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, data, port = start_server_in_thread(data_dir=str(tmp_path / "data"), host="127.0.0.1", port=0)
    yield f"milvus://127.0.0.1:{port}"
    server.stop(grace=0)
    data.close()


def test_collections_of_a_server_are_indexes_of_their_own(address):
    pages, shelf = f"{address}/pages", f"{address}/shelf"
    store = create_store(pages, ABOUT)
    store.add([Item("a", np.eye(4, dtype=np.float32)[0], "x" * 70_000, b"small", metadata={"year": 1990})])
    store.close()
    assert [store_exists(pages), store_exists(shelf)] == [True, False]
    again, other = open_store(pages), create_store(shelf, ABOUT)
    assert (again.count("year = 1990"), other.count(), again.fingerprint) == (1, 0, "f" * 64)
    assert len(again.get("a").text) == 60_000  # what Milvus holds of a longer one
    assert again.get("a").thumbnail == b"small"
    with pytest.raises(UsageError, match="most in Milvus"):
        again.add([Item("n" * 3000, np.ones(4, np.float32))])
    again.close()
    other.close()


def test_programs_of_one_server_see_what_the_others_have_changed(address, monkeypatch):
    monkeypatch.setattr(milvus_client, "_FRESH", 0.0)
    row = np.eye(4, dtype=np.float32)[0]
    one = create_store(f"{address}/pages", ABOUT)
    other = open_store(f"{address}/pages")
    one.add([Item("a", row, metadata={"year": 1990})])
    other.add([Item("b", row, metadata={"shelf": "A"})])
    for store in (one, other):
        assert {"year", "shelf"} <= set(store.fields)
        assert store.count("year = 1990 or shelf = 'A'") == 2
    with pytest.raises(UsageError, match="the metadata of the item 'c' has"):
        one.add([Item("a", row), Item("c", row, metadata={"long": "x" * 70_000})])
    assert one.count("year = 1990") == 1  # nothing of what was refused is there
    one.close()
    anew = create_store(f"{address}/pages", IndexInfo("other", "0" * 64, 4), overwrite=True)
    anew.add([Item("x", row)])
    assert other.count() == 2
    anew.publish()
    for asked in (lambda: other.search(row), lambda: other.add([Item("y", row)])):
        with pytest.raises(TwowayError, match="was built anew, or taken away, after this program opened it"):
            asked()
    assert anew.count() == 1
    other.close()
    anew.close()


def test_who_reads_follows_to_what_is_built_anew_by_the_same_model(address):
    row = np.eye(4, dtype=np.float32)[0]
    reader = create_store(f"{address}/pages", ABOUT)
    reader.add([Item("old", row)])
    for _ in range(2):
        anew = create_store(f"{address}/pages", ABOUT, overwrite=True)
        anew.add([Item("new", row), Item("newer", row)])
        anew.build_indexes(exact_below=1)
        assert [hit.item.id for hit in reader.search(row)] != ["new", "newer"]
        anew.publish()
        anew.close()
        assert sorted(hit.item.id for hit in reader.search(row)) == ["new", "newer"]
        assert reader.get("new").id == "new"
        assert reader.delete(["newer"]) == 1
        assert reader.count() == 1
    assert len(reader._client.list_collections()) == 2  # the items and what is remembered
    reader.close()


def test_of_two_that_build_anew_one_does_and_the_other_is_told(address):
    row = np.eye(4, dtype=np.float32)[0]
    create_store(f"{address}/pages", ABOUT).close()
    slow = create_store(f"{address}/pages", ABOUT, overwrite=True)
    fast = create_store(f"{address}/pages", ABOUT, overwrite=True)
    fast.add([Item("fast", row)])
    with pytest.raises(TwowayError, match=r"another program has begun to build .* anew meanwhile"):
        slow.publish()
    slow.close()
    fast.publish()
    assert fast.count() == 1
    assert len(fast._client.list_collections()) == 2
    fast.close()


def test_a_collection_of_another_maker_stands_until_an_index_takes_its_place(address):
    store = create_store(f"{address}/other", ABOUT)
    store._client.create_collection("pages", dimension=3)
    with pytest.raises(UsageError, match="pass --overwrite to replace it"):
        create_store(f"{address}/pages", ABOUT)
    create_store(f"{address}/pages", ABOUT, overwrite=True).close()
    assert sorted(store._client.list_collections()) == ["other", "other_about", "pages"]
    anew = create_store(f"{address}/pages", ABOUT, overwrite=True)
    anew.publish()
    anew.close()
    assert store_exists(f"{address}/pages")
    assert len(store._client.list_collections()) == 4
    store.close()


def test_what_cannot_be_made_leaves_nothing(address, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(TwowayError, match="fails while making it"):
        patched.setattr(milvus_client, "make_collection", lambda *_: 1 / 0)
        create_store(f"{address}/pages", ABOUT)
    store = create_store(f"{address}/shelf", ABOUT)
    store.add([Item("a", np.eye(4, dtype=np.float32)[0])])
    with monkeypatch.context() as patched, pytest.raises(TwowayError, match="fails while making it"):
        patched.setattr(milvus_client, "make_collection", lambda *_: 1 / 0)
        create_store(f"{address}/shelf", ABOUT, overwrite=True)
    assert store._client.list_collections() == ["shelf", "shelf_about"]
    assert store.count() == 1
    store.close()


def test_a_server_that_is_too_old_is_said(address, monkeypatch):
    from pymilvus import MilvusClient

    monkeypatch.setattr(MilvusClient, "get_server_version", lambda *_, **__: "v2.3.5-lite")
    with pytest.raises(UsageError, match=r"runs Milvus v2\.3\.5-lite; an index needs 2\.5 or later"):
        create_store(f"{address}/pages", ABOUT)
    assert not store_exists(f"{address}/pages")


def test_what_the_server_of_a_file_does_not_know_is_not_logged(tmp_path, caplog):
    store = create_store(tmp_path / "index.db", ABOUT)
    store.add([Item("a", np.eye(4, dtype=np.float32)[0])])
    assert store.search(np.ones(4, np.float32), top_k=1)[0].item.id == "a"
    store.build_indexes(exact_below=1)
    store.close()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("grpc")] == []


def test_only_what_is_damaged_is_taken_away_to_be_built_anew(tmp_path, monkeypatch):
    location = str(tmp_path / "index.db")
    create_store(location, ABOUT).close()
    with monkeypatch.context() as patched, pytest.raises(UsageError, match="needs its client"):
        patched.setitem(sys.modules, "pymilvus", None)
        create_store(location, ABOUT, overwrite=True)
    with monkeypatch.context() as patched, pytest.raises(TwowayError, match=r"index\.db did not open in \d+ seconds; try again"):
        patched.setattr("pymilvus.MilvusClient", lambda **_: _raise(RuntimeError("DEADLINE_EXCEEDED")))
        create_store(location, ABOUT, overwrite=True)
    assert store_exists(location)
    (tmp_path / "photos.db").mkdir()
    (tmp_path / "photos.db/one.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="holds other files"):
        create_store(tmp_path / "photos.db", ABOUT, overwrite=True)
    assert [path.name for path in (tmp_path / "photos.db").iterdir()] == ["one.png"]


def _raise(error):
    raise error


def test_a_server_that_is_away_is_said(monkeypatch):
    monkeypatch.setattr(milvus_client, "_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(TwowayError, match="does not answer; is the server there, and MILVUS_TOKEN set"):
            open_store(f"milvus://127.0.0.1:{free.getsockname()[1]}/pages")


@pytest.mark.parametrize(
    ("location", "uri", "collection"),
    [
        ("milvus://host", "http://host:19530", "items"),
        ("milvus://host:7/pages", "http://host:7", "pages"),
        ("milvus+https://cloud.example/pages", "https://cloud.example:443", "pages"),
        ("milvus://[::1]:7/pages/", "http://[::1]:7", "pages"),
    ],
)
def test_an_address_names_server_and_collection(location, uri, collection):
    place = MilvusAddress.of(location)
    assert (place.uri, place.collection, place.file) == (uri, collection, None)
