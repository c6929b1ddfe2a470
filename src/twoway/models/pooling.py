"""How the states of a row become one vector, with the modules that sentence-transformers has.

`mean` and `last` are its own. `eos` reads the state at an EOS token that is appended to every row. If the chat template appended it,
truncation at the length limit would lose it, so the tokenizer does: its post-processor reserves room for the token before it truncates,
for padding on either side, and for any end of the template (a template's own EOS comes one position earlier). So the position is known by
construction and is the last real token. `truncate_dim` keeps the first numbers of the vector through a `Dense` whose matrix is a cut
identity, before the normalisation, because a truncation set on a model object is not saved with it.
"""

from __future__ import annotations

import copy
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers.processors import TemplateProcessing

from twoway.errors import TwowayError, UsageError, did_you_mean

from .processor import ensure_template

if TYPE_CHECKING:
    from collections.abc import Sequence

MODES = {"mean": "mean", "last": "lasttoken", "eos": "lasttoken"}


def require_mode(mode: str) -> str:
    """Check a pooling's name."""
    if mode not in MODES:
        raise UsageError(f"unknown pooling {mode!r}{did_you_mean(mode, MODES)} (there are: {', '.join(MODES)})")
    return mode


def modules(mode: str, width: int, dim: int | None, dtype: torch.dtype) -> list[torch.nn.Module]:
    """Return what follows the transformer."""
    if dim is not None and not 0 < dim <= width:
        raise UsageError(f"truncate_dim {dim} is out of range: this model's vectors have 1 to {width} numbers")
    cut = [] if dim is None or dim == width else [_first(width, dim, dtype)]
    return [Pooling(width, MODES[require_mode(mode)]), *cut, Normalize()]


def append_eos(processor: Any) -> None:
    """Make the tokenizer end every row in its EOS token."""
    tokenizer = processor.tokenizer
    eos, bos = tokenizer.eos_token, tokenizer.bos_token
    if eos is None:
        raise TwowayError("pooling eos needs an EOS token and this tokenizer has none; use --pooling last")
    template, begins = processor.chat_template, _beginning(tokenizer)
    if bos and processor.apply_chat_template(_question(), tokenize=False).startswith(bos):
        # A processor adds no special token to a text that starts with its BOS token. The template writes BOS as text, so
        # the tokenizer need not know which token that is, and the ids stay the same.
        tokenizer.bos_token, begins = None, []
        template = f"{{% set bos_token = {bos!r} %}}{template}"
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in {*begins, eos}]
    around = " ".join(begins)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{around} $A {eos}".strip(), pair=f"{around} $A $B {eos}".strip(), special_tokens=ids
    )
    processor.chat_template = tokenizer.chat_template = template


def _beginning(tokenizer: Any) -> list[str]:
    """Return the special tokens that a tokenizer puts before a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    before = next((place for place in range(len(whole)) if whole[place : place + len(bare)] == bare), 0)
    return [str(token) for token in tokenizer.convert_ids_to_tokens(whole[:before])]


def require_lasting_eos(processor: Any, instead: str = "use pooling=last or mean") -> None:
    """Refuse a processor that takes an appended EOS off again when it is loaded; asked before a long run, not behind it."""
    trial = copy.deepcopy(processor)
    ensure_template(trial)
    append_eos(trial)
    with TemporaryDirectory() as folder:
        trial.save_pretrained(folder)
        again = type(processor).from_pretrained(folder)
    if again.tokenizer("a")["input_ids"][-1] != again.tokenizer.eos_token_id:
        raise _taken_off(processor, instead)


def _taken_off(processor: Any, instead: str) -> TwowayError:
    return TwowayError(f"{type(processor).__name__} takes the EOS token off again, so no vector can be read there; {instead}")


def require_eos(transformer: Any, eos: int, rows: Sequence[Any]) -> None:
    """Prove that every kind of row ends in EOS, cut or not."""
    limit = transformer.max_seq_length
    long = "word " * (limit + 8) if limit and limit <= 4096 else "word " * 8
    for row in [*rows, long]:
        features = transformer.preprocess([row])
        last = int(features["attention_mask"][0].nonzero().max())
        if int(features["input_ids"][0, last]) != eos:
            raise _taken_off(transformer.processor, "use --pooling last or mean")


def _question() -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "a"}]}]


def _first(width: int, dim: int, dtype: torch.dtype) -> Dense:
    return Dense(width, dim, bias=False, activation_function=torch.nn.Identity(), init_weight=torch.eye(dim, width, dtype=dtype))
