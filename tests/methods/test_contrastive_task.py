"""Gradient caching gives the gradients of one graph; ranks give those of one rank; vectors are those of the saved model."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from contrastive_toy import ROWS, WARM, gradients, load, picture, rank_of_two, text
from twoway.content import Document
from twoway.errors import UsageError
from twoway.losses import Loss, find_loss, register_loss
from twoway.methods.finetune.config import ContrastiveConfig
from twoway.methods.finetune.data import Guide
from twoway.training.distributed import launch

NEAR = {"rtol": 1e-5, "atol": 1e-5}


def near(left, right):
    assert left.keys() == right.keys()
    assert any(float(one.abs().max()) > 1e-3 for one in right.values())
    for name, one in right.items():
        torch.testing.assert_close(left[name], one, **NEAR, msg=lambda said, name=name: f"{name}: {said}")


def by_hand(task, batch):
    """Return the gradients of the loss as the paper writes it, each content embedded alone, in one graph."""
    vectors = {}
    for chunk in batch["chunks"]:
        torch.manual_seed(0)
        for item, vector in zip(chunk["items"].tolist(), task.embed(chunk["inputs"]), strict=True):
            vectors[item] = functional.normalize(vector, dim=0)
    count, total = len(batch["queries"]), 0.0
    answers = {}
    for row in range(count):
        answers.setdefault(int(batch["query_keys"][row]), set()).add(int(batch["candidate_keys"][row]))
    for row in range(count):
        key = int(batch["query_keys"][row])
        seen = [n for n, k in enumerate(batch["candidate_keys"].tolist()) if n == row or k not in answers[key] | {key}]
        scores = torch.stack([vectors[int(batch["queries"][row])] @ vectors[int(batch["candidates"][n])] for n in seen])
        total = total - torch.log_softmax(scores / WARM["temperature"], 0)[seen.index(row)]
    (total / count).backward()
    found = {name: torch.zeros_like(one) if one.grad is None else one.grad for name, one in task.named_parameters() if one.requires_grad}
    task.zero_grad()
    return {name: one.clone() for name, one in found.items()}, float(total.detach() / count)


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_the_gradient_is_that_of_the_loss_as_it_is_written(family, tiny_model):
    task, batch = load(tiny_model(family))
    made = batch(ROWS)
    expected, loss = by_hand(task, made)
    found, step = gradients(task, [made])
    near(found, expected)
    assert step.numbers["sum contrastive"] / step.numbers["count contrastive"] == pytest.approx(loss, rel=1e-5)


def test_a_loss_of_ones_own_is_chosen_by_its_name(tiny_model):
    @register_loss("alignment")
    def alignment(queries_QD, candidates_CD, positive_Q, allowed_QC=None, *, temperature):
        return Loss((1 - functional.cosine_similarity(queries_QD, candidates_CD[positive_Q])).sum() / temperature, len(queries_QD))

    task, batch = load(tiny_model("qwen2_vl"), name="alignment")
    made = batch(ROWS)
    cached, step = gradients(task, [made])
    vectors = {}
    for chunk in made["chunks"]:
        vectors |= dict(zip(chunk["items"].tolist(), task.embed(chunk["inputs"]), strict=True))
    sides = zip(made["queries"].tolist(), made["candidates"].tolist()[: len(ROWS)], strict=True)
    loss = sum(1 - functional.cosine_similarity(vectors[left], vectors[right], dim=0) for left, right in sides) / 0.2
    (loss / len(ROWS)).backward()
    assert step.sums[0]["contrastive"] == pytest.approx(float(loss.detach()), rel=1e-5)
    near(cached, {name: one.grad for name, one in task.named_parameters() if one.grad is not None})


def test_a_loss_of_an_installed_package_is_found(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "toy_losses.py").write_text("def none(*given, **options): ...")
    (tmp_path / "toy-1.dist-info").mkdir()
    (tmp_path / "toy-1.dist-info" / "METADATA").write_text("Name: toy\nVersion: 1")
    (tmp_path / "toy-1.dist-info" / "entry_points.txt").write_text("[twoway.losses]\ntoy = toy_losses:none")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_loss("toy").__module__ == "toy_losses"
    with pytest.raises(UsageError, match="there is no loss 'contrastiv'; did you mean contrastive"):
        load(tiny_model("qwen2_vl"), name="contrastiv")


@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"lora": 0.3}, {"lora": 0.3, "checkpointing": True}], ids=str)
def test_chunks_change_no_gradient(options, tiny_model):
    task, batch = load(tiny_model("qwen2_vl"), **options, learn_temperature=True)
    made = batch(ROWS)
    assert len(made["chunks"].costs) > 3
    task.keep_graph_tokens = math.inf
    plain, _ = gradients(task, [made])
    for hold in (0.0, made["chunks"].costs[0] + made["chunks"].costs[1]):
        task.keep_graph_tokens = hold
        cached, _ = gradients(task, [made])
        near(cached, plain)
    if options.get("lora"):
        task.eval()
        calm, _ = gradients(task, [made])
        assert any(not torch.allclose(calm[name], one, **NEAR) for name, one in plain.items())  # dropout was there


def test_batches_of_a_step_see_each_other(tiny_model):
    task, batch = load(tiny_model("qwen2_vl"))
    together, _ = gradients(task, [batch(ROWS)])
    apart, step = gradients(task, [batch(ROWS[:2]), batch(ROWS[2:]), task.dummy_batch()])
    near(apart, together)
    assert step.numbers["rows"] == len(ROWS)
    assert [math.isnan(one["contrastive"]) for one in step.sums] == [False] * 3


@pytest.mark.xdist_group("ranks")
@pytest.mark.usefixtures("quick_ranks")
def test_two_ranks_have_the_gradients_of_one(tiny_model, tmp_path):
    folder = str(tiny_model("qwen2_vl"))
    options = {"learn_temperature": True, "symmetric": True, "matryoshka_dims": (8, 32)}
    cases = [
        ("ddp", "ddp", options, 2),
        ("ddp-kept", "ddp", options | {"hold": 150.0}, 5),
        ("fsdp", "fsdp", options, 5),
        ("fsdp-kept", "fsdp", options | {"hold": 150.0, "checkpointing": True}, 2),
        ("local", "ddp", {"gather_across_devices": False}, 3),
        ("lora", "fsdp", {"lora": 1e-9}, 4),
        ("many", "fsdp", {"late": 6, "symmetric": True}, 4),
    ]
    launch(2, rank_of_two, folder, str(tmp_path), cases)
    for name, _, chosen, split in cases:
        task, batch = load(folder, **chosen)
        expected, step = gradients(task, [batch(ROWS[:split]), batch(ROWS[split:])])
        found, numbers = torch.load(tmp_path / f"{name}.pt")
        near(found, expected)
        for key, value in step.numbers.items():
            assert numbers[key] == pytest.approx(value, rel=1e-5), (name, key)


def test_what_a_step_says_of_itself(tiny_model):
    task, batch = load(tiny_model("qwen2_vl"), temperature=0.05)
    _, step = gradients(task, [batch(ROWS)])
    said = {name.removeprefix("measure "): value / step.numbers[name.replace("measure", "weight", 1)]
            for name, value in step.numbers.items() if name.startswith("measure ")}  # fmt: skip
    assert set(said) == {"accuracy", "accuracy/task 0", "accuracy/task 1", "positive", "hardest", "temperature", "masked", "cut"}
    assert said["temperature"] == pytest.approx(0.05)
    assert said["accuracy"] == pytest.approx((said["accuracy/task 0"] + said["accuracy/task 1"]) / 2)
    # Rows 0 and 2 ask the same, rows 0 and 4 are answered by the same, and row 3's answer is a negative of row 2.
    assert said["masked"] == pytest.approx((2 + 2 + 1 + 1) / 6)
    assert step.numbers["rows"] == 6
    assert step.numbers["contents"] == 14


def test_a_content_that_did_not_come_takes_its_rows_with_it(tiny_model):
    task, batch = load(tiny_model("qwen2_vl"))
    made = batch(ROWS, budget=1.0)  # each in a chunk of its own
    # The first row's query (row 2's too), and a hard negative of row 4.
    lost = {int(made["queries"][0]), int(made["candidates"][-2])}
    for chunk in made["chunks"].chunks:
        if int(chunk["items"]) in lost:
            chunk |= {"inputs": None, "items": chunk["items"][:0]}
    found, step = gradients(task, [made])
    without = [ROWS[1], ROWS[3], (ROWS[4][0], ROWS[4][1], []), ROWS[5]]
    expected, _ = gradients(task, [batch(without)])
    assert step.numbers["rows"] == 4
    near(found, expected)


@pytest.mark.parametrize("pooling", ["mean", "last", "eos"])
def test_vectors_are_those_of_the_saved_model(pooling, tiny_encoder):
    from sentence_transformers import SentenceTransformer

    folder = tiny_encoder("qwen2_vl", pooling=pooling)
    task, batch = load(folder, pooling=pooling)
    made = batch(ROWS)
    vectors = torch.zeros(made["contents"], 32)
    with torch.no_grad():
        for chunk in made["chunks"]:
            vectors[chunk["items"]] = functional.normalize(task.embed(chunk["inputs"]), dim=-1)
    model = SentenceTransformer(str(folder), device="cpu")
    for number, (query, positive, _) in enumerate(ROWS):
        for side, place in ((query, made["queries"][number]), (positive, made["candidates"][number])):
            content = [{"type": kind, kind: value} for part in side for kind, value in part.items()]
            expected = model.encode([[{"role": "user", "content": content}]], convert_to_tensor=True)[0]
            torch.testing.assert_close(vectors[place], expected, **NEAR)


def test_what_cannot_be_is_refused():
    for given, said in [
        ({"temperature": 0.0}, "temperature takes a number above 0"),
        ({"temperature": 0.001, "learn_temperature": True}, "starts at 0.01"),
        ({"symmetric": True, "negatives": "own"}, "symmetric needs other rows"),
        ({"matryoshka_dims": (8, 8)}, "dims are different"),
        ({"margin": 5.0}, "margin takes a number from -2 to 2"),
    ]:
        with pytest.raises(UsageError, match=said):
            ContrastiveConfig(**given)


def test_own_negatives_must_be_there(tiny_model):
    task, batch = load(tiny_model("qwen2_vl"), negatives="own")
    with pytest.raises(UsageError, match="no row of this batch has any"):
        gradients(task, [batch([ROWS[1], ROWS[3]])])
    _, step = gradients(task, [batch([ROWS[1], ROWS[0]])])
    assert step.numbers["rows"] == 2


def test_a_margin_takes_out_what_is_too_near(tiny_model):
    task, batch = load(tiny_model("qwen2_vl"), margin=0.0)
    made = batch([([text("one thing")], [picture("red")], [[text("one thing, once more")]]), ([text("x")], [text("y")], [])])
    _, step = gradients(task, [made])
    assert step.numbers["measure accuracy"] == 2  # whatever is nearer than the positive is gone
    guide = torch.zeros(made["contents"], 2)
    guide[:, 0] = 1.0
    guide[made["candidates"][:2], 1] = 1.0
    _, guided = gradients(task, [made | {"guide": guide}])
    assert guided.numbers["measure masked"] == 2  # the guide finds the hard negative nearer than the positive, to both queries


def test_a_guide_gives_each_content_the_vector_of_its_side(tiny_encoder):
    from sentence_transformers import SentenceTransformer

    folder = tiny_encoder("qwen2_vl", prompts={"query": "Find: "})
    documents = [Document.from_parts([part]) for part in (text("one"), text("two"), {"image": b"no picture"}, text("one"))]
    found = Guide(str(folder), device="cpu")(documents, ["query", "document", "document", "document"])
    model = SentenceTransformer(str(folder), device="cpu")
    torch.testing.assert_close(found[0], torch.from_numpy(model.encode_query("one")), **NEAR)
    torch.testing.assert_close(found[[1, 3]], torch.from_numpy(model.encode_document(["two", "one"])), **NEAR)
    assert not found[2].any()
