"""An instruction stands where it is meant to, and what training encodes is what the saved model's `encode` gives."""

from __future__ import annotations

import pytest
from PIL import Image as PILImage

from tiny import FAMILIES
from twoway.content import Document, Image, Text
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder
from twoway.embedding.inputs import Inputs
from twoway.models import checkpoint
from twoway.models.loading import load_config
from twoway.models.opening import open_start
from twoway.models.processor import ensure_template, load_processor, require_prompts, set_template

PICTURE = PILImage.new("RGB", (28, 28), "red")
SAID = "Find what is asked: "
DOCUMENTS = {
    "text": Document((Text("a cat"),)),
    "picture": Document((Image(PICTURE),)),
    "picture and text": Document((Image(PICTURE), Text("what is it"))),
    "interleaved": Document((Text("first "), Image(PICTURE), Text("then"))),
}


def prepared(folder, style, place):
    processor = load_processor(folder)
    ensure_template(processor)
    set_template(processor, style=style, place=place)
    return processor


def rendered(processor, document):
    kinds = [{"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image"} for part in document.parts]
    messages = [{"role": "system", "content": [{"type": "text", "text": SAID}]}, {"role": "user", "content": kinds}]
    return processor.apply_chat_template(messages, tokenize=False)


def test_an_instruction_moves_behind_the_leading_pictures(tiny_model):
    processor = prepared(tiny_model("qwen2_vl"), "chat", "user")
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    wanted = {
        "text": f"{SAID}a cat",
        "picture": f"{picture}{SAID}",
        "picture and text": f"{picture}{SAID}what is it",
        "interleaved": f"{SAID}first {picture}then",
    }
    for name, document in DOCUMENTS.items():
        assert rendered(processor, document) == f"<|im_start|>user\n{wanted[name]}<|im_end|>\n"
    processor = prepared(tiny_model("qwen2_vl"), "plain", "user")
    for name, document in DOCUMENTS.items():
        assert rendered(processor, document) == wanted[name]


def test_as_a_system_message_it_is_a_turn_of_its_own_and_the_move_can_be_undone(tiny_model):
    processor = prepared(tiny_model("qwen2_vl"), "chat", "user")
    set_template(processor, style="chat", place="system")
    assert rendered(processor, DOCUMENTS["text"]) == f"<|im_start|>system\n{SAID}<|im_end|>\n<|im_start|>user\na cat<|im_end|>\n"


@pytest.mark.parametrize("place", ["user", "system"])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_encode_see_the_same_tokens(tiny_model, family, place):
    """With and without a prompt, for texts, pictures, both, and documents in which they alternate."""
    folder = tiny_model(family)
    processor = prepared(folder, "chat", place)
    require_prompts(processor, {"query": SAID})
    start = open_start(folder, dtype="float32")
    sentence = checkpoint.read_around(
        start.model.base_model, processor, checkpoint.CheckpointSettings(pooling="mean", prompts={"query": SAID})
    )
    encode = Encoder(processor, PatchGeometry.of(load_config(folder), processor), max_length=512)
    for document in DOCUMENTS.values():
        content = [
            {"type": "text", "text": p.text} if isinstance(p, Text) else {"type": "image", "image": p.source} for p in document.parts
        ]
        for prompt in (None, SAID):
            theirs = sentence.preprocess([[{"role": "user", "content": content}]], prompt=prompt)["input_ids"][0].tolist()
            assert encode("a", document, prompt or "").inputs["input_ids"].tolist() == theirs


VERBATIM = {
    "a text": Document((Text(" Find it.\n"),)),
    "an instruction behind a picture": Document((Image(PICTURE), Text("\nRepresent the given image\n"))),
    "a picture behind a text": Document((Text("Find it: \n"), Image(PICTURE))),
    "white space beside a picture": Document((Text("\n"), Image(PICTURE), Text(" \n"))),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_read_verbatim_to_their_last_line_break(tiny_model, family):
    """With the plain template a row ends where its text ends: training, `encode` and the engine behind evaluation strip nothing."""
    folder = tiny_model(family)
    processor = prepared(folder, "plain", "user")
    start = open_start(folder, dtype="float32")
    sentence = checkpoint.read_around(start.model.base_model, processor, checkpoint.CheckpointSettings(pooling="last"))
    encode = Encoder(processor, PatchGeometry.of(load_config(folder), processor), max_length=512)
    shape, lengths = Inputs(sentence), set()
    for name, document in VERBATIM.items():
        read = encode("a", document).inputs["input_ids"].tolist()
        features = sentence.preprocess([shape(document)])
        assert features["input_ids"][0].tolist() == read, name
        stripped = [Text(part.text.strip()) if isinstance(part, Text) else part for part in document.parts]
        without = Document(tuple(part for part in stripped if not isinstance(part, Text) or part.text))
        assert len(read) > len(encode("a", without).inputs["input_ids"]), name
        if isinstance(document.parts[-1], Text) and family != "paligemma":  # whose processor ends each prompt with a line break of its own
            breaks = processor.tokenizer("\n", add_special_tokens=False)["input_ids"]
            assert read[-1] == breaks[-1], name
        lengths.add(len(read))
    assert len(lengths) > 1
