"""Two ranks of the real task have the gradients of one process, whatever kind of batch falls to each of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from masked import batch_of
from twoway.stages.pretrain_config import PretrainConfig
from twoway.stages.pretrain_model import prepare
from twoway.training import ranks as between
from twoway.training.launch import launch

pytestmark = pytest.mark.xdist_group("ranks")

# What each of two ranks has in one step: no pictures, no words, several pictures in a row, nothing drawn, no row at all.
STEPS = {
    "text and image": (("text", 0.5), ("image", 0.5)),
    "text alone": (("text", 0.5), ("text", 0.5)),
    "image alone": (("image", 0.5), ("image", 0.5)),
    "several images and nothing drawn": (("both", 0.5), ("both", 0.0)),
    "nothing drawn": (("text", 0.0), ("both", 0.0)),
    "no row": (("both", 0.5), None),
}


def step_of(prepared, what):
    return prepared.task.placeholder() if what is None else batch_of(prepared, what[0], words=what[1], patches=what[1])


def gradients(prepared, shared, ranks, batches, counts):
    """Return every gradient of the mean over the global batch, and zero where none came."""
    scales = {name: weight * ranks / max(counts[name], 1) for name, weight in prepared.task.weights.items()}
    for batch in batches:
        shared(batch, scales)[0].backward()
    parameters = dict(prepared.task.named_parameters())
    found = {name: between.whole(one.grad) if one.grad is not None else torch.zeros(one.shape) for name, one in parameters.items()}
    prepared.task.zero_grad()
    return found


def be_rank(model, out):
    """Be one of two ranks, under both kinds of sharing."""
    torch.set_num_threads(1)
    ranks = between.Ranks("cpu")
    for parallel in ("ddp", "fsdp"):
        prepared = prepare(Path(model), PretrainConfig(seed=0))
        batches = {name: step_of(prepared, pair[ranks.rank]) for name, pair in STEPS.items()}
        shared = ranks.share(prepared.task, parallel)
        for name, batch in batches.items():
            counts = prepared.task.counts(batch)
            summed = dict(zip(counts, ranks.sum(list(counts.values())), strict=True))
            found = gradients(prepared, shared, ranks.count, [batch], summed)
            if ranks.first:
                save_file(found, Path(out) / f"{parallel} {name}.safetensors")
    ranks.leave()


def test_two_ranks_have_the_gradients_of_one_in_every_kind_of_batch(tiny_model, tmp_path):
    model = tiny_model("qwen2_vl")
    launch(2, be_rank, str(model), str(tmp_path))
    prepared = prepare(model, PretrainConfig(seed=0))
    for name, pair in STEPS.items():
        batches = [step_of(prepared, what) for what in pair]
        each = [prepared.task.counts(batch) for batch in batches]
        counts = {loss: sum(one[loss] for one in each) for loss in prepared.task.weights}
        wanted = gradients(prepared, prepared.task, 1, batches, counts)
        assert any(value.any() for value in wanted.values()) == any(counts.values())
        for parallel in ("ddp", "fsdp"):
            found = load_file(tmp_path / f"{parallel} {name}.safetensors")
            assert found.keys() == wanted.keys()
            for parameter, value in wanted.items():
                torch.testing.assert_close(found[parameter], value, rtol=1e-4, atol=1e-6, msg=f"{parallel}, {name}: {parameter}")
