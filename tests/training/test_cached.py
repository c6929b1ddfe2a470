"""Training by gradient caching: the same bits after a stop, whatever is kept; what is no number is named; what is watched is logged."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from twoway.errors import TwowayError
from twoway.losses.contrastive import contrastive_loss
from twoway.training.checkpointing import Checkpoints
from twoway.training.config import TrainConfig
from twoway.training.distributed import Ranks
from twoway.training.gradient_cache import ChunkList, GradientCachedModule, LossOutput
from twoway.training.progress import read_log
from twoway.training.trainer import Trainer

STEPS, WIDTH = 6, 5


class Twins(GradientCachedModule):
    """Every second content answers the one before it."""

    def __init__(self, keep_graph_tokens=0.0, dropout=0.3):
        super().__init__("twins", keep_graph_tokens=keep_graph_tokens)
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(dropout), nn.Linear(WIDTH, WIDTH))
        self.runs = 0

    def embed(self, inputs):
        self.runs += 1
        return self.layers(inputs["input_ids"])

    def batch_metadata(self, batch, present):
        return len(present)

    def compute_loss(self, gathered, parameters):
        rows = torch.arange(len(gathered.vectors) // 2)
        loss = contrastive_loss(gathered.vectors[::2], gathered.vectors[1::2], rows, temperature=0.1)
        return LossOutput(loss, (), lambda _read: {"seen": (float(len(rows)), 1.0), "never": (0.0, 0.0)})

    def dummy_inputs(self):
        return {"input_ids": torch.zeros(1, WIDTH)}

    def dummy_batch(self):
        return {"contents": 0, "chunks": ChunkList([]), "identities": []}


class Batches:
    """Batches of two pieces; the third step has rows in one of them alone."""

    def __init__(self, poison=None):
        self.poison = poison

    def steps(self, start, stop, rank, ranks):
        for step in range(start, stop):
            yield [None if step == 2 and piece else self.batch(step, piece) for piece in range(2)]

    def batch(self, step, piece):
        draw = torch.Generator().manual_seed(10 * step + piece)
        contents = torch.randn(8, WIDTH, generator=draw)
        if self.poison == (step, piece):
            contents[3, 0] = math.nan
        chunks = [{"inputs": {"input_ids": contents[items]}, "items": items} for items in torch.tensor([[1, 6, 3], [0, 2, 7]])]
        chunks.append({"inputs": {"input_ids": contents[4:6]}, "items": torch.tensor([4, 5])})
        return {"contents": 8, "chunks": ChunkList(chunks), "identities": [f"{step}.{piece}.{row}" for row in range(4)]}


def train(out, *, hold=0.0, stop=None, poison=None):
    task = Twins(hold)
    settings = TrainConfig(learning_rate=0.05, dtype="float32", save_steps=2)
    trainer = Trainer(task, settings, out, total_steps=STEPS, ranks=Ranks("cpu"))
    trainer.train(Batches(poison), stop=stop)
    return task


def weights(out):
    return load_file(Checkpoints(out).path(STEPS) / "weights.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    train(out)
    return out


def test_a_run_in_parts_has_the_same_bits(whole, tmp_path):
    train(tmp_path, stop=3)
    train(tmp_path)
    for name, value in weights(whole).items():
        assert torch.equal(weights(tmp_path)[name], value)
    assert [line["loss"] for line in read_log(tmp_path)] == [line["loss"] for line in read_log(whole)]


@pytest.mark.parametrize(("hold", "runs"), [(0.0, 66), (30.0, 66 - 2 * STEPS), (math.inf, 33)])
def test_what_is_kept_is_not_run_again(whole, tmp_path, hold, runs):
    task = train(tmp_path, hold=hold)
    # Six steps of two batches of three chunks, but for one batch; a chunk costs 15, 15 or 10, and 30 keeps two of the first batch.
    assert task.runs == runs
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, rtol=1e-5, atol=1e-6)


def test_it_learns_and_says_so(whole):
    log = read_log(whole)
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[0]["seen"] == 8
    assert log[2]["seen"] == 4
    assert "never" not in log[0]
    assert [line["twins_targets"] for line in log] == [8, 8, 4, 8, 8, 8]


def test_rows_that_give_no_number_are_named(tmp_path):
    with pytest.raises(TwowayError, match=r"loss of step 4 is not finite; its rows: 3\.1\.0, 3\.1\.1, 3\.1\.2, 3\.1\.3; .*step 2 stands"):
        train(tmp_path, poison=(3, 1))
