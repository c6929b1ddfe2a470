"""`evaluate` gives the scores of an independent plain computation, keeps what it embedded, and refuses what it cannot trust."""

from __future__ import annotations

import io
import itertools
import json
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

from twoway.cli import main
from twoway.content import ContentError
from twoway.embedding import Embedder
from twoway.errors import TwowayError, UsageError
from twoway.evaluation.compare import compare
from twoway.evaluation.evaluate import evaluate
from twoway.evaluation.runner import items_path
from twoway.evaluation.suites import GROUPS

WORDS = ("red", "green", "blue", "white", "what colour", "is this", "the picture", "small", "large", "square")
QUERIES = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two small tasks of each group, with text, picture or both on either side."""
    root = tmp_path_factory.mktemp("mmeb")
    random = np.random.default_rng(3)
    (root / "images").mkdir()
    for number in range(8):
        pixels = random.integers(0, 255, (40 + 8 * (number % 2), 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
    for group, (known, _) in GROUPS.items():
        for name in [*known, "RefCOCO"][:2]:
            rows = [_row(group, random) for _ in range(QUERIES)]
            (root / name).mkdir()
            pq.write_table(pa.Table.from_pylist(rows), root / name / "test-00000-of-00001.parquet")
    return root


def _row(group: str, random: np.random.Generator) -> dict[str, object]:
    words = [" ".join(random.permutation(WORDS)[: 1 + number]) for number in range(5)]
    pictures = [f"images/{number}.png" for number in random.permutation(8)[:5]]
    shown = f"images/{random.integers(8)}.png"
    if group == "retrieval":
        texts = ["<|image_1|> Represent the given picture."] * 5
        return {"qry_text": f"Find: {words[0]}", "qry_img_path": "", "tgt_text": texts, "tgt_img_path": pictures}
    if group == "grounding":
        texts = [f"<|image_1|>\n{word}" for word in words]
        return {"qry_text": f"<|image_1|>\nWhere is {words[1]}?", "qry_img_path": shown, "tgt_text": texts, "tgt_img_path": pictures}
    return {"qry_text": f"<|image_1|>\nAsk {words[2]}", "qry_img_path": shown, "tgt_text": words, "tgt_img_path": [""] * 5}


def plain(model: Path, folder: Path, name: str) -> list[bool]:
    """Compute the hits of a task with sentence-transformers and a loop, with none of the code under test."""
    sentence = SentenceTransformer(str(model), device="cpu")

    def embed(text: str, path: str) -> np.ndarray:
        words = text.replace("<|image_1|>", "")  # verbatim, its line breaks too
        parts = [{"type": "image", "image": Image.open(folder / path).convert("RGB")}] if path else []
        parts += [{"type": "text", "text": words}] if words else []
        return sentence.encode([[{"role": "user", "content": parts}]])[0]

    hits = []
    for row in pq.read_table(folder / name / "test-00000-of-00001.parquet").to_pylist():
        query = embed(row["qry_text"], row["qry_img_path"])
        scores = [float(query @ embed(text, path)) for text, path in zip(row["tgt_text"], row["tgt_img_path"], strict=True)]
        hits.append(all(scores[0] > other for other in scores[1:]))
    return hits


def test_precision_at_1_is_that_of_a_plain_loop_to_the_item(tiny_encoder, folder, tmp_path):
    model = tiny_encoder("qwen2_vl")
    found = evaluate(model, "mmeb", data=folder, cache_dir=tmp_path, out=tmp_path / "results.json", device="cpu")
    assert len(found.results) == 8
    hits = {result.task.name: [place.places[0] == 1 for place in result.outcomes] for result in found.results}
    assert hits == {name: plain(model, folder, name) for name in hits}
    assert 0 < sum(map(sum, hits.values())) < 8 * QUERIES
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["tasks"]["MSCOCO"]["score"] == np.mean(hits["MSCOCO"])
    assert written["tasks"]["MSCOCO"]["chance"] == pytest.approx(0.2)
    assert written["mean"] == pytest.approx(np.mean([np.mean(one) for one in hits.values()]))
    assert {"classification", "vqa", "retrieval", "grounding", "in-domain"} <= set(written["groups"])


@pytest.mark.parametrize("at", ["embedding", "writing"])
def test_ctrl_c_is_one_line_and_the_same_command_goes_on(tiny_encoder, folder, tmp_path, capsys, monkeypatch, at):
    command = ["evaluate", str(tiny_encoder("qwen2_vl")), "--suite", "mmeb", "--data", str(folder), "--tasks", "MSCOCO", "--device", "cpu"]
    command += ["--out", str(tmp_path / "found.json"), "--cache-dir"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    wanted = [path.read_bytes() for path in (tmp_path / "found.json", items_path(tmp_path / "found.json"))]
    (tmp_path / "found.json").unlink()
    embed, replace, count = Embedder.embed, Path.replace, itertools.count(1)

    def cut(of, *given, **named):
        for one in embed(of, *given, **named):
            yield one
            if next(count) == 5:
                signal.raise_signal(signal.SIGINT)

    def second(of, *given):
        if next(count) == 2:
            signal.raise_signal(signal.SIGINT)
        return replace(of, *given)

    capsys.readouterr()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where it is ignored
    with monkeypatch.context() as patch:
        patch.setattr(*(Embedder, "embed", cut) if at == "embedding" else (Path, "replace", second))
        assert main([*command, str(tmp_path / "cut")]) == 130
    signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.splitlines()[-1] == "twoway evaluate: interrupted; nothing half-written is left"
    assert not (tmp_path / "found.json").exists()
    assert not list(tmp_path.glob("*.tmp"))
    assert main([*command, str(tmp_path / "cut")]) == 0
    assert " 0 taken from the cache" not in capsys.readouterr().err
    assert [path.read_bytes() for path in (tmp_path / "found.json", items_path(tmp_path / "found.json"))] == wanted


def test_a_bare_checkpoint_is_said_to_be_read_so_and_a_quick_look_embeds_what_it_needs(tiny_model, folder, tmp_path):
    def look(**options):
        return evaluate(tiny_model("qwen2_vl"), "mmeb", data=folder, tasks=["MSCOCO"], device="cpu", **options)

    whole, quick = look(cache_dir=tmp_path / "a"), look(cache_dir=tmp_path / "b", subset=1)
    assert {"attention": "causal", "pooling": "last", "template": "chat"}.items() <= quick.found["settings"].items()
    assert quick.embedded == 1 + 5 < whole.embedded
    (one,), asked = quick.results[0].rows(), list(whole.results[0].rows())
    assert one in asked


def test_attention_is_as_it_is_asked_for_and_a_result_says_which(tiny_model, tiny_encoder, folder, tmp_path):
    def look(model, **options):
        return evaluate(
            model,
            "mmeb",
            data=folder,
            tasks=["MSCOCO"],
            device="cpu",
            cache_dir=tmp_path,
            pooling=options.pop("pooling", "mean"),
            **options,
        )

    found = {way: look(tiny_model("qwen2_vl"), attention=way) for way in ("causal", "two-way")}
    assert [one.found["settings"]["attention"] for one in found.values()] == ["causal", "two-way"]
    assert all(one.cached == 0 for one in found.values())
    assert found["causal"].found["fingerprint"] != found["two-way"].found["fingerprint"]
    converted = look(tiny_encoder("qwen2_vl"), pooling=None)
    assert converted.found["settings"]["attention"] == "two-way"
    assert [one.places for one in converted.results[0].outcomes] == [one.places for one in found["two-way"].results[0].outcomes]
    with pytest.raises(UsageError, match="has its own attention"):
        look(tiny_encoder("qwen2_vl"), pooling=None, attention="causal")


def test_nothing_is_embedded_twice_and_a_run_cut_off_goes_on(tiny_encoder, folder, tmp_path):
    model = tiny_encoder("qwen2_vl")
    first = evaluate(model, "mmeb", data=folder, cache_dir=tmp_path, tasks=["MSCOCO"], device="cpu")
    again = evaluate(model, "mmeb", data=folder, cache_dir=tmp_path, tasks=["MSCOCO"], device="cpu")
    assert (first.cached, again.embedded) == (0, 0)
    assert again.found == first.found
    more = evaluate(model, "mmeb", data=folder, cache_dir=tmp_path, device="cpu")
    alone = evaluate(model, "mmeb", data=folder, cache_dir=tmp_path / "other", device="cpu")
    assert 0 < more.embedded < alone.embedded
    assert more.found == alone.found


def test_a_cache_of_another_dimension_or_that_is_no_database_is_refused(tiny_encoder, folder, tmp_path):
    import sqlite3

    model = tiny_encoder("qwen2_vl")
    found = evaluate(model, "mmeb", data=folder, cache_dir=tmp_path, tasks=["MSCOCO"], device="cpu")
    path = tmp_path / "vectors" / f"{found.found['fingerprint']}.sqlite"
    with sqlite3.connect(path) as file:
        file.execute("UPDATE vectors SET vector = ?", (b"1234" * 3,))
    with pytest.raises(TwowayError, match="holds vectors of 3 numbers"):
        evaluate(model, "mmeb", data=folder, cache_dir=tmp_path, tasks=["MSCOCO"], device="cpu")
    path.write_bytes(b"nothing" * 1000)
    for rest in path.parent.glob("*.sqlite-*"):
        rest.unlink()
    with pytest.raises(TwowayError, match="cannot be read"):
        evaluate(model, "mmeb", data=folder, cache_dir=tmp_path, tasks=["MSCOCO"], device="cpu")


def test_a_broken_picture_stops_the_run_or_leaves_its_items_out_counted(tiny_encoder, tmp_path):
    (tmp_path / "good.png").write_bytes(b"no picture")
    row = {"qry_text": "what", "qry_img_path": "", "tgt_text": ["red", "blue"], "tgt_img_path": ["", ""]}
    broken = row | {"qry_text": "<|image_1|>", "qry_img_path": "good.png"}
    (tmp_path / "GQA").mkdir()
    pq.write_table(pa.Table.from_pylist([row, broken]), tmp_path / "GQA" / "a.parquet")
    model = tiny_encoder("qwen2_vl")
    with pytest.raises(ContentError, match=r"a\.parquet:2: .*--on-bad skip"):
        evaluate("no model is even looked for", "mmeb", data=tmp_path, cache_dir=tmp_path / "cache", device="cpu")
    found = evaluate(
        model, "mmeb", data=tmp_path, cache_dir=tmp_path / "cache", on_bad="skip", out=tmp_path / "out" / "r.json", device="cpu"
    )
    assert (found.found["tasks"]["GQA"]["n"], found.found["tasks"]["GQA"]["left_out"]) == (1, 1)
    assert '"row": 2' in (tmp_path / "out" / "r.bad-rows.jsonl").read_text()
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(data, "PNG")
    (tmp_path / "good.png").write_bytes(data.getvalue()[:4000])  # its head is whole, so it is met when its pixels are asked for
    pq.write_table(pa.Table.from_pylist([row, broken, row | {"tgt_text": ["red"]}]), tmp_path / "GQA" / "a.parquet")
    found = evaluate(model, "mmeb", data=tmp_path, cache_dir=tmp_path / "cache", on_bad="skip", device="cpu")
    assert (found.found["tasks"]["GQA"]["n"], found.found["tasks"]["GQA"]["left_out"]) == (1, 2)


def test_the_command_says_what_it_found_and_compare_finds_no_difference_with_itself(tiny_encoder, folder, tmp_path, capsys):
    model, output = tiny_encoder("qwen2_vl"), tmp_path / "r.json"
    words = ["evaluate", str(model), "--suite", "mmeb", "--data", str(folder), "--tasks", "MSCOCO", "RefCOCO", "--out", str(output)]
    report, picture = tmp_path / "r.html", tmp_path / "d.svg"
    assert main([*words, "--cache-dir", str(tmp_path), "--subset", "4", "--device", "cpu", "--report", str(report)]) == 0
    assert "Misses · MSCOCO" in report.read_text()
    said = capsys.readouterr().out
    assert "MSCOCO" in said
    assert "at chance" in said  # four queries cannot tell a random model from chance
    assert items_path(output).is_file()
    lines = compare(output, output)
    assert [line.n for line in lines] == [4, 4, 8]
    assert not any(line.sure for line in lines)
    assert main(["compare", str(output), str(output), "--picture", str(picture)]) == 0
    assert picture.read_text().count("<polyline") == 3
    assert "may be luck" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"suite": "mmmeb"}, "unknown suite 'mmmeb'; did you mean mmeb"),
        ({"subset": 0}, "subset takes a whole number from 1"),
        ({"data": None}, "needs data DIR"),
    ],
)
def test_bad_options_are_refused_before_any_work(folder, options, said):
    with pytest.raises(UsageError, match=said):
        evaluate("nowhere", **({"suite": "mmeb", "data": folder} | options))
