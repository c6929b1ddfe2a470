"""Every shipped recipe fits its stage's configuration, and runs a step of each stage on a tiny model through the program itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from twoway.cli import main
from twoway.config import load
from twoway.data.mixture import require_names
from twoway.methods.config import PairsConfig
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.pretrain.config import PretrainConfig
from twoway.recipes.plan import plan
from twoway.recipes.recipe import named_stages, read_recipe

pytestmark = pytest.mark.usefixtures("short_proof")

ALL = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
# A step at nano size: what a recipe says of amounts, of machines and of where data lies gives way to this, where a stage has such a key.
SMALL = {
    "max_steps": 1,
    "max_length": 512,
    "per_device_train_batch_size": 2,
    "batches_per_step": 1,
    "held_out": 2,
    "dataloader_num_workers": 0,
    "device": "cpu",
    "parallel": "ddp",
    "torch_compile": "false",
    "train_layers": 0,
    "calibrate": "none",
}
PAIRS = '[{spec: "samples:train", cap: 40}]'
OF_PAIRS = ("finetune", "mine", "rerank", "score")
UNREAD = ("mine", "score", "merge")  # they write no row themselves: the models that they open say how
DOCUMENTS = '[{spec: "samples:pretrain", cap: 40}]'
RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*-pretrain.yaml"))
# A recipe that others take in as their stage runs within those.
TAKEN_IN = {name for path in ALL for name in re.findall(r"^ +recipe: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)}
WHOLE = [path for path in ALL if path.name not in TAKEN_IN]


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
    assert (config.learning_rate, config.warmup_steps, config.max_grad_norm, config.dtype) == (2e-6, 0.1, 5.0, "auto")
    assert (config.max_length, config.batches_per_step, config.shift, config.mae_weight) == (2048, 128, True, 0.5)
    assert (config.min_pixels, config.max_pixels, config.template) == (200_704, 802_816, "plain")
    assert [(source.row_template, source.cap) for source in config.data] == [("moca", 500_000)] * 10
    assert all(source.spec.startswith("hub:moca-embed/") for source in config.data)


def test_the_second_stage_reads_the_pairs_that_the_authors_have_prepared():
    config = load(FinetuneConfig, Path(__file__).parents[1] / "recipes" / "moca-finetune.yaml")
    prepared = [source for source in config.data if source.spec.startswith("hub:moca-embed/MoCa-CL-Pairs/")]
    assert [(source.row_template, source.cap) for source in prepared] == [("moca-pairs", 50_000)] * 27
    synthetic = {source.spec: source.row_template for source in config.data if "mmE5-synthetic" in source.spec}
    assert synthetic == {f"hub:intfloat/mmE5-synthetic/{name}:train": "mme5" for name in ("Classification", "Retrieval", "VQA")}
    assert all(source.cap > 500_000 for source in config.data if source.spec in synthetic)  # all rows: a stream has to have a bound
    assert (config.hard_negatives, config.fill_negatives) == (2, True)
    assert not config.all_prompts()  # instructions stand in the texts


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_a_step_of_pretraining_has_as_many_rows_as_the_papers(size):
    """5 M rows in 3,311 steps are 1,510 rows a step, over 32 GPUs that add four batches up."""
    stage = plan(RECIPES[0].with_name(f"moca-{size}.yaml"), "h100x32").stages[0]
    assert stage.work.rows == 5e6
    assert 3200 <= stage.work.steps <= 3400
    assert stage.work.batches == 4


def test_pictures_and_prompts_are_the_same_in_all_stages_of_a_method():
    for path in ALL:
        stages = [one for one in read_recipe(path, ["base=somewhere"]).stages if one.kind.name not in UNREAD]
        if path.stem.startswith(("moca", "two-way", "causal")):
            assert {(one.config.min_pixels, one.config.max_pixels) for one in stages} == {(200_704, 802_816)}, path.stem
        if not path.stem.startswith("nano"):
            assert {one.config.template for one in stages} == {"plain"}, path.stem


def small(stage, teacher):
    """Return the words that make one stage of a recipe small."""
    keys = stage.kind.keys
    words = {key: value for key, value in SMALL.items() if key in keys}
    if getattr(stage.config, "min_pixels", None):
        words |= {"min_pixels": 784, "max_pixels": 4 * 3136}  # the authors' are 256 tokens of the smallest picture
    if isinstance(stage.config, PairsConfig):
        del words["per_device_train_batch_size"]  # refused there: a batch is that of the loss
        words |= {"global_batch_size": 4, "eval_data": "[]", "small_tasks": "keep"}
    if "data" in keys and stage.kind.name != "evaluate" and not named_stages(stage.config):
        words |= {"data": PAIRS if stage.kind.name in OF_PAIRS else DOCUMENTS}
    if stage.kind.name == "evaluate":
        words |= {"tasks": "[order]", "subset": 2}
    if stage.kind.name == "score" and "/" in stage.source:
        words |= {"from": teacher}
    return [f"{stage.name}.{key}={value}" for key, value in words.items()]


def test_a_stage_alone_runs_as_the_recipe_of_it_does(tiny_model, tmp_path):
    path = next(path for path in ALL if path.name == "nano-finetune.yaml")
    runs_a_step(path, tiny_model("qwen2_vl"), tmp_path / "out")
    assert {path.name for path in ALL} > TAKEN_IN > {path.name}


# The larger MoCa has the keys of the smaller one, with other numbers.
@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem == "moca-7b" else ()) for path in WHOLE]
)
def test_a_recipe_runs_a_step_of_each_stage(path, tiny_model, tiny_reranker, tmp_path):
    runs_a_step(path, tiny_model("qwen2_vl"), tmp_path / "out", tiny_reranker)


def runs_a_step(path, model, out, teacher=None):
    base = f"base={model}"
    stages = read_recipe(path, [base]).stages
    words = [word for stage in stages for word in small(stage, teacher)]
    assert main(["run", str(path), str(out), base, *words]) == 0
    for stage in stages:
        assert (out / stage.folder / stage.kind.marker).exists(), stage.name
