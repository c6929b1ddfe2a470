"""Models and videos: what trains also encodes, frames see each other, and masked patches of a video are restored like a picture's."""

from __future__ import annotations

import io
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from rich.console import Console

import twoway
from clips import clip
from cut_off import cut_off, same_bits
from documents import family
from twoway.content import ContentError, Document, Image, Text, Video
from twoway.data.collators import collate
from twoway.data.config import MaskingConfig
from twoway.data.lengths import MediaTokens
from twoway.data.masking import mask_inputs
from twoway.data.patches import VIDEO_PIXELS
from twoway.embedding import open_embedder
from twoway.errors import UsageError
from twoway.images import DEFAULT
from twoway.methods.finetune.method import finetune
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import prepare, pretrain
from twoway.models.attention import set_attention
from twoway.models.opening import open_model
from twoway.proof.probe import probe
from twoway.search.terminal import print_hits
from twoway.training.probes import Prober, measure_modalities, pair_pictured_rows

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def frames(count, *, seed=0, size=(56, 56)):
    draw = np.random.default_rng(seed)
    return Video(tuple(Image(PILImage.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8))) for _ in range(count)), fps=2.0)


def still(seed=0):
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 256, (56, 56, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", FAMILIES)
def test_vectors_are_those_of_sentence_transformers(name, tiny_encoder, tmp_path):
    engine = open_embedder(tiny_encoder(name), device="cpu")
    opened = Video(clip(tmp_path / "a.mp4")).opened(None, DEFAULT)
    documents = [
        Document((Video(tmp_path / "a.mp4"),)),
        Document((Video(tmp_path / "a.mp4", num_frames=3), Text("a grey thing"))),
        Document((Text("first"), Image(still()), frames(5))),
        Document((Text("words alone"),)),
    ]
    given = [
        {"video": opened.value},
        {"video": Video(tmp_path / "a.mp4", num_frames=3).opened(None, DEFAULT).value, "text": "a grey thing"},
        {"text": "first", "image": still(), "video": frames(5).opened(None, DEFAULT).value},
        "words alone",
    ]
    chosen = {"video": {"do_sample_frames": False}}  # the frames are chosen already
    theirs = [engine.sentence.encode([one], processing_kwargs=chosen, show_progress_bar=False)[0] for one in given]
    np.testing.assert_allclose(engine.array(documents), theirs, atol=1e-5)
    assert np.abs(engine.array([replace_frames(documents[2], frames(5, seed=1))]) - theirs[2]).max() > 1e-4


def replace_frames(document, video):
    return Document((*document.parts[:-1], video))


def test_videos_cost_what_their_frames_do_and_never_lose_half_of_a_pair(tiny_model):
    parts = family(tiny_model("qwen2_vl"))
    encode, count = parts.encoder(), MediaTokens(parts.processor)
    short, long = Document((frames(2), Text("x"))), Document((frames(7), Text("x")))
    for document in (short, long):
        assert int(encode("row", document).image_tokens.sum()) == count(document, DEFAULT)
    assert count(long, DEFAULT) == 4 * count(short, DEFAULT), "frames go in pairs, the last one stands twice"
    both = Document((frames(2), Text("between"), frames(8)))
    cut = parts.encoder(max_length=len(encode("row", both).words) - 1)("row", both)
    assert (cut.images_cut, int(cut.image_tokens.sum())) == (1, count(short, DEFAULT))
    with pytest.raises(ContentError, match=r"the first video alone \(8 frames of 56 x 56 pixels, 16 tokens\) .* fewer or smaller frames"):
        parts.encoder(max_length=16)("row", Document((frames(8),)))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("attention", ["causal", "two-way"])
def test_the_proof_asks_whether_a_later_frame_moves_an_earlier_one(name, attention, tiny_model):
    found = open_model(tiny_model(name))
    set_attention(found.model, attention)
    verdict = probe(found.model, found.processor, paddings=("none",), time=True)
    cell = next(cell for cell in verdict.cells if cell.kind == "video")
    assert cell.verdict == verdict.attention == attention
    assert ("a later frame", "earlier frames") in {(one.source, one.target) for one in cell.movements}


def test_a_model_that_takes_no_videos_is_proved_without(tiny_model):
    found = open_model(tiny_model("gemma3"))
    verdict = probe(found.model, found.processor, paddings=("none",), time=True)
    assert {cell.kind for cell in verdict.cells} == {"text", "image"}


def batch_of(prepared, documents, **mask):
    encode = family_encoder(prepared)
    config = MaskingConfig(**{"words": 0.5, "patches": 0.5, **mask})
    mask = partial(mask_inputs, config=config, seed=0, epoch=0, mask_token=prepared.token.id, geometry=prepared.geometry)
    rows = [mask(encode(f"row{number}", one)) for number, one in enumerate(documents)]
    return collate(rows, pad_token=prepared.module.pad_token)


def family_encoder(prepared):
    from twoway.data.processing import Encoder

    return Encoder(prepared.processor, prepared.geometry, max_length=400)


def made(tiny_model, name, **options):
    torch.manual_seed(0)
    prepared = prepare(tiny_model(name), PretrainConfig(**options))
    prepared.module.eval()
    return prepared


@pytest.mark.parametrize("way", ["noise", "skip", "drop"])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_a_video_of_equal_frames_is_as_hard_as_the_picture(name, way, tiny_model):
    """A picture is a pair of equal frames to these families, so both losses of both rows are the same numbers."""
    prepared = made(tiny_model, name, masked_patches=way)
    video = Video((Image(still()),) * 2)
    losses = []
    with torch.no_grad():
        for part in (Image(still()), video):
            batch = batch_of(prepared, [Document((part, Text("some words about it")))])
            assert bool(batch["patch_mask"].any())
            found, _ = prepared.module.compute_losses(batch)
            losses.append(torch.stack([found[kind].total for kind in ("mlm", "mae")]))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("way", ["noise", "skip", "drop"])
def test_masked_tubes_of_a_video_are_targets_and_seen_by_nobody(name, way, tiny_model):
    prepared = made(tiny_model, name, masked_patches=way)
    documents = [Document((frames(4), Text("words"), Image(still(1)))), Document((Image(still(2)), Text("more")))]
    batch = batch_of(prepared, documents)
    plain = family_encoder(prepared)("row0", documents[0]).inputs[VIDEO_PIXELS].view(-1, prepared.geometry.values)
    ids = batch["inputs"]["input_ids"]
    of_video = (ids == prepared.geometry.video_token)[batch["patch_mask"]]
    assert 0 < int(of_video.sum()) < len(of_video)
    for target in batch["patch_targets"][of_video]:
        assert bool((plain == target).all(1).any()), "a target is what the processor normalised"
    with torch.no_grad():
        before, _ = prepared.module.compute_losses(batch)
        pixels = batch["inputs"][VIDEO_PIXELS].clone()
        hidden = batch["patch_mask"][ids == prepared.geometry.video_token].repeat_interleave(prepared.geometry.patches)
        pixels[hidden] += 1.0
        other = batch | {"inputs": batch["inputs"] | {VIDEO_PIXELS: pixels}}
        after, _ = prepared.module.compute_losses({key: value for key, value in other.items() if not key.endswith("_places")})
    same = torch.equal(before["mae"].total, after["mae"].total)
    assert same == (way != "noise"), "noise is seen; what is left out is not"
    assert torch.isfinite(before["mae"].total + before["mlm"].total)


def test_tubes_and_frames_of_a_video_are_masked_whole(tiny_model):
    parts = family(tiny_model("qwen2_vl"))
    row = parts.encoder()("row", Document((Image(still()), frames(8), Text("words"), frames(4, seed=1))))
    of_video = row.inputs["input_ids"] == parts.geometry.video_token
    for unit in ("patch", "tube", "frame"):
        masked = mask_inputs(row, MaskingConfig(video=unit), seed=0, epoch=0, mask_token=1, geometry=parts.geometry)
        assert int(masked.patch_mask.sum()) == int(row.image_tokens.sum()) / 2, "half of each picture and video"
        pairs = masked.patch_mask[of_video][:-8].view(4, -1)
        tube, whole = bool((pairs == pairs[0]).all()), bool((pairs == pairs[:, :1]).all())
        assert (tube, whole) == (unit == "tube", unit == "frame")
        stays = masked.patch_mask[row.image_tokens & ~of_video]
        assert 0 < int(stays.sum()) < len(stays), "a picture is masked patch by patch"


def test_what_the_order_of_frames_gives_words_is_measured(tiny_model):
    prepared = made(tiny_model, "qwen2_vl", mae_weight=0.0)
    prober = Prober(family_encoder(prepared), partial(collate, pad_token=0), prepared.geometry, prepared.token.id)
    texts = [Text(f"words about number {number} that are long enough") for number in range(4)]
    moving = [(f"m{number}", Document((frames(4, seed=number), texts[number]))) for number in range(2)]
    equal = [(f"e{number}", Document((Video((Image(still(number)),) * 4), texts[2 + number]))) for number in range(2)]
    row = prober.frame_rows(pair_pictured_rows(moving)[0])
    right, backwards = (row[name].inputs[VIDEO_PIXELS].view(2, -1) for name in ("right", "backwards"))
    assert torch.equal(row["right"].labels, row["backwards"].labels)
    assert not torch.equal(right, backwards)
    found = [measure_modalities(prepared.module, pair_pictured_rows(rows), prober) for rows in (moving, equal)]
    assert found[0]["frames_gap_backwards"] != 0
    assert found[1]["frames_gap_backwards"] == 0, "frames that are all alike have no order"
    assert all(one["frames_rows"] == one["words_rows"] == 2 for one in found)
    stills = [(f"s{number}", Document((Image(still(number)), texts[number]))) for number in range(2)]
    assert not any("frames" in name for name in measure_modalities(prepared.module, pair_pictured_rows(stills), prober))


def test_segments_are_items_with_their_times(tiny_encoder, tmp_path):
    (tmp_path / "clips").mkdir()
    clip(tmp_path / "clips" / "a.mp4", frames=50, rate=10)
    clip(tmp_path / "clips" / "b.mp4", frames=8, rate=10)
    model = tiny_encoder("qwen2_vl")
    usual = {"segment": "2s", "device": "cpu", "shard_rows": 2, "workers": 0}
    twoway.embed(model, tmp_path / "clips", tmp_path / "vectors", **usual)
    twoway.index(tmp_path / "vectors", tmp_path / "db")
    store = twoway.open_store(tmp_path / "db")
    try:
        hits = twoway.Finder(store, twoway.open_embedder(model, device="cpu")).search("grey", top_k=9, why=True)
    finally:
        store.close()
    assert all(one.why.moments[0].start == one.item.metadata["start"] for one in hits), "what pulls is said by the seconds of the file"
    console = Console(file=io.StringIO(), width=120)
    print_hits(hits, console)
    assert console.file.getvalue().count(" s, most from second ") == 4
    times = sorted((one.item.metadata["start"], one.item.metadata["end"]) for one in hits if "a.mp4" in one.item.id)
    assert times == [(0, 2), (2, 4), (4, 5)]
    assert {one.item.id.rpartition("/")[2] for one in hits} == {"a.mp4@0", "a.mp4@2", "a.mp4@4", "b.mp4@0"}
    assert all(one.item.thumbnail for one in hits)
    again = twoway.embed(model, tmp_path / "clips", tmp_path / "vectors", **usual)
    assert (again.rows, again.embedded) == (4, 0)
    with pytest.raises(UsageError):
        twoway.embed(model, tmp_path / "clips", tmp_path / "vectors", **usual | {"limits": {"num_frames": 2}})


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    home = tmp_path_factory.mktemp("rows")
    still(1).save(home / "a.png")
    lines = []
    for number in range(8):
        clip(home / f"{number}.mp4", frames=6 + number, size=(32, 32))
        shown = {"video": f"{number}.mp4", "num_frames": 4} if number % 3 else {"image": "a.png"}
        lines.append({"parts": [shown, {"text": f"number {number} is " + "so " * number + "good"}]})
    path = home / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


USUAL = {"save_steps": 2, "seed": 1, "dtype": "float32", "learning_rate": 1e-3, "dataloader_num_workers": 0, "held_out": 2}


def test_pretraining_on_videos_goes_on_where_it_stopped(tiny_model, rows, tmp_path):
    usual = {**USUAL, "save_steps": 1, "calibrate": "none", "max_steps": 2, "per_device_train_batch_size": 3}
    run = partial(pretrain, tiny_model("qwen2_vl"), data=[str(rows)], **usual)
    run(out=tmp_path / "whole")
    with cut_off(2):
        run(out=tmp_path / "cut")
    assert run(out=tmp_path / "cut").resumed == 1
    same_bits(tmp_path / "whole" / "model.safetensors", tmp_path / "cut" / "model.safetensors")


def test_either_side_of_a_pair_is_trained_on_videos(tiny_encoder, rows, tmp_path):
    pairs = rows.with_name("pairs.jsonl")
    lines = [
        {"query": f"the number {number}", "positive": [{"video": f"{number}.mp4"}]}
        if number % 2
        else {
            "query": [{"video": f"{number}.mp4", "num_frames": 2}, {"text": "which?"}],
            "positive": {"image": "a.png", "text": f"{number}"},
        }
        for number in range(8)
    ]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    result = finetune(tiny_encoder("qwen2_vl"), out, [str(pairs)], max_steps=2, global_batch_size=4, budget=200, **USUAL)
    assert result.steps == 2
    engine = open_embedder(out, device="cpu")
    assert np.isfinite(engine.array([{"video": rows.with_name("1.mp4")}])).all()
