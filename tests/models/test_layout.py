"""Names decide how a folder without other signs is read, and an adapter follows its base where it says nothing itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from twoway.models.opening import LayoutDefaults, layout_of, layout_of_adapter

if TYPE_CHECKING:
    from pathlib import Path

VLM2VEC = ["o_proj", "gate_up_proj", "qkv_proj", "down_proj", "k_proj", "q_proj", "out_proj", "v_proj"]
MOCA, COCOA = LayoutDefaults("two-way", "mean", "plain"), LayoutDefaults("two-way", "eos", "plain")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Qwen2_5ForEmbedding", MOCA),
        ("Qwen2_5ForMLMMAE", MOCA),
        ("Qwen2_5_VLBiForMNTP", COCOA),
        ("Qwen2VLForConditionalGenerationBidirectional", COCOA),
        ("Qwen2VLForConditionalGeneration", LayoutDefaults()),
        (None, LayoutDefaults()),
    ],
)
def test_a_layout_is_known_by_the_name_of_its_architecture(name: str | None, told: LayoutDefaults, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [name] if name else None}))
    assert layout_of(tmp_path) == told


def test_an_adapter_is_plain_unless_its_base_says_how_inputs_are_written(tmp_path: Path) -> None:
    assert layout_of(tmp_path) == LayoutDefaults()
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"target_modules": ["q_proj", "v_proj"]}))
    assert layout_of_adapter(LayoutDefaults(), tmp_path, encoder=False) == LayoutDefaults(template="plain")
    config.write_text(json.dumps({"target_modules": VLM2VEC}))
    assert layout_of_adapter(LayoutDefaults(), tmp_path, encoder=False) == LayoutDefaults(template="bare")
    assert layout_of_adapter(COCOA, tmp_path, encoder=False) == COCOA
    assert layout_of_adapter(LayoutDefaults(), tmp_path, encoder=True) == LayoutDefaults()
