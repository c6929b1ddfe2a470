"""After training, pictures help words and captions help patches: the objective, on two rows told apart in no other way."""

from __future__ import annotations

import pytest
import torch
from PIL import Image as PILImage

from twoway.content import Document
from twoway.data.collators import collate
from twoway.data.config import MaskingConfig
from twoway.data.masking import mask_inputs
from twoway.data.processing import Encoder
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import prepare

CAPTIONS = {"black": "a b c d", "white": "d c b a"}
WORDS, PATCHES = MaskingConfig(words=1.0, patches=0.0), MaskingConfig(words=0.0, patches=1.0)
STEPS = 40


def batch_of(prepared, pairs, config, *, order=None):
    """Put rows of (picture, caption) together, with everything of one kind masked; a row's masks are those of its picture and caption."""
    encode = Encoder(prepared.processor, prepared.geometry, max_length=prepared.max_length)
    rows = []
    for colour, caption in pairs:
        document = Document.from_parts([{"image": PILImage.new("RGB", (56, 56), colour)}, {"text": caption}])
        example = encode("row", document)
        rows.append(mask_inputs(example, config, seed=0, epoch=0, mask_token=prepared.token.id, geometry=prepared.geometry))
    side = prepared.processor.tokenizer.padding_side
    return collate(rows, pad_token=prepared.pad_token, padding_side=side)


@pytest.fixture(scope="module")
def trained(tiny_model):
    torch.set_num_threads(1)
    prepared = prepare(tiny_model("qwen2_vl"), PretrainConfig(seed=0))
    task = prepared.module.train()
    batches = [batch_of(prepared, CAPTIONS.items(), config) for config in (WORDS, PATCHES)]
    optimizer = torch.optim.AdamW([one for one in task.parameters() if one.requires_grad], lr=3e-3)
    for _ in range(STEPS):
        for batch in batches:
            total, _ = task(batch, {name: 1 / max(count, 1) for name, count in task.count_targets(batch).items()})
            total.backward()
        optimizer.step()
        optimizer.zero_grad()
    task.eval()
    return prepared


def losses(prepared, pairs, config):
    """Return the loss of each row."""
    with torch.no_grad():
        answers = prepared.module.predict(batch_of(prepared, pairs, config))
    rows, loss = (answers.word_rows, answers.losses) if config is WORDS else (answers.patch_rows, answers.patch_errors)
    return [float(loss[rows == row].mean()) for row in range(len(pairs))]


def test_a_masked_word_costs_less_with_its_own_picture(trained):
    right = losses(trained, list(CAPTIONS.items()), WORDS)
    other = losses(trained, [("white", CAPTIONS["black"]), ("black", CAPTIONS["white"])], WORDS)
    assert all(wrong > own + 0.5 for own, wrong in zip(right, other, strict=True)), (right, other)


def test_a_masked_patch_costs_less_with_its_own_caption(trained):
    right = losses(trained, list(CAPTIONS.items()), PATCHES)
    other = losses(trained, [("black", CAPTIONS["white"]), ("white", CAPTIONS["black"])], PATCHES)
    assert all(wrong > own + 0.5 for own, wrong in zip(right, other, strict=True)), (right, other)


@pytest.mark.parametrize("config", [WORDS, PATCHES], ids=["words", "patches"])
def test_the_order_of_rows_and_the_company_change_no_rows_loss(trained, config):
    long = ("black", CAPTIONS["black"] * 5)
    pairs = [*CAPTIONS.items(), long]
    together, turned = losses(trained, pairs, config), losses(trained, pairs[::-1], config)
    alone = [losses(trained, [pair], config)[0] for pair in pairs]
    assert together == pytest.approx(turned[::-1], abs=1e-5)
    assert together == pytest.approx(alone, abs=1e-5)
