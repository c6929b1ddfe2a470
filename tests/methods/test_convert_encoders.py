"""A sentence-transformers model keeps what it says, converted and trained, or is refused with the entry named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling

import plain
import twoway
from tiny import CALLED, SAID, published
from twoway.content import Document, Image, Text
from twoway.embedding import open_embedder
from twoway.errors import TwowayError, UsageError
from twoway.models import opening

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("short_proof")


def vectors(folder: Path, **how: Any) -> np.ndarray:
    return np.asarray(plain.everything(SentenceTransformer(str(folder), device="cpu", **how)))


@pytest.fixture
def theirs(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    return published(tiny_model("qwen3_vl"), tmp_path / "theirs")


def test_a_published_encoder_that_stays_causal_keeps_its_vectors(theirs: Path, tmp_path: Path) -> None:
    result = twoway.convert(theirs, tmp_path / "out", attention="causal")
    assert np.abs(vectors(tmp_path / "out") - vectors(theirs)).max() < 1e-5
    without = SentenceTransformer(str(theirs), device="cpu")
    without[0].processing_kwargs, without.default_prompt_name = {}, None
    assert np.abs(vectors(theirs) - np.asarray(plain.everything(without))).max() > 1e-2, "header and prompt matter, or nothing is shown"
    called = json.loads((tmp_path / "out" / "sentence_bert_config.json").read_text())
    assert {key: called[key] for key in CALLED} == CALLED
    settings = json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text())
    assert settings["default_prompt_name"] == "default"
    assert result.card.prompts == {"default": SAID, "search": "Find: "}
    asked = [SentenceTransformer(str(folder), device="cpu").encode("w4", prompt_name="search") for folder in (theirs, tmp_path / "out")]
    assert np.abs(asked[0] - asked[1]).max() < 1e-5
    engine = open_embedder(tmp_path / "out", device="cpu")
    assert np.abs(engine.array([Document((Text("w4 w5 w6"),))])[0] - vectors(theirs)[-1]).max() < 1e-5


def test_everything_behind_the_model_is_carried_over(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    behind = (Pooling(32, "weightedmean", include_prompt=False), Dense(32, 24), Dense(24, 16, bias=False))
    said = {"similarity_fn_name": "dot", "truncate_dim": 12, "custom": {"kept": 1}}
    theirs = published(tiny_model("qwen3_vl"), tmp_path / "theirs", behind=behind, **said)
    result = twoway.convert(theirs, tmp_path / "out", attention="causal")
    before, after = vectors(theirs), vectors(tmp_path / "out")
    assert before.shape == (6, 12)
    assert np.abs(np.linalg.norm(before, axis=1) - 1).min() > 0.01, "they are not normalised, and stay so"
    assert np.abs(before - after).max() < 1e-5
    settings = json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text())
    assert {key: settings[key] for key in said} == said
    assert (result.card.pooling, result.card.dim) == ("weightedmean", 12)
    with pytest.raises(UsageError, match="the source's Dense module belongs behind its own pooling"):
        twoway.convert(theirs, tmp_path / "again", pooling="mean")
    with pytest.raises(TwowayError, match=r"has the module Dense \(modules.json\), pooling weightedmean, truncate_dim 12, which training"):
        opening.open_start(theirs).settings.require_trainable("theirs")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"called": {"config_kwargs": {"rope_theta": 7}}}, "config_kwargs.rope_theta changes how the model is loaded"),
        ({"called": {"do_lower_case": True}}, "do_lower_case"),
        ({"called": {"transformer_task": "any-to-any"}}, "transformer_task any-to-any gives no vectors"),
        ({"called": {"from_later": 1}}, "from_later is not known"),
        ({"model_type": "CrossEncoder"}, "model_type CrossEncoder"),
    ],
)
def test_what_would_be_lost_is_refused_by_its_name(
    said: dict[str, Any], words: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    theirs = published(tiny_model("qwen3_vl"), tmp_path / "theirs", **said)
    with pytest.raises(TwowayError, match=words) as caught:
        twoway.convert(theirs, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_modules_of_others_are_refused_by_their_name(theirs: Path, tmp_path: Path) -> None:
    listed = json.loads((theirs / "modules.json").read_text())
    for entry, words in (({"type": "custom_st.Transformer"}, "custom_st.Transformer"), ({"kwargs": ["task"]}, "has Pooling")):
        changed = [listed[0], listed[1] | entry, listed[2]]
        (theirs / "modules.json").write_text(json.dumps(changed))
        with pytest.raises(TwowayError, match=words):
            twoway.convert(theirs, tmp_path / "out")


def test_training_reads_the_row_that_the_model_is_used_with(theirs: Path, tmp_path: Path) -> None:
    """One step that changes nothing: the vectors of the result are those of the source, made two-way."""
    rows = [{"query": f"w{n} w4", "positive": f"w{n + 1} w9 w5"} for n in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = {
        "data": [str(tmp_path / "pairs.jsonl")],
        "global_batch_size": 4,
        "max_steps": 1,
        "learning_rate": 1e-12,
        "held_out": 0,
        "max_length": 256,
        "dtype": "float32",
    }
    twoway.finetune(theirs, tmp_path / "tuned", **words)
    twoway.convert(theirs, tmp_path / "converted")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("converted", "tuned"))
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    assert np.abs(vectors(tmp_path / "tuned") - vectors(tmp_path / "converted")).max() < 1e-5
    called = json.loads((tmp_path / "tuned" / "sentence_bert_config.json").read_text())
    assert {key: called[key] for key in CALLED} == CALLED
    parts = opening.open_config_and_processor(theirs)[1]
    rendered = parts.apply_chat_template([{"role": "user", "content": "w4"}], tokenize=False)
    assert rendered.endswith("<|im_start|>assistant\n"), "what training renders ends in the header, too"


def test_a_longest_row_of_its_own_is_kept(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    theirs = published(tiny_model("qwen3_vl"), tmp_path / "theirs", called={"max_seq_length": 120})
    result = twoway.convert(theirs, tmp_path / "out", attention="causal")
    long = "w5 " * 400
    found = [SentenceTransformer(str(folder), device="cpu").encode(long) for folder in (theirs, tmp_path / "out")]
    assert result.card.max_length == 120
    assert np.abs(found[0] - found[1]).max() < 1e-5


def test_pictures_have_the_sources_vectors_too(theirs: Path, tmp_path: Path) -> None:
    import io

    from PIL import Image as Pictures

    written = io.BytesIO()
    picture = Pictures.fromarray(np.random.default_rng(0).integers(0, 255, (56, 84, 3), dtype=np.uint8))
    picture.save(written, "PNG")
    twoway.convert(theirs, tmp_path / "out", attention="causal")
    row = Document((Image(written.getvalue()), Text("w4")))
    wanted = SentenceTransformer(str(theirs), device="cpu").encode([{"image": picture, "text": "w4"}])
    assert np.abs(open_embedder(tmp_path / "out", device="cpu").array([row]) - wanted).max() < 1e-5
