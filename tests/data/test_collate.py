"""Batches: what the processor itself makes of the same rows, and what gives each row the loss it has alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from documents import document, family, noise
from tiny import FAMILIES
from twoway.data.collators import collate
from twoway.data.config import MaskingConfig
from twoway.data.masking import NO_TARGET, MaskedRow, mask_inputs
from twoway.data.patches import PatchGeometry
from twoway.errors import TwowayError
from twoway.losses.masked_lm import word_loss

GOLDEN = Path(__file__).parents[1] / "golden"
DOCUMENTS = {
    "pictures": [document("one ", noise(), noise(60, 30, 1), " two"), document("user", noise(30, 30, 2)), document(noise(90, 40, 3))],
    "mixed": [document("a text alone"), document("one ", noise(), " two"), document("b")],
    "text": [document("a text alone"), document("b")],
}
DEFAULT, NOTHING = MaskingConfig(), MaskingConfig(words=0, patches=0)


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


def rows(fam, documents, config=DEFAULT):
    encode = fam.encoder()
    settings = {"seed": 0, "epoch": 0, "mask_token": 1, "geometry": fam.geometry}
    return [mask_inputs(encode(f"a#{number}", one), config, **settings) for number, one in enumerate(documents)]


def batch(fam, made, **options):
    return collate(made, pad_token=fam.processor.tokenizer.pad_token_id, **options)


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_what_the_processor_makes_of_the_same_rows(name, kind, side, tiny_model):
    fam = family(tiny_model(name))
    if name == "paligemma" and kind != "pictures":  # its processor refuses a text alone
        assert not fam.encoder().takes_text_alone
        return
    talks = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": part.source} if hasattr(part, "source") else {"type": "text", "text": part.text}
                    for part in one.parts
                ],
            }
        ]
        for one in DOCUMENTS[kind]
    ]
    settings = {"processor_kwargs": {"padding": True, "padding_side": side}, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    theirs = {key: torch.as_tensor(value) for key, value in fam.processor.apply_chat_template(talks, **settings).items() if key != "labels"}
    ours = batch(fam, rows(fam, DOCUMENTS[kind], NOTHING), padding_side=side)["inputs"]
    assert set(ours) == set(theirs)
    for key, value in ours.items():
        other = theirs[key]
        if value.dim() > 3:  # a row without pictures may have a place of zeros there, which models pass over
            other = other[other.flatten(1).any(1)]
        if key == "pixel_attention_mask":
            other = other[other.flatten(1).any(1)]
        assert torch.equal(value, other), key


def test_a_row_has_the_same_loss_alone_and_in_a_padded_batch(name, tiny_model):
    fam = family(tiny_model(name))
    model = AutoModelForImageTextToText.from_pretrained(tiny_model(name), dtype=torch.float32).eval()
    model.config.get_text_config().is_causal = False
    made = rows(fam, [*DOCUMENTS["pictures"], *DOCUMENTS["mixed"]])

    def losses(some, side):
        together = batch(fam, some, padding_side=side)
        with torch.no_grad():
            hidden = model.base_model(**together["inputs"]).last_hidden_state
            each = zip(hidden, together["labels"], together["inputs"]["attention_mask"], strict=True)
            return [word_loss(h[None], y[None], model.get_output_embeddings(), mask_BL=m[None]).mean.item() for h, y, m in each]

    alone = [losses([row], "right")[0] for row in made]
    assert max(alone) > 0
    for side in ("right", "left"):
        np.testing.assert_allclose(losses(made, side), alone, atol=2e-5)


def test_targets_stand_in_the_order_of_the_mask(tiny_model):
    fam = family(tiny_model("internvl"))
    made = rows(fam, DOCUMENTS["pictures"])
    together = batch(fam, made)
    assert together["patch_mask"].sum() == len(together["patch_targets"])
    at = 0
    for number, row in enumerate(made):
        own = int(together["patch_mask"][number].sum())
        assert torch.equal(together["patch_targets"][at : at + own], row.patch_targets)
        assert torch.equal(together["patch_mask"][number, : len(row.labels)], row.patch_mask)
        at += own
    assert together["identities"] == ["a#0", "a#1", "a#2"]
    assert together["counts"]["rows"] == 3
    assert together["counts"]["padding"] == int((together["inputs"]["attention_mask"] == 0).sum())
    assert together["counts"]["masked_words"] == int((together["labels"] != NO_TARGET).sum())


def test_a_batch_without_pictures_has_no_pixels_and_still_has_targets_of_the_right_width(tiny_model):
    fam = family(tiny_model("qwen2_vl"))
    together = batch(fam, rows(fam, DOCUMENTS["text"]))
    assert set(together["inputs"]) == {"input_ids", "attention_mask", "mm_token_type_ids"}
    assert together["patch_targets"].shape == (0, fam.geometry.values)
    with pytest.raises(TwowayError, match="at least one row"):
        collate([], pad_token=0)


def test_the_golden_batch_is_such_a_batch():
    """The masked batch of the released code, cut into rows and put together again; the losses of its tensors are held elsewhere."""
    golden = load_file(GOLDEN / "batch.safetensors")
    processor = AutoProcessor.from_pretrained(GOLDEN / "processor")
    geometry = PatchGeometry.of(AutoConfig.from_pretrained(GOLDEN / "reference-cpt"), processor)
    made, picture, patch = [], 0, 0
    for number, real in enumerate(golden["attention_mask"].bool()):
        ids = golden["input_ids"][number][real]
        images = ids == geometry.image_token
        patches = int(images.sum()) * geometry.patches
        grids = 0
        while golden["image_grid_thw"][picture : picture + grids].prod(1).sum() < patches:
            grids += 1
        inputs = {"input_ids": golden["masked_input_ids"][number][real], "mm_token_type_ids": images.int()}
        mask = golden["mae_pred_mask"][number][real]
        units = mask[images].numpy().nonzero()[0]
        targets = torch.zeros(0, geometry.values)
        if patches:
            clean = {"pixel_values": golden["pixel_values"][patch : patch + patches]}
            targets = geometry.take(clean, units)
            shared = golden["pixel_values_masked"][patch : patch + patches].view(-1, geometry.values)[units]
            noised = geometry.put(clean, units, shared)
            inputs |= {**noised, "image_grid_thw": golden["image_grid_thw"][picture : picture + grids]}
        made.append(MaskedRow(str(number), inputs, golden["labels"][number][real], mask, targets, units, {}))
        picture, patch = picture + grids, patch + patches
    together = collate(made, pad_token=0)
    for ours, theirs in {
        "input_ids": "masked_input_ids",
        "attention_mask": "attention_mask",
        "pixel_values": "pixel_values_masked",
        "image_grid_thw": "image_grid_thw",
    }.items():
        assert torch.equal(together["inputs"][ours], golden[theirs]), ours
    assert torch.equal(together["labels"], golden["labels"])
    assert torch.equal(together["patch_mask"], golden["mae_pred_mask"])
    assert torch.equal(together["patch_targets"], golden["pixel_labels"].view(-1, geometry.values))
