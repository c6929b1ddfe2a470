"""The whole command on tiny models: what comes out, going on after a stop, and what is refused."""

from __future__ import annotations

import json
import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file

from cut_off import cut_off, same_bits
from twoway.cli import build_parser
from twoway.cli.parser import read_settings
from twoway.errors import TwowayError, UsageError
from twoway.methods.pretrain.method import pretrain
from twoway.models import checkpoint
from twoway.proof.check import check
from twoway.training.checkpointing import Checkpoints
from twoway.training.progress import read_log

pytestmark = pytest.mark.usefixtures("short_proof")

USUAL = {
    "max_steps": 6,
    "save_steps": 2,
    "seed": 1,
    "dtype": "float32",
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 3,
    "dataloader_num_workers": 0,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Ten rows: pictures with words, words alone, a picture alone, two pictures."""
    home = tmp_path_factory.mktemp("rows")
    draw = np.random.default_rng(0)
    lines = []
    for number in range(10):
        PILImage.fromarray(draw.integers(0, 255, (56, 56, 3), dtype=np.uint8)).save(home / f"{number}.png")
        image, text = {"image": f"{number}.png"}, {"text": f"number {number} is " + "so " * number + "good"}
        lines.append([[image, text], [text], [image], [image, text, image]][number % 4])
    path = home / "rows.jsonl"
    path.write_text("".join(json.dumps({"parts": parts}) + "\n" for parts in lines))
    return path


@pytest.fixture(scope="module")
def whole(tiny_model, rows, tmp_path_factory):
    """A run that nothing disturbs."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = pretrain(tiny_model("qwen2_vl"), out, [str(rows)], **USUAL)
    assert (result.steps, result.resumed) == (6, 0)
    return out


def test_the_result_is_a_plain_two_way_checkpoint_with_its_heads(whole, tiny_model):
    report = check(whole, backends=["sdpa"])
    assert report.verdict == "two-way"
    assert report.ok
    heads = checkpoint.load_heads(whole)
    assert heads.patch_decoder
    assert heads.lm_head
    facts = checkpoint.read_card(whole)
    assert [step["step"] for step in facts["chain"]] == ["pretrain"]
    assert facts["chain"][0]["options"]["steps"] == 6
    assert facts["attention"]["measured"] == "two-way"
    before = {name.removeprefix("model."): value for name, value in load_file(tiny_model("qwen2_vl") / "model.safetensors").items()}
    after = load_file(whole / "model.safetensors")
    assert any(not torch.equal(value, before[name]) for name, value in after.items() if "visual" in name)
    assert not torch.equal(heads.lm_head["weight"], before["lm_head.weight"])
    assert str(whole.parent) not in (whole / "twoway.json").read_text()


def test_the_log_has_every_step_once(whole):
    lines = read_log(whole)
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert all(line["mlm"] > 0 for line in lines if "mlm" in line)
    assert sum("mlm" in line for line in lines) >= 3
    assert sum("mae" in line for line in lines) >= 3


def test_a_run_that_was_cut_off_ends_with_the_same_bits(whole, tiny_model, rows, tmp_path):
    out = tmp_path / "cut"
    with cut_off(4):
        pretrain(tiny_model("qwen2_vl"), out, [str(rows)], **USUAL)
    assert not (out / "model.safetensors").exists()
    # What changes speed alone may change: how often it saves, and who makes the batches.
    result = pretrain(tiny_model("qwen2_vl"), out, [str(rows)], **USUAL | {"save_steps": 3, "dataloader_num_workers": 1})
    assert (result.steps, result.resumed) == (6, 2)
    for name in ("model.safetensors", "heads/patch_decoder.safetensors", "heads/lm_head.safetensors"):
        same_bits(out / name, whole / name)
    assert multiprocessing.active_children() == []
    assert [line["loss"] for line in read_log(out)] == [line["loss"] for line in read_log(whole)]


def test_done_is_said_and_changes_are_refused_with_the_difference(whole, tiny_model, rows):
    before = (whole / "model.safetensors").read_bytes()
    result = pretrain(tiny_model("qwen2_vl"), whole, [str(rows)], **USUAL)
    assert result.resumed == result.steps == 6
    assert (whole / "model.safetensors").read_bytes() == before
    with pytest.raises(UsageError, match=r"config\.learning_rate was 0\.001 and is 0\.002; .*--force"):
        pretrain(tiny_model("qwen2_vl"), whole, [str(rows)], **USUAL | {"learning_rate": 2e-3})
    with pytest.raises(UsageError, match=r"base was \"qwen2_vl\" and is \"gemma3\""):
        pretrain(tiny_model("gemma3"), whole, [str(rows)], **USUAL)


def test_other_rows_under_the_same_name_are_refused(tiny_model, rows, tmp_path):
    data = tmp_path / "rows.jsonl"
    text = "".join(json.dumps({"parts": [{"text": f"row {number}"}]}) + "\n" for number in range(6))
    data.write_text(text)
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoints, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        pretrain(tiny_model("qwen2_vl"), tmp_path / "out", [str(data)], **USUAL)
    data.write_text(text + json.dumps({"parts": [{"text": "one more"}]}) + "\n")
    with pytest.raises(UsageError, match=r"holds another run: .*data.*--force"):
        pretrain(tiny_model("qwen2_vl"), tmp_path / "out", [str(data)], **USUAL)


def test_a_result_is_a_base_and_brings_its_heads(whole, rows, tmp_path):
    out = tmp_path / "next"
    pretrain(whole, out, [str(rows)], **USUAL | {"max_steps": 1, "learning_rate": 1e-12})
    left, right = checkpoint.load_heads(whole).patch_decoder, checkpoint.load_heads(out).patch_decoder
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], atol=1e-6, rtol=0)
    assert [step["step"] for step in checkpoint.read_card(out)["chain"]] == ["pretrain", "pretrain"]


def test_bad_rows_stop_the_run_or_are_left_out(tiny_model, tmp_path):
    data = tmp_path / "rows.jsonl"
    lines = [{"parts": [{"text": f"row {number}"}]} for number in range(4)] + [{"parts": [{"image": "missing.png"}]}]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = USUAL | {"max_steps": 1}
    with pytest.raises(TwowayError, match=r"rows\.jsonl:5: .*missing\.png"):
        pretrain(tiny_model("qwen2_vl"), tmp_path / "fail", [str(data)], **options)
    pretrain(tiny_model("qwen2_vl"), tmp_path / "skip", [str(data)], **options, on_bad="skip")
    assert json.loads((tmp_path / "skip" / "bad-rows.jsonl").read_text())["row"] == 5
    data.write_text(json.dumps(lines[-1]) + "\n")
    with pytest.raises(TwowayError, match=r"every row of .* is bad"):
        pretrain(tiny_model("qwen2_vl"), tmp_path / "all", [str(data)], **options, on_bad="skip")
    data.write_text("")
    with pytest.raises(TwowayError, match="holds no rows"):
        pretrain(tiny_model("qwen2_vl"), tmp_path / "none", [str(data)], **options)


def test_rows_of_one_token_train(tiny_model, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"parts": [{"text": letter}]}) + "\n" for letter in "abcd"))
    result = pretrain(tiny_model("qwen2_vl"), tmp_path / "out", [str(data)], **USUAL | {"max_steps": 2})
    assert result.steps == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlm_weight": -1.0}, "mlm_weight takes a number from 0"),
        ({"mlm_weight": 0.0, "mae_weight": 0.0}, "nothing would be learnt"),
        ({"learning_rate": 0.0}, "learning_rate takes a number above 0"),
        ({"max_steps": 0}, "max_steps takes a whole number from 1"),
        ({"warmup_steps": 2.5}, "warmup_steps is a whole number"),
        ({"mask_share": 0.4}, "pretrain: unknown key mask_share"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        pretrain("nowhere", tmp_path / "out", ["samples:pretrain"], **options)
    assert not (tmp_path / "out").exists()


def test_what_is_no_base_or_no_run_is_refused(tiny_model, rows, tmp_path):
    with pytest.raises(TwowayError, match="text-only model"):
        pretrain(tiny_model("qwen2"), tmp_path / "text", [str(rows)], **USUAL)
    with pytest.raises(UsageError, match="no data is named"):
        pretrain(tiny_model("qwen2_vl"), tmp_path / "none", **USUAL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an unfinished run"):
        pretrain(tiny_model("qwen2_vl"), tmp_path / "mine", [str(rows)], **USUAL)
    with pytest.raises(UsageError, match=r"decoder_depth: .* between 1 and"):
        pretrain(tiny_model("qwen2_vl"), tmp_path / "deep", [str(rows)], **USUAL, decoder_depth=99)


def test_words_may_stand_before_and_behind_options():
    parser = build_parser("pretrain")
    args = parser.parse_args(["pretrain", "base", "out", "--data", "samples:pretrain", "max_steps=12", "--force", "dtype=float32"])
    config = read_settings(args)
    assert (args.base, args.out, args.force, config.max_steps, config.dtype) == ("base", "out", True, 12, "float32")
    assert [source.spec for source in config.data] == ["samples:pretrain"]
    with pytest.raises(SystemExit):
        parser.parse_args(["pretrain", "base", "out", "--dato", "samples:pretrain", "max_steps=12"])


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_ranks_make_the_model_of_one(tiny_model, rows, tmp_path, parallel, request):
    if parallel == "ddp":
        request.getfixturevalue("quick_ranks")
    options = USUAL | {"batches_per_step": 2, "parallel": parallel}
    pretrain(tiny_model("qwen2_vl"), tmp_path / "one", [str(rows)], **options)
    pretrain(tiny_model("qwen2_vl"), tmp_path / "two", [str(rows)], nproc=2, **options)
    ours, theirs = read_log(tmp_path / "two"), read_log(tmp_path / "one")
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-4)
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-3, atol=1e-4)
