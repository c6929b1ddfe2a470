"""Masked patches: which layer the decoder starts from, what it reads, and what adds loss."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText

from twoway.losses.masked_patches import PatchDecoder, patch_loss


@pytest.fixture
def language_model(tiny_model):
    model = AutoModelForImageTextToText.from_pretrained(tiny_model("gemma3"), dtype=torch.float32)
    model.config.get_text_config().is_causal = False
    return model.get_decoder().eval()


def test_the_decoder_starts_from_the_middle_layer_and_shares_nothing(language_model):
    decoder = PatchDecoder(language_model, values=12)
    middle = dict(language_model.layers[len(language_model.layers) // 2].named_parameters())
    for name, parameter in decoder.body.layers[0].named_parameters():
        assert torch.equal(parameter, middle[name])
        assert parameter.data_ptr() != middle[name].data_ptr()


def test_the_last_layer_starts_as_the_authors_start_it(language_model):
    layer = PatchDecoder(language_model, values=4704).to_values
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert layer.weight.mean().abs().item() < 1e-3
    assert not layer.bias.any()


def test_a_prediction_reads_the_whole_sequence_both_ways(language_model):
    decoder = PatchDecoder(language_model, values=12).eval()
    hidden = torch.randn(1, 6, language_model.config.hidden_size)
    chosen = torch.tensor([[False, False, True, False, False, False]])
    seen = {"attention_mask": torch.ones(1, 6, dtype=torch.long)}
    with torch.no_grad():
        before = decoder(hidden, chosen, seen)
        for place in (0, 5):
            changed = hidden.clone()
            changed[0, place] += 1
            assert (decoder(changed, chosen, seen) - before).abs().max() > 1e-4


def test_the_depth_is_held_to_the_backbones(language_model):
    with pytest.raises(ValueError, match="between 1 and"):
        PatchDecoder(language_model, values=12, depth=99)


def test_the_loss_is_the_mean_square_and_no_patch_adds_nothing():
    target = torch.randn(5, 12)
    assert patch_loss(target, target).mean.item() == 0
    assert patch_loss(target + 2, target).mean.item() == pytest.approx(4, rel=1e-5)
    assert patch_loss(target[:0], target[:0]).mean.item() == 0
    with pytest.raises(ValueError, match="shape"):
        patch_loss(target, target[:, :6])
