"""The authors' numbers: conversion reproduces them, under both attention backends, and in a Python without this package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForImageTextToText

import plain
from twoway.embedding import open_embedder
from twoway.losses.masked_patches import PatchDecoder
from twoway.methods.convert import convert
from twoway.models import checkpoint, kernels

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def golden_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("golden") / "model"
    convert(HERE / "reference-embedding", out, processor=str(HERE / "processor"))
    return out


@pytest.fixture(scope="session")
def golden_cpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("golden") / "cpt"
    convert(HERE / "reference-cpt", out, processor=str(HERE / "processor"))
    return out


@pytest.fixture(scope="session")
def golden_eos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pooled at EOS, with a chat template that itself ends in that token."""
    home = tmp_path_factory.mktemp("golden")
    shutil.copytree(HERE / "processor", home / "processor")
    template = home / "processor" / "chat_template.jinja"
    template.write_text(template.read_text().rstrip("\n") + "<|im_end|>")
    convert(HERE / "reference-embedding", home / "model", processor=str(home / "processor"), pooling="eos", max_length=64)
    return home / "model"


@pytest.fixture(scope="session")
def batch() -> dict[str, torch.Tensor]:
    return load_file(HERE / "batch.safetensors")


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_the_embedding_is_the_authors(golden_model: Path, batch: dict[str, torch.Tensor], backend: str) -> None:
    model = SentenceTransformer(str(golden_model), device="cpu", model_kwargs={"attn_implementation": backend})
    assert np.abs(plain.golden(model) - batch["embedding"].numpy()).max() < 1e-5


def test_it_is_the_authors_with_windows_in_one_call_too(golden_model: Path, batch: dict[str, torch.Tensor]) -> None:
    model = open_embedder(golden_model, device="cpu").sentence
    assert model[0].auto_model.visual.config._attn_implementation == kernels.GROUPED
    assert np.abs(plain.golden(model) - batch["embedding"].numpy()).max() < 1e-5


def test_a_causal_conversion_is_not(batch: dict[str, torch.Tensor], tmp_path: Path) -> None:
    convert(HERE / "reference-embedding", tmp_path / "out", processor=str(HERE / "processor"), attention="causal")
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert np.abs(plain.golden(model) - batch["embedding"].numpy()).max() > 1e-2


def test_nothing_of_this_package_is_needed(
    golden_model: Path, golden_cpt: Path, golden_eos: Path, tiny_late: Path, batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """Also the one place where vectors are compared with those that such a Python gives: starting one costs seconds."""
    requests = [(str(golden_model), backend, what) for what in ("golden", "inputs") for backend in ("sdpa", "eager")]
    requests += [(str(golden_cpt), "sdpa", "inputs"), (str(golden_eos), "sdpa", "sides"), (str(tiny_late), "sdpa", "many")]
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    command = [sys.executable, "-I", str(HERE.parent / "plain.py"), str(tmp_path / "out.npz"), str(tmp_path / "requests.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    there = np.load(tmp_path / "out.npz")
    for number in ("0", "1"):
        assert np.abs(there[number] - batch["embedding"].numpy()).max() < 1e-5
    here = plain.everything(SentenceTransformer(str(golden_model), device="cpu"))
    for number in ("2", "3"):
        assert np.abs(there[number] - here).max() < 1e-6
    assert np.abs(there["4"] - plain.everything(SentenceTransformer(str(golden_cpt), device="cpu"))).max() < 1e-6
    at_eos = SentenceTransformer(str(golden_eos), device="cpu")
    left, right, ends = np.split(there["5"], [6 * 32, 12 * 32])  # six rows of 32 numbers, twice
    assert np.abs(left - right).max() < 1e-5
    assert np.abs(there["5"] - plain.sides(at_eos)).max() < 1e-6
    assert ends.tolist() == [at_eos.tokenizer.eos_token_id] * 12
    late, kinds = open_embedder(tiny_late, late_interaction=True, device="cpu", workers=0), plain.inputs()
    asked = [("query", kinds["text"]), ("document", kinds["text"]), ("document", kinds["image"])]
    ours = np.concatenate([next(late.embed([given], side=side))[1] for side, given in asked])
    assert np.abs(there["6"] - ours).max() < 1e-5


def test_the_language_model_head_goes_on_beside_the_model(golden_cpt: Path, batch: dict[str, torch.Tensor]) -> None:
    model = SentenceTransformer(str(golden_cpt), device="cpu")[0].model
    with torch.no_grad():
        states = masked_states(model, batch)
        logits = states @ checkpoint.load_heads(golden_cpt).lm_head["weight"].T
    masked = batch["labels"] >= 0
    loss = torch.nn.functional.cross_entropy(logits[masked], batch["labels"][masked])
    assert loss.item() == pytest.approx(batch["mlm_loss"].item(), abs=1e-5)


def test_the_patch_decoder_goes_on_beside_the_model(golden_cpt: Path, batch: dict[str, torch.Tensor]) -> None:
    model = SentenceTransformer(str(golden_cpt), device="cpu")[0].model
    heads = checkpoint.load_heads(golden_cpt)
    decoder = PatchDecoder(model.language_model, values=heads.patch_decoder["to_values.weight"].shape[0])
    decoder.load_state_dict(heads.patch_decoder)
    decoder.eval()
    passed: dict[str, object] = {}
    model.language_model.register_forward_pre_hook(lambda _module, _args, kwargs: passed.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        values = decoder(masked_states(model, batch), batch["mae_pred_mask"], passed)
    loss = (values.reshape(batch["pixel_labels"].shape) - batch["pixel_labels"]).square().mean()
    assert loss.item() == pytest.approx(batch["mae_loss"].item(), abs=1e-5)


def test_others_load_the_backbone_alone(golden_cpt: Path) -> None:
    names = load_file(golden_cpt / "model.safetensors").keys()
    assert not [name for name in names if "mae" in name or "lm_head" in name]
    _, info = AutoModelForImageTextToText.from_pretrained(golden_cpt, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert set(info["missing_keys"]) <= {"lm_head.weight"}


def masked_states(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    named = {"input_ids": "masked_input_ids", "pixel_values": "pixel_values_masked"}
    inputs = {name: batch[named.get(name, name)] for name in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
    inputs["mm_token_type_ids"] = (batch["input_ids"] == model.config.image_token_id).int()
    return model(**inputs).last_hidden_state
