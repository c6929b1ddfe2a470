"""Ways to train that change the work and not what comes out of it: a plain two-way model, whoever started the ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from twoway.methods.config import AdapterConfig
from twoway.methods.pretrain.method import pretrain
from twoway.models import checkpoint
from twoway.training.progress import read_log

pytestmark = pytest.mark.usefixtures("short_proof")

USUAL = {
    "max_steps": 2,
    "seed": 1,
    "dtype": "float32",
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 2,
    "batches_per_step": 2,
    "dataloader_num_workers": 0,
    "held_out": 0,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [{"parts": [{"text": f"number {number} is " + "so " * (number % 3) + "good"}]} for number in range(8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def plain(tiny_model, rows, tmp_path_factory):
    """One process that adds the batches of two shards up."""
    out = tmp_path_factory.mktemp("runs") / "plain"
    pretrain(tiny_model("qwen2_vl"), out, [str(rows)], **USUAL)
    return out


def losses(out):
    return [line["loss"] for line in read_log(out) if "loss" in line]


def test_adapters_are_merged_into_a_plain_model_and_a_tracker_has_the_numbers(plain, tiny_model, rows, tmp_path):
    lora = AdapterConfig(r=2, lora_dropout=0.1, use_dora=True, parts=("language", "tower"))
    out, options = tmp_path / "out", USUAL | {"report_to": "tensorboard", "calibrate": "none"}
    pretrain(tiny_model("qwen2_vl"), out, [str(rows)], **options, lora=lora, gradient_checkpointing=True)
    assert checkpoint.read_card(out)["attention"]["measured"] == "two-way"
    ours, base = load_file(out / "model.safetensors"), load_file(plain / "model.safetensors")
    assert ours.keys() == base.keys()
    moved = [name for name, value in ours.items() if not torch.equal(value, base[name])]
    assert any("layers" in name for name in moved)
    (kept,) = sorted((out / "checkpoints").glob("step-2"))
    assert all("lora_" in name or name.startswith("decoder.") for name in load_file(kept / "weights.safetensors"))
    seen = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [(one.step, pytest.approx(one.value, rel=1e-6)) for one in seen.Scalars("loss")] == list(enumerate(losses(out), 1))


STARTERS = {
    "torchrun": ("torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
    "accelerate": ("accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--cpu"),
}


@pytest.mark.slow
@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize(("starter", "parallel"), [("torchrun", "ddp"), ("accelerate", "fsdp")])
def test_ranks_that_others_start_make_the_curve_of_one_process(starter, parallel, plain, tiny_model, rows, tmp_path):
    out = tmp_path / "out"
    words = [f"{key}={value}" for key, value in (USUAL | {"parallel": parallel}).items()]
    command = [sys.executable, "-m", *STARTERS[starter], "-m", "twoway", "pretrain", str(tiny_model("qwen2_vl")), str(out)]
    for _ in range(2):  # the second time all is done already
        ended = subprocess.run([*command, "--data", str(rows), *words], env=dict(os.environ), capture_output=True, text=True, timeout=600)
        assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("done already") == 1
    assert losses(out) == pytest.approx(losses(plain), rel=1e-4)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, plain))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_compiled_layers_make_the_same_curve(plain, tiny_model, rows, tmp_path):
    pretrain(tiny_model("qwen2_vl"), tmp_path / "out", [str(rows)], **USUAL, torch_compile=True)
    assert losses(tmp_path / "out") == pytest.approx(losses(plain), rel=1e-4)


def test_a_run_without_the_turns_of_a_chat_is_read_so_by_plain_sentence_transformers(rows, tiny_model, tmp_path):
    pretrain(tiny_model("qwen2_vl"), tmp_path / "plain", [str(rows)], **USUAL | {"max_steps": 1}, template="plain")
    pretrain(tiny_model("qwen2_vl"), tmp_path / "chat", [str(rows)], **USUAL | {"max_steps": 1})
    picture = PILImage.new("RGB", (56, 56))
    content = [{"type": "text", "text": "a "}, {"type": "image", "image": picture}, {"type": "text", "text": " b"}]
    read = {}
    for kind in ("plain", "chat"):
        model = SentenceTransformer(str(tmp_path / kind), device="cpu")
        (ids,) = model.preprocess([[{"role": "user", "content": content}]])["input_ids"]
        read[kind] = model.tokenizer.decode(ids).replace("<|image_pad|>", "")
    assert read["plain"] == "a <|vision_start|><|vision_end|> b"
    assert read["chat"].startswith("<|im_start|>user")
