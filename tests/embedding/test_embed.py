"""Bulk embedding: every good row once, whatever ends a run; nothing mixed; nothing lost in silence."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from twoway.content import ContentError, Document, Text
from twoway.embedding import open_embedder
from twoway.embedding.bulk import _Run, embed
from twoway.embedding.shards import Shards, alone
from twoway.errors import TwowayError, UsageError

ROWS = 45  # and one blank line


@pytest.fixture(scope="module")
def engine(tiny_encoder):
    return open_embedder(tiny_encoder("qwen2_vl", prompts={"query": "ask "}), device="cpu", window=16)


@pytest.fixture
def data(tmp_path):
    """Write rows of text and pictures, two of them bad in different ways, and some the same."""
    for number in range(3):
        Image.new("RGB", (30, 30), (number * 60, 0, 0)).save(tmp_path / f"{number}.png")
    rows = [{"text": f"row {number} " + "w " * (number % 7), "n": number} for number in range(ROWS)]
    rows[4] = {"image": "0.png", "id": "red"}
    rows[9] = {"image": "none.png"}
    rows[17] = {"words": "no column of ours"}
    rows[30] = rows[3]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + ("\n\n" if n == 5 else "\n") for n, row in enumerate(rows)))
    return tmp_path / "rows.jsonl"


def table(folder):
    shards = Shards.open(folder)
    found = [(one.to_pylist(), shards.vectors(one)) for one in shards.tables()]
    return [row for rows, _ in found for row in rows], np.concatenate([vectors for _, vectors in found])


def test_every_good_row_is_there_once_with_its_place_and_its_vector(engine, data, tmp_path):
    result = embed(engine, data, tmp_path / "out", on_bad="skip", shard_rows=10)
    rows, vectors = table(tmp_path / "out")
    assert (result.rows, result.vectors, result.bad, result.embedded) == (ROWS, ROWS - 2, 2, ROWS - 2)
    lines = [number + 1 + (number > 5) for number in range(ROWS) if number not in (9, 17)]
    assert [row["row"] for row in rows] == lines
    assert {row["file"] for row in rows} == {str(data)}
    assert rows[4] | {"vector": None} == {
        "id": "red", "file": str(data), "row": 5, "unit": "row", "text": None, "image": str(tmp_path / "0.png"), "meta": '{"id": "red"}',
        "vector": None,
    }  # fmt: skip
    assert rows[6]["id"] == f"{data}:8"
    assert rows[6]["text"].startswith("row 6 w")
    assert json.loads(rows[6]["meta"]) == {"n": 6}
    alone = engine.sentence.encode(["row 6 " + "w " * 6], show_progress_bar=False)
    assert np.abs(vectors[6] - alone[0]).max() < 1e-5
    listed = [json.loads(line) for line in (tmp_path / "out/bad-rows.jsonl").read_text().splitlines()]
    assert sorted(one["row"] for one in listed) == [11, 19]
    assert [pq.ParquetFile(path).metadata.num_rows for path in Shards.open(tmp_path / "out").paths()] == [9, 9, 10, 10, 5]


def test_anyone_can_read_the_vectors(engine, data, tmp_path):
    embed(engine, data, tmp_path / "out", on_bad="skip")
    kind = pq.read_schema(tmp_path / "out/part-000000.parquet").field("vector").type
    assert str(kind) == "fixed_size_list<element: float not null>[32]"
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["fingerprint"] == engine.fingerprint
    assert manifest["finished"] is True


def test_a_bad_row_ends_a_strict_run_and_what_is_whole_stays(engine, data, tmp_path):
    with pytest.raises(ContentError, match=r"rows\.jsonl:1[19]: "):
        embed(engine, data, tmp_path / "out", shard_rows=4)
    assert Shards.open(tmp_path / "out").done() <= 2
    result = embed(engine, data, tmp_path / "out", shard_rows=4, on_bad="skip")
    assert (result.rows, result.vectors) == (ROWS, ROWS - 2)


def killed(engine, data, out, *, when):
    """Embed in a child that kills itself (`when` is a number of writes) or is killed after a time; return whether it was."""
    child = os.fork()
    if not child:
        try:
            if isinstance(when, int):
                kill_at(when)
            embed(engine, data, out, on_bad="skip", shard_rows=6)
        finally:
            os._exit(0)
    if isinstance(when, float):
        time.sleep(when)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_at(write):
    """Die at the commit of a file: it lies beside, whole, and is not yet renamed (an even number), or just is (an odd one)."""
    count = iter(range(10**6))
    rename = os.rename

    def dying(*args, **kwargs):
        number = 2 * next(count)
        if number == write:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*args, **kwargs)
        if number + 1 == write:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = dying


def whole(engine, data, out, reference):
    """Finish the run and compare it with one that was never stopped."""
    result = embed(engine, data, out, on_bad="skip", shard_rows=6)
    rows, vectors = table(out)
    right, true = table(reference)
    assert [{**row, "vector": None} for row in rows] == [{**row, "vector": None} for row in right]
    assert np.abs(vectors - true).max() < 1e-5
    listed = [json.loads(line)["row"] for line in (out / "bad-rows.jsonl").read_text().splitlines()]
    assert sorted(listed) == [11, 19]
    assert not list(out.glob(".part*"))
    return result


def test_a_run_killed_at_any_write_goes_on_and_ends_the_same(engine, data, tmp_path):
    embed(engine, data, tmp_path / "reference", on_bad="skip", shard_rows=6)
    for write in (0, 1, 2, 3, 4, 1):  # each time on what the one before left
        assert killed(engine, data, tmp_path / "out", when=write)
    result = whole(engine, data, tmp_path / "out", tmp_path / "reference")
    assert result.embedded < ROWS - 2
    again = embed(engine, data, tmp_path / "out", on_bad="skip", shard_rows=6)
    assert (again.embedded, again.vectors) == (0, ROWS - 2)


@pytest.mark.slow
def test_twenty_kills_at_random(engine, data, tmp_path):
    embed(engine, data, tmp_path / "reference", on_bad="skip", shard_rows=6)
    start = time.monotonic()  # of a second run: the first one warms up, and a child starts warm
    embed(engine, data, tmp_path / "again", on_bad="skip", shard_rows=6)
    seconds = time.monotonic() - start
    draw, kills = random.Random(0), 0
    for number in range(20):
        out = tmp_path / f"out{number // 4}"
        kills += killed(engine, data, out, when=draw.random() * seconds)
        if number % 4 == 3:
            whole(engine, data, out, tmp_path / "reference")
    assert kills >= 5


def test_another_model_length_precision_prompt_or_data_is_refused(engine, tiny_encoder, data, tmp_path):
    out = tmp_path / "out"
    embed(engine, data, out, on_bad="skip", truncate_dim=16)
    other = open_embedder(tiny_encoder("qwen2_vl", pooling="last"), device="cpu")
    for wish, said in (
        ({"model": other}, "holds vectors of another model"),
        ({"truncate_dim": 8}, r"vectors of another length \(16, and 8 is asked for\)"),
        ({"precision": "int8"}, r"vectors of another precision \(float32, and int8 is asked for\)"),
        ({"side": "query"}, "vectors made with another prompt"),
        ({"shard_rows": 3}, "shards of another size"),
        ({"data": [data, data]}, "vectors of other data"),
    ):
        given = {"model": engine, "data": data, "out": out, "truncate_dim": 16, "on_bad": "skip"} | wish
        with pytest.raises(UsageError, match=said):
            embed(**given)
    data.write_text(data.read_text() + '{"text": "one more"}\n')
    with pytest.raises(UsageError, match="or the data has changed since"):
        embed(engine, data, out, truncate_dim=16, on_bad="skip")
    assert embed(engine, data, out, truncate_dim=16, on_bad="skip", overwrite=True).rows == ROWS + 1


@pytest.mark.parametrize("precision", ["float16", "int8", "binary"])
def test_coarser_vectors_are_near_the_whole_ones(precision, engine, data, tmp_path):
    embed(engine, data, tmp_path / "float", on_bad="skip", truncate_dim=16)
    result = embed(engine, data, tmp_path / "out", on_bad="skip", truncate_dim=16, precision=precision, measure_recall=True)
    _, true = table(tmp_path / "float")
    _, found = table(tmp_path / "out")
    assert pq.read_schema(tmp_path / "out/part-000000.parquet").field("vector").type.list_size == (2 if precision == "binary" else 16)
    if precision == "binary":
        assert (found == np.where(true > 0, 1, -1)).all()
    else:
        assert np.abs(found - true).max() < 0.01
    assert result.recall == {}  # too few rows to say anything


def test_the_loss_of_recall_is_measured(engine, tmp_path):
    (tmp_path / "many.jsonl").write_text("".join(json.dumps({"text": f"{n * n} w{n}"}) + "\n" for n in range(120)))
    result = embed(engine, tmp_path / "many.jsonl", tmp_path / "out", truncate_dim=16, precision="binary", measure_recall=True)
    assert result.recall["32 x float32"] == 1
    assert result.recall["32 x float16"] > 0.95
    assert result.recall["16 x binary"] < result.recall["16 x int8"] <= 1
    assert result.recall["8 x float32"] < 1


def test_several_sources_are_one_behind_the_other_and_go_on_across_their_border(engine, data, tmp_path):
    Image.new("RGB", (28, 28)).save(tmp_path / "pages.pdf", save_all=True, append_images=[Image.new("RGB", (28, 28), "red")])
    sources = [data, tmp_path / "pages.pdf", str(tmp_path / "?.png")]
    out = tmp_path / "out"
    embed(engine, sources, out, on_bad="skip", shard_rows=6)
    rows, _ = table(out)
    assert [(row["row"], row["unit"]) for row in rows[-5:]] == [(1, "page"), (2, "page"), (None, "row"), (None, "row"), (None, "row")]
    for path in Shards.open(out).paths()[-2:]:
        path.unlink()
    (out / "manifest.json").write_text((out / "manifest.json").read_text().replace('"finished": true', '"finished": false'))
    embed(engine, sources, out, on_bad="skip", shard_rows=6)
    assert [row["id"] for row in table(out)[0]] == [row["id"] for row in rows]


def test_a_full_disk_is_said_and_what_is_whole_stays(engine, data, tmp_path, monkeypatch):
    write = Shards.write

    def full(self, number, *args, **kwargs):
        if number == 2:
            raise TwowayError("no space left on the disk while writing it; nothing was kept, free some space and try again")
        write(self, number, *args, **kwargs)

    monkeypatch.setattr(Shards, "write", full)
    with pytest.raises(TwowayError, match=r"no space left .* \(the same command resumes; 2 shards are complete\)"):
        embed(engine, data, tmp_path / "out", on_bad="skip", shard_rows=6)
    monkeypatch.undo()
    assert embed(engine, data, tmp_path / "out", on_bad="skip", shard_rows=6).vectors == ROWS - 2


def test_two_runs_do_not_write_to_one_folder(engine, data, tmp_path):
    with alone(tmp_path / "out"), pytest.raises(UsageError, match="another run is writing to"):
        embed(engine, data, tmp_path / "out", on_bad="skip")
    assert embed(engine, data, tmp_path / "out", on_bad="skip").vectors == ROWS - 2


def test_a_folder_that_is_not_ours_or_is_damaged_is_refused(engine, data, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/part-0.parquet").write_bytes(b"")
    with pytest.raises(UsageError, match=r"holds Parquet files and no manifest\.json"):
        embed(engine, data, tmp_path / "theirs", on_bad="skip")
    embed(engine, data, tmp_path / "out", on_bad="skip", shard_rows=6)
    Shards.open(tmp_path / "out").path(2).unlink()
    with pytest.raises(TwowayError, match="lacks a shard between others"):
        embed(engine, data, tmp_path / "out", on_bad="skip", shard_rows=6)
    (tmp_path / "out/manifest.json").write_text("{")
    with pytest.raises(TwowayError, match=r"manifest\.json cannot be read"):
        embed(engine, data, tmp_path / "out", on_bad="skip", shard_rows=6)


def test_wrong_wishes_leave_nothing_behind(engine, data, tmp_path):
    (tmp_path / "file").write_text("")
    for wish, said in (
        ({"truncate_dim": 99}, "truncate_dim 99 is out of range"),
        ({"truncate_dim": 12, "precision": "binary"}, "12 is not a multiple of 8"),
        ({"precision": "int4"}, "precision takes one of .*, not 'int4'; did you mean int8"),
        ({"prompt_name": "passage"}, "the model has no prompt 'passage'"),
        ({"shard_rows": 0}, "shard_rows takes a whole number from 1"),
        ({"data": tmp_path / "none.jsonl"}, "there is no"),
        ({"out": tmp_path / "file"}, "is a file"),
    ):
        with pytest.raises(UsageError, match=said):
            embed(**{"model": engine, "data": data, "out": tmp_path / "out"} | wish)
        assert not (tmp_path / "out").exists()


def test_data_without_a_good_row_is_an_error(engine, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{\n")
    with pytest.raises(TwowayError, match=r"every row is bad \(1\), the first: .*bad.jsonl:1: invalid JSON"):
        embed(engine, tmp_path / "bad.jsonl", tmp_path / "out", on_bad="skip")


def test_memory_stays_flat_however_long_the_input_is(engine, tmp_path):
    """The rows are the same few, so that nothing but what is held grows: ten times as many rows may not hold 15 MB more."""

    def grown(count, name):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": f"{n % 50} words"}) + "\n" for n in range(count)))
        embed(engine, tmp_path / f"{name}.jsonl", tmp_path / name, shard_rows=200)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = grown(600, "few")
    assert grown(6_000, "many") - before < 15_000


def test_a_shard_whose_rows_are_all_bad_is_empty_and_can_be_read(engine, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n{broken\n{broken\n{"text": "good too"}\n{broken\n{broken\n')
    assert embed(engine, tmp_path / "rows.jsonl", tmp_path / "out", on_bad="skip", shard_rows=2).bad == 4
    shards = Shards.open(tmp_path / "out")
    assert [shards.vectors(one).shape for one in shards.tables()] == [(1, 32), (1, 32), (0, 32)]


class Unread(dict):
    """A table in which single entries are looked up, and that nobody looks through."""

    def __iter__(self):
        raise AssertionError("all rows on their way are looked through")

    keys = values = items = __iter__


def test_an_answered_row_takes_no_look_through_all_that_are_on_their_way():
    class Written(SimpleNamespace):
        def write(self, rows, vectors, *, seen):
            self.due += 1
            self.shards.append((len(rows), len(vectors), seen))

    count = 20
    writer = Written(due=0, size=count, shards=[], note=lambda _number, _vector: None)
    run, vector = _Run(writer), np.zeros(2, np.float32)
    run.numbers = Unread()
    assert sum(1 for _ in run.documents(iter([Document((Text("a"),))] * (count + 1)), 0)) == count + 1
    for index in range(count + 1):
        run.add(index, vector)
    run.end()
    assert writer.shards == [(count, count, count), (1, 1, 1)]


def test_more_than_a_million_shards_stay_in_order(tmp_path):
    shards = Shards(tmp_path, {})
    paths = [shards.path(number) for number in (2, 999_999, 1_000_000, 1_000_001)]
    for path in paths:
        path.touch()
    assert shards.paths() == paths
