"""Two ranks of the real task have the gradients of one process, whatever kind of batch falls to each of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from masked import batch_of
from twoway.methods import run
from twoway.methods.config import AdapterConfig
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import METHOD, prepare
from twoway.training import distributed as between
from twoway.training.distributed import launch

pytestmark = [pytest.mark.xdist_group("ranks"), pytest.mark.usefixtures("quick_ranks")]

# What each of two ranks has in one step: no pictures, no words, several pictures in a row, nothing drawn, no row at all.
LORA = AdapterConfig(r=2, lora_dropout=0.0, use_dora=True, parts=("language", "tower"))
STEPS = {
    "text and image": (("text", 0.5), ("image", 0.5)),
    "text alone": (("text", 0.5), ("text", 0.5)),
    "image alone": (("image", 0.5), ("image", 0.5)),
    "several images and nothing drawn": (("both", 0.5), ("both", 0.0)),
    "nothing drawn": (("text", 0.0), ("both", 0.0)),
    "no row": (("both", 0.5), None),
}


def step_of(prepared, what):
    return prepared.module.dummy_batch() if what is None else batch_of(prepared, what[0], words=what[1], patches=what[1])


def gradients(prepared, shared, ranks, batches, counts):
    """Return every gradient of the mean over the global batch, and zero where none came."""
    scales = {name: weight * ranks / max(counts[name], 1) for name, weight in prepared.module.loss_weights.items()}
    for batch in batches:
        shared(batch, scales)[0].backward()
    parameters = dict(prepared.module.named_parameters())
    found = {name: between.full_tensor(one.grad) if one.grad is not None else torch.zeros(one.shape) for name, one in parameters.items()}
    prepared.module.zero_grad()
    return found


def be_rank(model, out, options):
    """Be one of two ranks, under both kinds of sharing; the second one has no weights of its own."""
    torch.set_num_threads(1)
    ranks = between.Ranks("cpu")
    for parallel in ("ddp", "fsdp"):
        prepared = run._prepare(METHOD, Path(model), PretrainConfig(seed=0, **options), ranks)
        assert {one.device.type for one in prepared.module.parameters()} == {"cpu" if ranks.is_main_process else "meta"}
        batches = {name: step_of(prepared, pair[ranks.rank]) for name, pair in STEPS.items()}
        shared = ranks.wrap(prepared.module, parallel)
        for name, batch in batches.items():
            counts = prepared.module.count_targets(batch)
            summed = dict(zip(counts, ranks.all_reduce_numbers(list(counts.values())), strict=True))
            found = gradients(prepared, shared, ranks.world_size, [batch], summed)
            if ranks.is_main_process:
                save_file(found, Path(out) / f"{parallel} {name}.safetensors")
    ranks.destroy()


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen2_vl", {}),
        pytest.param("qwen2_5_vl", {"gradient_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param("qwen3_vl", {"freeze_tower": True}, marks=pytest.mark.slow),
        pytest.param("qwen2_vl", {"lora": LORA}, marks=pytest.mark.slow),
        pytest.param("qwen2_vl", {"train_layers": 1}, marks=pytest.mark.slow),
        pytest.param("qwen2_vl", {"masked_patches": "drop"}, marks=pytest.mark.slow),
        pytest.param("gemma3", {}, marks=pytest.mark.slow),
    ],
)
def test_two_ranks_have_the_gradients_of_one_in_every_kind_of_batch(tiny_model, tmp_path, family, options):
    model = tiny_model(family)
    launch(2, be_rank, str(model), str(tmp_path), options)
    prepared = prepare(model, PretrainConfig(seed=0, **options))
    for name, pair in STEPS.items():
        batches = [step_of(prepared, what) for what in pair]
        each = [prepared.module.count_targets(batch) for batch in batches]
        counts = {loss: sum(one[loss] for one in each) for loss in prepared.module.loss_weights}
        wanted = gradients(prepared, prepared.module, 1, batches, counts)
        assert any(value.any() for value in wanted.values()) == any(counts.values())
        for parallel in ("ddp", "fsdp"):
            found = load_file(tmp_path / f"{parallel} {name}.safetensors")
            assert found.keys() == wanted.keys()
            for parameter, value in wanted.items():
                torch.testing.assert_close(found[parameter], value, rtol=1e-4, atol=1e-6, msg=f"{parallel}, {name}: {parameter}")


def hold(model, out):
    """Be one of two ranks in half precision: write down what lies here, at rest and while a layer runs, and the gradient."""
    torch.set_num_threads(1)
    ranks, found, seen = between.Ranks("cpu"), {}, []
    for parallel in ("ddp", "fsdp"):
        prepared = run._prepare(METHOD, Path(model), PretrainConfig(seed=0), ranks)
        shared = ranks.wrap(prepared.module, parallel, "bfloat16")
        parameters = list(prepared.module.parameters())
        if parallel == "fsdp":
            found["rest"] = sum(one.to_local().numel() * one.to_local().element_size() for one in parameters)
            found["whole"] = sum(one.numel() * one.element_size() for one in parameters)
            blocks = list(prepared.module.fsdp_units())
            found["block"] = 2 * max(sum(one.numel() for one in block.parameters()) for block in blocks)
            found["others"] = found["whole"] // 2 - 2 * sum(one.numel() for block in blocks for one in block.parameters())

            def look(_module, _args, task=prepared.module):
                gathered = [one for one in task.parameters() if not isinstance(one, DTensor)]
                assert {one.dtype for one in gathered} == {torch.bfloat16}
                seen.append(sum(one.numel() * one.element_size() for one in gathered))

            for block in blocks:
                block.register_forward_pre_hook(look)
        batch = step_of(prepared, ("image" if ranks.is_main_process else "text", 0.5))
        with torch.autocast("cpu", torch.bfloat16):
            total, _ = shared(batch, dict.fromkeys(prepared.module.loss_weights, 1.0))
        total.backward()
        assert {one.grad.dtype for one in parameters} == {torch.float32}
        found[parallel] = {name: between.full_tensor(one.grad).double().norm().item() for name, one in prepared.module.named_parameters()}
    found["gathered"] = max(seen)
    Path(out, f"{ranks.rank}.json").write_text(json.dumps(found))
    ranks.destroy()


def test_in_half_precision_a_rank_holds_its_share_and_one_layer_beside_what_is_no_layer(tiny_model, tmp_path):
    launch(2, hold, str(tiny_model("qwen2_5_vl")), str(tmp_path))
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for found in (one, two):
        assert found["rest"] == pytest.approx(found["whole"] / 2, rel=0.05)
        assert found["others"] <= found["gathered"] <= found["others"] + found["block"]
    assert one["rest"] + two["rest"] == one["whole"], "each weight lies in one place, in float32"
    largest = max(one["ddp"].values())
    for name, value in one["ddp"].items():
        assert one["fsdp"][name] == pytest.approx(value, rel=0.1, abs=0.01 * largest), name
