"""The gate measures looking: a model that cannot see has none, one that knows the pictures has one."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter

import torch
from tools.nano_base.base import prepare
from tools.nano_base.gate import by_style, measure
from tools.nano_base.loop import train


def test_a_blind_model_has_no_gap(tiny):
    forward = copy.deepcopy(tiny.forward)
    with torch.no_grad():
        for parameter in forward.model.model.visual.merger.parameters():
            parameter.zero_()
    found = measure(forward, tiny.rows, samples=16, label="blind")
    assert found["trained_right"] == found["trained_shuffled"]
    assert found["trained_gap"] == found["unseen_gap"] == found["trained_bare_gap"] == 0


def test_measuring_twice_gives_the_same_and_changes_nothing(tiny):
    before = [parameter.detach().clone() for parameter in tiny.forward.model.parameters()]
    assert measure(tiny.forward, tiny.rows, samples=8, label="twice") == measure(tiny.forward, tiny.rows, samples=8, label="twice")
    assert all(map(torch.equal, before, tiny.forward.model.parameters()))


def test_every_style_of_two_concepts_is_measured(tiny):
    world = tiny.world
    shown = [{world.styles[picture] for picture in (*seen, *held)} for seen, held in zip(world.trained, world.unseen, strict=True)]
    drawn = Counter(style for styles in shown for style in styles)  # another picture is one of another concept
    assert set(by_style(tiny.forward, tiny.rows, samples=8)) == {style for style, concepts in drawn.items() if concepts > 1}


def test_a_model_that_learns_few_pictures_by_heart_has_a_gap(corner, config, tmp_path):
    plan = dataclasses.replace(config, rows=8 * 120, batch=8, lr=4e-3, bare_rows=8 * 120, bare_share=1.0, questions=0.0, text_rows=0)
    plan = dataclasses.replace(plan, pairs=0.0, canvases=0.0, large=0.0, width=64, heads=4, kv_heads=2, mlp=96, tower_width=64)
    nano = prepare(plan, corner)
    few = dataclasses.replace(nano.world, concepts=nano.world.concepts[:4], trained=nano.world.trained[:4], unseen=nano.world.unseen[:4])
    nano.rows.world = few
    train(nano.forward, nano.rows, plan, tmp_path, stop=120)
    found = measure(nano.forward, nano.rows, samples=4, label="few")
    assert found["trained_bare_gap"] > 0.2
