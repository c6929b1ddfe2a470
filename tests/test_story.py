"""README's story, run whole on a model of random weights: convert, look at one's own pairs, mine, fine-tune on what was mined, score."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from tiny import published
from twoway.cli import main

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
SMALL = ["max_steps=1", "global_batch_size=4", "max_length=128", "small_tasks=keep", "held_out=0", "dtype=float32", "hard_negatives=1"]


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """Write pairs of one's own beside their pictures, in a folder that is not where the commands run."""
    folder = tmp_path / "mine own"
    folder.mkdir()
    for colour in COLOURS:
        Image.new("RGB", (40, 40), colour).save(folder / f"{colour}.png")
    rows = [{"query": f"a {colour} square", "positive": {"image": f"{colour}.png"}} for colour in COLOURS]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return folder / "pairs.jsonl"


def test_the_story_of_readme(tiny_model, pairs, tmp_path, capsys):
    base = tiny_model("qwen2_vl")
    assert main(["convert", str(base), "my-model"]) == 0
    assert main(["mine", "my-model", "--data", str(pairs), "--out", "mined", "--num-negatives", "1", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    following = next(line for line in said.splitlines() if "next: " in line).partition("next: ")[2]
    verb = shlex.split(following)[1:]
    assert verb == ["finetune", "my-model", "OUT", "--data", "mined"]
    assert main([*verb, *SMALL]) == 0
    assert (tmp_path / "OUT" / "modules.json").exists()
    assert (
        main(
            [
                "bridge",
                "my-model",
                "bridged",
                "--data",
                "mined",
                "max_steps=1",
                "held_out=0",
                "per_device_train_batch_size=2",
                "dtype=float32",
            ]
        )
        == 0
    )


GOLDEN = Path(__file__).parent / "golden"


def text_model(model, out):
    whole = Transformer(str(model))
    SentenceTransformer(modules=[whole, Pooling(whole.get_embedding_dimension(), "mean")], device="cpu").save(str(out))
    return out


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("Qwen/Qwen3-VL-Embedding-2B", []),
        ("moca-embed/MoCa-Qwen25VL-3B", ["--processor", "Qwen/Qwen2.5-VL-3B-Instruct"]),
        ("sentence-transformers/all-MiniLM-L6-v2", []),
    ],
)
def test_a_search_with_a_public_model_is_one_command_and_a_question(model, more, tiny_model, hub, tmp_path, monkeypatch, capsys):
    """Random weights in the layout that the model is published in stand for the model: see README, "Search with a model that is there"."""
    monkeypatch.chdir(tmp_path)
    if model.startswith("Qwen"):
        hub(model, published(tiny_model("qwen3_vl"), tmp_path / "theirs"))
    elif model.startswith("moca"):
        hub(model, GOLDEN / "reference-embedding")
        hub(more[1], GOLDEN / "processor")
    else:
        hub(model, text_model(tiny_model("bert"), tmp_path / "theirs"))
    if "MiniLM" in model:
        Path("my-pdfs").mkdir()
        Path("my-pdfs/notes.jsonl").write_text('{"text": "w4 w5"}\n{"text": "w6"}\n{"text": ""}\n')
        data, places = "my-pdfs/notes.jsonl", {"my-pdfs/notes.jsonl:1", "my-pdfs/notes.jsonl:2"}
    else:
        Path("my-pdfs").mkdir()
        pages = [Image.new("RGB", (120, 160), colour) for colour in ("white", "teal")]
        pages[0].save("my-pdfs/report.pdf", save_all=True, append_images=pages[1:])
        Path("my-pdfs/torn.pdf").write_bytes(b"%PDF-1.4 torn")
        data, places = "my-pdfs", {"my-pdfs/report.pdf page 1", "my-pdfs/report.pdf page 2"}
    assert main(["index", data, "--model", model, "--index", "shelf", "--on-bad", "skip", *more]) == 0
    said = capsys.readouterr().out
    assert "shelf-vectors: 2 vectors of" in said
    assert "1 bad and listed in shelf-vectors/bad-rows.jsonl" in said
    assert main(["search", "shelf", "w4 w5", "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["place"] for one in found} == places
    assert main(["index", data, "--model", model, "--index", "shelf", "--on-bad", "skip", *more]) == 0
    assert "all of them were there already" in capsys.readouterr().out


def test_what_a_model_embeds_by_needs_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, said in (
        (["vectors", "--index", "db", "--processor", "p"], "--processor is for data that is embedded first; name the model with --model"),
        (["vectors", "--index", "db", "--on-bad", "skip"], "--on-bad is for data"),
        (["--index", "db", "--model", "m"], "--model embeds data; name it"),
        (["data", "--index", "milvus://localhost:1/x", "--model", "m"], "name one with --out"),
    ):
        assert main(["index", *words]) == 2
        assert said in capsys.readouterr().err
