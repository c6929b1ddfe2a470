"""The card is read and written without loss, and the licence comes from the base's card."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from twoway.errors import TwowayError
from twoway.models import checkpoint, loading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: tongyi\n---\n", "tongyi"),
        ("---\ntags: [a]\n---\n", None),
        ("# no front matter", None),
        ("---\nlicense: [\n---\n", None),
        ("---\n- a\n---\n", None),
        ("words before\n---\nlicense: mit\n---\n", None),
    ],
)
def test_the_licence_is_read(text: str, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert checkpoint.licence_of(tmp_path) == expected


def test_the_card_says_what_the_program_file_says(tiny_encoder: Callable[..., Path]) -> None:
    out = tiny_encoder("qwen2_5_vl")
    told, shown = checkpoint.read_card(out), (out / "README.md").read_text()
    front = yaml.safe_load(shown.split("---")[1])
    assert front["base_model"] == told["base"] == "qwen2_5_vl"
    assert "| Attention, as measured | two-way |" in shown
    assert "not stated by the base" in shown
    step = told["chain"][0]
    assert set(step["versions"]) == {"twoway", "transformers", "sentence_transformers", "torch"}
    assert step["weights"] == {"model.safetensors": source_hash(out / "model.safetensors")}
    assert "chat messages in a call of their own" in shown


def source_hash(path: Path) -> str:
    from twoway.files import sha256

    return sha256(path)


def test_heads_are_read_back_or_refused(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    assert checkpoint.load_heads(tiny_encoder("qwen2_5_vl")).lm_head["weight"].ndim == 2
    assert not checkpoint.load_heads(tmp_path)
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "heads.json").write_text('{"other": {"file": "x"}}')
    with pytest.raises(TwowayError, match="a head 'other' that is not known"):
        checkpoint.load_heads(tmp_path)
    (tmp_path / "heads" / "heads.json").write_text('{"lm_head": {"file": "lm_head.safetensors"}}')
    with pytest.raises(TwowayError, match="cut off or corrupt"):
        checkpoint.load_heads(tmp_path)


def test_a_checkpoint_in_shards_is_read_by_its_index(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(TwowayError, match="its index names none"):
        loading.weight_files(tmp_path)
