"""Bounds on pictures hold from the first stage to plain sentence-transformers: one page is one number of tokens everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from sentence_transformers import SentenceTransformer
from transformers import AutoProcessor, Qwen2VLImageProcessor

from documents import noise
from twoway import cli
from twoway.config import load
from twoway.content import ContentError, Document, Image, Text
from twoway.data.config import SourceConfig
from twoway.data.mixture import open_mixture
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder
from twoway.embedding import open_embedder
from twoway.embedding.bulk import embed
from twoway.errors import TwowayError, UsageError
from twoway.evaluation.cache import VectorSource
from twoway.evaluation.config import EvaluateConfig
from twoway.methods.bridge.method import bridge
from twoway.methods.config import MineConfig
from twoway.methods.convert import convert
from twoway.methods.finetune.method import finetune
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import pretrain
from twoway.methods.tables import lost_rows
from twoway.models import loading
from twoway.models.processor import set_pixels
from twoway.recipes.data_check import check_data, check_pairs, pairs_of
from twoway.training.progress import read_log

pytestmark = pytest.mark.usefixtures("short_proof")

BOUNDS = {"min_pixels": 8 * 784, "max_pixels": 32 * 784}
USUAL = {"max_steps": 1, "seed": 1, "dtype": "float32", "dataloader_num_workers": 0, "held_out": 0}
PICTURES = {"icon": (20, 20), "photo": (140, 112), "page": (425, 550)}


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    """A tiny model whose processor has Qwen2.5-VL's own settings."""
    folder = shutil.copytree(tiny_model("qwen2_5_vl"), tmp_path_factory.mktemp("base") / "base")
    parts = AutoProcessor.from_pretrained(folder)
    parts.image_processor = Qwen2VLImageProcessor(patch_size=14, size={"shortest_edge": 3136, "longest_edge": 12845056})
    parts.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for name, size in PICTURES.items():
        noise(*size).save(folder / f"{name}.png")
    documents = [{"parts": [{"image": f"{name}.png"}, {"text": f"a {name}"}]} for name in PICTURES]
    pairs = [{"query": f"a {name}", "positive": {"image": f"{name}.png"}} for name in PICTURES]
    for file, lines in (("documents.jsonl", documents), ("pairs.jsonl", pairs)):
        (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def trained(base, rows, tmp_path_factory):
    """Both stages, the second without bounds of its own."""
    out = tmp_path_factory.mktemp("trained")
    pretrain(base, out / "pretrained", [str(rows / "documents.jsonl")], **USUAL, **BOUNDS, per_device_train_batch_size=3, max_length=64)
    finetune(out / "pretrained", out / "tuned", [str(rows / "pairs.jsonl")], **USUAL, global_batch_size=3, hard_negatives=0, max_length=64)
    return out


def tokens(sentence, picture):
    ids = sentence.preprocess([picture])["input_ids"]
    return int((ids == sentence[0].model.config.image_token_id).sum())


def test_what_training_saw_is_what_plain_sentence_transformers_reads(base, trained, rows):
    free = convert(base, trained / "free")
    open_ = SentenceTransformer(free.out, device="cpu")
    for folder in (trained / "pretrained", trained / "tuned"):
        sentence, engine = SentenceTransformer(str(folder), device="cpu"), open_embedder(folder)
        for name in PICTURES:
            with PILImage.open(rows / f"{name}.png") as opened:
                picture = opened.convert("RGB")
            count = tokens(sentence, picture)
            assert 8 <= count <= 32
            assert (count == tokens(open_, picture)) == (name == "photo"), "what lies between the bounds keeps its size"
            ours = engine.array([Document((Image(picture),))])
            assert np.abs(ours - sentence.encode([picture])).max() < 1e-5


def test_rows_are_measured_and_shown_by_the_bounds(base, rows):
    spec = str(rows / "documents.jsonl")
    config = ["max_length=64", "min_pixels=6272", "max_pixels=25088"]
    (shown,) = check_data(spec, model=base, words=config).sources
    assert shown.shown.pictures[0]["tokens"] == 9  # an icon, enlarged: 3 x 3
    (shown,) = check_data(spec, model=base, words=config[:1]).sources
    assert shown.shown.pictures[0]["tokens"] == 4


@pytest.mark.parametrize("kind", ["folder", "vision-language"])
def test_bounds_that_are_asked_for_equal_saved_ones_and_are_part_of_the_fingerprint(kind, base, rows, tmp_path):
    saved, bare = tmp_path / "saved", tmp_path / "bare"
    convert(base, saved, **BOUNDS)
    convert(base, bare)
    asked = open_embedder(
        bare if kind == "folder" else base, **BOUNDS, **({} if kind == "folder" else {"attention": "two-way", "pooling": "mean"})
    )
    documents = [Document((Image(rows / f"{name}.png"),)) for name in PICTURES]
    whole, free = open_embedder(saved), open_embedder(bare)
    assert np.abs(asked.array(documents) - whole.array(documents)).max() < 1e-5
    if kind == "folder":
        assert asked.fingerprint == whole.fingerprint != free.fingerprint
        assert VectorSource(asked, tmp_path).fingerprint != VectorSource(free, tmp_path).fingerprint
    assert asked.lengths.media(documents[2], asked.settings.limits) <= 32 < free.lengths.media(documents[2], free.settings.limits)


def test_vectors_of_other_bounds_are_not_gone_on_with(base, rows, tmp_path):
    convert(base, tmp_path / "model")
    embed(tmp_path / "model", str(rows / "documents.jsonl"), tmp_path / "vectors", **BOUNDS)
    with pytest.raises(TwowayError, match="opened otherwise"):
        embed(tmp_path / "model", str(rows / "documents.jsonl"), tmp_path / "vectors")


def test_bounds_that_cannot_be_are_refused_in_every_stage(base, rows, tmp_path, capsys):
    for make in (PretrainConfig, EvaluateConfig, MineConfig):
        with pytest.raises(UsageError, match="min_pixels 900 is above max_pixels 100"):
            make(min_pixels=900, max_pixels=100)
    with pytest.raises(UsageError, match=r"no picture fits: the smallest is \d+ image tokens .* a row holds 16"):
        pretrain(base, tmp_path / "out", [str(rows / "documents.jsonl")], **USUAL, min_pixels=20 * 784, max_length=16)
    assert not (tmp_path / "out").exists()
    words = [
        "embed",
        str(base),
        "--data",
        str(rows / "documents.jsonl"),
        "--out",
        str(tmp_path / "vectors"),
        "--min-pixels",
        "9",
        "--max-pixels",
        "3",
    ]
    assert cli.main(words) == 2
    assert "min_pixels 9 is above max_pixels 3" in capsys.readouterr().err


def test_a_text_model_and_a_model_in_memory_take_no_bounds(tiny_model, base):
    with pytest.raises(UsageError, match="shows no pictures"):
        open_embedder(tiny_model("llama"), max_pixels=10_000)
    with pytest.raises(UsageError, match="a model in memory"):
        open_embedder(open_embedder(base), max_pixels=10_000)


def test_a_key_of_a_recipe_bounds_all_of_its_trainings_and_an_evaluation_keeps_what_the_model_has(tmp_path):
    from twoway.recipes.recipe import read_recipe

    path = tmp_path / "recipe.yaml"
    path.write_text(
        "base: b\nmax_pixels: 802_816\ndata: [{spec: rows.jsonl}]\nstages: {pretrain: {}, finetune: {max_pixels: 401_408}, evaluate: {}}\n"
    )
    assert [one.config.max_pixels for one in read_recipe(path).stages] == [802_816, 401_408, None]
    assert load(PretrainConfig, None, ["max_pixels=5"]).max_pixels == 5


@pytest.fixture(scope="module")
def long_base(base, tmp_path_factory):
    """The same, with positions for rows of 2,048 tokens."""
    folder = shutil.copytree(base, tmp_path_factory.mktemp("long") / "base")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """`pages(rows, pages)` is a source of so many rows, so many of them pages of real size; `pairs` of the same."""
    folder = tmp_path_factory.mktemp("pages")
    PILImage.new("RGB", (1700, 2200), "white").save(folder / "page.png")

    def make(rows, many, *, pairs=False):
        path = folder / f"{rows}-{many}-{pairs}.jsonl"
        page = {"image": "page.png"}
        lines = [{"parts": [page, {"text": "its words"}] if number < many else [{"text": f"row {number}"}]} for number in range(rows)]
        if pairs:
            lines = [{"query": f"row {number}", "positive": page if number < many else f"text {number}"} for number in range(rows)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(path)

    return make


def test_a_page_of_real_size_is_lost_without_bounds_and_kept_with_them(long_base, pages):
    config, page = loading.load_config(long_base), Document((Image(Path(pages(1, 1)).with_name("page.png")), Text("its words")))
    parts = AutoProcessor.from_pretrained(long_base)
    with pytest.raises(
        ContentError, match=r"first picture alone \(1,700 x 2,200 pixels, 4,8\d\d tokens\) .* bound pictures with max_pixels"
    ):
        Encoder(parts, PatchGeometry.of(config, parts), max_length=2048)("page", page)
    set_pixels(config, parts, min_pixels=200_704, max_pixels=802_816)
    example = Encoder(parts, PatchGeometry.of(config, parts), max_length=2048)("page", page)
    assert 900 < int(example.image_tokens.sum()) <= 1024
    assert not example.cut


@pytest.mark.parametrize("stage", [pretrain, finetune, bridge])
def test_a_source_that_would_lose_a_tenth_stops_before_the_first_step(stage, long_base, pages, tmp_path):
    data = pages(1000, 150, pairs=stage is not pretrain)
    batch = {"global_batch_size": 2, "hard_negatives": 0} if stage is finetune else {"per_device_train_batch_size": 1}
    words = r"150 of 1,000 rows \(15\.0%\): 150 for a picture of up to 4,819 tokens, where a row has room for [12],\d+; bound pictures"
    base = convert(long_base, tmp_path / "two-way").out if stage is bridge else long_base
    with pytest.raises(UsageError, match=words):
        stage(base, tmp_path / "out", [data], **USUAL, **batch, on_bad="skip")
    assert not (tmp_path / "out").exists()


def test_a_source_that_would_lose_some_says_so_in_log_report_and_card(long_base, pages, tmp_path, caplog):
    data = pages(1000, 30)
    pretrain(long_base, tmp_path / "out", [data], **USUAL, per_device_train_batch_size=1, on_bad="skip", calibrate="none")
    said = "1000-30-False.jsonl loses 30 of 1,000 rows (3.0%): 30 for a picture of up to 4,819 tokens"
    assert said in caplog.text
    assert said in (tmp_path / "out" / "report.html").read_text()
    assert said in (tmp_path / "out" / "README.md").read_text()
    assert read_log(tmp_path / "out")[0]["rows_lost"] == 30
    caplog.clear()
    pretrain(long_base, tmp_path / "bounded", [data], **USUAL, per_device_train_batch_size=1, max_pixels=802_816, calibrate="none")
    assert "loses" not in caplog.text
    assert "rows_lost" not in read_log(tmp_path / "bounded")[0]


def test_the_share_is_a_setting_and_small_sources_are_left_alone(long_base, pages):
    config, parts = loading.load_config(long_base), AutoProcessor.from_pretrained(long_base)
    encoder = Encoder(parts, PatchGeometry.of(config, parts), max_length=2048)
    (one,) = lost_rows(open_mixture([SourceConfig(pages(1000, 150))]), encoder, most=0.2)
    assert (one.rows, one.too_large, one.unreadable, one.share) == (1000, 150, 0, 0.15)
    assert lost_rows(open_mixture([SourceConfig(pages(40, 20))]), encoder, most=0.2) == ()
    with pytest.raises(UsageError, match="max_bad_share takes a number from 0 to 1"):
        PretrainConfig(max_bad_share=2)


def test_rows_that_cannot_be_read_count_too(long_base, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"text": f"row {number}"} if number % 5 else {"image": "gone.png"}) + "\n" for number in range(1000))
    )
    with pytest.raises(
        UsageError, match=r"200 of 1,000 rows \(20\.0%\): 200 that cannot be read \(the first: .*gone\.png.*; mend the source"
    ):
        pretrain(long_base, tmp_path / "out", [str(rows)], **USUAL, per_device_train_batch_size=1, on_bad="skip")


def test_looking_at_data_counts_pictures_that_fit_no_row(long_base, pages):
    def look(path, words, *, pairs):
        report = (
            check_pairs(path, pairs_of(path, words, pairs=True), model=long_base)
            if pairs
            else check_data(path, model=long_base, words=words)
        )
        return report.sources[0]

    for pairs in (False, True):
        path = pages(6, 3, pairs=pairs)
        assert any("3 of 6 rows have a picture of up to 4,819 tokens" in one for one in look(path, [], pairs=pairs).bad)
        assert look(path, ["max_pixels=802816"], pairs=pairs).ok
