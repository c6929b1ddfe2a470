"""Rows as tensors: the processor's own tensors, and exactly the document's words beside them, in nine families."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from documents import document, family, noise
from tiny import FAMILIES
from twoway.content import ContentError
from twoway.data.processing import Encoder
from twoway.errors import TwowayError, UsageError


@pytest.fixture(params=FAMILIES)
def each(request, tiny_model):
    return family(tiny_model(request.param))


@pytest.fixture
def qwen(tiny_model):
    return family(tiny_model("qwen2_vl"))


def words(fam, example):
    return fam.processor.tokenizer.decode(example.inputs["input_ids"][example.words])


ROWS = {
    "interleaved": document("user assistant\n", noise(), " said <b>user</b>: Ünï 漢字 ", noise(60, 30, 1), "user"),
    "text": document("user said user"),
    "picture": document(noise()),
    "texts side by side": document("one", "two ", " three"),
    "white space beside pictures": document("\n", noise(), " \n", noise(60, 30, 1), " words\n"),
}


@pytest.mark.parametrize("name", ROWS)
def test_words_are_the_documents_text_and_nothing_else(each, name):
    example = each.encoder()("a#1", ROWS[name])
    assert words(each, example) == "".join(ROWS[name].texts)
    images = example.inputs["input_ids"] == each.geometry.image_token
    assert torch.equal(example.image_tokens, images)
    assert not (example.words & images).any()
    assert example.pictures.unique().tolist() == list(range(len(ROWS[name].images)))
    assert (example.pictures.diff() >= 0).all()


@pytest.mark.parametrize("name", ["interleaved", "picture"])
def test_tensors_are_what_the_processor_gives_at_inference(each, name):
    parts = [
        {"type": "image", "image": part.source} if hasattr(part, "source") else {"type": "text", "text": part.text}
        for part in ROWS[name].parts
    ]
    settings = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    theirs = each.processor.apply_chat_template([{"role": "user", "content": parts}], **settings)
    ours = each.encoder()("a#1", ROWS[name]).inputs
    assert set(ours) == set(theirs) - {"attention_mask", "labels"}
    for key, value in ours.items():
        assert torch.equal(value, torch.as_tensor(theirs[key]).reshape(value.shape)), key


def test_special_strings_in_a_text_stay_text(each):
    """Every special token and every placeholder, at the ends, side by side and in the middle, moves nothing."""
    tokenizer = each.processor.tokenizer
    strings = [each.processor.image_token, *sorted({token.content for token in tokenizer.added_tokens_decoder.values() if token.special})]
    first, second = "".join(strings), f"a {' b '.join(strings)} \ue002"
    plain, full = (each.encoder(max_length=2000)("a#1", document(one, noise(), two)) for one, two in (("x", "y"), (first, second)))
    assert words(each, full) == first + second
    special = torch.tensor(tokenizer.all_special_ids)

    def template(example):
        ids = example.inputs["input_ids"][~example.words]
        return ids.tolist()

    assert template(full) == template(plain)
    assert not torch.isin(full.inputs["input_ids"][full.words], special).any()
    for key in each.geometry.token_keys:
        assert full.inputs[key].shape == full.words.shape
        if key != "input_ids":
            assert torch.equal(full.inputs[key][~full.words], plain.inputs[key][~plain.words])
    assert torch.equal(full.inputs["pixel_values"], plain.inputs["pixel_values"])


def test_the_plain_template_is_the_contents_alone(qwen):
    example = qwen.encoder(template="plain")("a#1", document("w1 ", noise(), " w2"))
    picture = "<|image_pad|>" * int(example.image_tokens.sum())
    assert qwen.processor.tokenizer.decode(example.inputs["input_ids"]) == f"w1 <|vision_start|>{picture}<|vision_end|> w2"
    assert words(qwen, example) == "w1  w2"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_plain_template_has_no_role_in_any_family(tiny_model, name):
    fam = family(tiny_model(name))
    example = fam.encoder(template="plain")("a#1", document("w1", noise(), "w2"))
    assert words(fam, example) == "w1w2"
    assert "user" not in fam.processor.tokenizer.decode(example.inputs["input_ids"])


TEMPLATES = {
    "trims": "<|im_start|>user\n{% for c in messages[0]['content'] %}{% if c['type'] == 'image' %}PICTURE{% else %}{{ c['text'] | trim }}"
    "{% endif %}{% endfor %}<|im_end|>",
    "pictures first": "{% for c in messages[0]['content'] %}{% if c['type'] == 'image' %}PICTURE\n{% endif %}{% endfor %}user "
    "{% for c in messages[0]['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_trim_or_reorder_are_followed(qwen, name):
    processor = copy.deepcopy(qwen.processor)
    processor.chat_template = TEMPLATES[name].replace("PICTURE", "<|vision_start|><|image_pad|><|vision_end|>")
    example = Encoder(processor, qwen.geometry, max_length=99)("a#1", document(" user ", noise(), " me "))
    assert words(qwen, example) == ("userme" if name == "trims" else " user  me ")
    assert example.image_tokens.sum() == 2


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ("{{ c['text'] | upper }}", ContentError, "rewrites"),
        ("{{ c['text'] }}{{ c['text'] }}", TwowayError, "once"),
        ("", TwowayError, "once"),
    ],
)
def test_templates_that_change_the_text_are_refused(qwen, change, error, match):
    processor = copy.deepcopy(qwen.processor)
    processor.chat_template = "{% for c in messages[0]['content'] %}CHANGE{% endfor %}".replace("CHANGE", change)
    with pytest.raises(error, match=match):
        Encoder(processor, qwen.geometry, max_length=99)("a#1", document("hello"))


def test_tokens_of_one_word_share_a_number(each):
    example = each.encoder(whole_words=True)("a#1", document("two words", noise(), "word"))
    units = example.units[example.words].tolist()
    assert len(units) == len("two wordsword")
    assert len(set(units[:3])) == 1
    assert len({units[0], units[5], units[-1]}) == 3


TOKENS = ("<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def joining(qwen):
    """Make an encoder whose tokenizer joins letters and takes white space in front of a word into its first token."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=list(TOKENS), show_progress=False)
    core.train_from_iterator(["user\n THE CAT AND THE DOG\n", "user THE CAT", "picture: THE"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<unk>")
    old = qwen.processor
    processor = type(old)(copy.deepcopy(old.image_processor), tokenizer, copy.deepcopy(old.video_processor))
    body = "{% if c['type'] == 'image' %}<|image_pad|>{% else %}picture: {{ c['text'] }}\n{% endif %}"
    processor.chat_template = f"{{% for c in messages[0]['content'] %}}{body}{{% endfor %}}"
    geometry = dataclasses.replace(qwen.geometry, image_token=tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    return Encoder(processor, geometry, max_length=99)


def test_a_token_that_takes_in_the_templates_white_space_is_a_word_and_one_with_its_letters_is_not(qwen):
    """The document is in capitals and the template is not, so each token shows where it comes from."""
    encoder = joining(qwen)
    example = encoder("a#1", document("THE CAT", noise(), "AND THE DOG"))
    tokens = encoder.tokenizer.convert_ids_to_tokens(example.inputs["input_ids"].tolist())
    sides = list(zip(tokens, example.words.tolist(), strict=True))
    assert any(token.startswith("▁THE") for token, word in sides if word)
    assert not any(word for token, word in sides if set(token) & set("userpict:"))
    assert all(word for token, word in sides if any(letter.isupper() for letter in token))
    special = encoder("a#1", document("THE CAT", noise(), "AND <|im_end|> THE DOG"))
    ids = special.inputs["input_ids"]
    assert not torch.isin(ids[special.words], torch.tensor(encoder.tokenizer.all_special_ids)).any()
    assert encoder.tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids
    assert special.image_tokens.sum() == example.image_tokens.sum() == 2


def test_a_long_row_is_cut_before_a_picture_and_keeps_the_templates_end(each):
    whole = document("one two three ", noise(), "four five", noise(60, 30, 1), "six seven")
    full = each.encoder()("a#1", whole)
    assert not full.cut
    end = full.inputs["input_ids"][full.words.nonzero().max() + 1 :]
    for length in range(len(full.words) - 1, 24, -3):
        example = each.encoder(max_length=length)("a#1", whole)
        ids = example.inputs["input_ids"]
        assert example.cut
        assert len(ids) == len(example.words) <= length
        kept = [one.source for one in whole.images[: len(example.pictures.unique())]]
        if kept:  # each picture has all its tokens, and its pixels are there
            alone = each.encoder()("a#1", document(*kept))
            assert torch.equal(example.pictures, alone.pictures)
            assert torch.equal(example.inputs["pixel_values"], alone.inputs["pixel_values"])
        assert example.images_cut == 2 - len(example.pictures.unique())
        assert ("pixel_values" in example.inputs) == bool(example.image_tokens.any())
        assert "".join(whole.texts).startswith(words(each, example).strip())
        if len(end):
            assert torch.equal(ids[-len(end) :], end)


def test_pictures_behind_text_that_is_not_even_tokenised_count_as_cut(qwen):
    example = qwen.encoder(max_length=64)("a#1", document(noise(), "word " * 10_000, noise(60, 30, 1), "end", noise(60, 30, 2)))
    assert (example.cut, example.images_cut, len(example.pictures.unique())) == (True, 2, 1)


def test_a_picture_too_long_for_the_row_is_an_error(qwen):
    with pytest.raises(ContentError, match="first picture alone"):
        qwen.encoder(max_length=10)("a#1", document(noise(), "text"))
    with pytest.raises(ContentError, match="no room"):
        qwen.encoder(max_length=4)("a#1", document("some text"))
    with pytest.raises(UsageError, match="positive"):
        qwen.encoder(max_length=0)


def test_white_space_between_pictures_ends_no_long_row(qwen):
    """Of a text beyond the limit, what would be left is cut; a line break before it is not the end."""
    example = qwen.encoder(max_length=64)("a#1", document("\n", noise(), "\n", "word " * 10_000))
    assert example.cut
    assert words(qwen, example).startswith("\n\nword word ")
    with pytest.raises(ContentError, match="more white space than a row holds"):
        qwen.encoder(max_length=64)("a#1", document(" " * 10_000 + "word"))


def test_text_far_beyond_the_limit_is_not_even_tokenised(qwen, monkeypatch):
    seen = []
    encoder = qwen.encoder(max_length=50)
    call = encoder._call
    monkeypatch.setattr(encoder, "_call", lambda prompt, *rest: seen.append(len(prompt)) or call(prompt, *rest))
    example = encoder("a#1", document("word " * 100_000))
    assert example.cut
    assert len(example.words) == 50
    assert max(seen) < 5000


def test_an_encoder_goes_through_pickle(each):
    encoder = pickle.loads(pickle.dumps(each.encoder()))
    one, two = (made("a#1", ROWS["interleaved"]) for made in (encoder, each.encoder()))
    assert all(torch.equal(one.inputs[key], two.inputs[key]) for key in two.inputs)


def test_what_cannot_be_encoded_is_refused_when_the_encoder_is_made(qwen):
    bare = copy.deepcopy(qwen.processor)
    bare.chat_template = None
    with pytest.raises(TwowayError, match="no chat template"):
        Encoder(bare, qwen.geometry, max_length=99)
    with pytest.raises(TwowayError, match="chat or plain"):
        Encoder(qwen.processor, qwen.geometry, max_length=99, template="other")
