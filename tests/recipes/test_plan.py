"""A plan follows the recipe: its rows, steps and batches; what is assumed is said, and what is not known is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from twoway.errors import UsageError
from twoway.recipes.plan import plan

RECIPES = Path(__file__).parents[2] / "recipes"
pytestmark = pytest.mark.xdist_group("plans")  # what one has counted the others know


@pytest.fixture(scope="module")
def moca():
    return plan(RECIPES / "moca-3b.yaml", "h200x8")


def test_rows_and_steps_are_those_of_the_recipe(moca):
    assert {one.name: round(one.work.rows) for one in moca.stages} == {"pretrain": 10 * 500_000, "finetune": 44 * 50_000 + 560_000}


@pytest.mark.slow
def test_rows_and_steps_of_three_stages_are_those_of_the_recipe():
    warm_up, _, contrastive = plan(RECIPES / "cocoa-2b.yaml", "h200x8").stages
    assert (warm_up.work.steps, warm_up.work.rows) == (3000, 3000 * 128)
    assert (contrastive.work.steps, contrastive.work.rows) == (2000, 2000 * 1024)


def test_a_video_is_planned_by_its_frames():
    """Qwen2.5-VL takes frames in pairs, 28 x 28 pixels of both a token."""
    few, many = (
        {
            one.name: one
            for one in plan(RECIPES / "moca-video-3b.yaml", "h200x8", [f"pretrain.limits.num_frames={count}"]).stages[0].work.sources
        }
        for count in (8, 4)
    )
    each = 640 * 360 / 28**2
    assert few["video-caption"].tokens / few["video-caption"].rows == pytest.approx(140 + 4 * each)
    assert many["video-qa"].tokens / many["video-qa"].rows == pytest.approx(140 + 2 * each)
    assert many["colpali"] == few["colpali"]


def test_hours_are_operations_over_what_is_reached(moca):
    machine = moca.hardware
    total = sum(one.work.products.total for one in moca.stages)
    assert moca.hours == pytest.approx(total / (0.4 * 8 * 989e12) / 3600)
    assert moca.price == pytest.approx(moca.hours * 8 * machine.price)
    assert all(one.mfu < 0.4 for one in moca.stages)  # activations are computed again
    assert any("--utilisation" in note for note in moca.notes)
    assert any("--price" in note for note in moca.notes)


def test_auto_is_bfloat16_on_what_is_planned_and_float32_takes_longer_and_more(moca):
    same, single = (plan(RECIPES / "moca-3b.yaml", "h200x8", [f"*.dtype={dtype}"]) for dtype in ("bfloat16", "float32"))
    assert {one.dtype for one in moca.stages} == {"bfloat16"}
    assert (same.hours, same.stages[0].choices) == (moca.hours, moca.stages[0].choices)
    assert single.hours == pytest.approx(moca.hours * 989 / 67)
    assert single.stages[0].choices[0].activations > moca.stages[0].choices[0].activations
    assert "67 TFLOP/s" in single.notes[0]


def test_many_vectors_have_a_projection_and_the_products_of_all_tokens(moca):
    one, many = (
        moca.stages[-1],
        plan(RECIPES / "moca-3b.yaml", "h200x8", ["finetune.late_interaction=true", "finetune.pooling=null"]).stages[-1],
    )
    assert many.trained - one.trained == 2048 * 128
    needed, tokens = many.work.products.needed, (many.work.text + many.work.image) * 1.03  # and padding
    assert needed["projection"] == pytest.approx(6 * 2048 * 128 * tokens, rel=0.01)
    row = (one.work.text + one.work.image) / one.work.rows  # tokens of a query and of its three candidates
    assert one.work.products.needed["comparison"] < needed["comparison"] <= one.work.steps * 6 * 128 * (2048 * row) ** 2 / 4
    assert {part: needed[part] for part in ("tower", "language model")} == {
        part: one.work.products.needed[part] for part in ("tower", "language model")
    }


def test_the_page_has_the_figures_of_the_command(moca):
    page = (RECIPES.parent / "docs" / "full-size.md").read_text(encoding="utf-8")
    for one in moca.stages:
        assert f"{one.work.products.total:.2e} | {one.mfu:.0%} | {one.hours:>5,.1f} | {one.price:>7,.0f} |" in page


FULL_SIZE = sorted(path.name for path in RECIPES.glob("*.yaml") if not path.name.startswith("nano-"))


@pytest.mark.parametrize("name", [name if "moca" in name else pytest.param(name, marks=pytest.mark.slow) for name in FULL_SIZE])
def test_the_command_in_a_recipes_own_header_fits_eight_cards_of_80_gb(name):
    """`twoway run RECIPE out --nproc 8` with nothing added; a recipe of one stage is planned with the base that its header names."""
    text = (RECIPES / name).read_text(encoding="utf-8")
    if not re.search(r"^base:", text, re.MULTILINE):
        pytest.skip("a stage, which the recipes of a whole method take in")
    assert re.search(rf"^#   twoway run recipes/{re.escape(name)} out --nproc 8$", text, re.MULTILINE)
    for on in ("h100x8", "a100x8"):
        for stage in plan(RECIPES / name, on).stages:
            assert stage.taken.fits, (name, on, stage.name)
            assert stage.taken.checkpointing


def test_auto_takes_pieces_only_where_the_whole_does_not_fit(moca):
    assert {one.taken.parallel for one in moca.stages} == {"ddp"}
    assert {one.taken.parallel for one in plan(RECIPES / "moca-7b.yaml", "h100x8").stages} == {"fsdp"}
    small = plan(RECIPES / "moca-7b.yaml", "h100x8", ["*.parallel=ddp"])
    assert not any(one.taken.fits for one in small.stages)
    assert sum("does not fit" in note for note in small.notes) == len(small.stages)


def test_batches_go_through_twice_but_for_the_first_chunks(moca):
    finetune = moca.stages[1].work
    kept = 12_800 / (finetune.tokens * 1.03 / finetune.steps / 8)
    assert finetune.repeated == pytest.approx(1 - kept)


def test_tokens_that_are_asked_for_are_read(moca):
    more = plan(RECIPES / "moca-3b.yaml", "h200x8", tokens=["pretrain=30e9"])
    assert more.stages[0].work.tokens == pytest.approx(30e9)
    each = [one.stages[0].work.products.total / one.stages[0].work.tokens for one in (moca, more)]
    assert each[0] == pytest.approx(each[1])


def test_what_is_said_of_a_source_replaces_what_is_assumed(moca):
    said = plan(RECIPES / "moca-3b.yaml", "h200x8", source=["dclm=100:50:0:0"])
    dclm = next(one for one in said.stages[0].work.sources if one.name == "dclm")
    assert (round(dclm.rows), round(dclm.tokens), dclm.assumed) == (100, 5000, False)


@pytest.mark.parametrize(
    ("recipe", "on", "options", "message"),
    [
        ("moca-3b", "h20x8", {}, "did you mean h200"),
        ("moca-3b", "h200x8", {"tokens": ["pretrian=1e9"]}, "did you mean pretrain"),
        ("moca-3b", "h200x8", {"source": ["dlcm=1:1:0:0"]}, "did you mean dclm"),
        ("moca-3b", "h200x8", {"source": ["dclm=1:1"]}, "ROWS:TEXT"),
        ("moca-3b", "h200x8", {"utilisation": 1.5}, "utilisation takes a number above 0 to 1"),
    ],
)
def test_wrong_use_says_what_to_do(recipe, on, options, message):
    with pytest.raises(UsageError, match=message):
        plan(RECIPES / f"{recipe}.yaml", on, **options)


def test_rows_of_unknown_length_are_asked_for(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("base: Qwen/Qwen2-VL-2B-Instruct\nstages: {pretrain: {data: [{spec: rows.jsonl, cap: 10}]}}\n")
    with pytest.raises(UsageError, match=r"--source rows\.jsonl="):
        plan(path, "h100")


def test_rows_that_a_stage_makes_are_as_many_as_it_reads(tiny_model, tmp_path):
    stages = "{mine: {data: [{spec: a.jsonl, cap: 900, name: a}]}, score: {data: [{spec: 'stage:mine'}]}, "
    stages += "finetune: {from: base, data: [{spec: 'stage:score', weight: 2.0}], global_batch_size: 30}}"
    path = tmp_path / "recipe.yaml"
    path.write_text(f"base: {tiny_model('qwen2_vl')}\nstages: {stages}\n")
    (stage,) = plan(path, "h100x8", source=("a=900:20:1:64:10:0:0",)).stages
    assert (stage.work.rows, stage.work.steps) == (1800, 60)
