"""Whatever holds a model can be converted: a hub id, an adapter, somebody's sentence-transformers checkpoint."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

import plain
import twoway
from twoway.embedding import open_embedder
from twoway.errors import TwowayError, UsageError
from twoway.models import adapters, checkpoint, loading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("short_proof")


def vectors(folder: Path) -> np.ndarray:
    return plain.everything(SentenceTransformer(str(folder), device="cpu"))


def save_random_adapter(base: Path, out: Path, where: tuple[str, ...] = ("language", "tower")) -> torch.nn.Module:
    """Train nothing, but give the adapter an effect."""
    adapted, _ = adapters.add_adapters(loading.load_model(base).model, where, r=2, lora_alpha=2)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    adapted.save_pretrained(out)
    return adapted


def test_a_hub_id_is_taken_from_the_cache(tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = "0" * 40
    home = tmp_path / "cache" / "models--owner--name"
    shutil.copytree(tiny_model("internvl"), home / "snapshots" / revision)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    result = twoway.convert("owner/name", tmp_path / "out")
    assert result.card.base == result.card.chain[0]["source"] == "owner/name"
    assert result.card.chain[0]["options"]["revision"] == revision


def test_an_adapter_is_merged_into_its_base(tiny_model: Callable[[str], Path], tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny_model("qwen2_vl")
    adapted = save_random_adapter(base, tmp_path / "adapter")
    result = twoway.convert(tmp_path / "adapter", tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    expected = adapters.merge_adapter(adapted).base_model.state_dict()
    assert merged.keys() == expected.keys()
    assert all(torch.allclose(merged[name], expected[name], atol=1e-6) for name in merged if "embed_tokens" not in name)
    assert np.abs(vectors(tmp_path / "out") - vectors(tiny_encoder("qwen2_vl"))).max() > 1e-2
    step = result.card.chain[0]
    assert step["options"]["merged"] == {"adapter": "adapter", "peft_type": "LORA", "r": 2, "lora_alpha": 2, "use_dora": False}
    assert set(step["source_weights"]) == {"base/model.safetensors", "adapter/adapter_model.safetensors"}


def test_a_moved_base_is_named(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "base")
    save_random_adapter(base, tmp_path / "adapter")
    base.rename(tmp_path / "moved")
    with pytest.raises(TwowayError, match="no such model"):
        twoway.convert(tmp_path / "adapter", tmp_path / "out")
    twoway.convert(tmp_path / "adapter", tmp_path / "out", base=str(tmp_path / "moved"))
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace(str(base), "").replace('"base_model_name_or_path": ""', '"base_model_name_or_path": null'))
    with pytest.raises(UsageError, match="names no base"):
        twoway.convert(tmp_path / "adapter", tmp_path / "again")


def test_an_adapter_for_another_base_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model("qwen2_5_vl")
    # Another family, and the same names with another shape.
    save_random_adapter(tiny_model("idefics3"), tmp_path / "family", ("language",))
    save_random_adapter(base, tmp_path / "shape")
    weights = load_file(tmp_path / "shape" / "adapter_model.safetensors")
    save_file({name: tensor[:, :-1].contiguous() for name, tensor in weights.items()}, tmp_path / "shape" / "adapter_model.safetensors")
    for name in ("family", "shape"):
        with pytest.raises(TwowayError, match="an adapter for another base") as caught:
            twoway.convert(tmp_path / name, tmp_path / "out", base=str(base))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_somebodys_encoder_keeps_its_pooling_and_prompts(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    transformer = Transformer(str(tiny_model("smolvlm")))
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), "lasttoken")]
    SentenceTransformer(modules=modules, prompts={"query": "find: "}, device="cpu").save(str(tmp_path / "theirs"))
    result = twoway.convert(tmp_path / "theirs", tmp_path / "out")
    assert (result.card.pooling, result.card.prompts) == ("last", {"query": "find: "})
    assert result.card.attention["measured"] == "two-way"
    assert "lm_head" not in result.card.heads, "there was none to keep, and a random one is worse than none"


def test_a_head_is_kept_for_later_and_fits(tiny_model: Callable[[str], Path], tiny_encoder: Callable[..., Path]) -> None:
    before = loading.load_model(tiny_model("idefics3")).model.lm_head.weight
    assert checkpoint.load_heads(tiny_encoder("idefics3")).lm_head["weight"].equal(before)
    assert not checkpoint.load_heads(tiny_encoder("gemma3")), "a tied head is in the embeddings"
    assert checkpoint.read_card(tiny_encoder("gemma3"))["heads"] == {}


def test_a_processor_is_fetched_without_the_weights_beside_it(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of MoCa's trainer has none, and its base has gigabytes of weights."""
    base, asked = tiny_model("qwen2_5_vl"), []

    def download(name: str, *, allow_patterns: list[str], ignore_patterns: list[str] | None = None) -> str:
        assert name == "owner/base"
        there = [path.name for path in base.iterdir()] + ["model.safetensors.index.json", "model-00001-of-00002.safetensors"]
        wanted = sorted(huggingface_hub.utils.filter_repo_objects(there, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        asked.append(wanted)
        (tmp_path / "cache").mkdir(exist_ok=True)
        for file in wanted:
            shutil.copy(base / file, tmp_path / "cache" / file)
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    moca = shutil.copytree(base, tmp_path / "moca")
    for path in moca.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    config = json.loads((moca / "config.json").read_text())
    (moca / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen2_5ForEmbedding"], "_name_or_path": "owner/base"}))
    with pytest.raises(TwowayError, match="that of its base is --processor owner/base"):
        twoway.convert(moca, tmp_path / "out")
    twoway.convert(moca, tmp_path / "out", processor="owner/base")
    open_embedder(moca, processor="owner/base", device="cpu")
    assert len(asked) == 2
    for files in asked:
        assert {"processor_config.json", "tokenizer.json", "tokenizer_config.json"} <= set(files)
        assert not [name for name in files if "safetensors" in name]
