"""Strings in a document that the tokenizer would read as special tokens: hidden while the processor works, then spelt out as text.

A processor counts placeholders in the prompt and a tokenizer knows special tokens wherever they stand, so a document about prompts would
grow pictures and turns of its own. transformers can mark such strings (`sanitize_control_tokens`), but then gives no offsets, and some
processors count the marked placeholders all the same; so one private character stands for each of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..content import ContentError, Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .spans import Ints, Row

_PRIVATE = range(0xE002, 0xF8FF)


@dataclass(frozen=True)
class Hidden:
    """Texts as the processor gets them; `mark` stands for each of the `hidden` strings, in order."""

    shown: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    mark: str = ""


class Marks:
    """The control strings of one processor."""

    def __init__(self, processor: Any) -> None:
        """Collect the special tokens, and the placeholders and wrappers that the processor itself names."""
        tokenizer = processor.tokenizer
        named = {str(value) for value in vars(processor).values() if isinstance(value, str)}
        added = {index: token for index, token in tokenizer.added_tokens_decoder.items() if not token.content.isspace()}
        control = {index: token.content for index, token in added.items() if token.special or token.content in named}
        self.ids: Ints = np.array(sorted({*control, *tokenizer.all_special_ids}), np.int64)
        # A character that the tokenizer does not know is unknown inside a control string as it is elsewhere.
        self._forbidden = self.ids[self.ids != (-1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id)]
        strings = sorted(control.values(), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, strings)) or r"(?!)")

    def hide(self, texts: Sequence[str]) -> Hidden:
        """Put a private character, one that the texts do not hold, in the place of each control string."""
        if not any(map(self._pattern.search, texts)):
            return Hidden(tuple(texts))
        present = set("".join(texts))
        mark = next(char for char in map(chr, _PRIVATE) if char not in present)
        found = tuple(match for text in texts for match in self._pattern.findall(text))
        return Hidden(tuple(self._pattern.sub(mark, text) for text in texts), found, mark)

    def spell(self, row: Row, texts: Hidden, tokenizer: Any, place: Place | None) -> tuple[Ints, Ints]:
        """Return, for the row with its control strings spelt out, which old token each token comes from, and the new ids."""
        ranges = [row.covering((match.start(), match.end())) for match in re.finditer(texts.mark, row.text)]
        sources: list[Ints] = []
        ids: list[Ints] = []
        done = 0
        hidden = iter(texts.hidden)
        for first, behind in _merge(ranges):
            region = row.text[row.offsets[first, 0] : row.offsets[behind - 1, 1]] if behind > first else ""
            spelt = re.sub(texts.mark, lambda _: next(hidden), region)
            new = np.array(tokenizer.encode(spelt, add_special_tokens=False, split_special_tokens=True), np.int64)
            if texts.mark not in region or np.isin(new, self._forbidden).any():
                raise ContentError(f"the text holds {texts.hidden[0]!r}, which this tokenizer cannot spell as plain text", place)
            sources += [np.arange(done, first), np.full(len(new), first)]
            ids += [row.ids[done:first], new]
            done = behind
        sources.append(np.arange(done, len(row)))
        ids.append(row.ids[done:])
        return np.concatenate(sources), np.concatenate(ids)


def ordinary_ids(processor: Any) -> Ints:
    """Return the ids of plain text: no added token, so none that is special; a random word is drawn from these."""
    tokenizer = processor.tokenizer
    apart = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return np.array(sorted(set(tokenizer.get_vocab().values()) - apart), np.int64)


def _merge(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges of tokens that overlap."""
    merged: list[tuple[int, int]] = []
    for first, behind in ranges:
        if merged and first < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(behind, merged[-1][1]))
        else:
            merged.append((first, behind))
    return merged
