"""`check` as a user meets it: what a model declares against what it does, with the exit code, the table and the whole report."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.llama import modeling_llama

import twoway
from twoway import cli
from twoway.errors import TwowayError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def changed(tiny_model: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Copy a tiny model and change its config: `text` in the text config, `top` at the top."""

    def get(family: str, *, text: dict[str, Any] | None = None, top: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / family
        shutil.copytree(tiny_model(family), folder)
        config = json.loads((folder / "config.json").read_text())
        config.update(top or {})
        config.get("text_config", config).update(text or {})
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return get


def run(*words: object) -> int:
    return cli.main(["check", *map(str, words)])


def test_a_causal_model_that_claims_to_be_two_way_at_the_top_of_its_config_is_named(
    changed: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed("qwen2_vl", top={"is_causal": False})
    assert run(folder, "--backends", "sdpa", "eager") == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"NO: {folder}: declared two-way (config.json: is_causal), measured causal"


def test_a_card_that_claims_too_much_is_caught(changed: Callable[..., Path]) -> None:
    folder = changed("llama")
    (folder / "twoway.json").write_text(json.dumps({"attention": {"declared": "two-way", "measured": "two-way"}}))
    report = twoway.check(folder, backends=["sdpa"])
    assert (report.verdict, report.declared.attention, report.declared.by) == ("causal", "two-way", "twoway.json: attention")
    assert not report.ok


def test_a_model_that_is_what_it_declares_passes(changed: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = changed("llama", text={"is_causal": False})
    assert run(folder) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"yes: {folder}: declared two-way (config.json: is_causal), measured two-way"
    assert run(folder, "--expect", "causal", "--backends", "sdpa") == 1


def test_every_backend_is_in_the_table_or_named_with_a_reason(changed: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(changed("qwen2_vl", text={"is_causal": False}), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    proved = {cell["backend"] for cell in report["cells"]}
    skipped = {one["what"]: one["reason"] for one in report["skipped"]}
    assert proved | set(skipped) == {"sdpa", "eager", "flex_attention", "flash_attention_2"}
    assert {"sdpa", "eager"} <= proved
    assert "not supported by this model: Qwen2VLModel does not support" in skipped["flex_attention"]
    assert {(cell["kind"], cell["padding"]) for cell in report["cells"]} == {
        *((kind, padding) for kind in ("text", "image") for padding in ("none", "left", "right")),
        ("video", "none"),
    }
    assert all([layer["attention"] for layer in cell["layers"]] == ["two-way"] * 3 for cell in report["cells"])
    assert report["measured"] == "two-way"
    assert report["ok"] is True


def test_flex_attention_is_proved_where_the_model_has_it(changed: Callable[..., Path]) -> None:
    for attention, folder in (("causal", changed("llama")), ("two-way", changed("qwen2", text={"is_causal": False}))):
        report = twoway.check(folder, backends=["flex_attention"])
        assert {cell.backend for cell in report.cells} == {"flex_attention"}
        assert report.verdict == attention


def test_one_causal_layer_left_is_named(
    changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = modeling_llama.LlamaAttention.forward

    def one_left(self: Any, hidden_states: torch.Tensor, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        if self.layer_idx == 1:
            length = hidden_states.shape[1]
            causal = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
            attention_mask = causal if attention_mask is None else causal & attention_mask
        return forward(self, hidden_states, *args, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", one_left)
    assert run(changed("smolvlm", text={"is_causal": False}), "--backends", "sdpa") == 1
    out = capsys.readouterr().out
    assert "why: layer 1 of 3 is causal, layers 0, 2 of 3 are two-way" in out
    assert out.splitlines()[-1].endswith("measured mixed")


def test_a_causal_model_with_one_two_way_layer_fails_too(changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    forward = modeling_llama.LlamaAttention.forward

    def one_open(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        if self.layer_idx == 2:
            return forward(self, *args, attention_mask=None, **(kwargs | {"is_causal": False}))
        return forward(self, *args, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", one_open)
    report = twoway.check(changed("smolvlm"), backends=["sdpa"])
    assert not report.ok
    assert [layer.attention for layer in report.layers["sdpa/image/none"]] == ["causal", "causal", "two-way"]


def test_a_model_that_leaks_from_padding_is_named(
    changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = modeling_llama.LlamaModel.forward
    monkeypatch.setattr(
        modeling_llama.LlamaModel, "forward", lambda self, *args, attention_mask=None, **kwargs: forward(self, *args, **kwargs)
    )
    assert run(changed("llama", text={"is_causal": False}), "--backends", "sdpa") == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith("measured leaks")
    assert "why: moved by what is in the padding" in out


def test_an_embedding_that_changes_in_company_is_a_leak(tiny_encoder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_encoder("qwen2_vl")
    report = twoway.check(folder, backends=["sdpa"])
    assert report.ok
    assert set(report.embedding) == {"longer texts", "other images"}
    assert max(report.embedding.values()) < 1e-5

    from sentence_transformers.sentence_transformer.modules import Pooling

    forward = Pooling.forward

    def careless(self: Any, features: dict[str, Any]) -> dict[str, Any]:
        return forward(self, features | {"attention_mask": torch.ones_like(features["attention_mask"])})

    monkeypatch.setattr(Pooling, "forward", careless)
    report = twoway.check(folder, backends=["sdpa"])
    assert report.verdict == "leaks"
    assert "an embedding moves beside longer texts" in report.reason


@pytest.mark.parametrize("family", ["gemma3", "paligemma"])
def test_a_family_that_is_partly_two_way_as_released_is_no_liar(family: str, tiny_model: Callable[[str], Path]) -> None:
    report = twoway.check(tiny_model(family), backends=["eager"])
    assert (report.verdict, report.declared.attention, report.ok) == ("mixed", "causal", True)
    assert not twoway.check(tiny_model(family), backends=["eager"], expect="two-way").ok


def test_missing_weights_are_an_error_and_not_proved_on_random_numbers(changed: Callable[..., Path]) -> None:
    folder = changed("llama")
    weights = load_file(folder / "model.safetensors")
    dropped = next(name for name in weights if "layers.1" in name)
    save_file({name: value for name, value in weights.items() if name != dropped}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TwowayError, match="lack 1 tensors of a llama model"):
        twoway.check(folder)


def test_wrong_use_and_missing_models_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "nothing") == 1
    assert "no such model" in capsys.readouterr().err
    with pytest.raises(UsageError, match="did you mean eager"):
        twoway.check(tmp_path, backends=["eagre"])
    with pytest.raises(UsageError, match="cannot be used here"):
        twoway.check(tmp_path, device="nowhere")


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config

    T5Config(num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(TwowayError, match="encoder-decoder model"):
        twoway.check(tmp_path)
