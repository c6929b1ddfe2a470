"""A family that nobody listed: it passes the proof, or it is refused and its one-way layers are named."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers as tf

import tiny
import twoway
from twoway.cli import main
from twoway.embedding import open_embedder
from twoway.errors import TwowayError
from twoway.models import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def save(config: Any, processor: Any, out: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tf.AutoModelForImageTextToText.from_config(config)
        tiny.randomise(model)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def test_an_unlisted_family_that_can_be_two_way_is_converted(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    processor = tf.AutoProcessor.from_pretrained(tiny_model("llava_onevision"))
    known = tf.AutoConfig.from_pretrained(tiny_model("llava_onevision"))
    config = tf.LlavaConfig(
        text_config=known.text_config, vision_config=known.vision_config, image_token_index=known.image_token_id,
        vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    side = {"height": tiny.IMAGE, "width": tiny.IMAGE}
    theirs = tf.LlavaProcessor(
        tf.CLIPImageProcessor(size=side, crop_size=side), processor.tokenizer, patch_size=14, vision_feature_select_strategy="full",
        chat_template=processor.chat_template,
    )  # fmt: skip
    result = twoway.convert(save(config, theirs, tmp_path / "llava"), tmp_path / "out")
    assert (result.card.family, result.card.attention["measured"]) == ("llava", "two-way")


def test_a_family_with_one_way_layers_is_refused_and_they_are_named(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Linear attention runs along the row, and no mask makes it look back."""
    src = tiny_model("qwen3_5")
    with pytest.raises(TwowayError, match=r"was to be two-way and is measured mixed \(layer 0 of 2 is causal, layer 1 of 2 is two-way"):
        twoway.convert(src, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    with pytest.raises(TwowayError, match="qwen2_vl is two-way in every layer"):
        twoway.convert(tiny_model("qwen2_vl"), tmp_path / "out", attention="mixed")


@pytest.fixture(scope="module")
def mixed(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mixed") / "model"
    result = twoway.convert(tiny_model("qwen3_5"), out, attention="mixed")
    assert result.card.attention["layers"] == ["causal", "two-way"]
    return out


def test_what_can_be_had_is_declared_and_is_what_check_finds(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(mixed)]) == 0
    said = capsys.readouterr().out
    assert "yes: " in said
    assert "declared mixed (twoway.json: attention), measured mixed" in said.replace("\n", " ")
    assert "layer 0 of 2 is causal, layer 1 of 2 is two-way" in said.replace("\n", " ")
    assert "declared: mixed" in (mixed / "README.md").read_text().replace("Attention, declared | ", "declared: ")
    assert twoway.info(mixed)["attention"]["declared"] == "mixed"
    assert open_embedder(mixed, device="cpu").read_as["attention"] == "mixed"
    other = shutil.copytree(mixed, tmp_path / "other")
    facts = json.loads((other / "twoway.json").read_text())
    facts["attention"]["layers"].reverse()
    (other / "twoway.json").write_text(json.dumps(facts))
    assert main(["check", str(other), "--backends", "sdpa"]) == 1, "the layers are not those that the card names"
    assert main(["check", str(mixed), "--backends", "sdpa", "--expect", "two-way"]) == 1


@pytest.mark.usefixtures("short_proof")
def test_stages_go_on_from_it_and_say_what_it_is(mixed: Path, tmp_path: Path) -> None:
    rows = [{"query": f"w{n} w4", "positive": f"w{n + 1} w9 w5"} for n in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = {"max_steps": 1, "held_out": 0, "max_length": 128, "dtype": "float32", "calibrate": "none"}
    twoway.finetune(mixed, tmp_path / "tuned", [str(tmp_path / "pairs.jsonl")], **words, global_batch_size=4)
    found = checkpoint.read_card(tmp_path / "tuned")
    assert (found["attention"]["declared"], found["attention"]["layers"]) == ("mixed", ["causal", "two-way"])
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": f"w{n} w4 w5 w6"}) + "\n" for n in range(8)))
    twoway.pretrain(mixed, tmp_path / "pretrained", [str(tmp_path / "texts.jsonl")], **words)
    assert checkpoint.read_card(tmp_path / "pretrained")["attention"]["declared"] == "mixed"
    with pytest.raises(TwowayError, match="its one-way layers pass the bridge by"):
        twoway.bridge(mixed, tmp_path / "bridged", [str(tmp_path / "pairs.jsonl")], max_steps=1)
