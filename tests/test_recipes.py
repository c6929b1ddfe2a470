"""Every shipped recipe fits its stage's configuration, and names data that can be opened or says what is to be fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from twoway.config import load
from twoway.data.mixture import require_names
from twoway.stages.pretrain_config import PretrainConfig

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*-pretrain.yaml"))


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"moca-3b-pretrain", "moca-7b-pretrain", "nano-pretrain"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_its_configuration(path):
    config = load(PretrainConfig, path)
    require_names(config.data)
    for source in config.data:
        # A stream has no end, so each is bounded.
        assert source.cap or not source.spec.startswith("hub:")


@pytest.mark.parametrize(("size", "share"), [("3b", (0.4, 0.5)), ("7b", (0.6, 0.6))])
def test_the_large_recipes_have_the_values_of_the_paper(size, share):
    config = load(PretrainConfig, next(path for path in RECIPES if path.stem == f"moca-{size}-pretrain"))
    assert (config.mask.words, config.mask.patches) == share
    assert (config.lr, config.warmup, config.clip, config.dtype) == (2e-6, 0.1, 5.0, "bfloat16")
    assert (config.max_length, config.budget, config.shards, config.shift, config.mae_weight) == (2048, 12_800, 32, True, 0.5)
    assert {source.template for source in config.data} == {
        "dclm",
        "pixelprose",
        "mammoth-vl",
        "mmeb-train",
        "docmatix",
        "visrag",
        "colpali",
    }
    assert {source.cap for source in config.data} == {500_000}
