"""Options that several verbs have mean the same in all of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from twoway import cli
from twoway.cli import main
from twoway.cli.answers import new_console, new_table, print_table
from twoway.cli.parser import Parser, add_verb, read_settings
from twoway.config import _places, settings_of
from twoway.data.config import PairSource
from twoway.embedding.bulk import embed
from twoway.embedding.config import EmbedConfig
from twoway.errors import UsageError
from twoway.limits import ReadLimits
from twoway.methods.config import MineConfig
from twoway.recipes.recipe import read_recipe
from twoway.recipes.records import plan_jobs

VERBS = [(name, one) for name, verb in cli.VERBS.items() for one in (verb.actions.values() if verb.actions else (verb,))]


@pytest.mark.parametrize(("name", "verb"), VERBS)
def test_an_option_is_declared_once_and_says_what_it_does(name, verb, capsys):
    """Its settings are the fields of its class; what stands among the arguments is no setting."""
    parser = parser_of(verb)
    options = [one for one in parser._actions if one.option_strings and one.dest != "help"]
    assert [one.option_strings for one in options if not one.help] == []
    if verb.config:
        home, _, config = verb.config.rpartition(".")
        cls = getattr(import_module(home), config)
        settings = {one.dest.removeprefix("setting.") for one in options if one.dest.startswith("setting.")}
        assert settings == {place for place in _places(cls) if place not in settings_of(cls) and "attn_implementation." not in place}
        assert not settings & {one.dest for one in options}
        assert all(field.metadata["description"] for field in fields(cls)), cls


def parser_of(verb):
    parser, (home, _, config) = Parser(prog="x"), verb.config.rpartition(".")
    add_verb(parser, verb, None, getattr(import_module(home), config) if config else None)
    return parser


def settings_from(name, *words):
    return read_settings(cli.build_parser(name).parse_args([name, *words]))


def test_what_is_not_said_of_a_model_is_left_to_the_opening():
    assert settings_from("search", "db", "x").opening() == {"device": "auto", "attn_implementation": "auto"}
    said = settings_from("search", "db", "x", "--pooling", "last", "--max-length", "7", "--dtype", "bfloat16").opening()
    assert said == {"pooling": "last", "max_length": 7, "device": "auto", "dtype": "bfloat16", "attn_implementation": "auto"}


def test_options_of_several_values_of_names_and_of_groups():
    said = settings_from("index", "--index", "x", "--delete", "1", "a b", "--no-thumbnails", "--limits.max-characters", "7")
    assert (said.delete, said.thumbnails, said.limits) == (("1", "a b"), False, ReadLimits(max_characters=7))
    assert settings_from("check", "m", "--backends", "sdpa,eager").backends == ("sdpa", "eager")
    said = settings_from(
        "finetune", "b", "o", "--lora.parts", "language", "--lora.parts", "tower", "--prompts", "query=a: b", "max_steps=3"
    )
    assert (said.lora.parts, said.prompts, said.max_steps) == (("language", "tower"), {"query": "a: b"}, 3)
    assert settings_from("mine", "m", "--out", "o", "--data", "a", "b").data == (PairSource("a"), PairSource("b"))
    assert settings_from("embed", "m", "--data", "x", "--out", "o", "--prompt", "").prompt == ""
    assert settings_from("embed", "m", "--data", "x", "--out", "o", "--prompt", "2024").prompt == "2024"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["embed", "m", "--data", "x", "--out", "o", "--limits.max-characters", "0"],
            "--limits.max-characters takes a whole number from 1",
        ),
        (["embed", "m", "--data", "x", "--out", "o", "--shard-rows", "no"], "--shard-rows takes a whole number from 1, not 'no'"),
        (["embed", "m", "--data", "x", "--out", "o", "--on-bad", "skp"], "--on-bad takes one of fail, skip, not 'skp'; did you mean skip?"),
        (["embed", "m", "--data", "x", "--out", "o", "--cluster.actors", "2"], "--cluster.gpus are for --engine ray; say that too"),
        (["index", "x", "--index", "i", "--pooling", "mean"], "--pooling is for data that is embedded first; name the model with --model"),
        (["mine", "m", "--out", "o", "--range-min", "9", "--range-max", "3"], "--range-min is below --range-max, not 9 and 3"),
        (["study", "s", "o", "--dry-run", "--report"], "--dry-run writes nothing; leave it out, or --report"),
        (["evaluate", "m", "--suite", "mmeb"], "the suite mmeb needs --data DIR"),
        (["convert", "m", "o", "--prompts", "query"], "--prompts takes NAME=VALUE, not 'query'"),
        (["finetune", "b", "o", "--seed", "1", "seed=2"], "--seed: seed is set twice"),
        (["convert", "m", "o", "--prompts", "a=b", "--prompts", "a=c"], "--prompts: prompts.a is set twice"),
        (["finetune", "b", "o", "seed=x"], "seed=x: seed takes a whole number from 0, not 'x'"),
    ],
)
def test_an_error_names_the_option_that_was_given(words, said, capsys):
    assert main(words) == 2
    answer = capsys.readouterr().err
    assert answer.startswith(f"twoway {words[0]}: ")
    assert said in answer
    assert answer.count("\n") == 1


def test_the_same_error_names_the_setting_in_python():
    with pytest.raises(UsageError, match=r"^range_min is below range_max, not 9 and 3$"):
        MineConfig(range_min=9, range_max=3)
    with pytest.raises(UsageError, match=r"^cluster\.address, .* are for engine ray; say that too$"):
        EmbedConfig(cluster={"actors": 2})


def test_a_signature_shows_the_settings_of_its_class():
    shown = signature(embed).parameters
    assert list(shown)[:3] == ["model", "data", "out"]
    assert {field.name for field in fields(EmbedConfig)} < shown.keys()
    assert shown["shard_rows"].default == EmbedConfig().shard_rows
    with pytest.raises(UsageError, match=r"embed has no option 'shard_row'; did you mean shard_rows\?"):
        embed("m", "x", "o", shard_row=2)


def test_every_command_that_reads_data_can_be_told_how_much_of_a_row_it_reads(tiny_encoder, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, base = str(tiny_encoder("qwen2_vl")), str(tiny_model("qwen2_vl"))
    Path("rows.jsonl").write_text('{"text": "a"}\n{"text": "b w w"}\n{"text": "c"}\n{"text": "d"}\n')
    Path("pairs.jsonl").write_text('{"query": "a", "positive": "b w w"}\n{"query": "c", "positive": "d"}\n')
    for command, long in (
        (["embed", model, "--data", "rows.jsonl", "--out", "v", "--limits.max-characters", "4"], "rows.jsonl:2: the text of part 1"),
        (
            ["embed", model, "--data", "rows.jsonl", "--out", "v", "--limits.max-line-bytes", "15"],
            "rows.jsonl:2: the line is longer than 15 bytes",
        ),
        (
            ["mine", model, "--data", "pairs.jsonl", "--out", "m", "--limits.max-characters", "4"],
            "pairs.jsonl:1: positive: the text of part 1",
        ),
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


def test_what_is_read_of_a_row_is_in_no_fingerprint_but_for_the_frames_of_a_video(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "base: samples/base\nstages:\n  pretrain: {data: [{spec: samples:pretrain}]}\n  mine: {data: [{spec: samples:train}]}\n"
        "  finetune: {data: [{spec: samples:train}]}\n"
    )
    plain, other, usual, fewer = (
        [job.fingerprint for job in plan_jobs(read_recipe(tmp_path / "r.yaml", words), of_model=str, of_data=str)]
        for words in ([], ["limits.max_characters=9"], ["limits.num_frames=8"], ["limits.num_frames=4"])
    )
    assert len(plain) == 3
    assert plain == other == usual
    assert not set(plain) & set(fewer)


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


def test_brackets_and_colons_in_a_table_are_text(capsys):
    table = new_table("scans/[a-c]*.png: model[/v2]", ("source",), ("rows",))
    table.add_row("scans/[a-c]*.png", "3")
    table.add_row("old[/b]/:cat:.jsonl", Text("4 at chance", "red"))
    print_table(new_console(120), table)
    said = capsys.readouterr().out
    for word in ("scans/[a-c]*.png: model[/v2]", "│ scans/[a-c]*.png", "│ old[/b]/:cat:.jsonl", "4 at chance"):
        assert word in said, said


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
