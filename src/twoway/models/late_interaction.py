"""What makes a late-interaction model of a vision-language model: a vector for each token, projected to a few numbers (ColPali).

The modules are sentence-transformers' own; the paper is arXiv 2407.01449.
Queries may end in tokens that belong to no word (ColBERT, arXiv 2004.12832): mask tokens whose states, in a two-way model, say more of what
is asked. They are a part of the chat template, which sentence-transformers tells of the task, so a plain `encode_query` writes them too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from twoway.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DIM = 128
TOKENS = "token_embeddings"  # what holds the vectors in sentence-transformers
_EXPANSION = "{#- a query ends in tokens of its own -#}"


def new_modules(width: int, dim: int) -> list[torch.nn.Module]:
    """Return what follows the transformer, the projection new; torch's generator draws its weights."""
    projection = Dense(width, dim, bias=False, activation_function=torch.nn.Identity(), module_input_name=TOKENS)
    return [projection, MultiVectorMask(), Normalize(module_input_name=TOKENS)]


def projection_width(modules: Sequence[torch.nn.Module]) -> int | None:
    """Return the numbers of a vector; nothing without a projection."""
    return next((int(module.out_features) for module in modules if isinstance(module, Dense)), None)


def untrained(modules: Sequence[torch.nn.Module]) -> Iterator[str]:
    """Name what of the modules behind a transformer training does not follow."""
    kinds = [type(module).__name__ for module in modules]
    if kinds not in (["Dense", "MultiVectorMask", "Normalize"], ["MultiVectorMask", "Normalize"]):
        yield "the modules " + ", ".join(kinds)
    for module in modules:
        if isinstance(module, MultiVectorMask):
            yield from (f"{key} (MultiVectorMask)" for key in ("skiplist_words", "keep_only_token_ids") if getattr(module, key))


def expand_queries(parts: Any, token: str, count: int) -> None:
    """Let the chat template write so many tokens behind each query."""
    template = str(parts.chat_template)
    if _EXPANSION in template:
        raise UsageError("the base's template expands queries already; leave query_expansion out")
    end = f"{_EXPANSION}{{% if task is defined and task == 'query' %}}{{{{ '{token * count}' }}}}{{% endif %}}"
    parts.chat_template = parts.tokenizer.chat_template = template + end


def tells_sides_apart(parts: Any) -> bool:
    """Say whether a chat template writes a query in another way than a document."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    found = {str(parts.tokenizer.apply_chat_template(messages, tokenize=False, task=task)) for task in ("query", "document")}
    return len(found) > 1
