"""What a user of other tools writes is taken, or answered with the right word."""

from __future__ import annotations

import pytest

from twoway.cli import build_parser
from twoway.config import load
from twoway.errors import UsageError
from twoway.methods.bridge.config import BridgeConfig
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.pretrain.config import PretrainConfig
from twoway.recipes.plan import hardware


@pytest.mark.parametrize(
    ("config", "word", "meant"),
    [
        (FinetuneConfig, "batch_size=8", "global_batch_size"),
        (PretrainConfig, "batch_size=8", "batch_rows"),
        (BridgeConfig, "per_device_train_batch_size=8", "batch_rows"),
        (FinetuneConfig, "temperature=0.02", "loss.temperature"),
        (FinetuneConfig, "lr=1e-5", "learning_rate"),
        (FinetuneConfig, "lora_alpha=64", "lora.alpha"),
        (FinetuneConfig, "epochs=2", "num_train_epochs"),
        (FinetuneConfig, "global_batchsize=8", "global_batch_size"),
        (FinetuneConfig, "loss.temprature=1", "loss.temperature"),
    ],
)
def test_the_right_word_is_named(config, word, meant):
    with pytest.raises(UsageError, match=f"did you mean {meant}\\?"):
        load(config, None, [word])


def test_every_suggestion_is_a_setting_of_some_stage():
    from twoway.config import _ELSEWHERE, _places

    known = {place for config in (FinetuneConfig, PretrainConfig, BridgeConfig) for place in _places(config)}
    assert {place for places in _ELSEWHERE.values() for place in places} - known <= {"choice.negatives"}


def test_a_count_may_stand_first():
    assert hardware("8xh100") == hardware("h100x8")
    assert hardware("8xH100").count == 8


def test_words_to_search_for_need_no_quotation_marks():
    assert build_parser().parse_args(["search", "db", "a", "red", "teapot", "-k", "3"]).text == ["a", "red", "teapot"]
