"""Options that several verbs have mean the same in all of them."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console
from rich.table import Table

from twoway.cli import main
from twoway.cli.parser import Parser, add_limits, add_on_bad, add_opening, add_settings, limits, opening, print_table, setting_words
from twoway.config import _places, load
from twoway.data.rows import BAD_ROWS, OnBad
from twoway.errors import UsageError
from twoway.limits import ReadLimits
from twoway.methods.bridge.config import BridgeConfig
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.pretrain.config import PretrainConfig
from twoway.recipes.recipe import read_recipe
from twoway.recipes.records import plan_jobs


def test_a_bad_row_has_two_choices_and_fails_by_default():
    parser = argparse.ArgumentParser()
    add_on_bad(parser)
    assert parser.parse_args([]).on_bad == "fail"
    assert parser.parse_args(["--on-bad", "skip"]).on_bad == "skip"
    (option,) = (one for one in parser._actions if one.dest == "on_bad")
    assert tuple(option.choices) == get_args(OnBad)
    assert BAD_ROWS in option.help


def test_what_is_not_said_of_a_model_is_left_to_the_opening():
    parser = argparse.ArgumentParser()
    add_opening(parser)
    assert opening(parser.parse_args([])) == {"device": "auto"}
    said = opening(parser.parse_args(["--pooling", "last", "--max-length", "7", "--dtype", "bfloat16"]))
    assert said == {"pooling": "last", "max_length": 7, "device": "auto", "dtype": "bfloat16"}


def test_the_options_of_what_is_read_are_the_limits_of_python():
    parser = argparse.ArgumentParser()
    add_limits(parser)
    options = {one.dest for one in parser._actions} - {"help"}
    assert options == {field.name for field in fields(ReadLimits)}
    assert limits(parser.parse_args([])) == ReadLimits()
    assert limits(parser.parse_args(["--max-characters", "7", "--max-page-memory", "9"])) == ReadLimits(max_characters=7, max_page_memory=9)
    with pytest.raises(UsageError, match="max_characters takes a whole number from 1"):
        limits(parser.parse_args(["--max-characters", "0"]))


def test_every_command_that_reads_data_can_be_told_how_much_of_a_row_it_reads(tiny_encoder, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, base = str(tiny_encoder("qwen2_vl")), str(tiny_model("qwen2_vl"))
    Path("rows.jsonl").write_text('{"text": "a"}\n{"text": "b w w"}\n{"text": "c"}\n{"text": "d"}\n')
    Path("pairs.jsonl").write_text('{"query": "a", "positive": "b w w"}\n{"query": "c", "positive": "d"}\n')
    for command, long in (
        (["embed", model, "--data", "rows.jsonl", "--out", "v", "--max-characters", "4"], "rows.jsonl:2: the text of part 1"),
        (
            ["embed", model, "--data", "rows.jsonl", "--out", "v", "--max-line-bytes", "15"],
            "rows.jsonl:2: the line is longer than 15 bytes",
        ),
        (["mine", model, "--data", "pairs.jsonl", "--out", "m", "--max-characters", "4"], "pairs.jsonl:1: positive: the text of part 1"),
        (["data", "check", "rows.jsonl", "limits.max_characters=4"], "rows.jsonl:2: the text of part 1"),
        (["data", "check", "pairs.jsonl", "--pairs", "limits.max_characters=4"], "pairs.jsonl:1: positive: the text of part 1"),
        (["data", "prepare", "rows.jsonl", "limits.max_characters=4", "--cache-dir", "c"], "rows.jsonl:2: the text of part 1"),
        (["pretrain", base, "p", "--data", "rows.jsonl", "limits.max_characters=4", "max_steps=1"], "rows.jsonl:2: the text of part 1"),
        (["bridge", model, "b", "--data", "pairs.jsonl", "limits.max_characters=4", "max_steps=1"], "pairs.jsonl:1: positive: the text"),
        (["finetune", base, "f", "--data", "pairs.jsonl", "limits.max_characters=4", "max_steps=1"], "pairs.jsonl:1: positive: the text"),
    ):
        assert main(command) == 1, command
        said = capsys.readouterr()
        assert long in said.err + said.out, command
    assert main(["data", "check", "rows.jsonl"]) == 0
    assert main(["embed", model, "--data", "rows.jsonl", "--out", "v"]) == 0


def test_what_is_read_of_a_row_is_in_no_fingerprint(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "base: samples/base\nstages:\n  pretrain: {data: [{spec: samples:pretrain}]}\n  mine: {data: [{spec: samples:train}]}\n"
        "  finetune: {data: [{spec: samples:train}]}\n"
    )
    plain, other = (
        [job.fingerprint for job in plan_jobs(read_recipe(tmp_path / "r.yaml", words), of_model=str, of_data=str)]
        for words in ([], ["limits.max_characters=9"])
    )
    assert len(plain) == 3
    assert plain == other


@pytest.mark.parametrize("width", [160, 80, 40])
def test_a_table_breaks_no_word_of_a_header_and_no_number(width, capsys):
    table = Table(title="what", title_justify="left")
    for title in ("task", "group"):
        table.add_column(title)
    for title in ("score", "95%", "characters", "words alone", "left out", "1,234 of\nall"):
        table.add_column(title, justify="right")
    table.add_row("a-long-name-of-a-task", "words", "[red]0.123 at chance[/red]", "0.100 to 0.140", "1,234,567", "0.02", "0", "")
    table.add_row("mean", "", "0.234", "", "", "", "", "12,345")
    print_table(Console(file=sys.stdout, width=width), table)
    said = capsys.readouterr().out
    assert all(len(line) <= width for line in said.splitlines())
    for word in ("task", "group", "characters", "alone", "out", "0.123", "chance", "1,234,567", "0.140", "12,345", "mean", "all"):
        assert word in said, said


@pytest.mark.parametrize("config", [PretrainConfig, BridgeConfig, FinetuneConfig])
def test_each_setting_of_a_training_verb_is_an_option_and_says_what_it_does(config):
    parser = Parser(prog="x")
    parser.set_defaults(words=[])
    add_settings(parser, config, without=("data", "eval_data"))
    options = {one.dest.removeprefix("setting."): one for one in parser._actions if one.dest.startswith("setting.")}
    lists = ("data", "eval_data", "attn_implementation")
    places = {place for place in _places(config) if place.partition(".")[0] not in lists}
    groups = {place.partition(".")[0] for place in places if "." in place}
    assert set(options) == (places - groups) | {"attn_implementation"}
    assert [name for name, option in options.items() if not option.help] == []
    said = parser.parse_args(["--learning-rate", "3e-4", "--lora.lora-dropout", "0.2", "--no-freeze-tower", "--torch-compile"])
    words = setting_words(said)
    assert sorted(words) == ["freeze_tower=false", "learning_rate=3e-4", "lora.lora_dropout=0.2", "torch_compile=true"]
    assert load(config, None, words).learning_rate == 3e-4


def test_a_wrong_option_of_a_setting_is_one_line_with_what_is_allowed(capsys):
    assert main(["finetune", "base", "out", "--data", "samples:train", "--loss.temperature", "0"]) == 2
    assert "loss.temperature takes a number above 0, not '0'" in capsys.readouterr().err
    assert "--learning-rate" in help_of("finetune", capsys)
    with pytest.raises(SystemExit):
        main(["finetune", "base", "out", "--learning-rte", "1"])
    assert "did you mean --learning-rate?" in capsys.readouterr().err


def help_of(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    return capsys.readouterr().out


def test_the_classes_of_settings_wait_for_no_heavy_library():
    code = "import sys, twoway.methods.finetune.config; print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
