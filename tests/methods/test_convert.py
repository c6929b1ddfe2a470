"""A converted model of each family is two-way, plain, and gives one input the same vector wherever it stands."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig

import plain
import twoway
from tiny import FAMILIES
from twoway import cli
from twoway.errors import UsageError
from twoway.models import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The processor of PaliGemma takes an appended token off again, and writes texts differently in a batch with images.
WITH_EOS = tuple(family for family in FAMILIES if family != "paligemma")
TOGETHER = (("image", "image and text", "images and text", "text"), ("chat", "interleaved"))


def load(folder: Path, backend: str = "sdpa") -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"attn_implementation": backend})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_converted_to_a_plain_two_way_checkpoint(family: str, tiny_encoder: Callable[..., Path]) -> None:
    out = tiny_encoder(family)
    known = checkpoint.read_card(out)
    assert known["family"] == family
    assert known["attention"]["declared"] == known["attention"]["measured"] == "two-way"
    assert AutoConfig.from_pretrained(out).get_text_config().is_causal is False
    kinds = [module["type"] for module in json.loads((out / "modules.json").read_text())]
    assert all(kind.startswith("sentence_transformers.") for kind in kinds)
    assert [kind.rsplit(".", 1)[1] for kind in kinds] == ["Transformer", "Pooling", "Normalize"]
    assert not [path for path in out.rglob("*") if path.suffix in {".py", ".bin", ".pt", ".pkl"}]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_input_has_one_vector(family: str, tiny_encoder: Callable[..., Path]) -> None:
    same_everywhere(tiny_encoder(family), mixed=family in WITH_EOS)


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3", "smolvlm"])
def test_one_input_has_one_vector_at_its_eos(family: str, tiny_encoder: Callable[..., Path]) -> None:
    same_everywhere(tiny_encoder(family, pooling="eos"), mixed=True)


def same_everywhere(folder: Path, *, mixed: bool) -> None:
    """Compare each input alone with itself beside others, padded left and right, and under the other attention backend."""
    model, kinds = load(folder), plain.inputs()
    alone = {name: model.encode([kinds[name]])[0] for name in kinds}
    assert len({vector.tobytes() for vector in alone.values()}) == len(kinds)
    eager = load(folder, "eager")
    for name, vector in alone.items():
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert np.abs(eager.encode([kinds[name]])[0] - vector).max() < 1e-5
    for group in TOGETHER:
        names = [name for name in group if mixed or name != "text"]
        for side in ("left", "right"):
            model.tokenizer.padding_side = side
            for name, vector in zip(names, model.encode([kinds[name] for name in names]), strict=True):
                assert np.abs(vector - alone[name]).max() < 1e-5, (name, side)


def test_a_processor_that_writes_texts_in_two_ways_is_noted(tiny_encoder: Callable[..., Path]) -> None:
    assert "calls of their own" in checkpoint.read_card(tiny_encoder("paligemma"))["notes"][0]
    assert not checkpoint.read_card(tiny_encoder("qwen2_vl"))["notes"]


def test_attention_can_stay_causal_and_says_so(tiny_encoder: Callable[..., Path]) -> None:
    known = checkpoint.read_card(tiny_encoder("llava_onevision", attention="causal", pooling="last"))
    assert known["attention"]["measured"] == known["attention"]["declared"] == "causal"
    assert known["pooling"] == "last"


def test_a_shorter_vector_is_the_first_numbers_made_one_long_again(tiny_encoder: Callable[..., Path]) -> None:
    whole, short = load(tiny_encoder("internvl")), load(tiny_encoder("internvl", truncate_dim=8))
    texts = ["some words", "other words"]
    cut = whole.encode(texts)[:, :8]
    assert np.abs(short.encode(texts) - cut / np.linalg.norm(cut, axis=1, keepdims=True)).max() < 1e-6
    assert short.get_embedding_dimension() == 8


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3"])
def test_layers_are_left_out_in_even_steps(
    family: str, tiny_model: Callable[[str], Path], tiny_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    twoway.convert(tiny_model(family), tmp_path / "small", num_hidden_layers=2)
    whole, small = load(tiny_encoder(family)), load(tmp_path / "small")
    before = plain.everything(whole)
    text = whole[0].auto_model.get_decoder()
    del text.layers[1]  # the first and the last of three stay
    if family == "gemma3":
        del text.config.layer_types[1]  # one for each layer
    text.config.num_hidden_layers = 2
    assert np.abs(plain.everything(small) - plain.everything(whole)).max() < 1e-6
    assert np.abs(plain.everything(small) - before).max() > 1e-3
    assert checkpoint.read_card(tmp_path / "small")["chain"][-1]["options"]["num_hidden_layers"] == 2


@pytest.mark.usefixtures("short_proof")
def test_prompts_and_limits_are_saved(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    options = {"prompts": {"query": "find: "}, "max_length": 20, "max_pixels": 28 * 28, "dtype": "bfloat16"}
    result = twoway.convert(tiny_model("qwen2_vl"), tmp_path / "out", **options)
    model = load(tmp_path / "out")
    assert model.prompts["query"] == "find: "
    assert model.max_seq_length == 20 == result.card.max_length
    assert model.preprocess(["long " * 50])["input_ids"].shape[1] == 20
    features = model.preprocess([plain.inputs()["image"]])
    assert len(features["pixel_values"]) == model.processor.image_processor.merge_size**2
    assert {str(tensor.dtype) for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {"torch.bfloat16"}
    with_prompt, without = (model.encode(["a b"], **named)[0] for named in ({"prompt_name": "query"}, {}))
    assert np.abs(with_prompt - without).max() > 1e-3


@pytest.mark.usefixtures("short_proof")
def test_the_command_line_says_what_came_out(tiny_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", str(tiny_model("internvl")), str(tmp_path / "out"), "--prompts", "query=find: ", "--json"]
    assert cli.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["attention"]["measured"] == "two-way"
    assert told["prompts"] == {"query": "find: "}
    assert cli.main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    (tmp_path / "convert.yaml").write_text("pooling: last\nmax_length: 64\nprompts: {query: 'find: '}\n")
    assert cli.main([*words[:3], "--overwrite", "--recipe", str(tmp_path / "convert.yaml"), "--max-length", "32"]) == 0
    assert "two-way as measured, pooling last" in capsys.readouterr().out
    told = checkpoint.read_card(tmp_path / "out")
    assert (told["pooling"], told["max_length"], told["prompts"]) == ("last", 32, {"query": "find: "})
    (tmp_path / "convert.yaml").write_text("poling: last\n")
    assert cli.main([*words[:2], str(tmp_path / "other"), "--recipe", str(tmp_path / "convert.yaml")]) == 2
    assert "did you mean pooling" in capsys.readouterr().err


@pytest.mark.usefixtures("short_proof")
def test_converting_again_keeps_what_the_source_says(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model("qwen3_vl"), tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    first = twoway.convert(base, tmp_path / "first", prompts={"query": "find: "}, pooling="last")
    second = twoway.convert(tmp_path / "first", tmp_path / "second", truncate_dim=16)
    assert [step["source"] for step in second.card.chain] == ["base", "first"]
    assert second.card.chain[1]["source_weights"] == first.card.chain[0]["weights"] == second.card.chain[1]["weights"]
    assert (second.card.base, second.card.licence, second.card.pooling, second.card.dim) == ("base", "apache-2.0", "last", 16)
    assert second.card.prompts == {"query": "find: "}
    assert second.card.mask_token["token"] == first.card.mask_token["token"]
    assert "license: apache-2.0" in (tmp_path / "second" / "README.md").read_text()
    heads = [load_file(tmp_path / name / "heads" / "lm_head.safetensors")["weight"] for name in ("first", "second")]
    assert heads[0].equal(heads[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_hidden_layers": 9}, "at most 3 in this model, not 9"),
        ({"attention": "two_way"}, "did you mean two-way"),
        ({"pooling": "means"}, "did you mean mean"),
        ({"truncate_dim": 33}, "truncate_dim 33"),
        ({"max_length": 5000}, "--max-length 5000"),
        ({"min_pixels": 900, "max_pixels": 100}, "is above max_pixels"),
        ({"max_pixels": 5}, "max_pixels 5"),
        ({"mask_token": ""}, "--mask-token"),
        ({"dtype": "float31"}, "did you mean float32"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], words: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        twoway.convert(tiny_model("qwen2_vl"), tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())
