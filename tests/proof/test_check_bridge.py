"""`check --bridge` as a user meets it: every backend, padding and option, in the table and in the JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from transformers import AutoModel

import twoway
from twoway import cli
from twoway.errors import UsageError
from twoway.models.attention import set_attention

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_every_case_is_in_the_json(tiny_encoder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(tiny_encoder("qwen2_vl")), "--bridge", "--json", "--backends", "sdpa", "flash_attention_2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["measured"], report["ok"], report["reason"]) == ("bridge", True, "")
    cases = {(cell["backend"], cell["eos_sees_target"], cell["sources_see_eos"], cell["kind"], cell["padding"]) for cell in report["cells"]}
    assert cases == {
        ("sdpa", eos, sources, kind, padding)
        for eos in (True, False)
        for sources in (True, False)
        for kind in ("text", "image")
        for padding in ("none", "left", "right")
    }
    skipped = {one["what"]: one["reason"] for one in report["skipped"]}
    assert skipped == {"flash_attention_2": "takes no mask of who sees whom"}
    assert all(len(cell["layers"]) == 3 and cell["verdict"] == "bridge" for cell in report["cells"])


def test_the_table_says_what_was_done_and_the_last_line_what_came_out(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    model = AutoModel.from_pretrained(tiny_model("llama"))
    set_attention(model, "two-way")
    model.save_pretrained(tmp_path)
    assert cli.main(["check", str(tmp_path), "--processor", str(tiny_model("llama")), "--bridge", "--backends", "eager"]) == 0
    out = capsys.readouterr().out
    for words in ("eager, as published", "eager, EOS sees no B and A sees no EOS", "padded left"):
        assert words in out
    assert out.splitlines()[-1] == f"yes: {tmp_path}: B learns of A through EOS alone, measured bridge"


def test_what_cannot_be_bridged_is_one_line(tiny_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_model("qwen2_vl")
    assert cli.main(["check", str(folder), "--bridge"]) == 1
    assert "qwen2_vl is causal" in capsys.readouterr().err
    with pytest.raises(UsageError, match="did you mean eager"):
        twoway.check_bridge(folder, backends=["eagre"])
    assert cli.main(["check", str(folder), "--bridge", "--expect", "causal"]) == 2


def test_a_backend_that_takes_no_mask_proves_nothing(tiny_encoder: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="flash_attention_2 takes no mask of who sees whom; the bridge needs one of sdpa"):
        twoway.check_bridge(tiny_encoder("qwen2_vl"), backends=["flash_attention_2"])
