"""Mixtures: weights, caps and names, identities, and an epoch as a pure function of seed and epoch."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

from twoway import config
from twoway.data.config import SourceConfig
from twoway.data.mixture import open_mixture
from twoway.errors import UsageError


@pytest.fixture
def make(jsonl):
    """Return `make(count, name)`: a JSONL file of so many rows."""
    return lambda count, name: str(jsonl(*({"text": f"{name} {number}"} for number in range(count)), name=f"{name}.jsonl"))


def counts(mixture, epoch, seed=0):
    return Counter(mixture.table_rows(mixture.epoch(seed, epoch)).tolist())


def test_an_epoch_has_each_row_once_in_an_order_of_its_own(make):
    mixture = open_mixture([make(40, "a"), make(17, "b")])
    first = mixture.epoch(0, 0)
    assert sorted(first.tolist()) == list(range(57))
    assert np.array_equal(first, mixture.epoch(0, 0))
    assert not np.array_equal(first, mixture.epoch(0, 1))
    assert not np.array_equal(first, mixture.epoch(1, 0))
    assert Counter(mixture.source_of(first).tolist()) == {0: 40, 1: 17}


def test_weights_say_how_often_rows_come(make):
    mixture = open_mixture(
        [SourceConfig(make(10, "a"), weight=2), SourceConfig(make(8, "b"), weight=0.25), SourceConfig(make(6, "c"), weight=1.5)]
    )
    total: Counter[int] = Counter()
    for epoch in range(4):
        found = counts(mixture, epoch)
        total += found
        assert [found[row] for row in range(10)] == [2] * 10
        assert sum(found[row] for row in range(10, 18)) == 2
        assert sum(found[row] for row in range(18, 24)) == 9
    assert [total[row] for row in range(10, 18)] == [1] * 8
    assert [total[row] for row in range(18, 24)] == [6] * 6


def test_every_row_of_an_epoch_has_its_own_identity_and_its_document(make):
    mixture = open_mixture([SourceConfig(make(3, "a"), weight=2.5), SourceConfig(make(2, "b"), name="other")])
    found = {}
    for row in mixture.epoch(0, 0):
        identity, document = mixture.read(row)
        assert identity == mixture.identity(row)
        found[identity] = document.texts[0]
    assert len(found) == len(mixture.epoch(0, 0))
    assert (found["a.jsonl#1"], found["a.jsonl#3#2"], found["other#2"]) == ("a 0", "a 2", "b 1")


def test_identities_count_bad_rows_and_do_not_know_the_folder(jsonl, tmp_path, make):
    mixture = open_mixture([str(jsonl({"text": "a"}, {"text": "b"})), SourceConfig(make(5, "c"), cap=2)])
    assert [mixture.identity(row) for row in range(4)] == ["rows.jsonl#1", "rows.jsonl#2", "c.jsonl#1", "c.jsonl#2"]


def test_the_digest_tells_rows_weights_and_names_apart(make):
    one, other = make(5, "a"), make(6, "b")

    def digest(*sources):
        return open_mixture(sources).digest()

    assert digest(one) == digest(one)
    assert len({str(digest(*sources)) for sources in ([one], [other], [SourceConfig(one, weight=2)], [SourceConfig(one, cap=4)])}) == 4


def test_a_mixture_can_be_sent_to_a_worker(make, tmp_path):
    mixture = open_mixture([make(5, "a"), "samples:texts"], folder=tmp_path / "tables")
    copy = pickle.loads(pickle.dumps(mixture))
    assert [copy.read(row) for row in (0, 4, 9)] == [mixture.read(row) for row in (0, 4, 9)]


def test_a_source_is_read_from_a_configuration(tmp_path):
    path = tmp_path / "source.yaml"
    path.write_text('spec: rows.jsonl\nweight: 0.5\ncap: 100\nrow_template: "{image} {caption}"\nname: mine\nroot: pictures\n')
    assert config.load(SourceConfig, path).label == "mine"
    assert [SourceConfig(spec).label for spec in ("samples:texts", "data/rows.jsonl", "hub:a/b:train")] == [
        "samples:texts",
        "rows.jsonl",
        "hub:a/b:train",
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight": 0}, "above 0"),
        ({"weight": -1}, "above 0"),
        ({"cap": 0}, "cap takes a whole number from 1"),
        ({"row_template": "dcml"}, "did you mean dclm"),
    ],
)
def test_what_is_no_source_is_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        SourceConfig("rows.jsonl", **settings)


def test_no_source_and_two_of_one_name_are_refused(make, tmp_path):
    with pytest.raises(UsageError, match="no data is given"):
        open_mixture([])
    with pytest.raises(UsageError, match=r"two sources are called a.jsonl"):
        open_mixture([make(2, "a"), make(2, "a")])
