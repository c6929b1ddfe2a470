"""The fast forward gives the library's own loss."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tools.nano_base.fast import rotary_positions, token_losses
from torch.nn import functional
from torchvision.transforms.functional import to_pil_image
from transformers import AutoModelForImageTextToText, AutoProcessor

from .streams import KINDS, fresh, of_kind


def library_losses(tiny, batch):
    model, processor = tiny.forward.model, tiny.processor
    pictures = processor.image_processor(images=list(batch.pixels), return_tensors="pt", do_rescale=False)
    kinds = (batch.ids == processor.image_token_id).int()
    logits = model(input_ids=batch.ids, attention_mask=torch.ones_like(batch.ids), mm_token_type_ids=kinds, **pictures).logits
    return functional.cross_entropy(logits.flatten(0, 1)[batch.places], batch.targets, reduction="none")


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_equal_the_librarys(tiny, kind):
    batch = of_kind(fresh(tiny), kind)
    weight = tiny.forward.model.model.visual.patch_embed.proj.weight
    fast = token_losses(tiny.forward.model, tiny.forward.hidden(batch), batch)
    theirs = library_losses(tiny, batch)
    assert (fast - theirs).abs().max() < 1e-4
    (ours,), (general,) = (torch.autograd.grad(losses.mean(), [weight]) for losses in (fast, theirs))
    assert (ours - general).abs().max() < 1e-4 * general.abs().max()


def test_attention_functions_are_given_back(tiny):
    before = [part.config._attn_implementation for part in (tiny.forward.model.model.visual, tiny.forward.model.model.language_model)]
    tiny.forward.hidden(fresh(tiny).batch(0))
    assert before == [
        part.config._attn_implementation for part in (tiny.forward.model.model.visual, tiny.forward.model.model.language_model)
    ]


@pytest.mark.parametrize("kind", ["singles", "pairs", "canvases"])
def test_positions_equal_the_librarys(tiny, kind):
    batch = of_kind(fresh(tiny), kind)
    patch = tiny.config.patch
    side = batch.pixels.shape[-1] // patch
    grid = torch.tensor([[1, side, side]] * len(batch.pixels))
    kinds = (batch.ids == tiny.processor.image_token_id).int()
    theirs, _ = tiny.forward.model.model.get_rope_index(batch.ids, mm_token_type_ids=kinds, image_grid_thw=grid)
    assert torch.equal(rotary_positions(batch.ids.shape[1], batch.starts, side // tiny.config.merge), theirs)


def test_a_saved_model_foretells_a_caption_as_the_fast_forward_does(tiny, tmp_path):
    tiny.forward.model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    model, processor = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    batch = tiny.rows.captions([0], [tiny.world.trained[0][0]], "reload")
    # a picture file has bytes, so the fast path is given the same rounded pixels
    batch = dataclasses.replace(batch, pixels=(batch.pixels * 255).round() / 255)
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=False)
    text += processor.tokenizer.decode(batch.targets)
    inputs = processor(text=[text], images=[to_pil_image(batch.pixels[0])], return_tensors="pt")
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -len(batch.targets) :] = inputs["input_ids"][:, -len(batch.targets) :]
    with torch.no_grad():
        theirs = model(**inputs, labels=labels).loss
        ours = token_losses(tiny.forward.model, tiny.forward.hidden(batch), batch).mean()
    assert abs(float(theirs) - float(ours)) < 1e-4
