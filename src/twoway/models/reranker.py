"""What makes a reranker of a vision-language model: how a query and a candidate are written into one row, and how a score is read off it.

The layout is that of Qwen3-VL-Reranker (arXiv 2601.04720) and of Qwen3-Reranker before it (arXiv 2506.05176): a question whether the
document meets the query under an instruction, whose answer is yes or no. It is a part of the chat template, which gets the messages
`query` and `document` as sentence-transformers' `CrossEncoder` sends them and, before them, the instruction as a system message; a
conversation without these two is written as before. So no code of ours is needed to write a pair, whatever the family.

A score is read in one of two ways, both with sentence-transformers' own modules: the logit of yes less that of no behind the row, by the
model's own head (`LogitScore`), or a new linear layer on the states (`Pooling`, `Dense`), which suits two-way attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from sentence_transformers.base.modules import Dense
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Pooling

from twoway.errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Sequence

Head = Literal["yes-no", "linear"]

YES, NO = "yes", "no"
SCORES = "scores"  # what a reranker's modules give
INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."
JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
# One line without white space between its tags, so that nothing is written and nothing of the template behind it is lost.
_PAIR = (
    "{#- a query and a candidate become one question -#}"
    "{% set asked = messages | selectattr('role', 'equalto', 'query') | list %}"
    "{% set offered = messages | selectattr('role', 'equalto', 'document') | list %}"
    "{% if asked and offered %}"
    f"{{% set said = '{INSTRUCTION}' %}}"
    "{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}{% endif %}"
    "{% if said is not string %}{% set said = said | map(attribute='text') | join %}{% endif %}"
    "{% set query = asked[0]['content'] %}{% set document = offered[0]['content'] %}"
    "{% if query is string %}{% set query = [{'type': 'text', 'text': query}] %}{% endif %}"
    "{% if document is string %}{% set document = [{'type': 'text', 'text': document}] %}{% endif %}"
    "{% set messages = [{'role': 'system', 'content': [{'type': 'text', 'text': '" + JUDGE + "'}]}, {'role': 'user', 'content': "
    "[{'type': 'text', 'text': '<Instruct>: ' ~ said ~ '<Query>:'}] + query + [{'type': 'text', 'text': '\\n<Document>:'}] + document}] %}"
    "{% set add_generation_prompt = true %}"
    "{% endif %}{{ '' }}"
)


def set_pair_template(parts: Any) -> None:
    """Give a processor a chat template that writes pairs."""
    if _PAIR not in parts.chat_template:
        parts.chat_template = parts.tokenizer.chat_template = _PAIR + parts.chat_template


def takes_pairs(parts: Any) -> bool:
    """Say whether a chat template writes what a query and what a candidate say, each where only that pair changes it."""

    def written(query: str, document: str) -> str:
        pair = (("query", query), ("document", document))
        messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in pair]
        try:
            return str(parts.apply_chat_template(messages, tokenize=False))
        except Exception:  # templates raise errors of their own
            return ""

    found = written("\ue000", "\ue001")
    return "\ue000" in found and "\ue001" in found


def yes_no(tokenizer: Any, name: str) -> LogitScore:
    """Return what reads the logit of yes less that of no."""
    vocabulary = tokenizer.get_vocab()
    missing = [word for word in (YES, NO) if word not in vocabulary]
    if missing:
        raise TwowayError(f"{name}: its tokenizer has no token {missing[0]!r}, so no such score can be read off its head; use head=linear")
    return LogitScore(vocabulary[YES], vocabulary[NO])


def linear(width: int, pooling: str) -> list[torch.nn.Module]:
    """Return a new layer on pooled states; torch's generator draws its weights."""
    dense = Dense(width, 1, activation_function=torch.nn.Identity(), module_output_name=SCORES)
    return [Pooling(width, {"last": "lasttoken"}.get(pooling, pooling)), dense]


def describe_score(modules: Sequence[torch.nn.Module]) -> str:
    """Say how a score is read, for the card."""
    pooled = next((module.pooling_mode for module in modules if isinstance(module, Pooling)), None)
    return "the logit of yes less that of no" if pooled is None else f"a linear layer on the pooled states ({pooled})"
