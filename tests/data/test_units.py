"""Tokens, words and spans: how many, which, and how long."""

from __future__ import annotations

import numpy as np
import pytest

from twoway.data.masking import SPAN, choose_tokens, round_randomly


def draws(count=2000):
    return (np.random.default_rng(seed) for seed in range(count))


def test_the_rounded_number_has_the_exact_mean():
    for count, share in ((1, 0.4), (3, 0.4), (7, 0.15)):
        drawn = np.array([round_randomly(share, count, draw) for draw in draws()])
        assert set(drawn.tolist()) <= {int(share * count), int(share * count) + 1}
        assert drawn.mean() == pytest.approx(share * count, abs=0.04)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4, 0.7, 0.0, 1.0])
def test_a_whole_number_is_not_rounded(share):
    assert {round_randomly(share, 10, draw) for draw in draws(200)} == {round(share * 10)}


@pytest.mark.parametrize("unit", ["token", "span"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97, 1.0])
def test_tokens_and_spans_meet_the_number(unit, share):
    for draw in draws(50):
        assert choose_tokens(100, share, unit, None, draw).sum() == round(100 * share)
    assert choose_tokens(0, share, unit, None, np.random.default_rng(0)).shape == (0,)
    assert choose_tokens(1, share, unit, None, np.random.default_rng(0)).shape == (1,)


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_every_place_is_as_likely(unit):
    words = np.repeat(np.arange(10), [1, 1, 2, 2, 3, 1, 4, 1, 1, 4])
    often = np.mean([choose_tokens(20, 0.4, unit, words, draw) for draw in draws(6000)], axis=0)
    assert often.mean() == pytest.approx(0.4, abs=0.01)
    # The word that goes over the number is taken more seldom if it is long: in a row as short as this, not all words are alike.
    assert np.abs(often - 0.4).max() < (0.1 if unit == "word" else 0.03)


def test_words_are_whole_and_right_in_the_mean():
    words = np.repeat([7, 3, 9, 4, 11], [5, 1, 3, 8, 2])
    totals = []
    for draw in draws():
        chosen = choose_tokens(len(words), 0.4, "word", words, draw)
        for word in set(words.tolist()):
            assert len(set(chosen[words == word].tolist())) == 1
        totals.append(chosen.sum())
    assert np.mean(totals) == pytest.approx(0.4 * len(words), abs=0.2)
    assert choose_tokens(len(words), 1.0, "word", words, np.random.default_rng(0)).all()
    assert not choose_tokens(len(words), 0.0, "word", words, np.random.default_rng(0)).any()
    with pytest.raises(ValueError, match="words' numbers"):
        choose_tokens(3, 0.4, "word", None, np.random.default_rng(0))


def test_spans_have_the_mean_length_and_differ():
    lengths = []
    for draw in draws(300):
        chosen = np.concatenate([[False], choose_tokens(300, 0.3, "span", None, draw), [False]])
        edges = np.flatnonzero(np.diff(chosen.astype(int)))
        lengths += (edges[1::2] - edges[::2]).tolist()
    assert np.mean(lengths) == pytest.approx(SPAN, rel=0.02)
    assert {1, 2, 3, 4, 5} <= set(lengths)
