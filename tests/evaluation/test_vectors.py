"""Vectors are kept by content and prompt, survive a run that is cut off, and are never what is no vector."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from twoway.content import ContentError, Document, Place, Text
from twoway.errors import TwowayError
from twoway.evaluation.cache import VectorSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ASKED = [Document((Text(f"text {number}"),), Place("rows", number)) for number in range(1, 7)]


class Engine:
    """Gives the length of a text and its prompt; may stop, or give what is no number."""

    fingerprint, name = "f", "engine"

    def __init__(self, *, dimension: int = 3, stop: int = 99, spoil: str = "") -> None:
        self.dimension, self.stop, self.spoil, self.asked = dimension, stop, spoil, 0

    def embed(self, documents: Any, *, side: Any = None, prompt: str = "", refuse: Any = None) -> Iterator[tuple[int, Any]]:
        for number, document in enumerate(documents):
            if number == self.stop:
                raise KeyboardInterrupt
            self.asked += 1
            text = prompt + document.texts[0]
            yield number, np.full(self.dimension, np.nan if text == self.spoil else len(text) + len(side or ""), np.float32)


def test_what_was_embedded_before_a_run_is_cut_off_is_kept(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        VectorSource(Engine(stop=4), tmp_path)(ASKED, None, "a", {})
    again = VectorSource(Engine(), tmp_path)
    found = again(ASKED, None, "a", {})
    assert (again.engine.asked, again.taken, found.shape) == (2, 4, (6, 3))


def test_while_the_model_is_at_work_another_run_may_write(tmp_path: Path):
    class Slow(Engine):
        def embed(self, documents: Any, **how: Any) -> Iterator[tuple[int, Any]]:
            for number, vector in super().embed(documents, **how):
                yield number, vector
                with sqlite3.connect(tmp_path / "f.sqlite", timeout=0.0) as other:
                    other.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?)", (f"of another run {number}", vector.tobytes()))

    source = VectorSource(Slow(), tmp_path)
    assert np.isfinite(source(ASKED, None, "a", {})).all()


def test_a_cache_that_is_torn_is_said_in_one_line(tmp_path: Path):
    many = [Document((Text(f"text {number}"),), Place("rows", number)) for number in range(400)]
    VectorSource(Engine(dimension=200, stop=999), tmp_path)(many, None, "a", {})
    path = tmp_path / "f.sqlite"
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    with pytest.raises(TwowayError, match=r"f\.sqlite cannot be read \(.*\); remove it, or name another with --cache-dir"):
        VectorSource(Engine(dimension=200, stop=999), tmp_path)(many, None, "a", {})


@pytest.mark.parametrize("damage", [b"", b"torn!", b"\0" * 4, "twelve chars", 7])
def test_one_damaged_vector_is_said_in_one_line(tmp_path: Path, damage: Any):
    """Whichever row it is; one number is not spread over the whole vector."""
    VectorSource(Engine(), tmp_path)(ASKED, None, "a", {})
    with sqlite3.connect(tmp_path / "f.sqlite") as file:
        (last,) = file.execute("SELECT MAX(key) FROM vectors").fetchone()
        file.execute("UPDATE vectors SET vector = ? WHERE key = ?", (damage, last))
    with pytest.raises(TwowayError, match=r"f\.sqlite cannot be read \(the vector of .* is damaged\); remove it, or name another"):
        VectorSource(Engine(), tmp_path)(ASKED, None, "a", {})


def test_a_vector_that_is_not_finite_is_none_and_is_not_kept(tmp_path: Path):
    bad: dict[int, ContentError] = {}
    source = VectorSource(Engine(spoil="text 2"), tmp_path)
    found = source(ASKED, None, "a", bad)
    assert list(bad) == [1]
    assert str(bad[1]) == "rows:2: the model gives numbers that are not finite"
    assert np.isnan(found[1]).all()
    again = VectorSource(Engine(), tmp_path)
    assert np.isfinite(again(ASKED, None, "a", {})).all()
    assert again.engine.asked == 1


def test_sides_and_instructions_have_vectors_of_their_own(tmp_path: Path):
    source = VectorSource(Engine(), tmp_path)
    kinds = [(None, None), ("query", None), ("document", None), ("query", "Find: "), (None, "Find: ")]
    found = [float(source(ASKED[:1], side, "a", {}, prompt=told)[0, 0]) for side, told in kinds]
    assert found == [6.0, 11.0, 14.0, 17.0, 12.0]
    assert source.embedded == len(kinds)


def test_a_model_of_another_length_is_not_taken_for_this_one(tmp_path: Path):
    VectorSource(Engine(), tmp_path)(ASKED, None, "a", {})
    with pytest.raises(TwowayError, match="holds vectors of 3 numbers, and this model's have 4"):
        VectorSource(Engine(dimension=4), tmp_path)(ASKED, None, "a", {})
