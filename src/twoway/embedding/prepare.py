"""The model's inputs made in threads: each has the processor to itself, because a tokenizer changes its own settings while it works.

A batch with a bad row is made without it. Where the processor refuses a batch without saying which row it means, its rows are tried alone.
"""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from ..content import ContentError
from ..errors import is_panic

if TYPE_CHECKING:
    from .batches import Item
    from .inputs import Inputs


class Prepared(NamedTuple):
    """One batch, ready for the model, and the rows that turned out bad; without features the rows do not go into one batch."""

    items: list[Item]
    features: dict[str, Any]
    failed: list[tuple[Item, ContentError]]


class Front:
    """What stands before the model."""

    def __init__(self, sentence: Any, inputs: Inputs) -> None:
        self._sentence, self._inputs = sentence, inputs
        self._own = threading.local()
        self._lock = threading.Lock()

    def prepare(self, items: list[Item], prompt: str | None, kwargs: dict[str, Any]) -> Prepared:
        """Decode, resize and tokenize one batch."""
        good, shaped, failed = [], [], []
        for item in items:
            try:
                shaped.append(self._inputs(item.document))
                good.append(item)
            except ContentError as error:
                failed.append((item, error))
        if not good:
            return Prepared([], {}, failed)
        try:
            return Prepared(good, self._copy().preprocess(shaped, prompt=prompt, **kwargs), failed)
        except BaseException as error:
            if not (isinstance(error, ValueError | TypeError | RuntimeError | IndexError | KeyError) or is_panic(error)):
                raise
            if len(good) == 1:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                return Prepared([], {}, [*failed, (good[0], ContentError(f"the model's processor refuses it: {reason}", _place(good[0])))])
        kept = []
        for item in good:
            alone = self.prepare([item], prompt, kwargs)
            kept += alone.items
            failed += alone.failed
        if len(kept) == len(good):
            return Prepared(good, {}, failed)  # each is fine alone and together they are not: no row is to blame
        again = self.prepare(kept, prompt, kwargs)
        return Prepared(again.items, again.features, failed + again.failed)

    def _copy(self) -> Any:
        """Return this thread's own front of the model; the weights are shared."""
        if not hasattr(self._own, "sentence"):
            with self._lock:
                self._own.sentence = _front_of(self._sentence)
        return self._own.sentence


def _front_of(sentence: Any) -> Any:
    """Copy a model as far as its inputs go."""
    first = copy.copy(sentence[0])
    for name in ("processor", "tokenizer"):
        if name in vars(first):
            setattr(first, name, copy.deepcopy(vars(first)[name]))
    if hasattr(first, "input_formatter"):
        first.input_formatter = copy.copy(first.input_formatter)
        first.input_formatter.processor = first.processor
    front = copy.copy(sentence)
    front._modules = {**sentence._modules, next(iter(sentence._modules)): first}
    return front


def _place(item: Item) -> Any:
    return item.document.place
