"""What a layer is said to keep for the way back is what autograd saves; what is cut over ranks is cut."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from twoway.methods.counting import PictureGrid, stage_module
from twoway.methods.memory import ModuleSizes, choose_parallel, config_of, fits_whole, training_memory
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
    sizes = ModuleSizes.of(stage_module(model.config, PretrainConfig(mae_weight=0.0), values=0), 4)
    assert sizes.language.kept(half=half) * BATCH * LENGTH == pytest.approx(saved(model, half=half), rel=0.15)


@pytest.fixture(scope="module")
def sizes():
    config = config_of("Qwen/Qwen2.5-VL-3B-Instruct")
    grid = PictureGrid.of("", config)
    return ModuleSizes.of(stage_module(config, PretrainConfig(mae_weight=0.0), values=grid.values), grid.merged)


def of(sizes, *, parallel="ddp", ranks=8, places=2000.0, **options):
    config = PretrainConfig(mae_weight=0.0, **options)
    return training_memory(sizes, config, places=places, image=0.5, parallel=parallel, ranks=ranks, room=80 * 2**30)


def test_fsdp_cuts_states_and_gathers_in_half_precision_what_is_no_layer(sizes):
    whole, cut = of(sizes), of(sizes, parallel="fsdp")
    assert whole.optimizer == 8 * sizes.trained == 8 * sizes.held
    assert cut.optimizer == whole.optimizer / 8
    rest, layer = sizes.held - sizes.language.count * sizes.layer, sizes.layer
    assert cut.weights == 4 * sizes.held / 8 + 2 * (rest + 2 * layer)
    assert cut.gradients == whole.gradients / 8 + 6 * max(rest, 2 * layer)
    assert (whole.copies, cut.copies) == (2 * sizes.held, 0)
    assert whole.host == cut.host == 12 * sizes.trained / 8


def test_float32_arithmetic_has_no_copies_and_keeps_more(sizes):
    half, single = of(sizes), of(sizes, dtype="float32")
    assert (half.weights, half.gradients, half.optimizer) == (single.weights, single.gradients, single.optimizer)
    assert half.copies > single.copies == 0
    assert 1.3 * half.activations < single.activations < 2 * half.activations


def test_the_largest_batch_just_fits(sizes):
    again = {"parallel": "fsdp", "gradient_checkpointing": True}
    largest = of(sizes, **again).most
    assert of(sizes, **again, places=0.99 * largest).fits
    assert not of(sizes, **again, places=1.01 * largest).fits
    assert largest > of(sizes, parallel="fsdp").most > 0


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_ranks_share_by_pieces_where_the_whole_does_not_fit(tiny_model, family):
    """A GPU is a number here: what it holds."""
    prepared = prepare(tiny_model(family), PretrainConfig(dtype="float32"))
    config = PretrainConfig()
    assert fits_whole(prepared, config, 8, 80 * 2**30)
    assert not fits_whole(prepared, config, 8, 1.6 * 2**30)
    cpu = SimpleNamespace(world_size=8, device=torch.device("cpu"))
    assert choose_parallel(prepared, config, cpu) == "ddp"
    assert choose_parallel(prepared, PretrainConfig(parallel="fsdp"), cpu) == "fsdp"
