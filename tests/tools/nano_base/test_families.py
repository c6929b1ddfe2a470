"""Every family trains causally by its own library classes, and what it cannot do honestly is refused by name."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tools.nano_base.base import prepare
from tools.nano_base.fast import token_losses
from tools.nano_base.loop import train_step
from tools.nano_base.model import FAMILIES, REFUSED, family_of
from tools.nano_base.optimiser import MuonAndAdamW
from torchvision.transforms.functional import to_pil_image
from transformers import AutoModelForImageTextToText, AutoProcessor

from twoway.errors import UsageError

from .streams import of_kind

QUICK = ("idefics3", "qwen2_vl")  # the others are slow: a family costs half a minute


@pytest.fixture(scope="module", params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(FAMILIES)])
def nano(request, corner):
    from .conftest import TINY

    return prepare(dataclasses.replace(TINY, family=request.param, lr=2e-3, warmup=1), corner)


def test_the_vocabulary_is_what_was_asked_for(nano):
    assert len(nano.processor.tokenizer) == nano.config.vocabulary == nano.forward.model.get_input_embeddings().num_embeddings


def test_a_later_word_moves_no_earlier_loss_and_the_picture_moves_them_all(nano):
    batch = of_kind(nano.rows, "singles")
    with torch.no_grad():
        before = token_losses(nano.forward.model, nano.forward.hidden(batch), batch)
        row, last = divmod(int(batch.places.max()), batch.ids.shape[1])
        changed = batch.ids.clone()
        changed[row, last] = changed[row, last - 1]
        after = token_losses(nano.forward.model, nano.forward.hidden(dataclasses.replace(batch, ids=changed)), batch)
        earlier = batch.places != batch.places.max()
        assert torch.allclose(before[earlier], after[earlier], atol=1e-5)
        dark = dataclasses.replace(batch, pixels=1 - batch.pixels)
        seeing = batch.weights == 1
        moved = (token_losses(nano.forward.model, nano.forward.hidden(dark), batch) - before).abs()
        assert moved[seeing].min() > 0
        assert moved[~seeing].max() < 1e-5


def test_a_saved_model_foretells_a_caption_as_training_does(nano, tmp_path):
    nano.forward.model.save_pretrained(tmp_path)
    nano.processor.save_pretrained(tmp_path)
    model, processor = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    batch = nano.rows.captions([0], [nano.world.trained[0][0]], "reload")
    batch = dataclasses.replace(batch, pixels=(batch.pixels * 255).round() / 255)
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=False)
    text += processor.tokenizer.decode(batch.targets)
    inputs = processor(text=[text], images=[[to_pil_image(batch.pixels[0])]], return_tensors="pt")
    known = inputs["input_ids"][0].tolist()
    assert known == batch.ids[0, : len(known)].tolist()
    with torch.no_grad():
        logits = model(**inputs).logits[0, -len(batch.targets) - 1 : -1]
        theirs = torch.nn.functional.cross_entropy(logits, batch.targets)
        ours = token_losses(nano.forward.model, nano.forward.hidden(batch), batch).mean()
    assert abs(float(theirs) - float(ours)) < 1e-4


def test_it_learns_on_every_kind_of_row(nano):
    optimiser = MuonAndAdamW(nano.forward.model, nano.config)
    first = [train_step(nano.forward, of_kind(nano.rows, kind), optimiser, nano.config, 0) for kind in ("pairs", "canvases", "singles")]
    for _ in range(4):
        last = train_step(nano.forward, of_kind(nano.rows, "singles"), optimiser, nano.config, 1)
    assert all(map(torch.isfinite, map(torch.tensor, first)))
    assert last < first[-1]


def test_what_cannot_be_done_is_refused_by_name():
    for name in REFUSED:
        with pytest.raises(UsageError, match=name):
            family_of(name)
    with pytest.raises(UsageError, match="did you mean qwen2_vl"):
        family_of("qwen2-vl")
