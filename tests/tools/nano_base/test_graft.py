"""A text model keeps computing what it computed when it becomes the text part of a vision-language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers as tf
from tools.nano_base.graft import fitted, gap, graft

from twoway.errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# what is the same as a Llama on text, biases aside
FITTING = ("qwen2_vl", "qwen2_5_vl", "idefics3", "smolvlm", "llava_onevision", "internvl")


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[[str], Path]) -> Any:
    return tf.AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32)


def shape_of(folder: Path) -> Any:
    return tf.AutoConfig.from_pretrained(folder)


@pytest.mark.parametrize("family", FITTING)
def test_logits_stay_and_added_rows_move_none_of_them(family: str, llama: Any, tiny_model: Callable[[str], Path]) -> None:
    rows = llama.config.vocab_size
    vlm = graft(llama, shape_of(tiny_model(family)), vocabulary=rows + 7)
    assert vlm.config.model_type == family
    assert gap(llama, vlm) < 1e-5
    table = vlm.get_input_embeddings().weight
    assert len(table) == rows + 7
    assert torch.equal(table[:rows], llama.get_input_embeddings().weight)
    assert torch.allclose(table[rows:], llama.get_input_embeddings().weight.mean(0).expand(7, -1))


def test_settings_that_change_the_function_come_along(llama: Any, tiny_model: Callable[[str], Path]) -> None:
    shape = shape_of(tiny_model("qwen2_vl"))
    other = tf.LlamaConfig(**{**llama.config.to_dict(), "rms_norm_eps": 0.125, "num_hidden_layers": 2, "tie_word_embeddings": True})
    other.rope_parameters = {"rope_type": "default", "rope_theta": 77.0}
    text = fitted(shape, other, 300).text_config
    assert (text.rms_norm_eps, text.num_hidden_layers, text.vocab_size) == (0.125, 2, 300)
    assert text.rope_parameters["rope_theta"] == 77.0
    assert text.rope_parameters["mrope_section"] == shape.text_config.rope_parameters["mrope_section"]
    lm = tf.AutoModelForCausalLM.from_config(other)
    vlm = graft(lm, shape)
    assert gap(lm, vlm) < 1e-5
    assert vlm.get_output_embeddings().weight is vlm.get_input_embeddings().weight


def test_a_padded_row_keeps_its_logits(llama: Any, tiny_model: Callable[[str], Path]) -> None:
    vlm = graft(llama, shape_of(tiny_model("qwen2_vl")))
    ids = torch.arange(1, 11)[None]
    mask = torch.ones_like(ids)
    mask[:, :4] = 0
    with torch.no_grad():
        here, there = (model(input_ids=ids, attention_mask=mask).logits[:, 4:] for model in (llama, vlm))
    assert torch.allclose(here, there, atol=1e-5)


@pytest.mark.parametrize(("family", "what"), [("qwen3_vl", "q_norm|k_norm"), ("gemma3", "layernorm|norm"), ("paligemma", "differ by")])
def test_a_family_that_computes_otherwise_is_refused(family: str, what: str, llama: Any, tiny_model: Callable[[str], Path]) -> None:
    with pytest.raises(TwowayError, match=what):
        graft(llama, shape_of(tiny_model(family)))


def test_a_text_model_with_more_weights_is_refused(llama: Any, tiny_model: Callable[[str], Path]) -> None:
    biased = tf.AutoModelForCausalLM.from_config(tf.LlamaConfig(**{**llama.config.to_dict(), "mlp_bias": True}))
    with pytest.raises(TwowayError, match=r"no place for .*mlp\..*bias"):
        graft(biased, shape_of(tiny_model("qwen2_vl")))


def test_a_smaller_vocabulary_is_refused(llama: Any, tiny_model: Callable[[str], Path]) -> None:
    with pytest.raises(TwowayError, match="cut off"):
        graft(llama, shape_of(tiny_model("qwen2_vl")), vocabulary=5)
