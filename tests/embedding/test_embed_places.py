"""Rows by their place: the same rows in the same order as a reader gives them, whatever the source."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from twoway.content import ContentError
from twoway.embedding.ray import SourceRows
from twoway.embedding.writing import Sources, row_of
from twoway.errors import UsageError


@pytest.fixture
def specs(tmp_path):
    """Write one source of each kind; some rows are bad."""
    Image.new("RGB", (28, 28), "red").save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n\n{"image": "a.png"}\n{broken\n{"words": "none of ours"}\n{"text": "last"}')
    Image.new("RGB", (28, 28)).save(tmp_path / "pages.pdf", save_all=True, append_images=[Image.new("RGB", (28, 28), "red")])
    (tmp_path / "torn.pdf").write_bytes(b"%PDF-1.4 nothing")
    pq.write_table(pa.table({"text": ["p", None, "q"], "n": [1, 2, 3]}), tmp_path / "rows.parquet", row_group_size=2)
    names = ("rows.jsonl", "pages.pdf", "torn.pdf", "rows.parquet", "*.png", "[pr]*.[jp]*")
    return [str(tmp_path / name) for name in names] + ["samples:test-source"]


def shown(number, row):
    return str(row) if isinstance(row, ContentError) else (row_of(number, row), row.fingerprint())


def test_rows_by_place_are_the_rows_of_the_readers(specs):
    sources = Sources(specs, root=None, dpi=72)
    places = pickle.loads(pickle.dumps(SourceRows(sources)))
    shards = list(places.shards(4))
    assert [len(one) for one in shards[:-1]] == [4] * (len(shards) - 1)
    found = [row for shard in shards for row in places.read(shard)]
    assert [shown(n, row) for n, row in enumerate(found)] == [shown(n, row) for n, row in enumerate(sources.rows(0))]
    assert (
        sum(isinstance(row, ContentError) for row in found) == 7
    )  # twice the three of JSONL and Parquet, by name and by pattern, and torn.pdf


def test_a_stream_is_refused_with_what_to_do():
    with pytest.raises(UsageError, match=r"hub:owner/name is a stream, .* save it with datasets\.save_to_disk"):
        SourceRows(Sources(["hub:owner/name"], root=None, dpi=72))
