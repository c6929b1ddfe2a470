"""Held-out rows: few, the same whatever else is there, and in no epoch."""

from __future__ import annotations

import json

import numpy as np
import pytest

from twoway.data.config import SourceConfig
from twoway.data.mixture import drop_rows, held_out, open_mixture


@pytest.fixture
def mixture_of(tmp_path):
    def make(*sizes, weight=1.0):
        sources = []
        for number, size in enumerate(sizes):
            path = tmp_path / f"{number}.jsonl"
            path.write_text("".join(json.dumps({"parts": [{"text": f"row {row}"}]}) + "\n" for row in range(size)))
            sources.append(SourceConfig(str(path), weight=weight))
        return open_mixture(sources)

    return make


def test_no_epoch_has_a_held_row_nor_a_repetition_of_it(mixture_of):
    mixture = mixture_of(200, 100, weight=2.5)
    held = held_out(mixture, 12)
    assert len(held) == len(set(held.tolist())) == 12
    for epoch in range(2):
        rows = mixture.epoch(1, epoch)
        left = drop_rows(mixture, rows, held)
        assert not set(mixture.table_rows(left).tolist()) & set(held.tolist())
        assert len(left) < len(rows)
        assert set(rows.tolist()) - set(left.tolist()) == {row for row in rows.tolist() if row % len(mixture) in held}


def test_little_data_is_not_held_out(mixture_of):
    assert len(held_out(mixture_of(19), 128)) == 0
    assert len(held_out(mixture_of(100), 128)) == 5
    assert len(held_out(mixture_of(100), 0)) == 0


def test_what_is_held_out_follows_from_identities(mixture_of):
    alone, more = mixture_of(300), mixture_of(300, 40)
    first = {alone.identity(row) for row in held_out(alone, 10)}
    second = {more.identity(row) for row in held_out(more, 14)}
    assert len(first - second) <= 3  # rows of the new source only push some out
    spread = held_out(alone, 15)
    assert np.ptp(spread) > 100
