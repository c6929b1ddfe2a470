"""The losses meet the numbers that MoCa's own code gives on a tiny random Qwen2.5-VL, padded rows and several images included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from twoway.losses.masked_lm import word_loss
from twoway.losses.masked_patches import PatchDecoder, patch_loss

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def batch():
    return load_file(GOLDEN / "batch.safetensors")


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def states(request, batch):
    """The masked batch through the two-way backbone: model, last hidden states, and what the language model was called with."""
    model = AutoModelForImageTextToText.from_pretrained(
        GOLDEN / "reference-cpt", dtype=torch.float32, attn_implementation=request.param, key_mapping={"^mae_.*": "unused"}
    ).eval()
    model.config.text_config.is_causal = False
    seen = {}
    hook = model.get_decoder().register_forward_pre_hook(lambda _module, _args, kwargs: seen.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        hidden = model.model(
            input_ids=batch["masked_input_ids"],
            attention_mask=batch["attention_mask"],
            pixel_values=batch["pixel_values_masked"],
            image_grid_thw=batch["image_grid_thw"],
            mm_token_type_ids=(batch["masked_input_ids"] == model.config.image_token_id).int(),
        ).last_hidden_state
    hook.remove()
    return model, hidden, seen


@pytest.mark.parametrize("chunk", [4, 1024])
def test_masked_words_meet_the_released_codes_loss(states, batch, chunk):
    model, hidden, _ = states
    loss = word_loss(hidden, batch["labels"], model.lm_head, shift=False, mask_BL=batch["attention_mask"], chunk=chunk)
    assert loss.mean.item() == pytest.approx(batch["mlm_loss"].item(), abs=1e-5)


def test_masked_patches_meet_the_released_codes_loss(states, batch):
    model, hidden, seen = states
    heads = load_file(GOLDEN / "reference-cpt" / "model.safetensors")
    values = heads["mae_proj.bias"].numel()
    decoder = PatchDecoder(model.get_decoder(), values=values)
    layer = {name.removeprefix("mae_decoder."): value for name, value in heads.items() if name.startswith("mae_decoder.")}
    decoder.body.layers[0].load_state_dict(layer)
    # The released code lays the values of a position's patches out value by value, ours patch by patch as the processor does.
    patch = batch["pixel_labels"].shape[1]
    reorder = torch.arange(values).view(patch, -1).T.flatten()
    decoder.to_values.load_state_dict({"weight": heads["mae_proj.weight"][reorder], "bias": heads["mae_proj.bias"][reorder]})
    with torch.no_grad():
        predicted = decoder(hidden, batch["mae_pred_mask"], seen)
    loss = patch_loss(predicted, batch["pixel_labels"].view(-1, values))
    assert loss.mean.item() == pytest.approx(batch["mae_loss"].item(), abs=1e-5)
