"""Which prompt stands before a document, by sentence-transformers' own rules, so that both give the same vectors.

A prompt is asked for by its name, by the side a document is on (a query or a document), or is written out as an instruction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

Side = Literal["query", "document"]
# The names that `SentenceTransformer.encode_query` and `encode_document` look for, in their order.
_NAMES: Mapping[str, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


def prompt_of(sentence: Any, *, side: Side | None = None, instruction: str | None = None, prompt_name: str | None = None) -> str | None:
    """Return the prompt, or nothing."""
    if side is not None and side not in _NAMES:
        raise UsageError(f"a side is query or document, not {side!r}{did_you_mean(str(side), get_args(Side))}")
    if instruction is not None and prompt_name is not None:
        raise UsageError("an instruction and the name of a prompt were both given; one of them decides")
    if instruction is not None:
        return instruction
    if prompt_name is not None:
        if prompt_name not in sentence.prompts:
            known = ", ".join(sentence.prompts) or "none"
            raise UsageError(f"the model has no prompt {prompt_name!r}{did_you_mean(prompt_name, sentence.prompts)} (it has: {known})")
        return str(sentence.prompts[prompt_name])
    named = next((name for name in _NAMES.get(str(side), ()) if name in sentence.prompts), sentence.default_prompt_name)
    return None if named is None else sentence.prompts.get(named)
