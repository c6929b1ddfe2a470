"""The engine gives the vectors of `SentenceTransformer.encode`, whatever the kinds, sizes and order of documents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from tiny import FAMILIES
from twoway.content import ContentError, Document, Image, Place, Text
from twoway.data.lengths import MediaTokens
from twoway.embedding import Embedder, open_embedder
from twoway.errors import TwowayError, UsageError
from twoway.images import DEFAULT


def picture(number, width=40, height=52):
    return PILImage.fromarray(np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8))


def content():
    """Return documents of every kind, and what sentence-transformers is given for each."""
    first, second = picture(1), picture(2, 60, 30)
    parts = [Text("w7 "), Image(first), Text(" w9 "), Image(second), Text(" w4")]
    message = [{"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image", "image": part.source} for part in parts]
    return [
        (Document((Text("w4 w5 w6"),)), "w4 w5 w6"),
        (Document((Text("a much longer text " * 4),)), "a much longer text " * 4),
        (Document((Image(first),)), first),
        (Document((Image(second), Text("w5 w6"))), {"image": second, "text": "w5 w6"}),
        (Document(tuple(parts)), [{"role": "user", "content": message}]),
        (Document((Text("w4 w5 w6"),)), "w4 w5 w6"),
    ]


def test_lengths_of_pictures_do_not_need_their_memory():
    """A thread may clear it at any time while another has just written."""

    class Forgetful(dict):
        def __setitem__(self, *_):
            pass

    count_tokens = MediaTokens(None)
    count_tokens._known = Forgetful()
    document = Document((Image(picture(1)), Image(picture(2))))
    assert count_tokens(document, DEFAULT) == pytest.approx(2 * 40 * 52 / 28**2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vectors_are_those_of_encode(family, tiny_encoder):
    engine = open_embedder(tiny_encoder(family), device="cpu")
    documents, inputs = zip(*content(), strict=True)
    alone = np.concatenate([engine.sentence.encode([one], show_progress_bar=False) for one in inputs])
    assert np.abs(engine.array(documents) - alone).max() < 1e-5


def test_plain_strings_pictures_and_rows_are_documents(tiny_encoder, tmp_path):
    engine = open_embedder(tiny_encoder("qwen2_vl"), device="cpu")
    first = picture(1)
    first.save(tmp_path / "a.png")
    plain = ["w4 w5", "a.png", first, tmp_path / "a.png", [{"text": "w7"}, first, "w8"], {"image": first, "text": "w7"}, Text("w9")]
    parts = [
        (Text("w4 w5"),),
        (Text("a.png"),),  # a text that looks like a path is a text
        (Image(first),),
        (Image(first),),
        (Text("w7"), Image(first), Text("w8")),
        (Image(first), Text("w7")),
        (Text("w9"),),
    ]
    assert np.abs(engine.array(plain) - engine.array([Document(one) for one in parts])).max() < 1e-5
    with pytest.raises(UsageError, match="several documents are expected, not a single str; put it into a list"):
        engine.array("w4 w5")
    with pytest.raises(ContentError, match="documents:2: the image of part 1 is a number"):
        engine.array(["w4", 3])
    with pytest.raises(ContentError, match="documents:1: it has the unknown key 'txt'; did you mean text"):
        engine.array([{"txt": "w4"}])
    with pytest.raises(UsageError, match="open_embedder has no option 'widnow'; did you mean window"):
        open_embedder("no model", widnow=3)


def text(words):
    return Document((Text(words),))


@pytest.fixture(scope="module")
def engine(tiny_encoder):
    return open_embedder(tiny_encoder("qwen2_vl"), device="cpu")


def test_a_text_that_looks_like_a_path_or_an_address_is_text(engine, tmp_path):
    picture(1).save(tmp_path / "cat.png")
    looks = [str(tmp_path / "cat.png"), "https://example.org/cat.png", "data:image/png;base64,AAAA"]
    found = engine.array([text(one) for one in looks])
    for one, vector in zip(looks, found, strict=True):
        said = [{"role": "user", "content": [{"type": "text", "text": one}]}]
        assert np.abs(engine.sentence.encode([said], show_progress_bar=False)[0] - vector).max() < 1e-5


def test_results_come_in_order_when_asked_and_with_their_numbers_always(engine):
    documents = [text("w " * (1 + 7 * (number % 11))) for number in range(90)]
    loose = dict(engine.embed(documents))
    assert sorted(loose) == list(range(90))
    ordered = list(engine.embed(iter(documents), ordered=True))
    assert [number for number, _ in ordered] == list(range(90))
    assert all(np.abs(loose[number] - vector).max() < 1e-5 for number, vector in ordered)


def test_the_same_content_is_embedded_once(engine, monkeypatch, tmp_path):
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    documents = [Document((Image(tmp_path / name),)) for name in ("a.png", "b.png")] + [text("same")] * 2
    rows = []
    forward = type(engine.sentence).forward
    monkeypatch.setattr(type(engine.sentence), "forward", lambda self, x, **kw: rows.append(len(x["input_ids"])) or forward(self, x, **kw))
    small = Embedder.of(engine.sentence, window=2, workers=0)
    found = small.array(documents * 3)
    assert sum(rows) == 2
    assert (found[0] == found[1]).all()
    assert (found[2] == found[11]).all()


def test_texts_never_share_a_batch_with_pictures(engine, monkeypatch):
    seen = []
    forward = type(engine.sentence).forward
    monkeypatch.setattr(type(engine.sentence), "forward", lambda self, x, **kw: seen.append(dict(x)) or forward(self, x, **kw))
    engine.array([document for document, _ in content()])
    assert [x for x in seen if "pixel_values" not in x]
    picture_id = engine.sentence[0].model.config.image_token_id
    for x in seen:
        assert bool((x["input_ids"] == picture_id).any(dim=1).all()) == ("pixel_values" in x)


def test_batches_keep_to_the_budget_and_rows_of_one_length_share_them(engine, monkeypatch):
    shapes = []
    forward = type(engine.sentence).forward
    monkeypatch.setattr(
        type(engine.sentence), "forward", lambda self, x, **kw: shapes.append((x["attention_mask"].sum(1), x)) or forward(self, x, **kw)
    )
    small = Embedder.of(engine.sentence, budget=200, workers=0)
    small.array([text(f"{number} " + "w " * (3 + 10 * (number % 5))) for number in range(60)])
    frame = 30  # what the chat template writes around a text, in tokens of this byte-level tokenizer
    for lengths, x in shapes:
        assert len(lengths) == 1 or (lengths.max() - frame) * len(lengths) <= 200
        assert lengths.max() - lengths.min() <= 25
        assert x["attention_mask"].shape[1] == lengths.max()
    assert len(shapes) < 60


@pytest.mark.parametrize("asked", [{"side": "query"}, {"side": "document"}, {"prompt": "Find: "}, {"prompt_name": "other"}, {}])
def test_prompts_are_those_of_encode(asked, tiny_encoder):
    engine = open_embedder(tiny_encoder("qwen2_vl", prompts={"query": "ask ", "document": "tell ", "other": "say "}), device="cpu")
    model, row = engine.sentence, "w4 w5 w6"
    if "side" in asked:
        right = {"query": model.encode_query, "document": model.encode_document}[asked["side"]]([row], show_progress_bar=False)
    else:
        right = model.encode([row], prompt=asked.get("prompt"), prompt_name=asked.get("prompt_name"), show_progress_bar=False)
    found = engine.array([text(row)], **asked)
    assert np.abs(found - right).max() < 1e-5
    assert (np.abs(found - model.encode([row], show_progress_bar=False)).max() > 1e-3) == bool(asked)


def test_a_prompt_that_is_not_there_is_an_error(engine):
    with pytest.raises(UsageError, match="the model has no prompt 'qury'"):
        engine.embed([text("a")], prompt_name="qury")


def test_a_cut_vector_is_the_beginning_of_the_whole_at_length_one(engine):
    whole, cut = engine.array([text("a b")]), engine.array([text("a b")], truncate_dim=8)
    assert np.abs(cut - whole[:, :8] / np.linalg.norm(whole[:, :8])).max() < 1e-6
    with pytest.raises(UsageError, match="truncate_dim 33 is out of range: this model's vectors have 1 to 32 numbers"):
        engine.embed([text("a")], truncate_dim=33)


def test_a_bad_document_is_an_error_with_its_place_or_left_out(engine, tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    picture(1).save(tmp_path / "late.png")
    (tmp_path / "late.png").write_bytes((tmp_path / "late.png").read_bytes()[:-300])  # the header is whole, the pixels are not
    bad = [Document((Image(tmp_path / name),), Place("x.jsonl", row)) for row, name in ((2, "cut.png"), (3, "late.png"), (4, "none.png"))]
    documents = [text("a"), *bad, text("b"), Document(bad[1].parts, Place("x.jsonl", 9))]
    for one in bad:
        with pytest.raises(ContentError, match=rf"x\.jsonl:{one.place.row}: picture .*{one.images[0].source.name}"):
            engine.array([text("a"), one])
    refused = []
    found = dict(engine.embed(documents, refuse=lambda index, error: refused.append((index, error.place.row))))
    assert sorted(found) == [0, 4]
    assert sorted(refused) == [(1, 2), (2, 3), (3, 4), (5, 9)]


def test_a_row_that_the_processor_refuses_is_named_and_the_rest_of_its_batch_goes_on(engine, tiny_encoder):
    short = open_embedder(tiny_encoder("qwen2_vl"), device="cpu", max_length=60)
    large = Document((Image(picture(3, 400, 400)),) * 30, Place("x", 9))
    refused = []
    found = dict(short.embed([Document((Image(picture(1)),)), large], refuse=lambda index, error: refused.append(str(error))))
    assert list(found) == [0]
    assert refused[0].startswith("x:9: the model's processor refuses it: ")


def test_a_vector_that_is_not_finite_is_an_error(tiny_encoder):
    engine = open_embedder(tiny_encoder("qwen2_vl"), device="cpu")
    engine.sentence[0].model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(ContentError, match="x:7: the model gives numbers that are not finite"):
        engine.array([Document((Text("a"),), Place("x", 7))])


def test_a_model_in_training_stays_in_training(engine):
    engine.sentence.train()
    engine.sentence[1].eval()
    engine.array([text("a")])
    assert engine.sentence[0].training
    assert not engine.sentence[1].training
    engine.sentence.eval()


def test_a_batch_that_does_not_fit_into_memory_is_halved(engine, monkeypatch):
    forward, sizes = type(engine.sentence).forward, []

    def full(self, features, **kwargs):
        sizes.append(len(features["input_ids"]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, features, **kwargs)

    documents = [text(f"row {number}") for number in range(10)]
    right = engine.array(documents)
    monkeypatch.setattr(type(engine.sentence), "forward", full)
    most = 3
    assert np.abs(engine.array(documents) - right).max() < 1e-5
    assert sizes == [10, 5, 2, 3, 5, 2, 3]
    most = 0
    with pytest.raises(TwowayError, match="does not fit into the device"):
        engine.array(documents)


def test_documents_that_a_processor_does_not_take_together_are_embedded_apart(engine, monkeypatch):
    preprocess = type(engine.sentence).preprocess

    def few(self, inputs, **kwargs):
        if len(inputs) > 2:
            raise ValueError("too many at a time")
        return preprocess(self, inputs, **kwargs)

    documents = [text(f"row {number}") for number in range(7)]
    right = engine.array(documents)
    monkeypatch.setattr(type(engine.sentence), "preprocess", few)
    assert np.abs(engine.array(documents) - right).max() < 1e-5


def test_no_documents_give_no_vectors(engine):
    assert engine.array([]).shape == (0, 32)


def test_input_is_read_as_it_is_needed(engine):
    read = []

    def endless():
        for number in range(10**9):
            read.append(number)
            yield text(f"{number}")

    results = Embedder.of(engine.sentence, window=64).embed(endless())
    next(results)
    results.close()
    assert len(read) < 1000
