"""A program that has an index open goes on while other programs change it, and never answers out of another model's vectors."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from twoway.errors import TwowayError
from twoway.search import lance
from twoway.search.query import create_store, open_store
from twoway.search.store import IndexInfo, Item

pytestmark = pytest.mark.xdist_group("engines")
ABOUT = IndexInfo("my-model", "f" * 64, 4)
ROWS = np.eye(4, dtype=np.float32)


def items(*names):
    return [Item(name, ROWS[number], f"fox {name}", metadata={"year": number}) for number, name in enumerate(names)]


def ids(hits):
    return sorted(hit.item.id for hit in hits)


@pytest.fixture
def db(tmp_path):
    store = create_store(tmp_path / "db", ABOUT)
    for one in items("a", "b", "c", "d"):
        store.add([one])
    store.build_indexes(exact_below=100)
    return tmp_path / "db"


def test_a_reader_goes_on_when_the_files_it_read_are_taken_away(db):
    reader, writer = open_store(db), open_store(db)
    for changed in (lambda: writer.delete(["a"]), lambda: writer.add([Item("b", ROWS[1], "fox again")])):
        assert reader.count()  # it has seen the version that goes
        changed()
        writer.compact()
        assert ids(reader.search(ROWS[1], top_k=9)) == ["b", "c", "d"]
        assert ids(reader.search(None, words="fox", top_k=9)) == ["b", "c", "d"]
        assert reader.get("c").text == "fox c"
        assert reader.count("year >= 0") + reader.count("year is null") == 3


@pytest.mark.parametrize("dimension", [4, 8])
def test_an_index_built_anew_for_another_model_is_an_error_for_who_had_it_open(db, monkeypatch, dimension):
    monkeypatch.setattr(lance, "FRESH", timedelta(0))
    reader = open_store(db)
    other = create_store(db, IndexInfo("other", "0" * 64, dimension), overwrite=True)
    other.add([Item("x", np.eye(dimension, dtype=np.float32)[0], "fox")])
    assert ids(reader.search(ROWS[0], top_k=9)) == ["a", "b", "c", "d"]  # until the new one takes its place
    other.publish()
    for asked in (
        lambda: reader.search(ROWS[0]),
        lambda: reader.search(None, words="fox"),
        lambda: reader.get("x"),
        lambda: reader.count(),
        lambda: reader.add(items("y")),
        lambda: reader.delete(["x"]),
    ):
        with pytest.raises(TwowayError, match="was built anew after this program opened it; open it again"):
            asked()
    assert other.count() == 1


def test_two_writers_declare_the_same_field(db):
    one, other = open_store(db), open_store(db)
    assert one.count() == other.count() == 4
    assert one.add([Item("e", ROWS[0], metadata={"shelf": "A"})]) == (1, 0)
    assert other.add([Item("f", ROWS[0], metadata={"shelf": "B"})]) == (1, 0)
    assert ids(other.search(None, filter="shelf in ('A', 'B')")) == ["e", "f"]
