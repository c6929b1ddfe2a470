"""The loss of the bridge: worked out by hand, equal to a plain loop, and blind to what it must not see."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from documents import document, noise
from tiny import FAMILIES
from twoway.data.config import MaskingConfig
from twoway.data.masking import NO_TARGET
from twoway.errors import TwowayError
from twoway.methods.bridge.config import BridgeConfig
from twoway.methods.bridge.method import prepare
from twoway.methods.bridge.rows import BridgeEncoder, collate_bridge, mask_target
from twoway.methods.bridge.step import Bridge
from twoway.models.attention import set_attention
from twoway.training.module import parameters_in_graph

ROWS = {
    "image": document(noise(28, 28), "a caption of a picture"),
    "both": document("what is it?", noise(28, 28, seed=1), "an answer"),
    "text": document("two halves of one text"),
}
SEES = [(True, True), (True, False), (False, True), (False, False)]


def made(family, tiny_encoder, *, target=True, source=True):
    return prepare(tiny_encoder(family), BridgeConfig(eos_sees_target=target, sources_see_eos=source, dtype="float32"))


def rows_of(prepared, *names, share=0.7):
    encode = BridgeEncoder(prepared.processor, prepared.geometry, max_length=200, max_target=30)
    config = MaskingConfig(words=share, patches=0.0)
    options = {"config": config, "seed": 0, "mask_token": prepared.token.id, "geometry": prepared.geometry}
    return [mask_target(encode(name, ROWS[name]), epoch=0, **options) for name in names]


def batch_of(prepared, *names, share=0.7, side="left"):
    return collate_bridge(rows_of(prepared, *names, share=share), pad_token=prepared.pad_token, padding_side=side)


def sees(who, whom, eos, target, source):
    """Say it entry by entry, as the paper's table does."""
    if who < eos:
        return whom < eos or (whom == eos and source)
    if who == eos:
        return whom <= eos or target
    return whom >= eos


@pytest.mark.parametrize(("target", "source"), SEES)
def test_the_loss_is_that_of_a_plain_loop_in_float64(target, source, tiny_encoder):
    prepared = made("qwen2_vl", tiny_encoder, target=target, source=source)
    task, names = prepared.module.double().eval(), list(ROWS)
    batch = batch_of(prepared, *names)
    batch["inputs"]["pixel_values"] = batch["inputs"]["pixel_values"].double()
    losses, _ = task.compute_losses(batch)
    inner, language, head = task._inner
    total, count = 0.0, 0
    for row in rows_of(prepared, *names):
        length = len(row.labels)
        mask = torch.full((1, 1, length, length), -torch.inf, dtype=torch.float64)
        for who in range(length):
            for whom in range(length):
                if sees(who, whom, row.eos, target, source):
                    mask[0, 0, who, whom] = 0.0
        inputs = {key: value[None] if value.shape == (length,) else value for key, value in row.inputs.items()}
        inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}

        def enter(_module, args, given, mask=mask):
            return args, given | {"attention_mask": mask}

        hook = language.register_forward_pre_hook(enter, with_kwargs=True)
        with torch.no_grad():
            hidden = inner(**inputs, use_cache=False).last_hidden_state[0]
        hook.remove()
        for place in range(length):
            if row.labels[place] != NO_TARGET:
                logits = hidden[place - 1] @ head.weight.T
                total -= float(torch.log_softmax(logits.detach(), 0)[row.labels[place]])
                count += 1
    assert losses["bridge"].count == count > 10
    assert float(losses["bridge"].total.double().detach()) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("target", [True, False])
def test_two_layers_by_hand(target):
    """Four words are four axes; attention is even over what is seen, nothing else happens, and the head reads the axes.

    The row is a, EOS, [mask], b, and b stands under the mask. Unit vectors of length 2 have a root mean square of 1, so they pass a norm.
    """
    config = transformers.Qwen2Config(
        vocab_size=4, hidden_size=4, intermediate_size=4, num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1,
        rms_norm_eps=1e-12, tie_word_embeddings=False, pad_token_id=None,
    )  # fmt: skip
    model = transformers.Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0) if parameter.dim() == 1 else parameter.zero_()
        model.get_input_embeddings().weight.copy_(2 * torch.eye(4))
        model.get_output_embeddings().weight.copy_(torch.eye(4))
        for layer in model.get_decoder().layers:
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                part.bias.zero_()
            for part in (layer.self_attn.v_proj, layer.self_attn.o_proj):
                part.weight.copy_(torch.eye(4))
    set_attention(model, "two-way")
    task = Bridge(model, eos_sees_target=target, sources_see_eos=True)
    ids = torch.tensor([[0, 1, 3, 2]])
    labels = torch.tensor([[NO_TARGET, NO_TARGET, 2, NO_TARGET]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch = {"inputs": inputs, "labels": labels, "patch_mask": torch.zeros(1, 4, dtype=torch.bool), "eos": torch.tensor([1])}
    if target:
        # Behind the first layer: a = (3, 1, 0, 0), EOS = (1/2, 5/2, 1/2, 1/2), the two of B together (0, 4/3, 10/3, 10/3).
        # Their lengths are √10, √7 and √8; EOS takes up a quarter of each at length 2.
        a, eos, b = (3, 1, 0, 0), (0.5, 2.5, 0.5, 0.5), (0, 4 / 3, 10 / 3, 10 / 3)
        seen = [(x / math.sqrt(10) + y / math.sqrt(7) + z / math.sqrt(8)) / 2 for x, y, z in zip(a, eos, b, strict=True)]
    else:
        # EOS sees a and itself: (1, 3, 0, 0) behind the first layer, as long as a is.
        eos = (1, 3, 0, 0)
        seen = [4 / math.sqrt(10), 4 / math.sqrt(10), 0, 0]
    state = [x + y for x, y in zip(eos, seen, strict=True)]
    logits = [2 * x / math.hypot(*state) for x in state]
    expected = math.log(sum(math.exp(x) for x in logits)) - logits[2]
    assert float(task.compute_losses(batch)[0]["bridge"].total.detach()) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_targets_reaches_all_parameters_and_counts_nothing(tiny_encoder):
    task = made("qwen2_vl", tiny_encoder).module
    assert task.count_targets(task.dummy_batch()) == {"bridge": 0}
    task.touch_unused_parameters = True
    total, parts = task(task.dummy_batch(), {"bridge": 1.0})
    assert parts == {}
    assert float(total.detach()) == 0.0
    assert {id(one) for one in task.parameters() if one.requires_grad} <= parameters_in_graph(total)


def test_a_processor_that_takes_eos_off_again_is_refused_at_once(tiny_encoder):
    """The model that comes out is pooled at EOS, which such a processor would not write."""
    with pytest.raises(TwowayError, match=r"PaliGemmaProcessor takes the EOS token off again.*the bridge needs an EOS that stays"):
        made("paligemma", tiny_encoder)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "paligemma"])
def test_cut_off_from_a_nothing_of_a_is_left_and_attention_sums_to_one(family, tiny_encoder):
    prepared = made(family, tiny_encoder, target=False)
    task = prepared.module.eval()
    batch = batch_of(prepared, "image", "both")
    with torch.no_grad():
        right = task.predict(batch).losses
        cut = task.predict(batch | {"cut_off": True}).losses
        before = batch["inputs"]["input_ids"] == prepared.geometry.image_token
        words = torch.arange(before.shape[1]) < batch["eos"][:, None] - 6
        words &= ~before & batch["inputs"]["attention_mask"].bool()
        other = batch["inputs"] | {"input_ids": batch["inputs"]["input_ids"].masked_fill(words, 5)}
        assert not torch.allclose(right, cut, atol=1e-4)
        torch.testing.assert_close(task.predict(batch | {"cut_off": True, "inputs": other}).losses, cut, atol=1e-4, rtol=1e-4)
        mass = task.attend(batch, before)
    assert mass.shape == (3, 4)
    torch.testing.assert_close(mass.sum(1), torch.ones(3), atol=1e-4, rtol=0)
    assert float(mass[:, 3].max()) < 1e-6  # EOS sees no B
    assert float(mass[:, 0].min()) > 0


def test_gradient_checkpointing_keeps_the_mask(tiny_encoder):
    gradients = []
    for spare in (False, True):
        config = BridgeConfig(dtype="float32", gradient_checkpointing=spare)
        prepared = prepare(tiny_encoder("qwen2_vl"), config)
        prepared.module.train()
        total, _ = prepared.module(batch_of(prepared, *ROWS), {"bridge": 1.0})
        total.backward()
        gradients.append({name: one.grad for name, one in prepared.module.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, one in gradients[0].items():
        torch.testing.assert_close(one, gradients[1][name], rtol=1e-4, atol=1e-5)
