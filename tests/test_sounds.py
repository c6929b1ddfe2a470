"""A sound is samples and their rate, whatever it lies in; a model that hears gets it at its own rate, and masked words hear it."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from clips import clip, tone
from documents import family
from tiny import LISTENERS
from twoway.content import Audio, ContentError, Document, Text
from twoway.data.collators import collate
from twoway.data.config import MaskingConfig
from twoway.data.dataset import open_source, open_table
from twoway.data.lengths import MediaTokens
from twoway.data.masking import mask_inputs
from twoway.embedding import open_embedder
from twoway.errors import UsageError
from twoway.images import DEFAULT
from twoway.limits import Limits
from twoway.methods.duplicates import is_copy, sketch
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import prepare, pretrain
from twoway.models.attention import set_attention
from twoway.models.opening import open_model
from twoway.proof.probe import probe
from twoway.training.progress import read_log

HEARS = "qwen2_5_omni"


def sound(source, **options):
    return Document.from_parts([{"audio": source, **options}]).parts[0]


class Ears:
    """A processor as far as its rate goes."""

    class feature_extractor:
        sampling_rate = 16_000
        n_samples = 64_000


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("a.wav", {"rate": 8000}),
        ("b.flac", {"rate": 96_000}),
        ("c.mp3", {"rate": 44_100, "channels": 2}),
        ("d.wav", {"rate": 192_000}),
        ("e.webm", {"rate": 48_000}),
    ],
)
def test_any_rate_and_any_channels_become_what_a_model_hears(tmp_path, name, made):
    heard = sound(tone(tmp_path / name, **made))
    opened = heard.opened(None, DEFAULT)
    assert heard.size(None, DEFAULT)[2] == pytest.approx(1000, abs=60), "what does not say how long it is, is read to its end"
    assert (opened.source.rate, opened.describe()) == (made["rate"], "1.0 seconds of sound")
    heard = opened.fitted(Ears(), None).value
    assert (heard["sampling_rate"], len(heard["array"])) == (16_000, pytest.approx(16_000, abs=64))
    assert np.argmax(np.abs(np.fft.rfft(heard["array"]))) == pytest.approx(440, abs=2)
    assert np.abs(heard["array"]).max() == pytest.approx(0.25 if "channels" in made else 0.5, abs=0.02)


def test_a_part_of_a_sound_an_array_and_silence(tmp_path):
    path = tone(tmp_path / "a.wav", seconds=2)
    whole, part = sound(path).opened(None, DEFAULT), sound(path, start=0.5, end=0.75).opened(None, DEFAULT)
    np.testing.assert_array_equal(part.source.values, whole.source.values[8000:12_000])
    array = sound({"array": whole.source.values, "sampling_rate": 16_000}, start=0.5, end=0.75)
    np.testing.assert_array_equal(array.opened(None, DEFAULT).source.values, part.source.values)
    assert array.size(None, DEFAULT) == (1, 1, 250)
    assert sound(path, start=0.5).size(None, DEFAULT) == (1, 1, 1500)
    quiet = sound(tone(tmp_path / "quiet.wav", loud=0)).opened(None, DEFAULT)
    assert not quiet.source.values.any()
    assert quiet.preview(None, DEFAULT).size == (320, 80)
    assert sound(path).as_request(None)["input_audio"]["format"] == "wav"
    written = Audio(array.stored(None, None)["bytes"])
    np.testing.assert_allclose(written.opened(None, DEFAULT).source.values, whole.source.values, atol=1e-4)


def test_near_copies_of_a_sound_are_of_one_pitch(tmp_path):
    names = {"a.wav": {}, "b.mp3": {"rate": 44_100}, "c.wav": {"hertz": 1500}}
    same, saved, other = (sketch(Document((Audio(tone(tmp_path / name, **made)),))) for name, made in names.items())
    assert is_copy(same, saved)
    assert not is_copy(same, other)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (b"", "is empty"),
        (b"no sound at all" * 40, "is broken or in an unknown format"),
        ({"seconds": 5}, "is 5 seconds long, and the bound is 3; cut it into several rows"),
        ("video", r"has no audio stream \(it has: video\)"),
        ("still", "is a still picture"),
        ("torn", "says that it is 3.0 seconds long, and its samples end at second 1.5: it is torn"),
    ],
)
def test_what_is_no_sound_is_an_error_of_its_row(tmp_path, made, says):
    if isinstance(made, bytes):
        (tmp_path / "a.wav").write_bytes(made)
    elif made == "video":
        clip(tmp_path / "a.mp4", frames=4).rename(tmp_path / "a.wav")
    elif made == "still":
        PILImage.new("RGB", (9, 9)).save(tmp_path / "a.wav", "PNG")
    elif made == "torn":
        os.truncate(tone(tmp_path / "a.wav", seconds=3), 44 + 3 * 16_000)
    else:
        tone(tmp_path / "a.wav", **made)
    (tmp_path / "rows.jsonl").write_text('{"audio": "a.wav", "text": "x"}\n')
    with pytest.raises(ContentError, match=rf"rows.jsonl:1: sound a.wav {says}"):
        list(open_source(tmp_path / "rows.jsonl", limits=Limits(max_sound_seconds=3)))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"array": [0.0]}, "sampling_rate None, not a whole number"),
        ({"array": [], "sampling_rate": 8000}, r"is an array \(0,\) that is no row of samples"),
        (3, "is a number, not a path, bytes, or an array with its sampling_rate"),
    ],
)
def test_wrong_sounds_are_said(value, says):
    with pytest.raises(ContentError, match=says):
        sound(value)


def test_every_kind_of_source_holds_sounds(tmp_path):
    data = tone(tmp_path / "a.wav").read_bytes()
    wanted = Document((Audio(data), Text("said"))).fingerprint()
    import datasets

    datasets.Dataset.from_list([{"audio": {"bytes": data, "path": None}, "text": "said"}]).to_parquet(tmp_path / "rows.parquet")
    chat = {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "said"}]}]}
    rows = ({"audio": "a.wav", "text": "said"}, {"audios": ["a.wav"], "text": "<audio>said"}, chat)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, count in (("rows.parquet", 1), ("rows.jsonl", 3)):
        assert [one.fingerprint() for one in open_source(tmp_path / name, images="lazy")] == [wanted] * count
        assert open_table(str(tmp_path / name)).sizes.tolist() == [[2, 1, 1, 1000]] * count
    (tmp_path / "sounds").mkdir()
    tone(tmp_path / "sounds" / "b.mp3", rate=44_100)
    assert next(iter(open_source(tmp_path / "sounds", images="lazy"))).parts[0].file == tmp_path / "sounds" / "b.mp3"


@pytest.mark.parametrize("name", LISTENERS.values())
def test_vectors_of_sounds_are_those_of_sentence_transformers(name, tiny_encoder, tmp_path):
    engine = open_embedder(tiny_encoder(name), device="cpu")
    first, second = (tone(tmp_path / f"{hertz}.wav", hertz=hertz, seconds=0.5).read_bytes() for hertz in (440, 900))
    documents = [Document((Audio(first),)), Document((Text("before"), Audio(second))), Document((Text("words"),))]
    value = [Audio(one).opened(None, DEFAULT).value for one in (first, second)]
    given = [{"audio": value[0]}, {"text": "before", "audio": value[1]}, "words"]
    theirs = [engine.sentence.encode([one], show_progress_bar=False)[0] for one in given]
    found = engine.array(documents)
    np.testing.assert_allclose(found, theirs, atol=1e-5)
    assert np.abs(found[0] - engine.array([Document((Audio(second),))])).max() > 1e-4
    hears = 30 if name == "gemma4" else 4
    with pytest.raises(ContentError, match=f"the sound is {hears + 1} seconds long, and this model hears {hears}; cut it"):
        engine.array([Document((Audio(tone(tmp_path / "long.wav", seconds=hears + 1, rate=8000)),))])


@pytest.mark.parametrize(("attention", "name"), [("causal", HEARS), *(("two-way", name) for name in LISTENERS.values())])
def test_the_proof_asks_who_hears_a_later_second(attention, name, tiny_model):
    found = open_model(tiny_model(name))
    set_attention(found.model, attention)
    verdict = probe(found.model, found.processor, paddings=("none",), time=True)
    assert [cell.kind for cell in verdict.cells] == ["text", "image", "video", "audio"]
    assert verdict.attention == attention
    moved = {(one.source, one.target) for one in verdict.cells[-1].movements}
    assert {("a later second", "earlier text"), ("the end of a sound", "its beginning")} <= moved


def test_sounds_cost_their_tokens_and_are_never_cut_inside(tiny_model, tmp_path):
    parts = family(tiny_model(HEARS))
    encode, count = parts.encoder(), MediaTokens(parts.processor)
    heard = Audio(tone(tmp_path / "a.wav").read_bytes())
    token = parts.processor.audio_token_id
    document = Document((Text("so"), heard, Text("words"), heard))
    example = encode("row", document)
    assert int((example.inputs["input_ids"] == token).sum()) == count(document, DEFAULT) == 2 * count(Document((heard,)), DEFAULT) > 20
    cut = parts.encoder(max_length=len(example.words) - 1)("row", document)
    assert cut.images_cut == 1
    assert int((cut.inputs["input_ids"] == token).sum()) == count(Document((heard,)), DEFAULT)


def test_masked_words_hear_the_sound(tiny_model, tmp_path):
    torch.manual_seed(0)
    prepared = prepare(tiny_model(HEARS), PretrainConfig())
    prepared.module.eval()
    config = MaskingConfig()
    encode = family(tiny_model(HEARS)).encoder()
    losses = []
    for hertz in (440, 440, 1800):
        heard = Audio(tone(tmp_path / f"{hertz}.wav", hertz=hertz, seconds=0.5).read_bytes())
        example = encode("row", Document((Text("words before it"), heard)))
        row = mask_inputs(example, config, seed=0, epoch=0, mask_token=prepared.token.id, geometry=prepared.geometry)
        with torch.no_grad():
            found, _ = prepared.module.compute_losses(collate([row], pad_token=0))
        assert set(found) == {"mlm"}
        losses.append(float(found["mlm"].total))
    assert losses[0] == losses[1] != losses[2]


def test_patches_stay_where_positions_are_counted_by_tokens(tiny_model):
    with pytest.raises(UsageError, match=r"masked_patches=skip: .* positions are counted by the tokens of pictures"):
        prepare(tiny_model(HEARS), PretrainConfig(masked_patches="skip"))


def test_words_are_pretrained_with_sounds(tiny_model, tmp_path):
    rows = []
    for number in range(4):
        tone(tmp_path / f"{number}.wav", hertz=200 + 90 * number, seconds=0.2 + number / 10)
        rows.append({"audio": f"{number}.wav", "text": "so " * number + "it sounds"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    usual = {"dtype": "float32", "dataloader_num_workers": 0, "held_out": 0, "mae_weight": 0, "calibrate": "none"}
    result = pretrain(tiny_model(HEARS), tmp_path / "out", [str(tmp_path / "rows.jsonl")], max_steps=1, **usual)
    assert result.steps == 1
    assert read_log(tmp_path / "out")[0]["mlm"] > 0


def test_two_hours_of_sound_are_refused_whole_and_read_in_parts(tmp_path):
    path, rate = tmp_path / "long.wav", 8000
    size = 7200 * rate  # a byte each, which no disk has to hold
    head = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", 16, 1, 1, rate, rate, 1, 8, b"data", size)
    path.write_bytes(head)
    os.truncate(path, len(head) + size)
    quick = Limits(max_media_seconds=3, max_media_memory=1 << 30)
    assert sound(path).seconds(None, quick) == 7200
    with pytest.raises(ContentError, match=r"long.wav is 7,200 seconds long, and the bound is 600; cut it into several rows"):
        sound(path).opened(None, quick)
    assert sound(path, start=7000, end=7010).opened(None, quick).describe() == "10.0 seconds of sound"
