"""The whole command on tiny models: what comes out, going on after a stop, ranks, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file

from cut_off import cut_off, same_bits
from twoway.content import Document, Image, Text
from twoway.errors import TwowayError, UsageError
from twoway.methods.bridge.config import BridgeConfig, TargetMask
from twoway.methods.bridge.method import bridge, prepare
from twoway.methods.bridge.rows import BridgeEncoder, collate_bridge, mask_target
from twoway.models import checkpoint
from twoway.training.progress import read_log

pytestmark = pytest.mark.usefixtures("short_proof")

USUAL = {
    "max_steps": 4,
    "save_steps": 2,
    "seed": 1,
    "dtype": "float32",
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 3,
    "dataloader_num_workers": 0,
    "max_target": 24,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A hundred and sixty small rows: pictures with words, pairs, and texts alone."""
    home = tmp_path_factory.mktemp("rows")
    draw = np.random.default_rng(0)
    lines = []
    for number in range(160):
        PILImage.fromarray(draw.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(home / f"{number}.png")
        image, text = f"{number}.png", f"n{number}"
        lines.append(
            [{"image": image, "text": text}, {"text": f"half {number}"}, {"query": {"image": image, "text": "what?"}, "positive": text}][
                number % 3
            ]
        )
    path = home / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def whole(tiny_encoder, rows, tmp_path_factory):
    """A run that nothing disturbs."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = bridge(tiny_encoder("qwen2_vl"), out, [str(rows)], **USUAL)
    assert (result.steps, result.resumed) == (4, 0)
    return out


def test_the_result_is_a_plain_two_way_model_pooled_at_eos(whole, tiny_encoder):
    from sentence_transformers import SentenceTransformer

    facts = checkpoint.read_card(whole)
    assert facts["attention"]["measured"] == "two-way"
    assert facts["pooling"] == "eos"
    assert [step["step"] for step in facts["chain"]] == ["convert", "bridge"]
    assert facts["chain"][1]["options"]["steps"] == 4
    plain = SentenceTransformer(str(whole), device="cpu")
    features = plain.preprocess(["a", "a longer text"])
    last = [int(mask.nonzero().max()) for mask in features["attention_mask"]]
    assert [int(features["input_ids"][row, place]) for row, place in enumerate(last)] == [plain.tokenizer.eos_token_id] * 2
    before, after = load_file(tiny_encoder("qwen2_vl") / "model.safetensors"), load_file(whole / "model.safetensors")
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    assert checkpoint.load_heads(whole).lm_head


def test_the_vector_that_is_probed_is_the_one_that_anybody_gets(whole, rows):
    from sentence_transformers import SentenceTransformer

    prepared = prepare(whole, BridgeConfig(dtype="float32"))
    encode = BridgeEncoder(prepared.processor, prepared.geometry, max_length=300)
    picture = PILImage.open(rows.with_name("3.png"))
    given = [{"text": "a text"}, {"image": picture, "text": "what?"}]
    documents = [Document((Text("a text"),)), Document((Image(picture), Text("what?")))]
    masks = {"epoch": 0, "config": TargetMask(), "seed": 0, "mask_token": prepared.token.id, "geometry": prepared.geometry}
    made = [mask_target(encode.alone(f"{number}", one), **masks) for number, one in enumerate(documents)]
    batch = collate_bridge(made, pad_token=prepared.pad_token, padding_side=prepared.processor.tokenizer.padding_side)
    with torch.no_grad():
        ours = torch.nn.functional.normalize(prepared.module.eval().embed(batch["inputs"]).last, dim=-1)
    theirs = SentenceTransformer(str(whole), device="cpu").encode(given, convert_to_tensor=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_log_measures_what_went_through_eos_before_and_after(whole):
    log = read_log(whole)
    assert [line["step"] for line in log if "bridge" in line] == [1, 2, 3, 4]
    first, last = (entry for entry in log if "words_rows" in entry)
    assert (first["step"], last["step"]) == (0, 4)
    for entry in (first, last):
        for name in ("right", "shuffled", "none"):
            assert entry[f"words_{name}"] > 0
            assert 0 <= entry[f"first_{name}_accuracy"] <= 1
        assert entry["words_gap_none"] == pytest.approx(entry["words_none"] - entry["words_right"], abs=1e-5)
        assert {key for key in entry if key.startswith("words_rows/")} <= {"words_rows/image", "words_rows/text", "words_rows/both"}
        for name in ("rank", "uniformity", "alignment", "recall", "reciprocal"):
            assert {f"{name}_eos", f"{name}_mean"} <= entry.keys()
    assert last["seen"] == 12


def test_the_report_is_one_file_with_all_of_it(whole):
    text = (whole / "report.html").read_text()
    for said in ("What goes through EOS?", "The vector at EOS", "Where EOS looks", "Restored words", "by what A is", "held out"):
        assert said in text
    assert text.count("<figure>") == 12  # every chart has its numbers in the log
    assert 'src="http' not in text
    assert "data:image/png;base64" in text


def test_a_run_that_was_cut_off_ends_with_the_same_bits(whole, tiny_encoder, rows, tmp_path):
    out = tmp_path / "cut"
    with cut_off(4):
        bridge(tiny_encoder("qwen2_vl"), out, [str(rows)], **USUAL)
    assert not (out / "model.safetensors").exists()
    result = bridge(tiny_encoder("qwen2_vl"), out, [str(rows)], **USUAL)
    assert (result.steps, result.resumed) == (4, 2)
    same_bits(out / "model.safetensors", whole / "model.safetensors")
    assert [line["loss"] for line in read_log(out) if "loss" in line] == [line["loss"] for line in read_log(whole) if "loss" in line]


def test_a_result_is_a_base_and_keeps_one_eos(whole, rows, tmp_path):
    out = tmp_path / "next"
    bridge(whole, out, [str(rows)], **USUAL | {"max_steps": 1, "held_out": 0})
    left, right = ((folder / "tokenizer.json").read_text() for folder in (whole, out))
    assert json.loads(left)["post_processor"] == json.loads(right)["post_processor"]
    assert [step["step"] for step in checkpoint.read_card(out)["chain"]] == ["convert", "bridge", "bridge"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_target": 2047}, "max_target leaves two tokens"),
        ({"text_cut": 1.0}, "text_cut takes a number from 0 below 1"),
        ({"mlm_weight": 1.0}, "bridge: unknown key mlm_weight"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        bridge("nowhere", tmp_path / "out", ["samples:pretrain"], **options)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_bridged_is_refused(tiny_model, tiny_encoder, rows, tmp_path):
    with pytest.raises(TwowayError, match=r"qwen2_vl is still causal.*twoway pretrain"):
        bridge(tiny_model("qwen2_vl"), tmp_path / "causal", [str(rows)], **USUAL)
    data = rows.with_name("bad.jsonl")
    data.write_text(json.dumps({"query": "a", "positive": "b"}) + "\n" + json.dumps({"image": "0.png"}) + "\n")
    with pytest.raises(TwowayError, match=r"bad\.jsonl:2: B is empty: the row has no text"):
        bridge(tiny_encoder("qwen2_vl"), tmp_path / "empty", [str(data)], **USUAL | {"text_cut": 0.0})


@pytest.mark.slow
@pytest.mark.xdist_group("ranks")
def test_two_ranks_make_the_model_of_one(tiny_encoder, rows, tmp_path):
    options = USUAL | {"batches_per_step": 2, "max_steps": 3, "held_out": 0}
    bridge(tiny_encoder("qwen2_vl"), tmp_path / "one", [str(rows)], **options)
    bridge(tiny_encoder("qwen2_vl"), tmp_path / "two", [str(rows)], nproc=2, **options)
    ours, theirs = read_log(tmp_path / "two"), read_log(tmp_path / "one")
    assert [line["loss"] for line in ours if "loss" in line] == pytest.approx([line["loss"] for line in theirs if "loss" in line], rel=1e-4)
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-3, atol=1e-4)
