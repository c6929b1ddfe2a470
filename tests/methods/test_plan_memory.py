"""What a layer is said to keep for the way back is what autograd saves; what is cut over ranks is cut."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from twoway.methods.counting import Training, anatomy, choose_parallel, fits_whole, kept, memory, trained
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import prepare
from twoway.models import loading
from twoway.models.attention import set_attention

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
    model = loading.load_model(folder, dtype="float32").model.train()
    set_attention(model, "two-way")
    assert kept(anatomy(folder).language, Training(half=half)) * BATCH * LENGTH == pytest.approx(saved(model, half=half), rel=0.15)


def of(training, *, parallel="ddp", ranks=8, places=1000.0):
    model = anatomy("Qwen/Qwen2.5-VL-3B-Instruct")
    return memory(
        model, training, places=places, image=0.5, parallel=parallel, ranks=ranks, room=80 * 2**30)  # fmt: skip


def test_fsdp_cuts_states_and_gathers_in_half_precision_what_is_no_layer():
    model, whole, cut = anatomy("Qwen/Qwen2.5-VL-3B-Instruct"), of(Training()), of(Training(), parallel="fsdp")
    assert whole.optimizer == 8 * trained(model, Training())
    assert cut.optimizer == whole.optimizer / 8
    rest, layer = model.total - model.language.count * model.layer, model.layer
    assert cut.weights == 4 * model.total / 8 + 2 * (rest + 2 * layer)
    assert cut.gradients == whole.gradients / 8 + 6 * max(rest, 2 * layer)
    assert (whole.copies, cut.copies) == (2 * model.total, 0)
    assert whole.host == cut.host == 12 * trained(model, Training()) / 8


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


@pytest.mark.parametrize(("family", "known"), [("qwen2_5_vl", True), ("gemma3", False)])
def test_ranks_share_by_pieces_where_the_whole_does_not_fit(tiny_model, family, known):
    """A GPU is a number here: what it holds. A family whose activations nobody counts is judged by its weights alone."""
    prepared = prepare(tiny_model(family), PretrainConfig(dtype="float32"))
    config, size = PretrainConfig(), sum(one.numel() for one in prepared.module.parameters())
    assert fits_whole(prepared, config, 8, 80 * 2**30)
    assert not fits_whole(prepared, config, 8, 18 * size if not known else 1.6 * 2**30)
    cpu = SimpleNamespace(world_size=8, device=torch.device("cpu"))
    assert choose_parallel(prepared, config, cpu) == "ddp"
    assert choose_parallel(prepared, PretrainConfig(parallel="fsdp"), cpu) == "fsdp"
