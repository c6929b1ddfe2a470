"""`info` says what is there: sizes that add up, attention as measured, and the provenance of a converted model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

import twoway
from tiny import FAMILIES, TEXT_FAMILIES
from twoway import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("family", [*FAMILIES, *TEXT_FAMILIES])
def test_the_parts_add_up_to_what_is_stored(family: str, tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model(family)
    facts = twoway.info(folder)
    sizes = facts["sizes"]
    stored = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert sizes["total"] == stored == sum(size for name, size in sizes.items() if name != "total")
    assert facts["family"] == family
    assert {"tower", "projector"} <= sizes.keys() if family in FAMILIES else not {"tower", "projector"} & sizes.keys()


def test_a_converted_model_is_described_whole(tiny_encoder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_encoder("qwen2_vl", pooling="eos", prompts={"query": "find: "})
    assert cli.main(["info", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "sentence-transformers"
    assert facts["attention"]["declared"] == facts["attention"]["measured"] == "two-way"
    assert (facts["pooling"], facts["width"], facts["dtype"]) == ("eos", 32, "F32")
    assert facts["prompts"] == {"query": "find: "}
    assert facts["mask_token"]["token"]
    assert [step["step"] for step in facts["chain"]] == ["convert"]
    assert cli.main(["info", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "find: " in out
    assert "step 1" in out


def test_attention_is_measured_and_not_believed(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_model("qwen3_vl"))
    model.config.is_causal = False
    model.save_pretrained(tmp_path)
    attention = twoway.info(tmp_path)["attention"]
    assert (attention["declared"], attention["measured"], attention["by"]) == ("two-way", "causal", "config.json: is_causal")
