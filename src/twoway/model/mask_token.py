"""The mask token that masked pre-training writes over words.

The embedding matrix should keep its size, since other tools compare it with the tokenizer and the hub's copy. So, in this order:
a token that is asked for; the tokenizer's own mask token; a reserved token that nothing uses (of several the one whose embedding is
shortest, since training lengthens a row); a new token in a padding row behind the vocabulary; and only then a new row. A new token
starts as the mean of all embeddings, a plain word to the model and none in particular.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from twoway.errors import UsageError

from .backbone import SKELETON

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NEW = "<|mask|>"
_RESERVED = re.compile(r"reserved|unused|extra_id|extra_token|dummy|placeholder", re.IGNORECASE)
How = Literal["asked for", "own", "reserved", "padding row", "added row"]


@dataclass(frozen=True)
class MaskToken:
    """Which token it is and how it came about."""

    token: str
    id: int
    how: How

    def record(self) -> dict[str, Any]:
        """Return it for the provenance file."""
        return asdict(self)


def ensure_mask_token(model: PreTrainedModel, processor: Any, *, wanted: str | None = None) -> MaskToken:
    """Choose the mask token, set it in the tokenizer, and make its embedding where it is new."""
    tokenizer = getattr(processor, "tokenizer", processor)
    vocabulary = tokenizer.get_vocab()
    # Which reserved token is used least is read off its weights, and a model without any is told.
    wanted = SKELETON.get() if wanted is None else wanted
    if wanted is not None and not wanted.strip():
        raise UsageError("--mask-token is empty; name a token such as <|mask|>")
    if wanted is not None and wanted in vocabulary:
        return _set(tokenizer, wanted, "asked for")
    if wanted is None and tokenizer.mask_token is not None:
        return _set(tokenizer, tokenizer.mask_token, "own")
    reserved = [] if wanted else reserved_tokens(processor)
    table = model.get_input_embeddings().weight
    if reserved:
        lengths = table.detach()[[vocabulary[token] for token in reserved]].float().norm(dim=-1)
        return _set(tokenizer, reserved[int(lengths.argmin())], "reserved")
    return _add(model, tokenizer, wanted or NEW)


def reserved_tokens(processor: Any) -> list[str]:
    """Return tokens whose name says that nothing uses them, in the order of their ids."""
    tokenizer = getattr(processor, "tokenizer", processor)
    named = tokenizer.special_tokens_map | {name: value for name, value in vars(processor).items() if name.endswith("_token")}
    # A token may have a name in the map and still be nobody's, when the name itself says that it is reserved.
    used = {value for name, value in named.items() if isinstance(value, str) and not _RESERVED.search(name)}
    template = str(getattr(processor, "chat_template", None) or "")
    added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}
    free = [token for token in added if _RESERVED.search(token) and token not in used and token not in template]
    return sorted(free, key=added.__getitem__)


def _set(tokenizer: Any, token: str, how: How) -> MaskToken:
    tokenizer.mask_token = token
    return MaskToken(token, int(tokenizer.convert_tokens_to_ids(token)), how)


def _add(model: PreTrainedModel, tokenizer: Any, token: str) -> MaskToken:
    used = len(tokenizer)
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizer.add_special_tokens({"mask_token": token})
    if used >= rows:
        # mean_resizing would draw around the mean; the exact mean is set below and repeats from run to run.
        model.resize_token_embeddings(rows + 1, mean_resizing=False)
    index = int(tokenizer.convert_tokens_to_ids(token))
    heads = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        for weight in {id(head.weight): head.weight for head in heads if head is not None}.values():
            weight[index] = weight[:used].float().mean(0).to(weight.dtype)
    return MaskToken(token, index, "padding row" if used < rows else "added row")
