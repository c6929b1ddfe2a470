"""Both engines are one kind of thing: what goes in comes out, each call whole or refused, with the same answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lancedb.index import HnswSq, IvfFlat, IvfPq

from twoway.errors import TwowayError, UsageError
from twoway.search.lance import TABLE, open_tables, write_settings
from twoway.search.query import create_store, open_store, store_exists
from twoway.search.store import IndexInfo, Item

pytestmark = pytest.mark.xdist_group("engines")
DIM = 8
ABOUT = IndexInfo("my-model", "f" * 64, DIM)
ROWS = [
    {"shelf": "A", "year": 1990, "price": 1.5, "sold": True},
    {"shelf": "B", "year": 2000, "price": 2, "sold": False},
    {"shelf": "it's", "year": 2010},
    {"shelf": 'a "b" \\ c', "Größe": 3, "two words": "x"},
]
TEXTS = ("a red fox", "a blue whale", "", "the fox and the grapes")


def vectors(count, seed=0):
    found = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def items():
    return [
        Item(
            name, vector, text, bytes([number]) * 9 if number else None, f"notes.jsonl:{number + 1}", meta, "a.mp4#t=1.000" * (number == 2)
        )
        for number, (name, vector, text, meta) in enumerate(zip("abcd", vectors(4), TEXTS, ROWS, strict=True))
    ]


@pytest.fixture(params=["lance", "milvus"])
def location(request, tmp_path):
    return str(tmp_path / ("index" if request.param == "lance" else "index.db"))


@pytest.fixture
def store(location):
    found = create_store(location, ABOUT)
    found.add(items(), origin="one")
    found.build_indexes(exact_below=1000)
    yield found
    found.close()


def ids(hits):
    return [hit.item.id for hit in hits]


def test_a_text_is_looked_for_as_it_stands_and_a_backslash_takes_a_wildcard_s_meaning(location):
    texts = {"a": "50% off", "b": "500 off", "c": "a_b", "d": "axb", "e": "a\\b", "f": "a\\%b", "g": "a\\b c", "h": " a\\b"}
    store = create_store(location, ABOUT)
    try:
        store.add([Item(name, vectors(1)[0], text, metadata={"said": text}) for name, text in texts.items()])
        whole = {"0%": "a", "a_b": "c", "\\": "efgh", "\\%": "f", "a\\b": "egh", "\\b c": "g", "%": "af"}
        patterns = {r"a\_b": "c", "a_b": "cde", r"%\%%": "af", r"a\\%": "efg", r"a\\\%b": "f", r"%a\\b": "eh", r"\a_b": "cde", r"a\\b": "e"}
        for field in ("text", "said"):
            for sign, asks in (("has", whole), ("like", patterns)):
                for asked, expected in asks.items():
                    found = ids(store.search(None, filter=f"{field} {sign} '{asked}'"))
                    assert "".join(sorted(found)) == expected, (field, sign, asked)
                    assert store.count(f"not {field} {sign} '{asked}'") == len(texts) - len(expected)
    finally:
        store.close()


def test_what_goes_in_comes_out(store, location):
    store.close()
    again = open_store(location)
    try:
        assert (again.model, again.fingerprint, again.dimension, again.count()) == ("my-model", "f" * 64, DIM, 4)
        for item in items():
            found = again.get(item.id)
            assert found == item
            np.testing.assert_allclose(found.vector, item.vector, atol=1e-6)
        assert dict(again.fields) == {"id": "string", "text": "string", "place": "string"} | {
            "shelf": "string", "year": "integer", "price": "number", "sold": "boolean", "Größe": "integer", "two words": "string",
        }  # fmt: skip
        seen = {name: vector for names, block in again.vectors() for name, vector in zip(names, block, strict=True)}
        assert sorted(seen) == list("abcd")
        np.testing.assert_allclose(seen["c"], items()[2].vector, atol=1e-6)
    finally:
        again.close()


def test_the_nearest_come_first_with_their_cosine(store):
    near = items()[1].vector + 0.1 * items()[3].vector
    expected = np.stack([item.vector for item in items()]) @ (near / np.linalg.norm(near))
    for scale in (1.0, 7.0):
        for exact in (False, True):
            hits = store.search(near * scale, top_k=3, exact=exact)
            assert ids(hits) == ["abcd"[place] for place in np.argsort(-expected)[:3]]
            np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1][:3], atol=1e-5)
            assert hits[0].item == items()[1]
            assert hits[0].item.vector is None


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("year >= 2000", "bc"),
        ("year = 1990 or shelf = 'B'", "ab"),
        ("not year = 1990", "bc"),  # an item without a year is neither
        ("not (year = 1990 or price > 5)", "b"),  # of c the price is not known
        ("year in (1990, 2010) and shelf != 'A'", "c"),
        ("year not in (1990)", "bc"),
        ("shelf = 'it''s'", "c"),
        ('shelf == "a ""b"" \\ c"', "d"),
        ("sold", "a"),
        ("not sold", "b"),
        ("sold = false or price between 1 and 1.75", "ab"),
        ("year > 1999.5 and year < 2000.5", "b"),
        ("year between 1989.5 and 1e3", ""),
        ("year = 2e3", "b"),
        ("year is null", "d"),
        ("price is not null and price <= 2", "ab"),
        ("text like '%fox%'", "ad"),
        ("text not like 'a%'", "d"),  # c has no text
        ("text is null", "c"),
        ("text has 'fox'", "ad"),
        ("text has 'f_x' or text has '%'", ""),  # as they stand
        ("shelf has 'b\" \\ c'", "d"),
        (r"shelf like '%\\ _'", "d"),
        ("not text has 'a '", "d"),
        ("`two words` = 'x' and Größe = 3", "d"),
        ("id in ('a', 'd') and place = 'notes.jsonl:4'", "d"),
    ],
)
def test_a_filter_means_the_same_in_every_engine(stores, where, expected):
    for store in stores:
        assert sorted(ids(store.search(vectors(1)[0], filter=where))) == list(expected), store
        assert sorted(ids(store.search(None, filter=where))) == list(expected), store
        assert store.count(where) == len(expected)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    found = [create_store(tmp_path_factory.mktemp("stores") / name, ABOUT) for name in ("index", "index.db")]
    for store in found:
        store.add(items())
    yield found
    for store in found:
        store.close()


def test_words_find_by_text_and_together_with_a_vector(store):
    assert sorted(ids(store.search(None, words="fox"))) == ["a", "d"]
    assert ids(store.search(None, words="fox", filter="year = 1990")) == ["a"]
    near = items()[2].vector
    both = store.search(near, words="whale", top_k=2)
    assert sorted(ids(both)) == ["b", "c"]
    scores = {hit.item.id: hit.score for hit in both}
    assert scores["c"] == pytest.approx(1, abs=1e-5)
    assert scores["b"] == pytest.approx(float(near @ items()[1].vector), abs=1e-5)
    assert store.search(None, words='text:nothing ("', top_k=3) == []  # words are words, no language


def test_what_is_added_is_found_at_once_by_words_by_vector_and_by_both(location):
    store = create_store(location, ABOUT)
    try:
        picture, wolf, fox = vectors(3, 5)
        store.add([Item("picture", picture, thumbnail=b"small")])
        store.build_indexes(exact_below=1000)
        assert store.search(None, words="wolf") == []
        store.add([Item("wolf", wolf, "a grey wolf")])
        assert ids(store.search(None, words="wolf")) == ["wolf"]
        assert ids(store.search(wolf, top_k=1)) == ["wolf"]
        assert sorted(ids(store.search(picture, words="wolf", top_k=2))) == ["picture", "wolf"]
        store.add([Item("wolf", fox, "now a fox")])
        assert (ids(store.search(None, words="wolf")), ids(store.search(None, words="fox"))) == ([], ["wolf"])
        store.delete(["wolf"])
        assert store.search(None, words="fox") == []
    finally:
        store.close()


def test_an_id_is_an_id_whatever_stands_in_it(store):
    strange = ["x'] or id in ['a", "'", '"', "\\", "'\"\\", "a\nb", "\0", "%", "' OR ''='", 'x"] or id != ""']
    more = [Item(name, vector, metadata={"shelf": name}) for name, vector in zip(strange, vectors(len(strange), 9), strict=True)]
    assert store.add(more) == (len(more), 0)
    assert [store.get(one.id) for one in more] == more
    assert [ids(store.search(None, filter=f"id = '{name.replace(chr(39), chr(39) * 2)}'")) for name in strange] == [
        [one] for one in strange
    ]
    assert store.add(more) == (0, len(more))
    for name in strange:
        assert store.delete([name]) == 1
        with pytest.raises(UsageError, match="no item with the id"):
            store.get(name)
    assert sorted(ids(store.search(None))) == list("abcd")
    own = dict.fromkeys(("sparse", "vector", "id", "$meta"), "mine")  # what engines call things by
    assert store.add([Item("own", vectors(1, 4)[0], metadata=own)]) == (1, 0)
    assert dict(store.get("own").metadata) == dict.fromkeys(("meta_sparse", "meta_vector", "meta_id", "meta__meta"), "mine")


def test_an_item_takes_the_place_of_one_with_its_id(store):
    new = [Item("b", vectors(1, 7)[0], "now green", None, "x", {"year": 5}), Item("e", vectors(1, 8)[0], metadata={"fresh": "yes"})]
    assert store.count_origin("one") == 4
    assert store.add(new, origin="two") == (1, 1)
    assert (store.count(), store.count_origin("one"), store.count_origin("two")) == (5, 3, 2)
    assert store.get("b") == new[0]
    assert store.fields["fresh"] == "string"
    assert ids(store.search(new[0].vector, top_k=1)) == ["b"]
    store.build_indexes(exact_below=1000)
    assert ids(store.search(None, words="green")) == ["b"]
    assert ids(store.search(None, words="whale")) == []
    assert store.delete(["b", "nobody", "a"]) == 2
    assert store.count() == 3
    store.compact()
    assert sorted(ids(store.search(vectors(1)[0]))) == ["c", "d", "e"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda store: store.get("nobody"), "has no item with the id 'nobody'"),
        (lambda store: store.search(np.ones(5, np.float32)), "the query has 5 numbers, and the vectors in .* have 8"),
        (lambda store: store.search(vectors(1)[0], top_k=0), "top_k is 1 or more"),
        (lambda store: store.search(vectors(1)[0], filter="yaer > 3"), "no field 'yaer'; did you mean year?"),
        (lambda store: store.add([Item("x", np.ones(5, np.float32))]), "item 'x' has a vector of 5 numbers"),
        (lambda store: store.add([Item("x", np.full(8, np.nan, np.float32))]), "not finite"),
        (lambda store: store.add([Item("x")]), "item 'x' has no vector"),
        (lambda store: store.add([items()[0], items()[0]]), "two items have the id 'a'"),
        (
            lambda store: store.add([Item("x", vectors(1)[0], metadata={"year": "never"})]),
            "'year' is of the type integer in the index, and string",
        ),
        (lambda store: store.build_indexes(exact_below=1, kind="hsnw"), "unknown kind of index 'hsnw'; did you mean hnsw?"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(stores, wrong, said):
    for store in stores:
        with pytest.raises(TwowayError, match=said):
            wrong(store)
        assert (store.count(), len(store.fields)) == (4, 9)


def test_a_number_that_is_none_is_no_value(location):
    store = create_store(location, ABOUT)
    try:
        prices = {"a": 1.5, "b": float("nan"), "c": float("inf")}
        store.add([Item(name, vectors(1)[0], metadata={"price": price}) for name, price in prices.items()])
        assert [dict(store.get(name).metadata) for name in prices] == [{"price": 1.5}, {}, {}]
        assert sorted(ids(store.search(None, filter="price is null"))) == ["b", "c"]
        json.dumps([dict(hit.item.metadata) for hit in store.search(None)], allow_nan=False)
    finally:
        store.close()


def test_an_empty_index_answers_with_nothing(location):
    store = create_store(location, ABOUT)
    try:
        store.build_indexes(exact_below=0)
        assert store.count() == 0
        assert store.search(vectors(1)[0]) == []
        assert store.search(None) == []
    finally:
        store.close()


def test_an_index_of_the_vectors_finds_what_comparing_all_finds(location):
    store = create_store(location, ABOUT)
    try:
        rows = vectors(1200, 3)
        store.add([Item(f"{number}", row) for number, row in enumerate(rows)])
        store.build_indexes(exact_below=1000)
        assert store.index_settings()["kind"] == "hnsw"
        store.set_effort(4)
        assert store.index_settings()["effort"] == 4
        queries = vectors(10, 4)
        true = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
        for exact, least in ((True, 1.0), (False, 0.95)):
            found = [[int(hit.item.id) for hit in store.search(query, top_k=10, exact=exact)] for query in queries]
            assert np.mean([len(set(one) & set(other)) / 10 for one, other in zip(found, true, strict=True)]) >= least
        assert len(store.search(queries[0], top_k=200)) == 200
        with pytest.raises(UsageError, match="maxsim_top is for many vectors an item"):
            store.search(queries[0], maxsim_top=5)
        store.build_indexes(exact_below=5000)
        assert not store.index_settings()
        assert [int(name) for name in ids(store.search(queries[0], top_k=10))] == true[0].tolist()
    finally:
        store.close()


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "ivf-pq"])
def test_a_filter_finds_all_that_pass_wherever_an_index_of_the_vectors_keeps_them(tmp_path, kind):
    store, rows = create_store(tmp_path / "db", ABOUT), vectors(4000, 3)
    store.add([Item(f"{number}", row, "fox", metadata={"few": number % 1000}) for number, row in enumerate(rows)])
    table = open_tables(store.location).open_table(TABLE)
    config = {"hnsw": HnswSq, "ivf": IvfFlat, "ivf-pq": IvfPq}[kind]
    table.create_index("vector", config=config(distance_type="cosine", num_partitions=60, sample_rate=50))  # as of far more rows
    write_settings(table, {"kind": kind, "rows": 4000, "effort": 1})
    store = open_store(tmp_path / "db")
    for query in vectors(5, 4):
        for words in (None, "fox"):
            assert {"7", "1007", "2007", "3007"} == set(ids(store.search(query, top_k=10, filter="few = 7", words=words)))


def test_what_is_there_is_not_made_again_unless_asked(store, location):
    assert store_exists(location)
    with pytest.raises(TwowayError, match=r"exist|already"):
        create_store(location, ABOUT)
    assert store.count() == 4
    store.close()
    other = create_store(location, IndexInfo("other", "0" * 64, 3), overwrite=True)
    try:
        assert (other.count(), other.dimension) == (0, 3)
        other.publish()
        assert (other.count(), other.dimension) == (0, 3)
        assert other.add([Item("x", np.ones(3, np.float32), "a fox")]) == (1, 0)
        assert ids(other.search(None, words="fox")) == ["x"]
    finally:
        other.close()


def test_what_takes_another_s_place_is_seen_once_it_is_published_and_gone_where_it_is_not(store, location):
    for _ in range(2):  # the second takes away what the first left, which was killed
        killed = create_store(location, IndexInfo("other", "0" * 64, 3), overwrite=True)
        killed.add([Item("x", np.ones(3, np.float32))])
        assert (store.count(), ids(store.search(items()[1].vector, top_k=1))) == (4, ["b"])
    left = create_store(location, IndexInfo("other", "0" * 64, 3), overwrite=True)
    left.close()
    assert (store.count(), ids(store.search(None, words="whale"))) == (4, ["b"])
    new = create_store(location, ABOUT, overwrite=True)
    new.add(items()[:2])
    new.publish()
    new.close()
    again = open_store(location)
    assert sorted(ids(again.search(items()[1].vector))) == ["a", "b"]
    again.close()
    if location.endswith(".db"):
        assert len(store._client.list_collections()) == 2
    else:
        assert [path.name for path in Path(location).glob("*.lance")] == ["items.lance"]


def test_what_is_not_there_is_said(location, tmp_path):
    assert not store_exists(location)
    with pytest.raises(UsageError, match="does not exist; make an index with 'twoway index DIR --index"):
        open_store(location)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        open_store(tmp_path / "file")
    with pytest.raises(UsageError, match=r"an index is a folder, a Milvus Lite file that ends in \.db, or milvus://"):
        open_store("http://example.org/x")
    with pytest.raises(UsageError, match="not an address of a collection"):
        open_store("milvus://host:x/../y")


HOLD = """
import sys, fcntl
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("name", "lock", "said"), [("index", ".lock", "another run is writing to"), ("index.db", "LOCK", "is open in another program")]
)
def test_another_process_is_told_of(tmp_path, name, lock, said):
    location = tmp_path / name
    store = create_store(location, ABOUT)
    store.add(items())
    store.close()
    other = subprocess.Popen([sys.executable, "-c", HOLD, location / lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(TwowayError, match=said):
            open_store(location).add(items()[:1])
    finally:
        other.communicate(b"")
    again = open_store(location)
    assert again.count() == 4
    again.close()
