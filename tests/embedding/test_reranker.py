"""Rerankers of every layout are opened, and give the scores of sentence-transformers and of the published way of reading."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as PILImage
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.modules import LogitScore
from transformers import AutoModelForImageTextToText, AutoProcessor

from rerank_toys import PUBLISHED, speaking
from tiny import published
from twoway.content import ContentError, Document
from twoway.embedding.reranker import open_reranker
from twoway.errors import UsageError
from twoway.methods.convert import convert
from twoway.models import checkpoint, reranker

PICTURE = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (40, 52, 3), dtype=np.uint8))
PAIRS = [
    ("what?", "this"),
    ("what?", "something much longer, said in many words"),
    ("which?", PICTURE),
    (PICTURE, [PICTURE, {"text": "it"}]),
]


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    return speaking(tiny_model("qwen3_vl"), tmp_path_factory.mktemp("speaking") / "base")


@pytest.fixture(scope="module")
def expected(base):
    """The scores of the pairs as the published script reads them: one by one, the logit of yes less that of no behind the prompt."""
    model, processor = AutoModelForImageTextToText.from_pretrained(base).eval(), AutoProcessor.from_pretrained(base)
    yes, no = (processor.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    mark, found = "<|vision_start|><|image_pad|><|vision_end|>", []
    for pair in PAIRS:
        parts = [one if isinstance(one, list) else [one] for one in pair]
        written = [
            "".join(mark if part is PICTURE else part["text"] if isinstance(part, dict) else part for part in side) for side in parts
        ]
        text = PUBLISHED.format(instruction=reranker.INSTRUCTION, query=written[0], document=written[1])
        pictures = [PICTURE] * text.count(mark)
        inputs = processor(text=[text], images=pictures or None, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        found.append(float(logits[yes] - logits[no]))
    return found


def scores_of(model, **options):
    return [score for _, score in sorted(open_reranker(model, device="cpu").scores(PAIRS, **options))]


def test_a_plain_model_is_read_as_the_published_reranker_is(base, expected):
    assert scores_of(base) == pytest.approx(expected, abs=1e-4)
    engine = open_reranker(base, device="cpu")
    assert [one.number for one in engine.rank("what?", ["this", PAIRS[1][1]])] == ([0, 1] if expected[0] > expected[1] else [1, 0])
    assert engine.relevance(expected[0]) == pytest.approx(1 / (1 + np.exp(-expected[0])))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "its score names no tokens"])
def test_a_folder_in_the_published_layout_gives_the_same(base, expected, tmp_path, whole):
    processor = AutoProcessor.from_pretrained(base)
    yes, no = (processor.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    out = published(base, tmp_path / "published", behind=(LogitScore(yes, no),), called=checkpoint.WITH_HEAD, model_type="CrossEncoder")
    reranker.set_pair_template(processor)
    processor.save_pretrained(out)
    if not whole:
        (out / "1_LogitScore/config.json").unlink()
    settings = {"prompts": {}, "default_prompt_name": None}
    (out / "config_sentence_transformers.json").write_text(json.dumps(settings | {"model_type": "CrossEncoder"}))
    assert scores_of(out) == pytest.approx(expected, abs=1e-4)


def test_a_converted_reranker_scores_the_same_without_code_of_ours(base, expected, tmp_path):
    card = convert(base, tmp_path / "out", attention="causal", head="yes-no").card
    assert (card.score, card.attention["measured"]) == ("the logit of yes less that of no", "causal")
    assert scores_of(tmp_path / "out") == pytest.approx(expected, abs=1e-4)
    plain = CrossEncoder(str(tmp_path / "out"), device="cpu")
    found = plain.predict([(query, document) for query, document in PAIRS[:3]], activation_fn=torch.nn.Identity(), show_progress_bar=False)
    assert found.tolist() == pytest.approx(expected[:3], abs=1e-4)
    convert(tmp_path / "out", tmp_path / "again", attention="causal")
    assert scores_of(tmp_path / "again") == pytest.approx(expected, abs=1e-4)
    with pytest.raises(UsageError, match="is a reranker, which gives scores and no vectors; leave pooling and truncate_dim out"):
        convert(tmp_path / "out", tmp_path / "no", attention="causal", pooling="mean")


def test_a_reranker_of_texts_takes_no_pictures(tiny_model, tmp_path):
    config = transformers.AutoConfig.from_pretrained(tiny_model("bert"))
    config.num_labels = 1
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "texts")
    transformers.AutoTokenizer.from_pretrained(tiny_model("bert")).save_pretrained(tmp_path / "texts")
    engine = open_reranker(tmp_path / "texts", device="cpu")
    pairs = [("what?", "this"), ("what?", "another")]
    own = CrossEncoder(str(tmp_path / "texts"), device="cpu")
    theirs = own.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    assert [score for _, score in sorted(engine.scores(pairs))] == pytest.approx(theirs.tolist(), abs=1e-5)
    with pytest.raises(ContentError, match="this reranker reads texts alone"):
        engine.rank("what?", [PICTURE])


def test_what_gives_no_scores_is_refused(tiny_encoder, tiny_model):
    with pytest.raises(UsageError, match="gives vectors and no scores; name a reranker"):
        open_reranker(tiny_encoder("qwen2_vl"), device="cpu")
    with pytest.raises(UsageError, match="has no head of scores; name a reranker"):
        open_reranker(tiny_model("bert"), device="cpu")


def test_pairs_that_join_to_the_same_parts_are_told_apart(base):
    one, two, three = ({"text": text} for text in ("a", "b", "c"))
    pairs = [([one, two], [three]), ([one], [two, three])]
    made = [(Document.from_parts(left), Document.from_parts(right)) for left, right in pairs]
    found = dict(open_reranker(base, device="cpu").scores(made))
    assert found[0] != found[1]
