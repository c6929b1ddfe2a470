"""The row stream: a pure function of seed and step, learning what it says it learns, and never a held-out picture."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from tools.nano_base.batches import Batch
from tools.nano_base.rows import PICTURE, scene_row, words_row

from .streams import KINDS, fresh, of_kind


def same(one: Batch, other: Batch) -> bool:
    return one.runs == other.runs and all(
        torch.equal(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(Batch) if field.name != "runs"
    )


def test_a_batch_depends_on_seed_and_step_alone(tiny):
    one, other = fresh(tiny), fresh(tiny)
    forwards = [one.batch(step) for step in (0, 1, 2, 7)]
    random.seed(5)
    torch.manual_seed(5)
    backwards = [other.batch(step) for step in (7, 2, 1, 0)][::-1]
    assert all(map(same, forwards, backwards))


def test_another_seed_or_step_is_another_batch(tiny):
    assert not same(fresh(tiny).batch(0), fresh(tiny, seed=2).batch(0))
    assert not same(fresh(tiny).batch(0), fresh(tiny).batch(1))


@pytest.mark.parametrize("kind", KINDS)
def test_each_place_predicts_the_token_after_it_and_never_a_picture(tiny, kind):
    batch = of_kind(fresh(tiny, questions=0.5), kind)
    assert torch.equal(batch.ids.flatten()[batch.places + 1], batch.targets)
    special = [tiny.processor.image_token_id, *tiny.processor.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])]
    assert not torch.isin(batch.targets, torch.tensor(special)).any()
    assert (batch.weights > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_has_its_tokens_where_the_row_says(tiny, kind):
    batch = of_kind(fresh(tiny), kind)
    patch = tiny.config.patch * tiny.config.merge
    tokens = (batch.pixels.shape[-1] // patch) ** 2
    assert int((batch.ids == tiny.processor.image_token_id).sum()) == tokens * len(batch.pixels)
    for ids, starts in zip(batch.ids, batch.starts, strict=True):
        for start in starts[starts < batch.ids.shape[1]]:
            assert (ids[start : start + tokens] == tiny.processor.image_token_id).all()
    assert batch.pixels.min() >= 0
    assert batch.pixels.max() <= 1


def test_only_the_answer_of_a_question_is_learned(tiny):
    rows = fresh(tiny, questions=1.0, text_rows=0)
    batch = of_kind(rows, "singles")
    words = tiny.processor.tokenizer.decode(batch.targets)
    assert "?" in tiny.processor.tokenizer.decode(batch.ids.flatten())
    assert "What is" not in words
    assert "Which" not in words


def test_all_concepts_come_equally_often(tiny):
    rows = fresh(tiny)
    count = len(tiny.world.concepts)
    drawn = [rows._concept(number) for number in range(3 * count)]
    assert all(sorted(drawn[first : first + count]) == list(range(count)) for first in (0, count, 2 * count))
    assert drawn[:count] != drawn[count : 2 * count]


def test_no_picture_of_a_held_out_style_or_source_is_ever_trained_on(tiny):
    world = tiny.world
    trained = {world.styles[picture] for pictures in world.trained for picture in pictures}
    assert trained
    assert not trained & set(tiny.config.unseen_styles)
    assert {world.styles[picture] for pictures in world.unseen for picture in pictures} == set(tiny.config.unseen_styles)
    assert "clipart" not in world.styles


def test_reserved_tokens_are_never_used(tiny):
    reserved = torch.tensor([tiny.processor.tokenizer.convert_tokens_to_ids(f"<|reserved_special_token_{n}|>") for n in range(4)])
    assert len(set(reserved.tolist())) == 4
    rows = fresh(tiny)
    assert not any(torch.isin(rows.batch(step).ids, reserved).any() for step in range(5))


def test_runs_cover_every_row_once_and_cut_only_padding(tiny):
    batch = of_kind(fresh(tiny), "singles")
    covered = [number for rows, _ in batch.runs for number in range(len(batch.ids))[rows]]
    assert covered == list(range(len(batch.ids)))
    length = batch.ids.shape[1]
    for rows, cut in batch.runs:
        used = [place for place in batch.places.tolist() if place // length in range(len(batch.ids))[rows]]
        assert all(place % length < cut for place in used)


def test_a_scenes_question_is_answered_by_the_neighbour():
    shown = [{"names": {"en": name}} for name in "abcd"]  # a b over c d
    answers = {
        "left of": {"b": "a", "d": "c"},
        "right of": {"a": "b", "c": "d"},
        "above": {"c": "a", "d": "b"},
        "below": {"a": "c", "b": "d"},
    }
    rng, asked = random.Random(0), set()
    for _ in range(200):
        picture, (question, learned), (answer, learn) = scene_row(shown, rng)
        assert (picture, learned, learn) == (PICTURE, False, True)
        place, _, name = question.removeprefix("What is ").removesuffix("?\n").rpartition(" the ")
        assert answer == answers[place][name]
        asked.add(question)
    assert len(asked) == 8


def test_words_in_any_language_are_answered_by_a_caption(tiny):
    concept = next(one for one in tiny.world.concepts if one["gloss"] and "de" in one["names"])
    rows = [words_row(concept, random.Random(seed), 1.0) for seed in range(60)]
    assert {answer for _, (answer, _) in rows} == {concept["names"]["en"]}
    assert {learned for (_, learned), _ in rows} == {False}
    given = {said for (said, _), _ in rows}
    assert {f"{concept['names'][language]}\n" for language in ("en", "de")} <= given
    assert any(said.startswith(concept["gloss"].split(" ")[0]) for said in given)
    assert all(said.endswith("\n") for said in given)
