"""A file that a full disk has cut off is told from a whole one, whatever Lance says of the write."""

from __future__ import annotations

import numpy as np
import pytest

from twoway.search import lance
from twoway.search.query import create_store
from twoway.search.store import IndexInfo, Item, table_files, truncated_files

pytestmark = pytest.mark.xdist_group("engines")


def test_every_kind_of_file_is_known_and_whole_or_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(lance, "_IDS", 100)
    store = create_store(tmp_path / "db", IndexInfo("my-model", "f" * 64, 8))
    rows = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    store.add([Item(f"{number}", row, f"fox {number}") for number, row in enumerate(rows)])
    for kind in ("hnsw", "ivf"):
        store.build_indexes(exact_below=100, kind=kind)
    store.delete(["1", "2"])
    table = tmp_path / "db/items.lance"
    known = table_files(table)
    assert {path.suffix for path in known} == {".lance", ".idx", ".arrow"}
    assert known == {path for part in ("data", "_indices", "_deletions") for path in (table / part).rglob("*") if path.is_file()}
    assert truncated_files(known) == []
    for path in known:
        with path.open("rb+") as file:
            file.truncate(path.stat().st_size // 2)
    assert set(truncated_files(known)) == known
