"""A Milvus server over the network is the same index: collections by name, one address for all of them, and a word when it is away."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from twoway.errors import TwowayError, UsageError
from twoway.search import milvus_client, milvus_collection
from twoway.search.milvus_client import Place
from twoway.search.opening import create_store, exists, open_store
from twoway.search.store import About, Item

pytestmark = pytest.mark.xdist_group("engines")
ABOUT = About("my-model", "f" * 64, 4)


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
    assert [exists(pages), exists(shelf)] == [True, False]
    again, other = open_store(pages), create_store(shelf, ABOUT)
    assert (again.count("year = 1990"), other.count(), again.fingerprint) == (1, 0, "f" * 64)
    assert len(again.get("a").text) == 60_000  # what Milvus holds of a longer one
    assert again.get("a").thumbnail == b"small"
    with pytest.raises(UsageError, match="most in Milvus"):
        again.add([Item("n" * 3000, np.ones(4, np.float32))])
    again.close()
    other.close()


def test_programs_of_one_server_see_what_the_others_have_changed(address, monkeypatch):
    monkeypatch.setattr(milvus_collection, "_FRESH", 0.0)
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
    anew = create_store(f"{address}/pages", About("other", "0" * 64, 4), overwrite=True)
    anew.add([Item("x", row)])
    for asked in (lambda: other.search(row), lambda: other.add([Item("y", row)])):
        with pytest.raises(TwowayError, match="was built anew, or taken away, after this program opened it"):
            asked()
    assert anew.count() == 1
    other.close()
    anew.close()


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
    place = Place.of(location)
    assert (place.uri, place.collection, place.file) == (uri, collection, None)
