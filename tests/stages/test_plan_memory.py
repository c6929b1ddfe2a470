"""What a layer is said to keep for the way back is what autograd saves; what is cut over ranks is cut."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from twoway.model import backbone
from twoway.model.attention import set_attention
from twoway.stages.plan_count import Training
from twoway.stages.plan_memory import kept, memory, trained
from twoway.stages.plan_model import anatomy

BATCH, LENGTH = 2, 48


def saved(model, *, half):
    """Bytes that the middle layer saves, each storage once and no weight."""
    found, weights = {}, {one.untyped_storage().data_ptr() for one in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        # Copies of weights are counted apart; nothing else here has no place for each token.
        if storage.data_ptr() not in weights and tensor.numel() >= BATCH * LENGTH * 8 and LENGTH in tensor.shape:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    layer = model.get_decoder().layers[1]
    plain = layer.forward

    def watched(*args, **given):
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            return plain(*args, **given)

    layer.forward = watched
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        model(input_ids=torch.arange(5, 5 + BATCH * LENGTH).view(BATCH, LENGTH), use_cache=False)
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize("half", [True, False])
def test_a_layer_keeps_what_autograd_saves(tiny_model, half):
    folder = tiny_model("qwen2_vl")
    model = backbone.load_model(folder, dtype="float32").model.train()
    set_attention(model, "two-way")
    assert kept(anatomy(folder).language, Training(half=half)) * BATCH * LENGTH == pytest.approx(saved(model, half=half), rel=0.15)


def of(training, *, parallel="ddp", ranks=8, batches=1.0, places=1000.0):
    model = anatomy("Qwen/Qwen2.5-VL-3B-Instruct")
    return memory(
        model, training, places=places, image=0.5, parallel=parallel, ranks=ranks, batches=batches, room=80 * 2**30)  # fmt: skip


def test_states_are_cut_over_ranks_and_gradients_are_not_while_they_are_added_up():
    whole, cut, added = of(Training()), of(Training(), parallel="fsdp"), of(Training(), parallel="fsdp", batches=4)
    assert cut.optimizer == pytest.approx(whole.optimizer / 8)
    assert cut.gradients == pytest.approx(whole.gradients / 8)
    assert added.gradients == whole.gradients
    assert whole.optimizer == 8 * trained(anatomy("Qwen/Qwen2.5-VL-3B-Instruct"), Training())


def test_float32_arithmetic_has_no_copies_and_keeps_more():
    half, single = of(Training()), of(Training(half=False))
    assert (half.weights, half.gradients, half.optimizer) == (single.weights, single.gradients, single.optimizer)
    assert half.copies > single.copies == 0
    assert 1.3 * half.activations < single.activations < 2 * half.activations


def test_the_largest_batch_just_fits():
    largest = of(Training(checkpointing=True), parallel="fsdp").most
    assert of(Training(checkpointing=True), parallel="fsdp", places=0.99 * largest).fits
    assert not of(Training(checkpointing=True), parallel="fsdp", places=1.01 * largest).fits
    assert largest > of(Training(), parallel="fsdp").most > 0
