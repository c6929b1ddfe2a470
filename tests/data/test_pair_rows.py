"""Rows become pairs whatever form they are in, and what is no pair says why and where."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twoway.content import ContentError, Document, Image, Place, Text
from twoway.data.config import PairSource
from twoway.data.mixture import open_pairs
from twoway.data.rows import Policy, ReadOptions
from twoway.data.sources.formats import pair_from_row
from twoway.errors import TwowayError, UsageError

PLACE = Place("rows.jsonl", 3)


def pair(row, task="t"):
    return pair_from_row(row, PLACE, None, ReadOptions(), task=task)


@pytest.mark.parametrize(
    "row",
    [
        {"query": "q", "positive": "p", "negatives": ["n", "m"]},
        {"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m"},
        {"query": {"text": "q"}, "positive": {"parts": [{"text": "p"}]}, "negatives": [[{"text": "n"}], {"text": "m"}]},
        {"query_text": "q", "positive_text": "p", "negative": "n", "negative_text": "m"},
        {"sentence1": "q", "sentence2": "p", "negative": "n", "negative_1": "m"},
        {"query": "q", "positives": ["p"], "negatives": ["n", "m"], "score": 3},
    ],
)
def test_columns_that_say_the_same_are_the_same_pair(row):
    found = pair(row)
    assert (found.query, found.positive) == (Document((Text("q"),)), Document((Text("p"),)))
    assert found.negatives == (Document((Text("n"),)), Document((Text("m"),)))
    assert (found.task, found.place) == ("t", PLACE)


def test_sides_are_documents_of_texts_and_pictures_in_order(png):
    red, blue = png("red"), png("blue")
    found = pair(
        {
            "query": [{"text": "before"}, {"image": red}, {"text": "after"}],
            "positive": {"image": {"bytes": blue, "path": "b.png"}, "text": "a page"},
            "negatives": [red, {"image": [red, blue]}],
            "task": "own",
        }
    )
    assert found.query.parts == (Text("before"), Image(red), Text("after"))
    assert found.positive.parts == (Image(blue), Text("a page"))
    assert found.negatives == (Document((Image(red),)), Document((Image(red), Image(blue))))
    assert found.task == "own"
    both = pair({"query_image": red, "query_text": "and this", "positive": "p"})
    assert both.query.parts == (Image(red), Text("and this"))


def test_no_negatives_are_fine_and_further_answers_are_kept():
    assert pair({"query": "q", "positive": "p"}).negatives == ()
    assert pair({"query": "q", "positive": "p", "negatives": []}).negatives == ()
    assert pair({"query": "q", "positives": ["p", "r"]}).positives[1:] == (Document((Text("r"),)),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q"}, "no positive: nothing answers its query"),
        ({"query": "q", "positives": []}, "no positive"),
        ({"positive": "p"}, "no query"),
        ({"qeury": "q", "positive": "p"}, "did you mean query"),
        ({"query": "q", "positive": "p", "negatives": ["n", "p"]}, "negative 2 is the positive itself"),
        ({"query": "q", "positives": ["p", "r"], "negatives": ["r"]}, "negative 1 is the positive itself"),
        ({"query": "", "positive": "p"}, "query: the text of part 1 is empty"),
        ({"query": "q", "positive": {"txt": "p"}}, "positive: it has the unknown key 'txt'; did you mean text"),
        ({"query": "q", "positive": "p", "negatives": "n"}, "negatives is a list"),
        ({"query": "q", "positive": 3}, "positive: the image of part 1 is a number"),
        (["q", "p"], "the row is a list"),
    ],
)
def test_what_is_no_pair_says_why_and_where(row, message):
    with pytest.raises(ContentError, match=message) as caught:
        pair(row)
    assert str(caught.value).startswith("rows.jsonl:3: ")


def test_any_source_gives_the_same_pairs_by_their_numbers(jsonl, png, tmp_path):
    (tmp_path / "a.png").write_bytes(png("red"))
    rows = [{"query": f"q{number}", "positive": {"image": "a.png"}, "negatives": ["n"], "task": "ab"[number % 2]} for number in range(5)]
    path = jsonl(*rows)
    table = pa.Table.from_pylist([row | {"positive": {"image": {"bytes": png("red"), "path": None}}} for row in rows])
    pq.write_table(table, tmp_path / "rows.parquet")
    for spec in (path, tmp_path / "rows.parquet"):
        pairs = open_pairs([PairSource(str(spec))], folder=tmp_path / "kept")
        assert pairs.tasks == ("a", "b")
        assert pairs.rows("b").tolist() == [1, 3]
        identity, found = pairs.read(3)
        assert (identity, found.query.texts, found.task) == (f"{spec.name}#4", ("q3",), "b")
        again = open_pairs([PairSource(str(spec))], folder=tmp_path / "kept")
        assert (again.tasks, again.task_of.tolist(), again.digest()) == (pairs.tasks, pairs.task_of.tolist(), pairs.digest())
        assert again.read(3)[1] == found


def test_datasets_on_disk_and_of_the_hub_are_pairs_too(png, tmp_path):
    rows = [{"anchor": f"q{number}", "positive": {"bytes": png("red"), "path": None}, "negative": "n"} for number in range(4)]
    table = datasets.Dataset.from_list(rows).cast_column("positive", datasets.Image())
    table.save_to_disk(str(tmp_path / "disk"))
    (tmp_path / "hub").mkdir()
    table.to_parquet(str(tmp_path / "hub" / "train.parquet"))
    for source in (PairSource(str(tmp_path / "disk")), PairSource(f"hub:{tmp_path / 'hub'}", cap=3, name="hub")):
        pairs = open_pairs([source], folder=tmp_path / "kept")
        assert len(pairs) == (source.cap or 4)
        identity, found = pairs.read(2)
        assert identity == f"{source.label}#3"
        assert found.query.texts == ("q2",)
        assert isinstance(found.positive.parts[0], Image)
        assert found.negatives[0].texts == ("n",)
    with pytest.raises(UsageError, match="say with cap"):
        open_pairs([PairSource(f"hub:{tmp_path / 'hub'}")], folder=tmp_path / "kept")


def test_a_source_may_be_one_task_and_the_task_is_part_of_what_the_data_is(jsonl):
    path = str(jsonl({"query": "q", "positive": "p", "task": "own"}, {"query": "r", "positive": "s"}))
    assert open_pairs([PairSource(path)]).tasks == ("own", "rows.jsonl")
    named = open_pairs([PairSource(path, task="all")])
    assert named.tasks == ("all",)
    assert named.read(0)[1].task == "all"
    assert named.digest() != open_pairs([PairSource(path)]).digest()


def test_bad_rows_stop_the_run_or_are_left_out_and_listed(jsonl, tmp_path):
    good = {"query": "q", "positive": "p"}
    path = str(jsonl(good, {"query": "r"}, {"query": "s", "positive": {"image": "missing.png"}}, b"{", good))
    with pytest.raises(TwowayError, match=r"rows\.jsonl:2: the row has no positive"):
        open_pairs([PairSource(path)])
    pairs = open_pairs([PairSource(path)], policy=Policy("skip", tmp_path / "bad.jsonl"))
    assert [pairs.read(row)[0] for row in range(len(pairs))] == ["rows.jsonl#1", "rows.jsonl#5"]
    reasons = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [line["row"] for line in reasons] == [2, 3, 4]
    assert "missing.png does not exist" in reasons[1]["reason"]


def test_documents_are_no_pairs(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(UsageError, match="documents, not pairs"):
        open_pairs([PairSource(str(tmp_path / "a.pdf"))])
    with pytest.raises(UsageError, match=r"no format of pairs 'mmeb-tain'; did you mean mmeb-train"):
        PairSource("x", row_template="mmeb-tain")
    with pytest.raises(UsageError, match="documents, not pairs"):
        open_pairs([PairSource("samples:pretrain")])


def test_samples_are_pairs_with_tasks():
    pairs = open_pairs([PairSource("samples:train", cap=300)])
    assert len(pairs) == 300
    assert len(pairs.tasks) > 5
    identity, found = pairs.read(7)
    assert identity == "samples:train#8"
    assert found.task == pairs.tasks[pairs.task_of[7]]


def test_a_kept_table_tells_the_task_of_all_rows_from_that_of_rows_that_name_none(jsonl, tmp_path):
    spec = str(jsonl({"query": "a", "positive": "b", "task": "own"}, {"query": "c", "positive": "d"}))
    for task, tasks in ((None, ("own", "rows.jsonl")), ("rows.jsonl", ("rows.jsonl",)), (None, ("own", "rows.jsonl"))):
        assert open_pairs([PairSource(spec, task=task)], folder=tmp_path / "tables").tasks == tasks


def test_a_reader_is_used_by_one_thread_at_a_time(jsonl, monkeypatch):
    pairs = open_pairs([PairSource(str(jsonl(*({"query": f"q{number}", "positive": "p"} for number in range(20)))))])
    reader, busy = pairs.mixture.tables[0].reader, threading.Lock()
    plain = reader.read

    def read(at):
        assert busy.acquire(blocking=False)
        time.sleep(0.001)
        found = plain(at)
        busy.release()
        return found

    monkeypatch.setattr(reader, "read", read)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(pairs.read, range(20)))
    assert [pair.query.texts for _, pair in found] == [(f"q{number}",) for number in range(20)]


def test_held_out_rows_are_a_twentieth_of_each_task_at_most_and_depend_on_identities_alone(jsonl):
    lines = [{"query": f"q{number}", "positive": "p", "task": "ab"[number % 3 == 0]} for number in range(420)]
    pairs = open_pairs([PairSource(str(jsonl(*lines, name="ours.jsonl")))])
    held = pairs.held_out(10)
    for task in pairs.tasks:
        own = pairs.rows(task)
        assert len(set(own) & set(held)) == min(10, len(own) // 20)
    other = str(jsonl(*({"query": f"q{number}", "positive": "p"} for number in range(60))))
    wider = open_pairs([PairSource(other), *pairs.mixture.sources])
    names = [wider.mixture.identity(int(row)) for row in wider.held_out(10)]
    assert [name for name in names if name.startswith("ours")] == [pairs.mixture.identity(int(row)) for row in held]
    assert sum(name.startswith("rows.jsonl") for name in names) == 3
    assert len(pairs.held_out(0)) == 0
