"""What a user of other tools writes is taken, or answered with the right word."""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches
from inspect import signature

import pytest
from peft import LoraConfig
from sentence_transformers.util import mine_hard_negatives
from transformers import TrainingArguments

from scripts import settings
from twoway.cli import build_parser
from twoway.cli.verbs import VERBS
from twoway.config import load
from twoway.errors import OTHER_NAMES, UsageError
from twoway.methods.bridge.config import BridgeConfig
from twoway.methods.config import AdapterConfig, MineConfig, NegativeChoice
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.mine import mine
from twoway.methods.pretrain.config import PretrainConfig
from twoway.recipes.plan import find_hardware
from twoway.training.config import TrainConfig
from twoway.training.trainer import learning_rate_at


@pytest.mark.parametrize(
    ("config", "word", "meant"),
    [
        (FinetuneConfig, "batch_size=8", "global_batch_size"),
        (PretrainConfig, "batch_rows=8", "per_device_train_batch_size"),
        (BridgeConfig, "batch_size=8", "per_device_train_batch_size"),
        (BridgeConfig, "gradient_accumulation_steps=8", "batches_per_step"),
        (FinetuneConfig, "temperature=0.02", "loss.temperature"),
        (FinetuneConfig, "lr=1e-5", "learning_rate"),
        (FinetuneConfig, "lora_alpha=64", "lora.lora_alpha"),
        (FinetuneConfig, "rank=8", "lora.r"),
        (FinetuneConfig, "lora.dropout=0", "lora.lora_dropout"),
        (MineConfig, "share=0.95", "relative_margin"),
        (MineConfig, "most=0.95", "max_score"),
        (FinetuneConfig, "epochs=2", "num_train_epochs"),
        (FinetuneConfig, "global_batchsize=8", "global_batch_size"),
        (FinetuneConfig, "loss.temprature=1", "loss.temperature"),
    ],
)
def test_the_right_word_is_named(config, word, meant):
    with pytest.raises(UsageError, match=f"did you mean {meant}\\?"):
        load(config, None, [word])


def test_every_suggestion_is_a_name_of_ours():
    from twoway.config import _places

    places = {place for config in settings.VERBS.values() for place in _places(config)}
    arguments = {name.lstrip("-") for verb in VERBS.values() for names, _ in verb.arguments for name in names}
    ends = {place.rpartition(".")[2] for place in places} | arguments
    assert {name for names in OTHER_NAMES.values() for name in names} <= places | ends
    for config in (FinetuneConfig, PretrainConfig, BridgeConfig, MineConfig):
        own = set(_places(config))
        for key in OTHER_NAMES.keys() & own:
            assert not own.intersection(OTHER_NAMES[key])  # a name of ours stands for nothing else beside it


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["search", "db", "x", "--limit", "3"], "--top-k"),
        (["embed", "m", "--data", "x", "--out", "y", "--instruction", "z"], "--prompt"),
        (["embed", "m", "--data", "x", "--out", "y", "--as", "query"], "--side"),
        (["mine", "m", "--out", "y", "--share", "0.95"], "--relative-margin"),
        (["finetune", "m", "out", "--log", "wandb"], "--report-to"),
        (["index", "vectors", "--index", "x", "--db", "y"], "--index"),
        (["serve", "m", "--db", "x"], "--index"),
        (["evaluate", "m", "--output", "x.json"], "--out"),
        (["evaluate", "m", "--cache", "x"], "--cache-dir"),
        (["embed", "m", "--data", "x", "--out", "y", "--ray-address", "auto"], "--cluster.address"),
        (["embed", "m", "--data", "x", "--out", "y", "--max-characters", "9"], "--limits.max-characters"),
        (["run", "r.yaml", "out", "--from", "tune"], "--start"),
    ],
)
def test_the_right_option_is_named(words, meant, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(words)
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_what_counts_something_else_is_said_beside():
    with pytest.raises(UsageError, match=r"did you mean batches_per_step\? It counts a step's batches over all ranks"):
        load(PretrainConfig, None, ["gradient_accumulation_steps=4"])


# Keys of ours that `TrainingArguments` has too: a default of ours may differ, the meaning does not.
SAME = {
    "adam_beta1",
    "adam_beta2",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "ddp_timeout",
    "eval_steps",
    "gradient_checkpointing",
    "learning_rate",
    "load_best_model_at_end",
    "logging_steps",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "report_to",
    "save_steps",
    "save_total_limit",
    "seed",
    "torch_compile",
    "warmup_steps",
    "weight_decay",
}


def test_keys_of_training_arguments_mean_the_same_and_none_of_ours_nearly_is_one():
    theirs = {field.name: field.default for field in fields(TrainingArguments)}
    configs = FinetuneConfig(), PretrainConfig(), BridgeConfig()
    ours = {field.name: getattr(config, field.name) for config in configs for field in fields(config)}
    assert ours.keys() & theirs.keys() == SAME
    for name in SAME:
        kinds = {str if isinstance(value, str) else type(value) for value in (ours[name], theirs[name]) if value is not None}
        assert kinds <= {int, float} or len(kinds) <= 1, name  # a switch is a switch, a number a number
    near = {name: get_close_matches(name, theirs, 1, 0.85) for name in ours.keys() - SAME}
    assert not {name: found for name, found in near.items() if found}
    known = {field.name for field in fields(LoraConfig)}
    assert {field.name for field in fields(AdapterConfig)} - known == {"parts"}


@pytest.mark.parametrize(("steps", "total"), [(0.1, 100), (0.0, 10), (1, 10), (7, 10), (0.25, 40)])
def test_a_warm_up_is_as_long_as_that_of_training_arguments(steps, total, tmp_path):
    rising = TrainingArguments(output_dir=str(tmp_path), warmup_steps=steps, use_cpu=True).get_warmup_steps(total)
    config = TrainConfig(learning_rate=1.0, warmup_steps=steps)
    rates = [learning_rate_at(step, total, config) for step in range(total)]
    assert rates.index(max(rates)) == max(rising - 1, 0)


def test_the_names_of_mine_are_those_of_sentence_transformers():
    theirs = signature(mine_hard_negatives).parameters
    assert {field.name for field in fields(NegativeChoice)} - theirs.keys() == {"random_share", "seed"}
    assert {name for name in signature(mine).parameters if "prompt" in name} == {name for name in theirs if "prompt" in name}


def test_a_count_may_stand_first():
    assert find_hardware("8xh100") == find_hardware("h100x8")
    assert find_hardware("8xH100").count == 8


def test_words_to_search_for_need_no_quotation_marks():
    assert build_parser().parse_args(["search", "db", "a", "red", "teapot", "-k", "3"]).text == ["a", "red", "teapot"]
