"""Rows that are measured are rows of the data: a bad one is met by the same policy as in training."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from twoway.content import ContentError, Document, Place, Text
from twoway.data.rows import Policy
from twoway.methods.finetune.callbacks import read_examples
from twoway.methods.pretrain.callbacks import readable_rows


class Rows:
    """Four rows, of which the second went bad, and the last has a picture that does not decode."""

    def read(self, row):
        if row == 1:
            raise ContentError("broken", Place("rows.jsonl", 2))
        return f"rows.jsonl#{row + 1}", Document((Text("torn" if row == 3 else "a"),), Place("rows.jsonl", row + 1))


def encode(identity, document):
    """Encode as training does, which decodes pictures."""
    if document.texts == ("torn",):
        raise ContentError("torn", document.place)
    return identity


def looked_at(policy):
    """Names of the rows that documents, and pairs, are measured on."""
    loader = SimpleNamespace(policy=policy)
    documents = readable_rows(SimpleNamespace(held=range(4), mixture=Rows(), loader=loader, encode=encode))
    of_pairs = SimpleNamespace(to_measure=lambda row, epoch: encode(*row))
    pairs = read_examples(SimpleNamespace(encode=of_pairs, loader=loader), SimpleNamespace(rows=range(4), pairs=Rows()))
    return [name for name, _ in documents], [name for some in pairs for _, name in some]


def test_bad_rows_are_left_out_and_listed_where_that_was_chosen(tmp_path):
    policy = Policy("skip", tmp_path / "bad-rows.jsonl")
    assert looked_at(policy) == (["rows.jsonl#1", "rows.jsonl#3"],) * 2
    assert [json.loads(line)["row"] for line in (tmp_path / "bad-rows.jsonl").read_text().splitlines()] == [2, 4]


def test_bad_rows_stop_the_run_otherwise():
    with pytest.raises(ContentError, match=r"rows\.jsonl:2: broken; mend the row"):
        looked_at(Policy())
