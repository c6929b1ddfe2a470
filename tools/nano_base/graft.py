"""A text model put into the text part of a vision-language model without loss.

A vision-language model is a language model that also reads pictures, so a text model fits into one wherever the two compute the same on
text. Whether they do is not looked up by family. The text part takes over the text model's settings and weights: every weight finds a place
of its own name and shape, a bias that the text model does not have is zero (which is what having none means), and anything else is refused.
Then both run over the same tokens, and logits that differ are refused too: a family that scales its embeddings, or turns its positions
otherwise, fails there.

Rows that the wider vocabulary adds to the embedding are the mean of the old ones: they draw no attention to themselves before they are
trained.
"""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from twoway.errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# Kernels may add in another order; a different function is off by far more.
SAME = 1e-4


def graft(lm: Any, shape: Any, *, vocabulary: int | None = None, initialise: Callable[[Any], None] | None = None) -> Any:
    """Return a new vision-language model of the configuration `shape` whose text part is `lm`.

    `vocabulary` is the number of embedding rows, for a tokenizer that has more tokens than `lm`. The other parts are as the library, or
    `initialise`, draws them.
    """
    from transformers import AutoModelForImageTextToText

    rows = vocabulary or lm.config.vocab_size
    if rows < lm.config.vocab_size:
        raise TwowayError(f"a vocabulary of {rows} would cut off some of the text model's {lm.config.vocab_size} rows")
    vlm = AutoModelForImageTextToText.from_config(fitted(shape, lm.config, rows), dtype=lm.dtype)
    if initialise is not None:
        initialise(vlm)
    carry(lm, vlm)
    off = gap(lm, vlm)
    if off > SAME:
        raise TwowayError(f"{_kind(vlm)} does not compute what {_kind(lm)} does: the same tokens give logits that differ by {off:.2g}")
    return vlm.eval()


def fitted(shape: Any, text: Any, vocabulary: int) -> Any:
    """Return a copy of the configuration `shape` whose text part has all the settings of `text` that it knows.

    Of its own the text part keeps how a position is shared out over time, height and width, which a text model does not have.
    """
    from transformers import PreTrainedConfig

    kind = type(shape.text_config)
    common = {field.name for field in fields(kind)} & {field.name for field in fields(text)} - {
        field.name for field in fields(PreTrainedConfig)
    }
    settings = {name: copy.deepcopy(getattr(text, name)) for name in common}
    settings["rope_parameters"] = {**(shape.text_config.rope_parameters or {}), **(text.rope_parameters or {})}
    config = copy.deepcopy(shape)
    config.text_config = kind(**{**settings, "vocab_size": vocabulary, "tie_word_embeddings": text.tie_word_embeddings})
    config.tie_word_embeddings = text.tie_word_embeddings
    return config


@torch.no_grad()
def carry(lm: Any, vlm: Any) -> None:
    """Copy every weight of `lm` to its place in the text part of `vlm`."""
    source, target = _weights(lm), _weights(vlm)
    nowhere = sorted(source.keys() - target.keys())
    if nowhere:
        raise TwowayError(f"{_kind(vlm)} has no place for {len(nowhere)} weights of {_kind(lm)}, among them {nowhere[0]}")
    extra = sorted(name for name in target.keys() - source.keys() if not name.endswith(".bias"))
    if extra:
        raise TwowayError(f"{_kind(vlm)} needs {len(extra)} weights that {_kind(lm)} does not have, among them {extra[0]}")
    for name, place in target.items():
        if name not in source:
            place.zero_()
        elif name in _TABLES:
            _fill_rows(place, source[name])
        elif place.shape == source[name].shape:
            place.copy_(source[name])
        else:
            raise TwowayError(f"{name} is {tuple(source[name].shape)} in {_kind(lm)} and {tuple(place.shape)} in {_kind(vlm)}")


@torch.no_grad()
def gap(lm: Any, vlm: Any, ids: Tensor | None = None) -> float:
    """Return the largest difference between the models' logits over `ids` (rows, length), by default drawn from the whole vocabulary."""
    rows = lm.config.vocab_size
    if ids is None:
        ids = torch.randint(rows, (2, 16), generator=torch.Generator().manual_seed(0))
    here, there = (model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[..., :rows] for model in (lm, vlm))
    return float((here.float() - there.float()).abs().max())


_TABLES = ("the embedding", "the head")


def _weights(model: Any) -> dict[str, Tensor]:
    """Return the text part's weights by their names within it, the two tables of the vocabulary by what they are; tied ones once."""
    tables = dict(zip(_TABLES, (model.get_input_embeddings().weight, model.get_output_embeddings().weight), strict=True))
    if model.config.tie_word_embeddings:
        del tables["the head"]
    named = model.get_decoder().named_parameters()
    return tables | {name: weight for name, weight in named if all(weight is not table for table in tables.values())}


def _fill_rows(table: Tensor, source: Tensor) -> None:
    if table.shape[1:] != source.shape[1:] or len(table) < len(source):
        raise TwowayError(f"a vocabulary of {tuple(source.shape)} does not go into one of {tuple(table.shape)}")
    table[: len(source)] = source
    table[len(source) :] = source.mean(0)


def _kind(model: Any) -> str:
    return str(model.config.model_type)
