"""Chunks: where a text is cut, what late chunking reads, and that a resumed run gives the same vectors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import twoway
from twoway.embedding.chunks import Chunk, ChunkedRows, LateEmbedder, cut_text
from twoway.embedding.inputs import Lengths
from twoway.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXT = " ".join(f"word{number} and a red house{'.' if number % 5 == 4 else ''}" for number in range(24))


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for path in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()}


def embed(model: Path, data: Path, out: Path, **options: Any) -> dict[str, dict[str, Any]]:
    twoway.embed(model, data, out, **options)
    return rows_of(out)


def far(one: dict[str, Any], other: dict[str, Any]) -> float:
    return float(np.abs(np.array(one["vector"]) - np.array(other["vector"])).max())


@pytest.fixture
def text(tmp_path: Path) -> Callable[[str], Path]:
    """Return `text(words) -> file` of one long row and a short one."""

    def write(words: str) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        path.write_text(json.dumps({"id": "long", "text": words}) + "\n" + json.dumps({"id": "short", "text": "a cat"}) + "\n")
        return path

    return write


def test_a_text_is_cut_where_a_sentence_or_a_word_ends(tiny_encoder: Callable[..., Path]) -> None:
    lengths = twoway.open_embedder(tiny_encoder("qwen2_vl")).lengths
    spans = cut_text(TEXT, 40, lengths)
    assert "".join(TEXT[slice(*span)] for span in spans) == TEXT
    assert len(spans) > 3
    for start, end in spans:
        assert len(lengths.backend.encode(TEXT[start:end], add_special_tokens=False)) <= 41
    assert any(TEXT[end - 2 : end] == ". " for _, end in spans[:-1])
    assert cut_text("a cat", 40, lengths) == [(0, 5)]


def test_a_character_of_more_tokens_than_a_piece_is_a_piece() -> None:
    letters = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    letters.normalizer, letters.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Split(Regex("."), "isolated")
    lengths = Lengths(PreTrainedTokenizerFast(tokenizer_object=letters), None)
    written_out = "\ufdfa"  # 18 letters in a form that tokenizers read
    assert len(lengths.backend.encode(written_out).offsets) == 18
    for text in (written_out, written_out * 3, f"a cat {written_out}, a dog", f"{written_out}a cat"):
        spans = cut_text(text, 8, lengths)
        assert "".join(text[slice(*span)] for span in spans) == text
        assert all(start < end for start, end in spans)


def test_chunks_alone_are_the_vectors_of_their_texts(
    tiny_encoder: Callable[..., Path], text: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tiny_encoder("qwen2_vl")
    found = embed(model, text(TEXT), tmp_path / "out", chunks=60)
    pieces = [row for name, row in found.items() if name.startswith("long#")]
    assert "".join(row["text"] for row in pieces) == TEXT
    assert [json.loads(row["meta"])["chunk"] for row in pieces] == list(range(1, len(pieces) + 1))
    assert "short" in found
    alone = twoway.open_embedder(model).array([row["text"] for row in pieces])
    assert np.abs(np.array([row["vector"] for row in pieces]) - alone).max() < 1e-5


@pytest.mark.parametrize(("attention", "pooling"), [("two-way", "mean"), ("causal", "last")])
def test_a_late_chunk_has_read_what_its_model_reads(
    attention: str, pooling: str, tiny_encoder: Callable[..., Path], text: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tiny_encoder("qwen2_vl", attention=attention, pooling=pooling)
    before = embed(model, text(TEXT), tmp_path / "before", chunks=60, late=True)
    after = embed(model, text(TEXT[:-30] + "another end of the whole text"), tmp_path / "after", chunks=60, late=True)
    first = "long#1"
    assert before[first]["text"] == after[first]["text"]
    moved = far(before[first], after[first])
    assert moved > 1e-4 if attention == "two-way" else moved < 1e-6
    assert far(before["short"], after["short"]) < 1e-6


def test_a_late_chunk_is_the_mean_of_its_own_states(tiny_encoder: Callable[..., Path], text: Callable[[str], Path], tmp_path: Path) -> None:
    """The states of `encode` over the whole text, and the tokens of each piece found by the text alone."""
    engine = twoway.open_embedder(tiny_encoder("qwen2_vl"))
    found = embed(tiny_encoder("qwen2_vl"), text(TEXT), tmp_path / "out", chunks=60, late=True)
    message = [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]
    states = engine.sentence.encode([message], output_value="token_embeddings")[0].float().numpy()
    tokenizer = engine.sentence.tokenizer
    rendered = engine.sentence[0].processor.apply_chat_template(message, tokenize=False)
    offsets = tokenizer(rendered, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    assert len(offsets) == len(states)
    at = rendered.index(TEXT)
    for name, row in found.items():
        if name.startswith("long#"):
            start, end = (at + one for one in json.loads(row["meta"])["characters"])
            own = [number for number, (first, behind) in enumerate(offsets) if first >= start and first < end and behind > first]
            mean = states[own].mean(0)
            assert np.abs(mean / np.linalg.norm(mean) - np.array(row["vector"])).max() < 1e-5, name


@pytest.mark.parametrize("late", [False, True])
def test_a_resumed_run_gives_the_same_vectors(
    late: bool, tiny_encoder: Callable[..., Path], text: Callable[[str], Path], tmp_path: Path
) -> None:
    model, data = tiny_encoder("qwen2_vl"), text(TEXT)
    options: dict[str, Any] = {"chunks": 60, "late": late, "shard_rows": 2}
    whole = embed(model, data, tmp_path / "out", **options)
    for path in sorted((tmp_path / "out").glob("part-*.parquet"))[1:]:
        path.unlink()
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    manifest.pop("finished")
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest))
    again = embed(model, data, tmp_path / "out", **options)
    assert list(again) == list(whole)
    assert max(far(whole[name], again[name]) for name in whole) < 1e-6
    with pytest.raises(UsageError, match="holds vectors of other data"):
        twoway.embed(model, data, tmp_path / "out", chunks=40, shard_rows=2)


def test_pictures_beside_pieces_of_texts_are_found_for_the_index(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    for number in range(3):
        Image.new("RGB", (40, 40), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
        lines += [{"id": f"long{number}", "text": TEXT}, {"id": f"picture{number}", "image": f"{number}.png"}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = embed(tiny_encoder("qwen2_vl"), tmp_path / "data.jsonl", tmp_path / "out", chunks=60, shard_rows=4)
    assert len(rows) > 9
    found = twoway.index(tmp_path / "out", tmp_path / "db")
    assert (found.items, found.pictures, found.bad_pictures) == (len(rows), 3, 0)
    store = twoway.open_store(tmp_path / "db")
    assert [store.get(f"picture{number}").thumbnail is not None for number in range(3)] == [True] * 3
    assert twoway.index(tmp_path / "out", tmp_path / "db").unchanged == len(rows)
    # Shards that are there are passed over, and the next ones still find their own.
    store.delete(["picture2"])
    assert twoway.index(tmp_path / "out", tmp_path / "db").bad_pictures == 0
    assert store.get("picture2").thumbnail is not None


def test_pages_of_a_file_read_each_other(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    model = tiny_encoder("qwen2_vl")
    (tmp_path / "papers").mkdir()

    def write(name: str, *colours: str) -> None:
        first, *others = (Image.new("RGB", (40, 40), colour) for colour in colours)
        first.save(tmp_path / "papers" / name, save_all=True, append_images=others)

    write("a.pdf", "red", "white")
    write("b.pdf", "blue", "white")
    before = embed(model, tmp_path / "papers", tmp_path / "before", late=True, dpi=72)
    write("a.pdf", "red", "black")
    after = embed(model, tmp_path / "papers", tmp_path / "after", late=True, dpi=72)
    assert len(before) == 4
    moved = {name: far(before[name], after[name]) > 1e-5 for name in before}
    assert {name.rpartition("/")[2]: one for name, one in moved.items()} == {name.rpartition("/")[2]: "a.pdf" in name for name in before}


def test_a_whole_that_is_too_long_is_read_in_parts(tiny_encoder: Callable[..., Path]) -> None:
    engine = LateEmbedder(twoway.open_embedder(tiny_encoder("qwen2_vl"), max_length=200))

    class Rows:
        def rows(self, skip: int) -> Any:
            return iter([twoway.Document.from_parts([{"text": TEXT}], meta={"id": 1})])

        def identity(self) -> dict[str, Any]:
            return {}

        def count(self) -> int | None:
            return 1

    chunks: Any = list(ChunkedRows(Rows(), engine, size=50, late=True).rows(0))
    assert len({id(chunk.whole) for chunk in chunks}) > 1
    assert len(dict(engine.embed(chunks))) == len(chunks)
    with pytest.raises(UsageError, match="chunks of 150 tokens do not fit into the model's rows of 200"):
        ChunkedRows(Rows(), engine, size=150, late=True)


def test_a_bad_page_does_not_take_its_neighbours_along(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    engine = LateEmbedder(twoway.open_embedder(tiny_encoder("qwen2_vl")))
    Image.new("RGB", (40, 40), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    parts = [[{"text": "one"}], [{"image": tmp_path / "bad.png"}], [{"image": tmp_path / "good.png"}]]
    whole = tuple(twoway.Document.from_parts(each, root=tmp_path) for each in parts)
    refused = {}
    chunks = [Chunk(one.parts, one.place, one.meta, whole, number) for number, one in enumerate(whole)]
    found = dict(engine.embed(chunks, refuse=lambda index, error: refused.update({index: error})))
    assert sorted(found) == [0, 2]
    assert list(refused) == [1]


def test_what_late_chunking_cannot_do_is_said(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a cat"}\n')
    with pytest.raises(UsageError, match="late chunking needs a vision-language model"):
        twoway.embed(tiny_model("bert"), tmp_path / "a.jsonl", tmp_path / "out", late=True, pooling="mean")
    with pytest.raises(UsageError, match="late works in one process"):
        twoway.embed("m", tmp_path / "a.jsonl", tmp_path / "out", late=True, processes=2)
