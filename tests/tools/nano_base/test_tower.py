"""The first stage: the tower learns which picture shows what, the language model stays as it was built, and a kill changes nothing."""

from __future__ import annotations

import dataclasses

import pyarrow.parquet as pq
import pytest
import torch
from tools.nano_base.base import prepare
from tools.nano_base.optimiser import MuonAndAdamW
from tools.nano_base.tower import Matching, train_tower, words_of


def test_the_tower_learns_what_pictures_show_and_nothing_else_moves(corner, config, tmp_path):
    nano = prepare(dataclasses.replace(config, tower_rows=8 * 40, lr=3e-3), corner)
    decoder = {name: part.clone() for name, part in nano.forward.model.get_decoder().named_parameters() if "embed_tokens" not in name}
    matching = Matching(nano)
    with torch.no_grad():
        before = sum(float(matching.loss(step)) for step in range(1000, 1004))
    train_tower(nano, tmp_path)
    with torch.no_grad():
        after = sum(float(matching.loss(step)) for step in range(1000, 1004))
    assert after < before - 1.0
    assert all(torch.equal(decoder[name], part) for name, part in nano.forward.model.get_decoder().named_parameters() if name in decoder)


def test_a_killed_stage_goes_on_to_the_same_weights(corner, config, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.nano_base.loop.SAVE_SECONDS", 0.0)
    config = dataclasses.replace(config, tower_rows=32)
    whole, cut = prepare(config, corner), prepare(config, corner)
    for run in ("whole", "cut"):
        (tmp_path / run).mkdir()
    train_tower(whole, tmp_path / "whole")

    def kill(entry):
        if entry["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tower(cut, tmp_path / "cut", seen=kill)
    again = prepare(config, corner)
    train_tower(again, tmp_path / "cut")
    weights = dict(again.forward.model.named_parameters())
    assert all(torch.equal(weights[name], part) for name, part in whole.forward.model.named_parameters())


def test_the_tower_goes_on_with_smaller_steps_where_it_had_a_stage_of_its_own(tiny, config):
    tower = {id(part) for part in tiny.forward.model.model.visual.parameters()}
    for rows, share in ((16, 0.2), (0, 1.0)):
        groups = MuonAndAdamW(tiny.forward.model, dataclasses.replace(config, tower_rows=rows)).param_groups
        rates = {id(part): group["share"] for group in groups for part in group["params"]}
        language = {value for part, value in rates.items() if part not in tower}
        assert {value for part, value in rates.items() if part in tower} == {value * share for value in language}


def test_a_concept_is_called_by_its_names_and_keywords():
    concept = {"names": {"en": "cat", "de": "Katze"}, "keywords": {"en": ["pet", "animal"]}}
    assert words_of(concept) == ["cat", "cat", "cat", "Katze", "pet, animal"]
    assert words_of({"names": {"en": "cat"}, "keywords": {}}) == ["cat"] * 3


def test_names_in_a_held_out_language_are_not_read(tiny, corner):
    written = {language for names in pq.read_table(corner / "concepts.parquet")["names"].to_pylist() for language, name in names if name}
    read = {language for concept in tiny.world.concepts for language in concept["names"]}
    assert tiny.config.held_languages
    assert read == written - set(tiny.config.held_languages) != written
