"""Rows A [EOS] B: what is A and what B, where EOS stands, and what is masked."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from documents import document, family, noise
from tiny import FAMILIES
from twoway.content import ContentError, Document, Pair, Place, Text
from twoway.data.config import MaskingConfig
from twoway.data.masking import NO_TARGET
from twoway.errors import TwowayError, UsageError
from twoway.methods.bridge.config import BridgeSource
from twoway.methods.bridge.rows import BridgeEncoder, appends_eos, collate_bridge, cut_in_two, mask_target, open_bridge_mixture

PICTURE = noise(28, 28)


def encoder(name, tiny_model, **options):
    known = family(tiny_model(name))
    return known, BridgeEncoder(known.processor, known.geometry, **{"max_length": 300, "max_target": 40, **options})


def pair(query, *sides):
    """A pair of a query, its answer, and wrong answers."""
    return Pair(query, sides[:1], sides[1:], "t")


def masked(known, example, *, words=0.7, epoch=0):
    return mask_target(example, epoch=epoch, config=MaskingConfig(words=words, patches=0.0), seed=3, mask_token=1, geometry=known.geometry)


@pytest.mark.parametrize(
    ("row", "a", "b", "modality"),
    [
        (document(PICTURE, "a cat"), 1, "a cat", "image"),
        (document("a cat", PICTURE), 1, "a cat", "image"),
        (document("what is it?", PICTURE, "a cat"), 2, "a cat", "both"),
        (document(PICTURE, "a cat", PICTURE, "a dog"), 3, "a dog", "both"),
        (document(PICTURE, "a cat", PICTURE, "\n"), 3, "a cat", "both"),
        (document("first half of it and second half"), 1, "and second half", "text"),
        (pair(document("a cat"), document(PICTURE)), 1, "a cat", "image"),
        (pair(document("what?", PICTURE), document("a cat"), document("a dog")), 2, "a cat", "both"),
        (pair(document("Katze"), document("cat")), 1, "cat", "text"),
    ],
)
def test_which_part_is_a_and_which_is_b(row, a, b, modality):
    found = cut_in_two(row)
    assert (len(found.a.parts), found.b, found.modality) == (a, b, modality)
    assert cut_in_two(found.joined).b == found.b
    assert cut_in_two(found.joined).a == found.a


@pytest.mark.parametrize(
    ("row", "cut", "message"),
    [
        (document(PICTURE), 0.5, "B is empty: the row has no text"),
        (document("one text"), 0.0, "A is empty: the row is one text"),
        (document("x"), 0.5, "A is empty: .*too short"),
        (pair(document(PICTURE), document(PICTURE)), 0.5, "both sides have pictures"),
    ],
)
def test_rows_without_a_or_b_say_so(row, cut, message):
    with pytest.raises(ContentError, match=message):
        cut_in_two(row, cut)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_is_what_is_embedded_and_b_follows_its_eos(name, tiny_model):
    known, encode = encoder(name, tiny_model)
    for parts in ([PICTURE, "a cat"], ["what is it?", PICTURE, "a cat"], ["two halves of it"]):
        row = document(*parts)
        example, found = encode("row", row), cut_in_two(row)
        ids, alone = example.inputs["input_ids"], known.encoder()("row", found.a)
        assert ids[: example.eos].tolist() == alone.inputs["input_ids"].tolist()
        assert int(ids[example.eos]) == known.processor.tokenizer.eos_token_id
        assert known.processor.tokenizer.decode(ids[example.eos + 1 :]) == found.b
        assert example.words.nonzero()[:, 0].tolist() == list(range(example.eos + 1, len(ids)))
        assert {len(value) for key, value in example.inputs.items() if value.shape == ids.shape} == {len(ids)}
        embedded = encode.alone("row", found.a)
        assert embedded.inputs["input_ids"].tolist() == ids[: example.eos + 1].tolist()
        assert embedded.eos == example.eos


def test_the_split_is_where_the_row_was_joined_whatever_holds_eos(tiny_model):
    known, encode = encoder("qwen2_vl", tiny_model)
    tokenizer = known.processor.tokenizer
    eos = tokenizer.eos_token_id
    for template in (known.processor.chat_template, known.processor.chat_template + tokenizer.eos_token):
        known.processor.chat_template = template
        encode = BridgeEncoder(known.processor, known.geometry, max_length=300, max_target=40)
        try:
            for a, b in (("a", "b"), (f"a{tokenizer.eos_token}a", "b"), ("a", f"b{tokenizer.eos_token}b"), (f"{tokenizer.eos_token}", "b")):
                row = pair(document(a), document(b))
                example = encode("row", row)
                ids = example.inputs["input_ids"]
                before = known.encoder()("row", document(a)).inputs["input_ids"]
                assert example.eos == len(before)
                assert int(ids[example.eos]) == eos
                assert tokenizer.decode(ids[example.eos + 1 :]) == b
        finally:
            known.processor.chat_template = template.removesuffix(tokenizer.eos_token)
    # Ids of EOS that stand in A and in B as tokens move nothing either: nobody looks for them.
    forged = {**example.inputs, "input_ids": torch.full_like(ids, eos)}
    row = masked(known, type(example)(**vars(example) | {"inputs": forged}))
    assert row.eos == example.eos


def test_a_processor_that_appends_eos_gets_no_second_one(tiny_model, tiny_encoder):
    import transformers

    folder = tiny_encoder("qwen2_vl", pooling="eos")
    known, plain = encoder("qwen2_vl", tiny_model)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    assert appends_eos(processor.tokenizer)
    assert not appends_eos(known.processor.tokenizer)
    appending = BridgeEncoder(processor, known.geometry, max_length=300, max_target=40)
    for parts in ([PICTURE, "a cat"], ["two halves of it"]):
        one, other = plain("row", document(*parts)), appending("row", document(*parts))
        assert one.inputs["input_ids"].tolist() == other.inputs["input_ids"].tolist()
        assert one.eos == other.eos


def test_long_sides_are_cut_and_counted_and_eos_stays(tiny_model):
    known, encode = encoder("qwen2_vl", tiny_model, max_length=60, max_target=10)
    example = encode("row", pair(document("long " * 100), document("long " * 100)))
    assert len(example.words) == 60
    assert int(example.words.sum()) == 10
    assert int(example.inputs["input_ids"][example.eos]) == known.processor.tokenizer.eos_token_id
    assert {name: masked(known, example).counts[name] for name in ("targets_cut", "sources_cut")} == {"targets_cut": 1, "sources_cut": 1}
    short = masked(known, encode("row", pair(document("a"), document("b"))))
    assert (short.counts["targets_cut"], short.counts["sources_cut"]) == (0, 0)
    with pytest.raises(UsageError, match="max_target 59 leaves no room"):
        encoder("qwen2_vl", tiny_model, max_length=60, max_target=59)


@pytest.mark.parametrize("parts", [(PICTURE, "long " * 100), ("long " * 100,)])
def test_a_that_is_cut_is_what_the_model_embeds_of_it(parts, tiny_model):
    """With pictures, the end of the template goes when a row is cut."""
    known, encode = encoder("qwen2_vl", tiny_model, max_length=60, max_target=10)
    a = document(*parts)
    example = encode("row", pair(a, document("long " * 100)))
    used = known.encoder(max_length=49, as_used=True)("row", a)
    assert example.cut
    assert example.inputs["input_ids"][: example.eos].tolist() == used.inputs["input_ids"].tolist()


def test_masks_are_in_b_alone_and_a_function_of_seed_epoch_and_row(tiny_model):
    known, encode = encoder("qwen2_vl", tiny_model)
    example = encode("row", document(PICTURE, "a caption of forty letters, more or less"))
    row, again, other = masked(known, example), masked(known, example), masked(known, example, epoch=1)
    assert row.labels.tolist() == again.labels.tolist() != other.labels.tolist()
    chosen = row.labels != NO_TARGET
    assert not bool((chosen & ~example.words).any())
    assert int(chosen.sum()) in (int(0.7 * 40), int(0.7 * 40) + 1)
    assert torch.equal(row.inputs["input_ids"][~chosen], example.inputs["input_ids"][~chosen])
    assert torch.equal(row.inputs["pixel_values"], example.inputs["pixel_values"])
    counts = [int((masked(known, encode(f"{n}", document(PICTURE, "ab"))).labels != NO_TARGET).sum()) for n in range(200)]
    assert np.mean(counts) == pytest.approx(1.4, abs=0.12)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_knows_each_eos_on_either_side_of_padding(side, tiny_model):
    known, encode = encoder("qwen2_vl", tiny_model)
    rows = [masked(known, encode(text, document(PICTURE, text))) for text in ("a", "a longer caption", "a caption")]
    batch = collate_bridge(rows, pad_token=0, padding_side=side)
    ids = batch["inputs"]["input_ids"][torch.arange(3), batch["eos"]]
    assert ids.tolist() == [known.processor.tokenizer.eos_token_id] * 3
    behind = [int(batch["inputs"]["attention_mask"][number, place + 1 :].sum()) for number, place in enumerate(batch["eos"])]
    assert behind == [1, 16, 9]


def test_a_tokenizer_without_eos_is_refused(tiny_model):
    known = family(tiny_model("qwen2_vl"))
    token = known.processor.tokenizer.eos_token
    known.processor.tokenizer.eos_token = None
    try:
        with pytest.raises(TwowayError, match="no EOS token"):
            BridgeEncoder(known.processor, known.geometry, max_length=300)
    finally:
        known.processor.tokenizer.eos_token = token


def test_pairs_and_documents_lie_in_one_source(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    rows = [{"image": "a.png", "text": "a cat"}, {"query": "cat", "positive": "Katze"}, {"question": {"image": "a.png"}, "answer": "cat"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixture = open_bridge_mixture([BridgeSource(str(tmp_path / "rows.jsonl")), BridgeSource("samples:test", cap=3)])
    found = [cut_in_two(mixture.read(row)[1]) for row in range(3)]
    assert [(one.modality, one.b) for one in found] == [("image", "a cat"), ("text", "Katze"), ("image", "cat")]
    assert len(mixture) == 6
    with pytest.raises(UsageError, match="no format 'mmeb'"):
        BridgeSource("x.jsonl", row_template="mmeb")


def test_an_error_names_the_row(tiny_model):
    _, encode = encoder("qwen2_vl", tiny_model)
    with pytest.raises(ContentError, match=r"rows\.jsonl:7: B is empty"):
        encode("row", Document(document(PICTURE).parts, Place("rows.jsonl", 7)))
    with pytest.raises(ContentError, match="B is empty"):
        encode("row", pair(document("a"), Document((Text(" "),))))
