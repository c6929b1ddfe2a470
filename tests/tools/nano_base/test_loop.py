"""Training: a run that was killed and started again ends where one that was not ends."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from tools.nano_base.base import train_base
from tools.nano_base.loop import rate, read_curve, train

from twoway.errors import UsageError


class KilledError(Exception):
    """Stands for a kill: raised in the middle of a run."""


def weights(nano) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in nano.forward.model.named_parameters()}


def test_a_killed_and_resumed_run_has_the_weights_of_an_uninterrupted_one(corner, config, tmp_path, monkeypatch):
    whole = weights(train_base(config, corner, tmp_path / "whole"))
    monkeypatch.setattr("tools.nano_base.loop.SAVE_SECONDS", 0.0)

    def kill(entry):
        if entry["step"] == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train_base(config, corner, tmp_path / "run", seen=kill)
    again = weights(train_base(config, corner, tmp_path / "run"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    curves = [[(entry["step"], entry["loss"]) for entry in read_curve(tmp_path / run)] for run in ("whole", "run")]
    assert curves[0] == curves[1]


def test_a_plan_is_fixed_at_the_start(corner, config, tmp_path):
    train_base(dataclasses.replace(config, rows=8), corner, tmp_path)
    with pytest.raises(UsageError, match="seed was 1 and is now 2"):
        train_base(dataclasses.replace(config, rows=8, seed=2), corner, tmp_path)


def test_a_run_of_another_length_goes_on_from_where_the_rate_was_constant(corner, config, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.nano_base.loop.SAVE_SECONDS", 0.0)
    config = dataclasses.replace(config, decay_rows=16)
    longer = dataclasses.replace(config, rows=64)
    whole = weights(train_base(longer, corner, tmp_path / "whole"))
    train_base(config, corner, tmp_path / "run")
    again = weights(train_base(longer, corner, tmp_path / "run"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    curves = [[(entry["step"], entry["loss"]) for entry in read_curve(tmp_path / run)] for run in ("whole", "run")]
    assert curves[0] == curves[1]
    with pytest.raises(UsageError, match="stands at row 48, before its rate falls; ask for --rows 64 or more"):
        train_base(config, corner, tmp_path / "run")

    def kill(entry):
        if entry["step"] == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train_base(longer, corner, tmp_path / "cut", seen=kill)
    shorter, straight = (weights(train_base(config, corner, tmp_path / run)) for run in ("cut", "straight"))
    assert all(torch.equal(shorter[name], straight[name]) for name in straight)


def test_training_learns_and_stops_where_it_is_told(tiny, corner, config, tmp_path):
    from tools.nano_base.base import prepare

    nano = prepare(dataclasses.replace(config, rows=8 * 40, lr=3e-3), corner)
    train(nano.forward, nano.rows, nano.config, tmp_path, stop=20)
    curve = read_curve(tmp_path)
    assert curve[-1]["step"] == 20
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.5


def test_the_rate_warms_up_stays_and_falls_over_the_last_rows(config):
    config = dataclasses.replace(config, rows=8 * 100, warmup=10, decay_rows=8 * 20)
    rates = [rate(step, config) for step in range(config.steps + 1)]
    assert config.decay_start == 80
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:81] == pytest.approx([config.lr] * 72)
    assert rates[80:] == sorted(set(rates[80:]), reverse=True)
    assert rates[-1] == pytest.approx(config.lr * config.final)


def test_a_curve_cut_by_a_kill_is_read_without_its_last_line(tmp_path):
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 1.5}]
    (tmp_path / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo')
    assert read_curve(tmp_path) == [lines[0], lines[2]]
