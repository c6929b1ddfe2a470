"""The task: both losses from one pass, for any kind of batch, and nothing computed that has no target."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from masked import ROWS, batch_of
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import prepare
from twoway.training.module import parameters_in_graph


def made(family, tiny_model, **options):
    config = PretrainConfig(**options)
    return prepare(tiny_model(family), config), config


def run(task, batch, **scales):
    return task(batch, {"mlm": 1.0, "mae": 0.5} | scales)


@pytest.fixture(scope="module", params=["qwen2_vl", "gemma3"])
def prepared(request, tiny_model):
    return made(request.param, tiny_model)[0]


@pytest.mark.parametrize("kind", list(ROWS))
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_kind_of_batch_has_a_loss_and_a_gradient(prepared, kind, share):
    task = prepared.module
    batch = batch_of(prepared, kind, words=share, patches=share)
    total, parts = run(task, batch)
    assert torch.isfinite(total)
    counts = task.count_targets(batch)
    assert {name for name in parts if counts[name]} == {name for name, count in counts.items() if count}
    assert (kind != "image" and share == 1.0) <= (counts["mlm"] > 0)
    assert (kind != "text" and share == 1.0) <= (counts["mae"] > 0)
    total.backward()
    task.zero_grad()


def test_the_counts_are_those_of_the_losses(prepared):
    batch = batch_of(prepared, "both")
    losses, _ = prepared.module.compute_losses(batch)
    assert {name: loss.count for name, loss in losses.items()} == prepared.module.count_targets(batch)
    assert prepared.module.count_targets(prepared.module.dummy_batch()) == {"mlm": 0, "mae": 0}


def test_ranks_reach_the_same_parameters_whatever_the_batch(prepared):
    task = prepared.module
    trained = {id(one) for one in task.parameters() if one.requires_grad}
    task.touch_unused_parameters = True
    try:
        for batch in (batch_of(prepared, "text"), batch_of(prepared, "image"), batch_of(prepared, "both"), task.dummy_batch()):
            assert trained <= parameters_in_graph(run(task, batch)[0])
        task.touch_unused_parameters = False
        assert not trained <= parameters_in_graph(run(task, batch_of(prepared, "text"))[0])  # the tie is what does it
    finally:
        task.touch_unused_parameters = False


def test_a_weight_of_zero_costs_nothing(tiny_model):
    task = (words := made("qwen2_vl", tiny_model, mae_weight=0.0)[0]).module
    assert task.decoder is None
    assert run(task, batch_of(words, "both"))[1].keys() == {"mlm"}
    task = (patches := made("qwen2_vl", tiny_model, mlm_weight=0.0)[0]).module
    called = []
    hook = patches.start.model.get_output_embeddings().register_forward_hook(lambda *_: called.append(1))
    assert run(task, batch_of(patches, "both"))[1].keys() == {"mae"}
    hook.remove()
    assert not called


def test_the_same_base_and_settings_give_the_same_bits(tiny_model):
    left, right = (made("qwen2_vl", tiny_model, seed=3)[0].module.state_dict() for _ in range(2))
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"freeze_tower": True},
        {"train_layers": 1},
    ],
)
def test_options_change_the_work_and_not_the_loss(tiny_model, options):
    plain, other = made("qwen2_vl", tiny_model)[0], made("qwen2_vl", tiny_model, **options)[0]
    batch = batch_of(plain, "both")
    results = []
    for one in (plain, other):
        one.module.train()
        total, _ = run(one.module, batch)
        total.backward()
        results.append(
            (total.detach(), {name: p.grad for name, p in one.module.named_parameters() if p.requires_grad and p.grad is not None})
        )
    torch.testing.assert_close(results[0][0], results[1][0])
    assert results[1][1]
    for name, gradient in results[1][1].items():
        torch.testing.assert_close(gradient, results[0][1][name])
    if "gradient_checkpointing" not in options:
        assert len(results[1][1]) < len(results[0][1])


def test_adapters_train_and_merge(tiny_model):
    from twoway.methods.config import AdapterConfig

    prepared, _ = made("qwen2_vl", tiny_model, lora=AdapterConfig(r=2, lora_dropout=0.0))
    names = [name for name, one in prepared.module.named_parameters() if one.requires_grad]
    assert all("lora_" in name or name.startswith("decoder.") for name in names)
    assert any("lora_" in name for name in names)
    total, parts = run(prepared.module, batch_of(prepared, "both"))
    total.backward()
    assert parts.keys() == {"mlm", "mae"}


def test_the_released_codes_numbers_come_out_of_the_task():
    from pathlib import Path

    from twoway.losses.masked_patches import PatchDecoder
    from twoway.methods.pretrain.step import Reconstruction
    from twoway.models import loading
    from twoway.models.attention import set_attention
    from twoway.models.checkpoint import read_patch_decoder

    golden = Path(__file__).parents[1] / "golden"
    batch = load_file(golden / "batch.safetensors")
    model = loading.load_model(golden / "reference-cpt", dtype="float32").model
    set_attention(model, "two-way")
    state = read_patch_decoder(golden / "reference-cpt", model.config)
    decoder = PatchDecoder(model.get_decoder(), values=len(state["to_values.bias"]))
    decoder.load_state_dict(state)
    task = Reconstruction(model, decoder, mlm_weight=1.0, mae_weight=0.5, shift=False)
    ids = batch["masked_input_ids"]
    inputs = {
        "input_ids": ids,
        "attention_mask": batch["attention_mask"],
        "pixel_values": batch["pixel_values_masked"],
        "image_grid_thw": batch["image_grid_thw"],
        "mm_token_type_ids": (ids == model.config.image_token_id).int(),
    }
    targets = batch["pixel_labels"].view(-1, len(state["to_values.bias"]))
    whole = {"inputs": inputs, "labels": batch["labels"], "patch_mask": batch["mae_pred_mask"].bool(), "patch_targets": targets}
    losses, _ = task.eval().compute_losses(whole)
    assert losses["mlm"].mean.item() == pytest.approx(batch["mlm_loss"].item(), abs=1e-5)
    assert losses["mae"].mean.item() == pytest.approx(batch["mae_loss"].item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["skip", "drop"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_patches_that_skip_the_tower_reach_no_loss(family, kind, tiny_model):
    prepared, _ = made(family, tiny_model, masked_patches=kind)
    task, batch = prepared.module, batch_of(prepared, "both", patches=0.5)
    losses, _ = task.compute_losses(batch)
    assert {name: loss.count for name, loss in losses.items()} == task.count_targets(batch)
    values = prepared.geometry.values
    masked = batch["patch_mask"][batch["inputs"]["input_ids"] == prepared.geometry.image_token]
    other = batch["inputs"]["pixel_values"].clone()
    other.view(-1, values)[masked] = 9.0
    again, _ = task.compute_losses(batch | {"inputs": batch["inputs"] | {"pixel_values": other}})
    assert all(torch.equal(again[name].total, loss.total) for name, loss in losses.items())
    other.view(-1, values)[~masked] += 1.0
    moved, _ = task.compute_losses(batch | {"inputs": batch["inputs"] | {"pixel_values": other}})
    assert all(not torch.equal(moved[name].total, loss.total) for name, loss in losses.items())
    sum(loss.total for loss in losses.values()).backward()
    assert all(one.grad is not None for one in prepared.start.model.get_encoder(modality="image").parameters())


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_dropped_patches_are_seen_by_nobody_and_the_others_keep_their_positions(family, tiny_model):
    prepared, _ = made(family, tiny_model, masked_patches="drop")
    task = prepared.module.eval()
    batch = batch_of(prepared, "both", patches=0.5)
    inputs, masked = batch["inputs"], batch["patch_mask"]
    lengths = []
    hook = task.model.get_decoder().layers[0].register_forward_pre_hook(lambda _module, args: lengths.append(args[0].shape[1]))
    with torch.no_grad():
        dropped = task.states(batch)
        hook.remove()
        # The same rows whole, where nobody may look at a masked patch.
        seen = inputs["attention_mask"].bool() & ~masked
        whole = task._visible_tower(inputs, masked, task._visible_tower.places(inputs, masked))
        mask = seen[:, None, None, :] & torch.ones_like(seen)[:, None, :, None]
        given = whole | {"attention_mask": mask, "position_ids": dropped.call["position_ids"]}
        expected = prepared.start.model.model(**given, use_cache=False).last_hidden_state
    assert lengths == [int(seen.sum(1).max())]
    assert lengths[0] < seen.shape[1]
    torch.testing.assert_close(dropped.hidden[seen], expected[seen], rtol=1e-4, atol=1e-5)
    assert torch.equal(dropped.hidden[masked], task.decoder.mask_state.expand(int(masked.sum()), -1))


def test_the_state_of_dropped_patches_is_learnt_kept_and_made_anew(tiny_model):
    prepared, _ = made("qwen2_vl", tiny_model, masked_patches="drop")
    total, _ = run(prepared.module, batch_of(prepared, "both", patches=0.75))
    total.backward()
    assert prepared.module.decoder.mask_state.grad.abs().sum() > 0
    saved = {name: one.detach() + 1 for name, one in prepared.module.decoder.state_dict().items()}
    again, other = (made("qwen2_vl", tiny_model, masked_patches=kind)[0].module.decoder for kind in ("drop", "noise"))
    again.load_heads(saved)
    assert torch.equal(again.mask_state, saved["mask_state"])
    other.load_heads(saved)
    assert other.mask_state is None
    assert torch.equal(other.to_values.bias, saved["to_values.bias"])
    before = prepared.module.decoder.mask_state.detach().clone()
    prepared.module.decoder.load_heads(other.state_dict())
    assert torch.equal(prepared.module.decoder.mask_state, before)


@pytest.mark.parametrize("way", ["skip", "drop"])
def test_skipping_changes_nothing_where_nothing_is_masked(tiny_model, way):
    noise, skip = (made("qwen2_vl", tiny_model, masked_patches=kind)[0] for kind in ("noise", way))
    for kind, shares in (("both", {"patches": 0.0}), ("text", {})):
        batch = batch_of(noise, kind, **shares)
        torch.testing.assert_close(run(skip.module, batch)[0], run(noise.module, batch)[0])
    everything = batch_of(skip, "image", patches=1.0)
    assert torch.isfinite(run(skip.module, everything)[0])  # the tower has nothing to do


def test_skipping_is_refused_before_any_work_where_the_tower_cannot(tiny_model):
    from twoway.errors import UsageError

    with pytest.raises(UsageError, match=r"masked_patches=skip: the tower of .*gemma3"):
        made("gemma3", tiny_model, masked_patches="skip")
