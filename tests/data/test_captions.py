"""Captions: the shares of their kinds, and what they may say."""

from __future__ import annotations

import random

from twoway.data.sources.samples import caption, flag_sentence

FOX = {
    "kind": "emoji",
    "names": {"en": "fox", "de": "Fuchs"},
    "keywords": {"en": ["animal", "face", "fox"], "de": ["Tier"]},
    "gloss": "alert mammal",
    "facts": {},
}


def _said(row: dict[str, object], count: int = 4000, bare: float = 0.0) -> list[str]:
    rng = random.Random(0)
    return [caption(row, rng, bare=bare) for _ in range(count)]


def test_bare_names_are_the_name_alone() -> None:
    assert set(_said(FOX, 50, bare=1.0)) == {"fox"}


def test_same_state_same_caption() -> None:
    assert _said(FOX) == _said(FOX)


def test_shares_of_languages_and_glosses() -> None:
    said = _said(FOX)
    german = sum("Fuchs" in one for one in said) / len(said)
    gloss = sum(one == "fox: alert mammal" for one in said) / len(said)
    assert 0.12 < german < 0.18
    assert 0.15 < gloss < 0.20  # a fifth of the English ones


def test_name_is_in_every_caption_and_mostly_first() -> None:
    said = _said(FOX)
    assert all("fox" in one or "Fuchs" in one for one in said)
    assert sum(one.startswith(("fox", "Fuchs")) for one in said) > 0.7 * len(said)
    assert not any("fox, fox" in one for one in said)


def test_flags_say_capital_and_continent_and_do_without() -> None:
    france = {**FOX, "kind": "country", "names": {"en": "France"}, "gloss": None, "facts": {"capital": "Paris", "continent": "Europe"}}
    assert "the flag of France, capital Paris, in Europe" in _said(france)
    assert flag_sentence("Antarctica", {}) == "the flag of Antarctica"


def test_a_concept_without_keywords_or_gloss_still_has_captions() -> None:
    bare = {"kind": "icon", "names": {"en": "hammer"}, "keywords": {}, "gloss": None, "facts": {}}
    assert {"hammer", "a picture of hammer"} <= set(_said(bare))
