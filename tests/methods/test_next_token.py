"""The control: next-token training of a causal model on the same rows, and nothing of restoring in it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch.nn import functional

from twoway.errors import TwowayError, UsageError
from twoway.methods.convert import convert
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.data import open_data
from twoway.methods.pretrain.method import prepare, pretrain
from twoway.models import checkpoint
from twoway.proof.check import check
from twoway.training.progress import read_log

pytestmark = pytest.mark.usefixtures("short_proof")

USUAL = {
    "objective": "causal",
    "max_steps": 4,
    "save_steps": 2,
    "seed": 1,
    "dtype": "float32",
    "per_device_train_batch_size": 2,
    "dataloader_num_workers": 0,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    home = tmp_path_factory.mktemp("rows")
    draw = np.random.default_rng(0)
    lines = []
    for number in range(42):
        image, text = {"image": f"{number}.png"}, {"text": f"number {number} is so good"}
        PILImage.fromarray(draw.integers(0, 255, (56, 56, 3), dtype=np.uint8)).save(home / image["image"])
        lines.append([image, text] if number % 3 else [text])
    (home / "rows.jsonl").write_text("".join(json.dumps({"parts": parts}) + "\n" for parts in lines))
    return home / "rows.jsonl"


@pytest.fixture(scope="module")
def whole(tiny_model, rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(tiny_model("qwen2_vl"), out, [str(rows)], **USUAL)
    return out


def first_batch(tiny_model, rows, out, **options):
    from twoway.data.config import SourceConfig

    config = PretrainConfig(data=(SourceConfig(str(rows)),), **USUAL | options)
    prepared = prepare(tiny_model("qwen2_vl"), config)
    data = open_data(config, prepared, out, shards=1, bad_rows=None)
    return prepared, next(data.loader.steps(0, 1, 0, 1))[0]


def test_the_loss_is_that_of_a_plain_causal_model_on_unmasked_words(tiny_model, rows, tmp_path):
    prepared, batch = first_batch(tiny_model, rows, tmp_path)
    labels, ids = batch["labels"], batch["inputs"]["input_ids"]
    words = labels != -100
    assert torch.equal(labels[words], ids[words])  # seen as they are
    assert not batch["patch_mask"].any()
    losses, _ = prepared.module.eval().compute_losses(batch)
    logits = prepared.start.model(**batch["inputs"]).logits[:, :-1]
    plain = functional.cross_entropy(logits[words[:, 1:]], labels[:, 1:][words[:, 1:]])
    assert losses.keys() == {"clm"}
    torch.testing.assert_close(losses["clm"].mean, plain)
    # A later word moves no earlier loss, as it would in a two-way model.
    last = int(words[0].nonzero()[-1])
    states = prepared.module.states(batch).hidden
    ids[0, last] = ids[0, last - 1]
    assert torch.equal(prepared.module.states(batch).hidden[0, :last], states[0, :last])


def test_the_control_sees_the_rows_of_the_run_that_it_controls(tiny_model, rows, tmp_path):
    ours, theirs = (first_batch(tiny_model, rows, tmp_path / name, objective=name)[1] for name in ("causal", "reconstruct"))
    assert ours["identities"] == theirs["identities"]
    assert ours["inputs"]["input_ids"].shape == theirs["inputs"]["input_ids"].shape


def test_the_result_is_causal_and_says_so(whole, tiny_model, rows):
    report = check(whole, backends=["sdpa"])
    assert (report.declared.attention, report.verdict, report.ok) == ("causal", "causal", True)
    facts = checkpoint.read_card(whole)
    assert (facts["attention"]["declared"], facts["attention"]["measured"]) == ("causal", "causal")
    assert facts["chain"][0]["options"]["objective"] == "causal"
    assert "# A causal multimodal" in (whole / "README.md").read_text()
    lines = read_log(whole)
    assert all(line["clm"] > 0 and "mlm" not in line and "mae" not in line for line in lines if "loss" in line)
    assert {"words_right", "words_gap_shuffled"} <= lines[-1].keys()
    assert "Predicted words" in (whole / "report.html").read_text()
    assert pretrain(tiny_model("qwen2_vl"), whole, [str(rows)], **USUAL).resumed == 4
    with pytest.raises(UsageError, match=r'config\.objective was "causal" and is "reconstruct"'):
        pretrain(tiny_model("qwen2_vl"), whole, [str(rows)], **USUAL | {"objective": "reconstruct"})


def test_the_control_can_be_made_two_way_afterwards(whole, tmp_path):
    result = convert(whole, tmp_path / "two-way")
    assert check(tmp_path / "two-way", backends=["sdpa"]).verdict == "two-way", result


def test_a_two_way_base_is_refused(tiny_model, rows, tmp_path):
    convert(tiny_model("qwen2_vl"), tmp_path / "base")
    with pytest.raises(TwowayError, match="two-way already"):
        pretrain(tmp_path / "base", tmp_path / "out", [str(rows)], **USUAL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"shift": False}, "shift"),
        ({"mae_weight": 0.3}, "mae_weight"),
        ({"decoder_depth": 2}, "decoder_depth"),
        ({"mlm_weight": 0.0}, "mlm"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(options, name):
    with pytest.raises(UsageError, match=f"objective=causal.*{name}"):
        PretrainConfig(objective="causal", **options)
    assert PretrainConfig(objective="causal", mae_weight=0.0).objective == "causal"
