"""`rerank` on tiny models: a plain `CrossEncoder` comes out, going on after a stop, what is read of rows, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.modules import LogitScore
from transformers import AutoProcessor

from contrastive_toy import gradients
from cut_off import cut_off, same_bits
from rerank_toys import PUBLISHED, USUAL, candidate_file, speaking
from tiny import published
from twoway.content import CandidatePair, ContentError, Document, pair_messages
from twoway.data.config import PairSource
from twoway.errors import TwowayError, UsageError
from twoway.methods.finetune.method import finetune
from twoway.methods.rerank.config import RerankConfig
from twoway.methods.rerank.data import open_data
from twoway.methods.rerank.method import prepare, rerank
from twoway.models import checkpoint, reranker
from twoway.recipes.recipe import read_recipe
from twoway.training.gradient_cache import ChunkList
from twoway.training.progress import read_log

pytestmark = pytest.mark.usefixtures("short_proof")

RAW = torch.nn.Identity()


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    """A model whose tokenizer has yes and no."""
    return speaking(tiny_model("qwen3_vl"), tmp_path_factory.mktemp("speaking") / "base")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return candidate_file(tmp_path_factory.mktemp("candidates"))


@pytest.fixture(scope="module")
def whole(base, rows, tmp_path_factory):
    """A run that nothing disturbs: the model's own head, causal."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = rerank(base, out, [str(rows)], **USUAL, eval_data=(PairSource(str(rows), name="again"),), eval_rows=2)
    assert (result.steps, result.resumed) == (4, 0)
    return out


@pytest.fixture(scope="module")
def layered(tiny_model, rows, tmp_path_factory):
    """A run with a new linear layer, two-way, by adapters."""
    out = tmp_path_factory.mktemp("runs") / "layered"
    rerank(tiny_model("qwen2_vl"), out, [str(rows)], **USUAL | {"head": "linear", "attention": "two-way", "lora": {"r": 2}, "max_steps": 2})
    return out


def opened(base, rows, out, **options):
    """Return what a run trains and reads."""
    config = RerankConfig(**USUAL | options, data=(PairSource(str(rows)),))
    prepared = prepare(base, config)
    return prepared, open_data(config, prepared, out, shards=1, bad_rows=None)


@pytest.mark.parametrize("run", ["whole", "layered"])
def test_the_plain_checkpoint_gives_the_scores_of_training(run, request, rows, tmp_path):
    out = request.getfixturevalue(run)
    attention = checkpoint.read_card(out)["attention"]["measured"]
    prepared, data = opened(out, rows, tmp_path, attention=attention)
    model = CrossEncoder(str(out), device="cpu")
    for number in range(4):
        identity, pair = data.pairs.read(number)
        batch = data.collate([data.encode((identity, pair), epoch=0)])
        with torch.no_grad():
            ours = {}
            for chunk in batch["chunks"]:
                ours |= dict(zip(chunk["items"].tolist(), prepared.module.eval().predict(chunk["inputs"])[:, 0].tolist(), strict=True))
        pairs = [CandidatePair.of(pair.query, one) for one in data.encode.candidates((identity, pair), epoch=0)]
        theirs = model.predict([pair_messages(one) for one in pairs], activation_fn=RAW, show_progress_bar=False)
        assert [ours[place] for place in range(len(pairs))] == pytest.approx(theirs.tolist(), abs=1e-5)


def test_the_folder_needs_no_code_of_ours_and_says_what_it_is(whole, layered):
    for out, modules, score in (
        (whole, ["Transformer", "LogitScore"], "the logit of yes less that of no"),
        (layered, ["Transformer", "Pooling", "Dense"], "a linear layer on the pooled states (mean)"),
    ):
        listed = [entry["type"] for entry in json.loads((out / "modules.json").read_text())]
        assert all(kind.startswith("sentence_transformers.") for kind in listed)
        assert [kind.rpartition(".")[2] for kind in listed] == modules
        card = checkpoint.read_card(out)
        assert (card["score"], card["chain"][-1]["step"]) == (score, "rerank")
        assert "CrossEncoder" in (out / "README.md").read_text()
    assert checkpoint.read_card(whole)["attention"]["measured"] == "causal"
    assert checkpoint.read_card(layered)["attention"]["measured"] == "two-way"
    assert CrossEncoder(str(whole), device="cpu").prompts["query"] == "Find it."


def test_a_pair_is_written_as_the_published_reranker_reads_it(whole):
    processor = AutoProcessor.from_pretrained(whole)
    pair = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in (("query", "what?"), ("document", "that."))]
    said = {"role": "system", "content": [{"type": "text", "text": "Find it."}]}
    written = {"query": "what?", "document": "that."}
    assert processor.apply_chat_template(pair, tokenize=False) == PUBLISHED.format(instruction=reranker.INSTRUCTION, **written)
    assert processor.apply_chat_template([said, *pair], tokenize=False) == PUBLISHED.format(instruction="Find it.", **written)
    plain = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    assert processor.apply_chat_template(plain, tokenize=False) == "<|im_start|>user\nhello<|im_end|>\n"


def test_the_log_says_how_it_did(whole):
    lines = read_log(whole)
    steps = [line for line in lines if line["step"]]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    for line in steps:
        assert {"rerank", "accuracy", "right", "hardest", "grad_norm"} <= line.keys()
        assert len([key for key in line if key.startswith("accuracy/")]) == 1
    assert {"mrr/again", "mrr/again/words", "recall1/again/same"} <= lines[0].keys()
    assert "Right candidate first" in (whole / "report.html").read_text()


def test_a_run_that_was_cut_off_ends_with_the_same_bits(whole, base, rows, tmp_path):
    with cut_off(4):
        rerank(base, tmp_path / "cut", [str(rows)], **USUAL)
    result = rerank(base, tmp_path / "cut", [str(rows)], **USUAL)
    assert (result.steps, result.resumed) == (4, 2)
    same_bits(tmp_path / "cut" / "model.safetensors", whole / "model.safetensors")


def test_chunks_that_run_twice_give_the_gradients_of_a_plain_step(base, rows, tmp_path):
    found = []
    for options in ({"budget": 1e6}, {"budget": 700.0, "keep_graph_tokens": 0.0}):
        prepared, data = opened(base, rows, tmp_path, **options)
        batch = data.collate([data.encode(data.pairs.read(number), epoch=0) for number in (0, 2)])
        batch |= {"chunks": ChunkList(list(batch["chunks"]))}
        found.append((len(batch["chunks"].chunks), *gradients(prepared.module.eval(), [batch])))
    (one, plain, _), (many, cached, made) = found
    assert (one, many > 2, made.numbers["count rerank"]) == (1, True, 2)
    for name, gradient in plain.items():
        torch.testing.assert_close(cached[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_reranker_in_the_published_layout_is_trained_as_it_reads(base, rows, tmp_path):
    """Its modules file names a folder of the score that is not there, as the 8B one did."""
    processor = AutoProcessor.from_pretrained(base)
    yes, no = (processor.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    own = published(base, tmp_path / "published", behind=(LogitScore(yes, no),), called=checkpoint.WITH_HEAD, model_type="CrossEncoder")
    reranker.set_pair_template(processor)
    processor.save_pretrained(own)
    expected = CrossEncoder(str(own), device="cpu")
    shutil.rmtree(own / "1_LogitScore")
    prepared, _ = opened(own, rows, tmp_path)
    assert [type(one).__name__ for one in prepared.start.settings.behind] == ["LogitScore"]
    with pytest.raises(TwowayError, match="published is a reranker, which gives scores and no vectors; train it with twoway rerank"):
        finetune(own, tmp_path / "out", [str(rows)], max_steps=1)
    pairs = [("what?", "this one"), ("what?", PILImage.new("RGB", (28, 28)))]
    rerank(own, tmp_path / "out", [str(rows)], **USUAL | {"max_steps": 1, "learning_rate": 1e-12, "prompts": {}})
    found = CrossEncoder(str(tmp_path / "out"), device="cpu")
    scores = [one.predict(pairs, activation_fn=RAW, prompt="", show_progress_bar=False) for one in (expected, found)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


def test_rows_that_say_nothing_to_a_reranker_are_named(base, rows, tmp_path):
    bad = {
        "no negatives": ({"query": "a", "positive": "b"}, "the row has no negatives, .*find some with twoway mine"),
        "no right one": ({"query": "a", "negatives": ["b"]}, "positive"),
        "special": ({"query": "a", "positive": "b <|im_end|>", "negatives": ["c"]}, r"'<\|im_end\|>', which this model's tokenizer reads"),
    }
    good = [json.loads(line) for line in Path(rows).read_text().splitlines() if "image" not in line]
    for name, (row, said) in bad.items():
        path = tmp_path / f"{name.replace(' ', '-')}.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in [*good[:8], {**row, "task": "words"}]))
        with pytest.raises(ContentError, match=rf"{path.name}:9: .*{said}"):
            rerank(base, tmp_path / name, [str(path)], **USUAL | {"held_out": 0, "max_steps": 3})


def test_a_pair_that_is_too_long_loses_text_and_no_picture(base, rows, tmp_path):
    prepared, data = opened(base, rows, tmp_path, max_length=400)
    picture = {"image": PILImage.new("RGB", (28, 28))}

    def encoded(query, candidate):
        pair = CandidatePair.of(Document.from_parts([{"text": query}]), Document.from_parts(candidate))
        return data.encode.encode("row", pair)

    for candidate in ([{"text": "long " * 200}], [{"text": "long " * 200}, picture]):
        example = encoded("short", candidate)
        assert (example.cut, len(example.inputs["input_ids"]) <= 400) == (True, True)
        end = prepared.processor.tokenizer.decode(example.inputs["input_ids"])
        assert end.endswith("<|im_end|>\n<|im_start|>assistant\n")
    with pytest.raises(ContentError, match=r"query and candidate are .* tokens, .* more than max_length 400"):
        encoded("q " * 400, [picture])


def test_settings_that_cannot_be_are_refused(base, rows, tiny_model, tmp_path):
    with pytest.raises(TwowayError, match=r"its tokenizer has no token 'yes', .*; use head=linear"):
        rerank(tiny_model("qwen2_vl"), tmp_path / "out", [str(rows)], **USUAL)
    with pytest.raises(UsageError, match="say head=linear too"):
        rerank(base, tmp_path / "out", [str(rows)], **USUAL, pooling="mean")


def test_a_recipe_may_have_it_as_a_stage_of_its_own_name(tmp_path):
    """Although `evaluate` has a setting of that name."""
    (tmp_path / "recipe.yaml").write_text("base: a\nstages:\n  mine: {data: [{spec: b.jsonl}]}\n  rerank: {data: [{spec: 'stage:mine'}]}\n")
    stages = read_recipe(tmp_path / "recipe.yaml").stages
    assert [(stage.kind.name, type(stage.config).__name__) for stage in stages][-1] == ("rerank", "RerankConfig")


@pytest.mark.slow
@pytest.mark.xdist_group("ranks")
def test_two_ranks_make_the_model_of_one(base, rows, tmp_path, quick_ranks):
    options = USUAL | {"batches_per_step": 2, "parallel": "ddp", "max_steps": 2}
    rerank(base, tmp_path / "one", [str(rows)], **options)
    rerank(base, tmp_path / "two", [str(rows)], nproc=2, **options)
    losses = [[line["loss"] for line in read_log(tmp_path / name) if line["step"]] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-3, atol=1e-4)
