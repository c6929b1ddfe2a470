"""Models of many vectors: embedded, evaluated, indexed and searched, with the answers of brute force; what does not fit is one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image as PILImage
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.interpretability import real_query_token_slice

from twoway.content import Document
from twoway.embedding import open_embedder
from twoway.embedding.bulk import embed
from twoway.embedding.explain import match_words
from twoway.embedding.ray import describe_model
from twoway.embedding.shards import MultiVectors, Shards
from twoway.errors import UsageError
from twoway.evaluation.evaluate import evaluate
from twoway.methods.mine import mine
from twoway.search.index import index
from twoway.search.query import find, open_store
from twoway.search.store import normalized

WORDS = ("red", "blue", "green", "black", "white", "grey", "brown", "pink", "gold", "navy")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Texts of different lengths and pictures, and one of each twice."""
    home, draw = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    lines = [{"id": f"t{number}", "text": f"{word} " * (number + 1)} for number, word in enumerate(WORDS)]
    for number in range(4):
        PILImage.fromarray(draw.integers(0, 255, (28 * (1 + number % 2), 56, 3), dtype=np.uint8)).save(home / f"{number}.png")
        lines.append({"id": f"p{number}", "image": f"{number}.png"})
    lines += [lines[0] | {"id": "again"}]
    (home / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return home / "rows.jsonl"


@pytest.fixture(scope="module")
def whole(tiny_late, rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("vectors") / "whole"
    result = embed(tiny_late, rows, out, side="document", precision="float32", shard_rows=4, workers=0, device="cpu")
    assert (result.vectors, result.embedded, result.dim) == (15, 15, 16)
    return out


def stored(folder):
    shards = Shards.open(folder)
    tables = [(table["id"].to_pylist(), shards.multi_vectors(table)) for table in shards.tables()]
    return {name: one for names, vectors in tables for name, one in zip(names, vectors, strict=True)}


def expected(model, rows):
    said = [json.loads(line) for line in rows.read_text().splitlines()]
    inputs = [PILImage.open(rows.parent / one["image"]) if "image" in one else one["text"] for one in said]
    return {one["id"]: model.encode_document([given])[0].numpy() for one, given in zip(said, inputs, strict=True)}


def test_vectors_are_those_of_sentence_transformers_in_order(tiny_late, rows, whole):
    found, truth = stored(whole), expected(MultiVectorEncoder(str(tiny_late), device="cpu"), rows)
    assert list(found) == list(truth)
    for name, one in truth.items():
        np.testing.assert_allclose(found[name], one, atol=1e-5)
    assert len(Shards.open(whole).paths()) == 4


def test_half_precision_is_the_default_and_a_run_goes_on(tiny_late, rows, whole, tmp_path):
    how = {"side": "document", "shard_rows": 4, "workers": 0, "device": "cpu"}
    embed(tiny_late, rows, tmp_path / "cut", **how)
    manifest = Shards.open(tmp_path / "cut").manifest
    assert (manifest["precision"], manifest["late_interaction"]) == ("float16", True)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "cut").glob("part-*")}
    (tmp_path / "cut" / "part-000003.parquet").unlink()
    (tmp_path / "cut" / "part-000002.parquet").unlink()
    (tmp_path / "cut" / "manifest.json").write_text(json.dumps({key: value for key, value in manifest.items() if key != "finished"}))
    assert embed(tiny_late, rows, tmp_path / "cut", **how).embedded == 7
    assert {path.name: path.read_bytes() for path in (tmp_path / "cut").glob("part-*")} == kept
    for name, one in stored(whole).items():
        np.testing.assert_allclose(stored(tmp_path / "cut")[name], one, atol=1e-3)
    with pytest.raises(UsageError, match="pooled by another factor"):
        embed(tiny_late, rows, tmp_path / "cut", **how, pool_factor=2)


def test_binary_keeps_the_signs_and_an_index_of_them_answers_by_maxsim(tiny_late, rows, whole, tmp_path):
    embed(tiny_late, rows, tmp_path / "binary", side="document", precision="binary", workers=0, device="cpu")
    signs = stored(tmp_path / "binary")
    for name, one in stored(whole).items():
        clear = np.abs(one) > 1e-5
        assert set(np.unique(signs[name])) == {-1.0, 1.0}
        np.testing.assert_array_equal(signs[name][clear], np.sign(one[clear]))
    index(tmp_path / "binary", tmp_path / "db", thumbnails=False)
    query = normalized(stored(whole)["p1"][2:7])
    scores = MultiVectors.of(list(signs.values()), 16).maxsim(query) / 4  # 16 signs have length 4
    hits = open_store(tmp_path / "db").search(query, top_k=15)
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-5)


def test_int8_and_fewer_vectors_a_document(tiny_late, rows, whole, tmp_path):
    truth = stored(whole)
    embed(tiny_late, rows, tmp_path / "int8", side="document", precision="int8", workers=0, device="cpu")
    for name, one in stored(tmp_path / "int8").items():
        np.testing.assert_allclose(one, truth[name], atol=0.01)
    embed(tiny_late, rows, tmp_path / "fewer", side="document", pool_factor=3, workers=0, device="cpu")
    fewer = stored(tmp_path / "fewer")
    assert sum(map(len, fewer.values())) < sum(map(len, truth.values())) / 2
    np.testing.assert_allclose(np.linalg.norm(np.concatenate(list(fewer.values())), axis=1), 1.0, atol=2e-3)


def test_an_index_answers_as_brute_force_does(tiny_late, whole, tmp_path):
    made = index(whole, tmp_path / "db", thumbnails=False)
    assert (made.items, made.kind) == (15, "exact")
    model, truth = MultiVectorEncoder(str(tiny_late), device="cpu"), stored(whole)
    half = {name: one.astype(np.float16).astype(np.float32) for name, one in truth.items()}
    for question in ("red red", "a navy blue thing", "gold"):
        query = model.encode_query([question])
        scores = model.similarity([one.numpy() for one in query], [torch.from_numpy(one) for one in half.values()])[0]
        order = scores.argsort(descending=True, stable=True)[:5].tolist()
        hits = find(tmp_path / "db", question, top_k=5, device="cpu")
        assert [hit.score for hit in hits] == pytest.approx(scores[order].tolist(), abs=1e-5)
        assert [hit.item.id for hit in hits if hit.item.id not in ("t0", "again")] == [
            name for name in (list(half)[number] for number in order) if name not in ("t0", "again")
        ]
        assert [hit.item.id for hit in find(tmp_path / "db", question, top_k=1, filter="id = 'p2'", device="cpu")] == ["p2"]
    assert "navy" in " ".join(hit.item.text for hit in find(tmp_path / "db", "navy", hybrid=True, top_k=2, device="cpu"))
    near = find(tmp_path / "db", like="t0", top_k=2)
    assert near[0].item.id == "again"
    assert index(whole, tmp_path / "db", thumbnails=False).unchanged == 15


def test_search_in_steps_is_brute_force_over_what_the_mean_finds(whole, tmp_path):
    assert index(whole, tmp_path / "db", thumbnails=False, exact_below=0).kind == "hnsw"  # over the means
    store, half = open_store(tmp_path / "db"), {name: one.astype(np.float16).astype(np.float32) for name, one in stored(whole).items()}
    names, means = list(half), normalized(np.stack([one.mean(axis=0) for one in stored(whole).values()]))
    query = half["p1"][2:7] + 0.1
    scores = dict(zip(names, MultiVectors.of(list(half.values()), 16).maxsim(normalized(query)).tolist(), strict=True))
    by_mean = [names[place] for place in np.argsort(-(means @ normalized(normalized(query).mean(axis=0))), kind="stable")]

    def check(candidates, top_k, **options):
        hits = store.search(query, top_k=top_k, **options)
        order = sorted(candidates, key=lambda name: -scores[name])[:top_k]
        assert [hit.score for hit in hits] == pytest.approx([scores[name] for name in order], abs=1e-5)
        twins = {"again": "t0"}
        assert [twins.get(hit.item.id, hit.item.id) for hit in hits] == [twins.get(name, name) for name in order]
        return hits

    assert by_mean[:4] != sorted(by_mean[:4], key=lambda name: -scores[name])
    assert check(names, 15, exact=True)[0].place_before_maxsim is None
    check(names, 15)  # every row is a candidate
    for hit in check(by_mean[:4], 3, maxsim_top=4):
        assert by_mean[hit.place_before_maxsim - 1] == hit.item.id
    check(["t3", "t4"], 2, maxsim_top=2, filter="id = 't3' or id = 't4'")
    with pytest.raises(UsageError, match="exact and hybrid compare all of them"):
        find(tmp_path / "db", "red", hybrid=True, maxsim_top=4)


def test_evaluation_ranks_by_maxsim(tiny_late, rows, tmp_path):
    lines = [{"query": f"say {word}", "positive": f"{word} " * (number + 1), "task": "words"} for number, word in enumerate(WORDS)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    how = {"data": tmp_path / "pairs.jsonl", "cache_dir": tmp_path / "cache", "device": "cpu", "workers": 0}
    done = evaluate(str(tiny_late), "pairs", **how)
    model = MultiVectorEncoder(str(tiny_late), device="cpu")
    queries, answers = (
        encode([line[side] for line in lines]) for encode, side in ((model.encode_query, "query"), (model.encode_document, "positive"))
    )
    scores = model.similarity(queries, answers)
    ranks = [int((row > row[number]).sum()) + 1 for number, row in enumerate(scores)]
    assert [one.places[0] for one in done.results[0].outcomes] == ranks
    again = evaluate(str(tiny_late), "pairs", **how)
    assert (again.embedded, again.results[0].score) == (0, done.results[0].score)


def test_a_published_layout_of_transformers_opens(tiny_model, tmp_path):
    base = tf.AutoModelForImageTextToText.from_pretrained(tiny_model("qwen2_vl"))
    config = tf.ColQwen2Config(vlm_config=base.config.to_dict(), embedding_dim=8)
    torch.manual_seed(0)
    tf.ColQwen2ForRetrieval(config).save_pretrained(tmp_path / "colqwen")
    parts = tf.AutoProcessor.from_pretrained(tiny_model("qwen2_vl"))
    tf.ColQwen2Processor(parts.image_processor, parts.tokenizer, chat_template=parts.chat_template).save_pretrained(tmp_path / "colqwen")
    engine = open_embedder(tmp_path / "colqwen", late_interaction=True, device="cpu", workers=0)
    model = MultiVectorEncoder(str(tmp_path / "colqwen"), device="cpu")
    (_, found), (_, shown) = engine.embed(["what?", PILImage.new("RGB", (56, 28), "red")], ordered=True, side="document")
    np.testing.assert_allclose(found, model.encode_document(["what?"])[0], atol=1e-5)
    np.testing.assert_allclose(shown, model.encode_document([PILImage.new("RGB", (56, 28), "red")])[0], atol=1e-5)
    assert engine.dimension == 8


def test_what_does_not_fit_is_one_line(tiny_late, tiny_encoder, rows, whole, tmp_path):
    one = tiny_encoder("qwen2_vl")
    with pytest.raises(UsageError, match=r"gives a vector for each token \(late interaction\), and one vector a document is needed here"):
        mine(tiny_late, str(rows), tmp_path / "mined", device="cpu")
    assert "which engine ray does not send; leave it out" in describe_model({"model": str(tiny_late), "device": "cpu"}, {})["error"]
    with pytest.raises(UsageError, match="gives one vector a document, and pool_factor makes many fewer"):
        embed(one, rows, tmp_path / "pooled", pool_factor=2, side="document", device="cpu")
    with pytest.raises(UsageError, match="leave truncate_dim out"):
        embed(tiny_late, rows, tmp_path / "cut", truncate_dim=4, device="cpu")
    index(whole, tmp_path / "db", thumbnails=False)
    with pytest.raises(UsageError, match=r"holds vectors of .* with the fingerprint"):
        find(tmp_path / "db", "red", model=one, device="cpu")
    shutil.copytree(whole, tmp_path / "other")
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest | {"dim": 12}))
    with pytest.raises(UsageError, match="holds vectors of 16 numbers, and these have 12; choose another --index"):
        index(tmp_path / "other", tmp_path / "db", thumbnails=False)
    with pytest.raises(UsageError, match="go into a LanceDB folder alone"):
        index(whole, tmp_path / "lite.db", thumbnails=False)
    with pytest.raises(UsageError, match="holds many vectors an item"):
        list(open_store(tmp_path / "db").vectors())


def test_maxsim_is_the_mean_of_the_nearest():
    documents = [np.eye(3, dtype=np.float32), np.array([[0.0, 0.0, 1.0]], np.float32)]
    query = np.array([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]], np.float32)
    many = MultiVectors.of(documents, 3)
    np.testing.assert_allclose(many.maxsim(query), [0.9, 0.4])
    np.testing.assert_allclose(many[np.array([1, 0, 1])].maxsim(query), [0.4, 0.9, 0.4], atol=1e-6)


def test_each_word_shows_the_patches_that_it_matches(tiny_late, tiny_encoder):
    engine = open_embedder(tiny_late, late_interaction=True, device="cpu", workers=0)
    picture = PILImage.fromarray(np.random.default_rng(1).integers(0, 255, (56, 84, 3), dtype=np.uint8))
    found = match_words(engine, Document.from_parts([{"image": picture}]), "a navy thing")
    assert [one.word for one in found] == ["a", "navy", "thing"]
    model = MultiVectorEncoder(str(tiny_late), device="cpu")
    features = model.preprocess([picture], task="document")
    patches = model.encode_document([picture])[0][features["input_ids"][0] == model[0].model.config.image_token_id].numpy()
    query = model.encode_query(["a navy thing"])[0].numpy()
    near = query[real_query_token_slice(model, "a navy thing")] @ patches.T
    first = len(model.tokenizer("a", add_special_tokens=False)["input_ids"])
    for one in found:
        assert one.score == pytest.approx(max(map(max, one.cells)))
        assert np.size(one.cells) == len(patches) > 1
    np.testing.assert_allclose(np.ravel(found[0].cells), near[:first].mean(axis=0), atol=1e-5)
    with pytest.raises(UsageError, match="gives one vector a document, and no word has one of its own"):
        match_words(open_embedder(tiny_encoder("qwen2_vl"), device="cpu"), Document.from_parts([{"image": picture}]), "a")
