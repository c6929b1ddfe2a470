"""One row as the model sees it: the processor's own tensors, and beside them which tokens are the document's words and which its pictures.

Nothing here is random. Words are found by characters: the frame of the prompt is known (`template`), the processor says what it put in
the place of each picture, and the tokenizer says which characters each token stands for. A token that covers the document's text and
nothing else but white space beside it is a word; so no list of token ids and no search for words is needed, for any family.

A string inside the document that the tokenizer would read as a special token stays text: a private character holds its place while
the processor works, and is then spelt out. (At inference a user who writes such a string gets the special token; in training data it
would be masked, or counted as a picture.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ..content import ContentError, Document, Image, Place, Text
from ..errors import TwowayError, UsageError
from ..images import DEFAULT, Limits, open_image
from .marks import Marks
from .spans import Row, word_tokens
from .template import Style, Template
from .views import Grid, Grids

if TYPE_CHECKING:
    from PIL import Image as PILImage
    from torch import Tensor

    from .patches import PatchGeometry

# What a processor may give besides the model's inputs.
_ASIDE = ("attention_mask", "offset_mapping", "text_replacement_offsets", "labels", "special_tokens_mask", "length")
# No tokenizer needs more characters than this for a token, taken over a whole row; text beyond is not even tokenised.
_CHARACTERS = 32


@dataclass(frozen=True)
class Example:
    """One row, unpadded."""

    identity: str
    inputs: dict[str, Tensor]
    words: Tensor
    image_tokens: Tensor
    pictures: Tensor  # for each image token the number of its picture in the row
    grids: tuple[Grid | None, ...] = ()  # how each picture's tiles lie, where it has several
    units: Tensor | None = None  # for each token the number of its word, where words were asked for
    cut: bool = False
    images_cut: int = 0
    place: Place | None = None


class _Processed(NamedTuple):
    """What the processor made of a document."""

    row: Row
    inputs: dict[str, Tensor]
    sizes: list[tuple[int, int]]  # of the pictures


class Encoder:
    """Turns documents into examples; can be pickled and sent to workers."""

    def __init__(
        self,
        processor: Any,
        geometry: PatchGeometry,
        *,
        max_length: int,
        template: Style = "chat",
        whole_words: bool = False,
        as_used: bool = False,
        limits: Limits = DEFAULT,
    ) -> None:
        """Read what is needed of the processor; `whole_words` also finds which tokens make a word.

        With `as_used` a row that is cut is what sentence-transformers makes of it: it writes the template's end back behind a cut text,
        and leaves it out where the row has pictures.
        """
        if max_length < 1:
            raise UsageError(f"max_length must be positive, not {max_length}")
        if not getattr(processor.tokenizer, "is_fast", False):
            raise TwowayError(f"{type(processor.tokenizer).__name__} does not say where its tokens stand; a fast tokenizer does")
        self.processor, self.tokenizer, self.geometry = processor, processor.tokenizer, geometry
        self.max_length, self.whole_words, self.as_used, self.limits = max_length, whole_words, as_used, limits
        self.template = Template(processor, template)
        self.marks = Marks(processor)
        self.grids = Grids(processor, geometry.side)
        self.takes_text_alone = self._takes_text_alone()

    def __call__(self, identity: str, document: Document, instruction: str = "") -> Example:
        """Encode one row, with an instruction before it; one longer than `max_length` is cut, before a picture rather than inside one."""
        shortened = _shorten(document, _CHARACTERS * self.max_length)
        if not shortened.parts:
            raise ContentError("the text begins with more white space than a row holds", document.place)
        done = self._process(shortened, instruction)
        cut, lost = shortened is not document, len(document.images) - len(shortened.images)
        while len(done.row) > self.max_length:
            cut = True
            kept, fitting = done.row.cut(self.max_length, keep_end=not (self.as_used and shortened.images))
            if fitting == len(done.row.blocks):
                if not len(kept):
                    raise ContentError(f"max_length {self.max_length} leaves no room beside the template", document.place)
                done = _Processed(done.row.take(kept), _take(done.inputs, kept, len(done.row)), done.sizes)
                break
            lost += len(done.row.blocks) - fitting
            shortened = _before_image(shortened, fitting)
            if not shortened.parts:
                raise self._too_large(done, document)
            done = self._process(shortened, instruction)
        example = self._example(identity, done)
        return replace(example, cut=cut, images_cut=lost, place=document.place)

    def _too_large(self, done: _Processed, document: Document) -> ContentError:
        """Say what of a row whose first picture alone fills it could be done about."""
        width, height = done.sizes[0]
        tokens = int((done.row.pictures() == 0).sum())
        return ContentError(
            f"the first picture alone ({width:,} x {height:,} pixels, {tokens:,} tokens) is more than max_length {self.max_length:,} has "
            "room for; bound pictures with max_pixels",
            document.place,
        )

    def _example(self, identity: str, done: _Processed) -> Example:
        row, inputs = done.row, done.inputs
        images = inputs["input_ids"] == self.geometry.image_token
        words = torch.from_numpy(word_tokens(row) & ~np.isin(row.ids, self.marks.ids)) & ~images
        units = None if row.units is None else torch.from_numpy(row.units)
        pictures = torch.from_numpy(row.pictures())[images]
        grids: tuple[Grid | None, ...] = ()
        if self.geometry.tiled and bool((torch.bincount(pictures) > self.geometry.side**2).any()):
            grids = tuple(self.grids(size) for size in done.sizes)
        return Example(identity, inputs, words, images, pictures, grids, units)

    def _process(self, document: Document, instruction: str = "") -> _Processed:
        """Run the processor over one document."""
        texts = self.marks.hide(document.texts)
        frames = self.template.frames(document, instruction)
        prompt, _ = frames.prompt.fill(texts.shown)
        self.template.check(document, texts.shown, prompt, instruction)
        laid, spans = frames.laid.fill(texts.shown)
        pictures = [open_image(part, place=document.place, limits=self.limits) for part in document.images]
        out = self._call(prompt, pictures, document)
        replaced = (out.get("text_replacement_offsets") or [[]])[0]
        if len(replaced) != len(pictures) or any(laid[slice(*one["span"])] != one["text"] for one in replaced):
            raise TwowayError(f"{type(self.processor).__name__} does not say where it puts the pictures of a row")
        row = Row.build(out["input_ids"][0], out["offset_mapping"][0], laid, spans, replaced)
        if self.whole_words:
            encoding = self.tokenizer.backend_tokenizer.encode(row.text, add_special_tokens=self._adds_specials(prompt, bool(pictures)))
            row = replace(row, units=np.array([-1 if word is None else word for word in encoding.word_ids], np.int64))
            if encoding.ids != row.ids.tolist():
                raise TwowayError(f"{type(self.processor).__name__} changes the text behind its own tokenizer; whole words cannot be found")
        inputs = self._tensors(out, len(row))
        if texts.hidden:
            sources, ids = self.marks.spell(row, texts, self.tokenizer, document.place)
            inputs = {**_take(inputs, sources, len(row)), "input_ids": torch.from_numpy(ids)}
            row = replace(row.take(sources), ids=ids)
        return _Processed(row, inputs, [picture.size for picture in pictures])

    def _call(self, prompt: str, pictures: list[PILImage.Image], document: Document) -> Any:
        """Call the processor, or its tokenizer alone where it takes no text without pictures."""
        settings = {
            "return_offsets_mapping": True,
            "add_special_tokens": self._adds_specials(prompt, bool(pictures)),
            "padding": False,
            "truncation": False,
            "verbose": False,  # a long row is cut here and counted; the tokenizer need not warn of it
        }
        if not pictures and not self.takes_text_alone:
            return self.tokenizer([prompt], **settings)
        try:
            return self.processor(
                text=[prompt],
                images=[pictures] if pictures else None,
                return_text_replacement_offsets=True,
                text_kwargs=settings,
                images_kwargs={"return_tensors": "pt"},
            )
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            raise ContentError(f"{type(self.processor).__name__} refuses the row: {reason}", document.place) from error

    def _adds_specials(self, prompt: str, pictures: bool) -> bool:
        """Follow `apply_chat_template`: a prompt that begins with the first special token gets no other; a tokenizer alone adds none."""
        first = self.tokenizer.bos_token
        return (pictures or self.takes_text_alone) and not (first and prompt.startswith(first))

    def _tensors(self, out: Any, length: int) -> dict[str, Tensor]:
        """Return what the model takes; a row without pictures says of each token that it is no picture's, as rows with pictures do."""
        inputs = {}
        for name, value in out.items():
            if name not in _ASIDE:
                tensor = torch.as_tensor(np.asarray(value)) if not isinstance(value, torch.Tensor) else value
                # By name and not by shape alone: a picture's grid is (1, 3), which a row of three tokens is too.
                per_token = name in ("input_ids", *self.geometry.token_keys) and tensor.shape == (1, length)
                inputs[name] = tensor[0] if per_token else tensor
        for name in self.geometry.token_keys:
            inputs.setdefault(name, torch.zeros(length, dtype=torch.long))
        return inputs

    def _takes_text_alone(self) -> bool:
        try:
            self.processor(text=["a"])
        except ValueError:
            return False
        return True


def _take(inputs: dict[str, Tensor], index: Any, length: int) -> dict[str, Tensor]:
    """Take these tokens of every tensor that has one entry for each token."""
    chosen = torch.from_numpy(index)
    return {name: value[chosen] if value.shape == (length,) else value for name, value in inputs.items()}


def _shorten(document: Document, characters: int) -> Document:
    """Return the document with no more text than this; the same document where it has no more."""
    if sum(map(len, document.texts)) <= characters:
        return document
    parts: list[Text | Image] = []
    for part in document.parts:
        if isinstance(part, Text):
            if len(part.text) > characters and not part.text[:characters].strip():
                break  # what would be left of it is white space alone
            part = Text(part.text[:characters])
            characters -= len(part.text)
        parts.append(part)
    return Document(tuple(parts), document.place, document.meta)


def _before_image(document: Document, number: int) -> Document:
    """Return the parts before picture `number`, counted from 0."""
    places = [place for place, part in enumerate(document.parts) if isinstance(part, Image)]
    return Document(document.parts[: places[number]], document.place, document.meta)
