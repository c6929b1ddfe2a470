"""What a run leaves: a whole folder with weights as measured, a card that says its gate, and an exit code that tells the truth."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from tools.nano_base.__main__ import DEFAULT_BATCH, DEFAULT_ROWS, main
from tools.nano_base.base import make_base, prepare
from tools.nano_base.card import curve_table, plateau
from tools.nano_base.config import NanoConfig
from tools.nano_base.gate import measure

from twoway.errors import UsageError

from .conftest import TINY


@pytest.fixture(scope="module")
def made(corner, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "base"
    training = make_base(out, dataclasses.replace(TINY, rows=16), corner, command="python -m tools.nano_base base")
    return out, training


def test_the_folder_is_whole_and_small(made):
    out, training = made
    names = {path.name for path in out.iterdir()}
    wanted = {"config.json", "generation_config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"}
    assert wanted | {"training.json"} <= names
    assert json.loads((out / "training.json").read_text()) == json.loads(json.dumps(training))
    with safe_open(out / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


def test_the_gate_was_measured_on_the_weights_that_are_saved(made, corner):
    from transformers import AutoModelForImageTextToText

    out, training = made
    nano = prepare(
        NanoConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in training["config"].items()}), corner
    )
    saved = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32)
    nano.forward.model.load_state_dict(saved.state_dict())
    again = measure(nano.forward, nano.rows, samples=training["samples"], label="gate")
    assert again == pytest.approx(training["gate"], abs=1e-3)


def test_the_card_says_gate_command_and_curve(made):
    out, training = made
    card = (out / "README.md").read_text()
    assert "**The gate is not passed.**" in card
    assert f"**{training['gate']['trained_gap']:.2f}** | {TINY.gate_trained} |" in card
    assert "python -m tools.nano_base base" in card
    assert "| 16 |" in card


def test_an_existing_folder_is_refused_before_any_work(made, corner):
    out, _ = made
    with pytest.raises(UsageError, match="--overwrite"):
        make_base(out, NanoConfig(), corner, command="")


def test_the_command_exits_1_below_the_gate_and_0_above(made, monkeypatch, capsys):
    out, training = made
    for passed, code in ((False, 1), (True, 0)):
        monkeypatch.setattr("tools.nano_base.base.make_base", lambda *args, passed=passed, **options: {**training, "passed": passed})
        assert main([str(out), "--samples", str(out)]) == code
        said = capsys.readouterr().out
        assert ("NOT passed" in said) is not passed
    assert main([str(out), "--rows", "0"]) == 2
    assert capsys.readouterr().err == "python -m tools.nano_base: --rows, --batch and --threads are at least 1\n"


def test_the_commands_defaults_are_the_shipped_ones():
    assert (NanoConfig().rows, NanoConfig().batch) == (DEFAULT_ROWS, DEFAULT_BATCH)


def test_plateau_compares_the_last_quarter():
    curve = [{"step": step, "loss": 4.0 - step / 100, "trained_right": 3.0 - step / 100} for step in range(5, 101, 5)]
    found = plateau(curve)
    assert found["captions"] == pytest.approx(0.25)
    assert found["training"] == pytest.approx(0.225, abs=1e-6)


def test_the_card_shows_what_a_longer_branch_of_the_run_gains(corner, tmp_path):
    config = dataclasses.replace(TINY, rows=48, decay_rows=16)
    training = make_base(tmp_path / "base", config, corner, command="", plateau=True)
    longer = make_base(tmp_path / "straight", dataclasses.replace(config, rows=60), corner, command="")
    alone = make_base(tmp_path / "alone", config, corner, command="")
    assert training["longer"] == {"rows": 60, "gate": longer["gate"]}
    assert training["gate"] == alone["gate"] != longer["gate"]
    card = (tmp_path / "base" / "README.md").read_text()
    before, after = (found["gate"]["trained_right"] for found in (training, longer))
    assert f"| captions, training styles | {before:.3f} | {after:.3f} | {before - after:+.3f} |" in card
    assert "What a run with 25% more rows still gains" in card
    assert "## Plateau" not in (tmp_path / "alone" / "README.md").read_text()


def test_a_run_that_is_all_fall_cannot_be_lengthened(corner, tmp_path):
    with pytest.raises(UsageError, match="ask for more --rows than the last 40,000"):
        make_base(tmp_path / "base", dataclasses.replace(TINY, rows=16), corner, command="", plateau=True)
    assert not list(tmp_path.iterdir())


def test_a_curve_is_shown_in_a_dozen_points_with_its_ends():
    curve = [{"step": n, "rows": n, "loss": 1.0, "trained_gap": 0.1, "unseen_gap": 0.0, "trained_bare_right": 2.0} for n in range(1, 41)]
    table = curve_table([*curve, {"step": 41, "rows": 41, "loss": 1.0}])
    rows = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert len(rows) == 12
    assert (rows[0], rows[-1]) == ("1", "40")
