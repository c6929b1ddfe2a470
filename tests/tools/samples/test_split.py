"""Halves: a function of clusters alone, and nothing on both sides of the shipped tables."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from PIL import Image
from tools.samples.split import HALVES, cluster, core, half, look, near

from twoway.data.sources.pages import STYLES, decode, slug
from twoway.data.sources.samples import HELD_SOURCES, HELD_STYLES, load_world
from twoway.data.sources.samples import pairs as samples_pairs


def test_half_depends_on_the_cluster_name_alone() -> None:
    assert half("cat") == half("cat")
    share = Counter(half(f"concept {number}") for number in range(2000))
    assert set(share) == set(HALVES)
    assert all(900 < count < 1100 for count in share.values())


@pytest.mark.parametrize(
    ("one", "other"), [("red-heart", "light-blue-heart"), ("cat-face", "cat"), ("houses", "house"), ("black-large-square", "square")]
)
def test_near_names_have_one_core(one: str, other: str) -> None:
    # `black large square` keeps its size between colour and noun, so it needs both taken off.
    assert core(one) == core(other)


def test_clusters_join_names_and_looks_in_any_order() -> None:
    names = {"a": ["red apple"], "b": ["apple"], "c": ["pear"], "d": ["plum"]}
    joined = cluster(names, [("c", "d")])
    assert joined == cluster(dict(reversed(names.items())), [("d", "c")])
    assert joined["a"] == joined["b"] != joined["c"] == joined["d"]


def test_near_finds_copies_and_not_other_colours() -> None:
    red, faint, blue = (Image.new("RGB", (72, 72), colour) for colour in ("#d00000", "#d40404", "#0000d0"))
    assert near([look(red), look(faint), look(blue)]) == [(0, 1)]


def test_no_cluster_nor_name_stands_in_both_halves() -> None:
    world = load_world()
    halves: dict[str, set[str]] = {}
    for row in world.concepts.values():
        assert row["half"] == half(row["cluster"])
        for key in (row["cluster"], core(slug(row["names"]["en"]))):
            halves.setdefault(key, set()).add(row["half"])
    assert {key for key, found in halves.items() if len(found) > 1} == set()
    assert max(Counter(row["cluster"] for row in world.concepts.values()).values()) < 20


def test_no_nearly_equal_pictures_stand_in_both_halves_or_test_the_style() -> None:
    world = load_world()
    pictures = random.Random(0).sample(world.pictures, 5000)
    pairs = [(pictures[one], pictures[other]) for one, other in near([look(decode(row["image"])) for row in pictures])]
    assert [(one["id"], other["id"]) for one, other in pairs if one["half"] != other["half"]] == []
    training = {row["id"] for row in world.drawn()}
    tested = {pair.query.meta["id"] for pair in samples_pairs("test-style")}
    near_training = {(one["id"], other["id"]) for pair in pairs for one, other in (pair, pair[::-1]) if one["id"] in tested}
    assert {pair for pair in near_training if pair[1] in training} == set()
    assert len(tested) > 400


def test_pictures_follow_their_concept_and_are_no_copies() -> None:
    world = load_world()
    owners: dict[bytes, str] = {}
    for row in world.pictures:
        assert row["half"] == world.concepts[row["concept"]]["half"], row["id"]
        assert owners.setdefault(row["image"], row["concept"]) == row["concept"], row["id"]
    assert len({row["id"] for row in world.pictures}) == len(world.pictures)


def test_held_out_style_and_source_are_in_no_training_picture_nor_page() -> None:
    drawn = load_world().drawn()
    assert not {row["style"] for row in drawn} & set(HELD_STYLES)
    assert not {row["source"] for row in drawn} & set(HELD_SOURCES)
    assert set(STYLES) <= {row["style"] for row in drawn}
