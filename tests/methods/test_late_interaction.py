"""`finetune` with many vectors on tiny models: exact gradients, a plain `MultiVectorEncoder`, going on after a stop, what is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import MultiVectorEncoder
from torch.nn import functional

from contrastive_toy import ROWS, WARM, gradients, load
from cut_off import cut_off, same_bits
from pair_toys import USUAL, pair_file
from twoway.content import to_messages
from twoway.data.config import PairSource
from twoway.errors import TwowayError, UsageError
from twoway.methods.convert import convert
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.finetune.data import open_data
from twoway.methods.finetune.method import finetune, prepare
from twoway.models import checkpoint
from twoway.models.opening import open_model
from twoway.training.progress import read_log

NEAR = {"rtol": 1e-5, "atol": 1e-5}
MANY = USUAL | {"late_interaction": True, "projection_dim": 12, "query_expansion": 3, "max_steps": 4}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return pair_file(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def whole(tiny_model, rows, tmp_path_factory):
    """A run that nothing disturbs."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    finetune(tiny_model("qwen2_vl"), out, [str(rows)], **MANY, eval_data=(PairSource(str(rows), name="again"),), eval_rows=3)
    return out


def near(left, right):
    assert left.keys() == right.keys()
    assert "projection.linear.weight" in left
    for name, one in right.items():
        assert float(one.abs().max()) > 0 or "lora" in name or "lm_head" in name or "visual" in name, name
        torch.testing.assert_close(left[name], one, **NEAR, msg=lambda said, name=name: f"{name}: {said}")


def by_hand(task, batch):
    """Return the gradients of the loss as it is written, MaxSim in plain loops, in one graph."""
    vectors = {}
    for chunk in batch["chunks"]:
        states = functional.normalize(task.projection(task.features(chunk["inputs"]))["token_embeddings"], dim=-1)
        for item, row, mask in zip(chunk["items"].tolist(), states, chunk["inputs"]["attention_mask"], strict=True):
            vectors[item] = row[mask.bool()]
    count, total = len(batch["queries"]), 0.0
    answers = {}
    for row in range(count):
        answers.setdefault(int(batch["query_keys"][row]), set()).add(int(batch["candidate_keys"][row]))
    for row in range(count):
        key, query = int(batch["query_keys"][row]), vectors[int(batch["queries"][row])]
        seen = [n for n, k in enumerate(batch["candidate_keys"].tolist()) if n == row or k not in answers[key] | {key}]
        scores = torch.stack([(query @ vectors[int(batch["candidates"][n])].T).amax(1).mean() for n in seen])
        total = total - torch.log_softmax(scores / WARM["temperature"], 0)[seen.index(row)]
    (total / count).backward()
    found = {
        name: torch.zeros_like(one) if one.grad is None else one.grad.clone() for name, one in task.named_parameters() if one.requires_grad
    }
    task.zero_grad()
    return found, float(total.detach() / count)


@pytest.mark.parametrize("options", [{}, {"two_way": False, "symmetric": True, "learn_temperature": True, "margin": 0.1}], ids=str)
def test_chunks_change_no_gradient_and_it_is_that_of_the_loss_as_it_is_written(options, tiny_model):
    task, batch = load(tiny_model("qwen2_vl"), late=6, **options)
    made = batch(ROWS)
    assert len(made["chunks"].costs) > 3
    task.keep_graph_tokens = math.inf
    plain, step = gradients(task, [made])
    if not options:
        expected, loss = by_hand(task, made)
        near(plain, expected)
        assert step.numbers["sum contrastive"] / step.numbers["count contrastive"] == pytest.approx(loss, rel=1e-5)
    for hold in (0.0, made["chunks"].costs[0] + made["chunks"].costs[1]):
        task.keep_graph_tokens = hold
        cached, _ = gradients(task, [made])
        near(cached, plain)
    apart, _ = gradients(task, [batch(ROWS[:2]), batch(ROWS[2:]), task.dummy_batch()])
    near(apart, plain)


def test_the_plain_checkpoint_gives_the_vectors_of_training(whole, rows, tmp_path):
    listed = [entry["type"] for entry in json.loads((whole / "modules.json").read_text())]
    assert all(kind.startswith("sentence_transformers.") for kind in listed)
    assert [kind.rpartition(".")[2] for kind in listed] == ["Transformer", "Dense", "MultiVectorMask", "Normalize"]
    model = MultiVectorEncoder(str(whole), device="cpu")
    config = FinetuneConfig(**USUAL, data=(PairSource(str(rows)),))
    prepared = prepare(whole, config)  # a model of many vectors trains as one, unless it is told otherwise
    data = open_data(config, prepared, tmp_path, shards=1, bad_rows=None)
    module = prepared.module.eval()
    for number in range(4):
        identity, pair = data.pairs.read(number)
        batch = data.collate([data.encode((identity, pair), epoch=0)])
        found = {}
        for chunk in batch["chunks"]:
            with torch.no_grad():
                made = functional.normalize(module.predict(chunk["inputs"]), dim=-1)
            found |= zip(chunk["items"].tolist(), torch.split(made, module.count_vectors(chunk["inputs"]).tolist()), strict=True)
        query = model.encode_query([to_messages(pair.query)])[0]
        prompt = f"{pair.task}-document" if f"{pair.task}-document" in model.prompts else "document"
        document = model.encode_document([to_messages(pair.positive)], prompt_name=prompt if model.prompts.get(prompt) else None)[0]
        torch.testing.assert_close(found[int(batch["queries"][0])], query, **NEAR)
        torch.testing.assert_close(found[int(batch["candidates"][0])], document, **NEAR)
        assert query.shape[1] == 12
    tokens = model.tokenizer.convert_ids_to_tokens(model.preprocess(["a"], task="query")["input_ids"][0])
    assert len(set(tokens[-3:])) == 1
    assert tokens[-3:] != model.tokenizer.convert_ids_to_tokens(model.preprocess(["a"], task="document")["input_ids"][0])[-3:]


def test_what_comes_out_is_trained_and_says_what_it_is(whole, tiny_model):
    new = prepare(tiny_model("qwen2_vl"), FinetuneConfig(**MANY)).module.projection.linear.weight.detach()
    trained = load_file(whole / "1_Dense/model.safetensors")["linear.weight"]
    assert trained.shape == new.shape
    assert float((trained - new).abs().mean()) > 1e-4
    card = checkpoint.read_card(whole)
    assert (card["late_interaction"], card["pooling"], card["dim"], card["attention"]["measured"]) == (True, "none", 12, "two-way")
    assert "MultiVectorEncoder" in (whole / "README.md").read_text()
    assert type(open_model(whole).sentence) is MultiVectorEncoder
    steps = [line for line in read_log(whole) if line["step"]]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(-1 <= line["positive"] <= 1 for line in steps)
    assert "mrr/again/words" in read_log(whole)[0]
    with pytest.raises(TwowayError, match=r"gives a vector for each token \(late interaction\), and one vector is needed here"):
        convert(whole, whole.parent / "converted")


def test_a_run_that_was_cut_off_ends_with_the_same_bits(whole, tiny_model, rows, tmp_path):
    with cut_off(4):
        finetune(tiny_model("qwen2_vl"), tmp_path / "cut", [str(rows)], **MANY)
    result = finetune(tiny_model("qwen2_vl"), tmp_path / "cut", [str(rows)], **MANY)
    assert (result.steps, result.resumed) == (4, 2)
    for file in ("model.safetensors", "1_Dense/model.safetensors"):
        same_bits(tmp_path / "cut" / file, whole / file)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pooling": "mean"}, "pooling is for one vector"),
        ({"loss": {"matryoshka_dims": (4,)}}, "loss.matryoshka_dims is for one vector"),
        ({"late_interaction": False}, "projection_dim belongs to late_interaction=true"),
    ],
)
def test_what_does_not_go_together_is_refused(options, said):
    with pytest.raises(UsageError, match=said):
        finetune("no base is looked for", "nowhere", "rows.jsonl", **MANY | options)


def test_a_model_of_the_other_kind_is_one_clear_line(whole, rows, tmp_path):
    with pytest.raises(UsageError, match="gives a vector for each token; leave late_interaction out, or start from a model of one vector"):
        finetune(whole, tmp_path / "one", [str(rows)], **USUAL | {"late_interaction": False})
    with pytest.raises(UsageError, match="truncate_dim is for one vector"):
        finetune(whole, tmp_path / "one", [str(rows)], **USUAL | {"truncate_dim": 4})
