"""One row as the model sees it: the processor's own tensors, and beside them which tokens are the document's words and which its pictures.

Nothing here is random. Words are found by characters: the frame of the prompt is known (`template`), the processor says what it put in
the place of each picture, and the tokenizer says which characters each token stands for. A token that covers the document's text and
nothing else but white space beside it is a word; so no list of token ids and no search for words is needed, for any family.

A string inside the document that the tokenizer would read as a special token stays text: a private character holds its place while
the processor works, and is then spelt out. (At inference a user who writes such a string gets the special token; in training data it
would be masked, or counted as a picture.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from twoway.content import KINDS, ContentError, Document, Media, Part, Place, Text, placeholders
from twoway.errors import TwowayError, UsageError
from twoway.images import DEFAULT

from .patches import TileGrid, TileGrids, TokenRow, word_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from twoway.limits import Limits
    from twoway.parts import Size

    from .patches import Ints, PatchGeometry

# What a processor may give besides the model's inputs.
_ASIDE = (
    "attention_mask",
    "offset_mapping",
    "text_replacement_offsets",
    "labels",
    "special_tokens_mask",
    "length",
    "modality",
    "num_images_per_sample",
    "num_videos_per_sample",
    "video_metadata",
)
# No tokenizer needs more characters than this for a token, taken over a whole row; text beyond is not even tokenised.
_CHARACTERS = 32


@dataclass(frozen=True)
class Example:
    """One row, unpadded."""

    identity: str
    inputs: dict[str, Tensor]
    words: Tensor
    image_tokens: Tensor  # those of pictures and of videos
    pictures: Tensor  # for each of them the number of its picture or video in the row
    grids: tuple[TileGrid | None, ...] = ()  # how each picture's tiles lie, where it has several
    units: Tensor | None = None  # for each token the number of its word, where words were asked for
    parts: Tensor | None = None  # for each token the number of the document's part that it stands for, or -1
    cut: bool = False
    images_cut: int = 0
    place: Place | None = None


class _Processed(NamedTuple):
    """What the processor made of a document."""

    row: TokenRow
    inputs: dict[str, Tensor]
    sizes: list[Size]  # of the media


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

        With `as_used` (the bridge's A) a row that is cut is what `encode` makes of it: the template's end is put back behind a cut text,
        and left out where the row has pictures. Fine-tuning lets `encode`'s own preprocessing cut.
        """
        if max_length < 1:
            raise UsageError(f"max_length must be positive, not {max_length}")
        if not getattr(processor.tokenizer, "is_fast", False):
            raise TwowayError(f"{type(processor.tokenizer).__name__} does not say where its tokens stand; a fast tokenizer does")
        self.processor, self.tokenizer, self.geometry = processor, processor.tokenizer, geometry
        self.max_length, self.whole_words, self.as_used, self.limits = max_length, whole_words, as_used, limits
        self.template = Template(processor, template)
        self.marks = ControlStrings(processor)
        self.grids = TileGrids(processor, geometry.side)
        self.takes_text_alone = self._takes_text_alone()

    def __call__(self, identity: str, document: Document, instruction: str = "", side: str = "") -> Example:
        """Encode one row, with an instruction before it; one longer than `max_length` is cut, before a picture rather than inside one.

        `side` is told to a template that writes a query in another way than a document.
        """
        shortened = self.shorten(document)
        done = self._process(shortened, instruction, side)
        cut, lost = shortened is not document, len(document.media) - len(shortened.media)
        while len(done.row) > self.max_length:
            cut = True
            kept, fitting = done.row.cut(self.max_length, keep_end=not (self.as_used and shortened.media))
            if fitting == len(done.row.blocks):
                if not len(kept):
                    raise ContentError(f"max_length {self.max_length} leaves no room beside the template", document.place)
                done = _Processed(done.row.take(kept), _take(done.inputs, kept, len(done.row)), done.sizes)
                break
            lost += len(done.row.blocks) - fitting
            shortened = _before_media(shortened, fitting)
            if not shortened.parts:
                raise self._too_large(done, document)
            done = self._process(shortened, instruction, side)
        example = self._example(identity, done, shortened)
        return replace(example, cut=cut, images_cut=lost, place=document.place)

    def shorten(self, document: Document) -> Document:
        """Leave out text that is behind the longest row anyway; the same document where it has no more."""
        shortened = _shorten(document, _CHARACTERS * self.max_length)
        if not shortened.parts:
            raise ContentError("the text begins with more white space than a row holds", document.place)
        return shortened

    def _too_large(self, done: _Processed, document: Document) -> ContentError:
        """Say what of a row whose first picture alone fills it could be done about."""
        width, height, length = done.sizes[0]
        tokens = int((done.row.pictures() == 0).sum())
        first, way = f"picture alone ({width:,} x {height:,} pixels", "bound pictures with max_pixels"
        if document.media[0].key == "audio":
            first, way = f"sound alone ({length / 1000:.1f} seconds", "cut it into several rows, or raise max_length"
        elif length > 1:
            first = f"{document.media[0].key} alone ({length} frames of {width:,} x {height:,} pixels"
            way = "take fewer or smaller frames with limits.num_frames and limits.max_frame_pixels"
        return ContentError(
            f"the first {first}, {tokens:,} tokens) is more than max_length {self.max_length:,} has room for; {way}", document.place
        )

    def _example(self, identity: str, done: _Processed, document: Document) -> Example:
        row, inputs = done.row, done.inputs
        images = self.geometry.is_patch(inputs["input_ids"])
        words = torch.from_numpy(word_tokens(row) & ~np.isin(row.ids, self.marks.ids)) & ~images
        units = None if row.units is None else torch.from_numpy(row.units)
        pictures = torch.from_numpy(row.pictures())[images]
        grids: tuple[TileGrid | None, ...] = ()
        if self.geometry.tiled and bool((torch.bincount(pictures) > self.geometry.side**2).any()):
            grids = tuple(self.grids(size[:2]) if size[2] == 1 else None for size in done.sizes)
        parts = torch.from_numpy(row.part_numbers([isinstance(part, Text) for part in document.parts]))
        return Example(identity, inputs, words, images, pictures, grids, units, parts)

    def _process(self, document: Document, instruction: str, side: str) -> _Processed:
        """Run the processor over one document."""
        texts = self.marks.hide(document.texts)
        frames = self.template.frames(document, instruction, side)
        prompt, _ = frames.prompt.fill(texts.shown)
        self.template.check(document, texts.shown, prompt, instruction, side)
        laid, spans = frames.laid.fill(texts.shown)
        media = [(part, part.opened(document.place, self.limits).fitted(self.processor, document.place)) for part in document.media]
        out = self._call(prompt, _by_kind([(type(part), opened.value) for part, opened in media]), document)
        replaced = (out.get("text_replacement_offsets") or [[]])[0]
        if len(replaced) != len(media) or any(laid[slice(*one["span"])] != one["text"] for one in replaced):
            raise TwowayError(f"{type(self.processor).__name__} does not say where it puts the pictures of a row")
        row = TokenRow.build(out["input_ids"][0], out["offset_mapping"][0], laid, spans, replaced)
        if self.whole_words:
            encoding = self.tokenizer.backend_tokenizer.encode(row.text, add_special_tokens=self._adds_specials(prompt, bool(media)))
            row = replace(row, units=np.array([-1 if word is None else word for word in encoding.word_ids], np.int64))
            if encoding.ids != row.ids.tolist():
                raise TwowayError(f"{type(self.processor).__name__} changes the text behind its own tokenizer; whole words cannot be found")
        inputs = self.row_tensors(out, len(row))
        if texts.hidden:
            sources, ids = self.marks.spell(row, texts, self.tokenizer, document.place)
            inputs = {**_take(inputs, sources, len(row)), "input_ids": torch.from_numpy(ids)}
            row = replace(row.take(sources), ids=ids)
        return _Processed(row, inputs, [opened.size(document.place, self.limits) for _, opened in media])

    def _call(self, prompt: str, media: dict[type[Media], list[Any]], document: Document) -> Any:
        """Call the processor, or its tokenizer alone where it takes no text without pictures."""
        settings = {
            "return_offsets_mapping": True,
            "add_special_tokens": self._adds_specials(prompt, bool(media)),
            "padding": False,
            "truncation": False,
            "verbose": False,  # a long row is cut here and counted; the tokenizer need not warn of it
        }
        if not media and not self.takes_text_alone:
            return self.tokenizer([prompt], **settings)
        try:
            return self.processor(
                text=[prompt],
                **_arguments(media),
                return_text_replacement_offsets=True,
                text_kwargs=settings,
                **{f"{kind.argument}_kwargs": {"return_tensors": "pt", **kind.settings(values)} for kind, values in media.items()},
            )
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            raise ContentError(f"{type(self.processor).__name__} refuses the row: {reason}", document.place) from error

    def _adds_specials(self, prompt: str, media: bool) -> bool:
        """Follow `apply_chat_template`: a prompt that begins with the first special token gets no other; a tokenizer alone adds none."""
        first = self.tokenizer.bos_token
        return (media or self.takes_text_alone) and not (first and prompt.startswith(first))

    def row_tensors(self, out: Any, length: int) -> dict[str, Tensor]:
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
    parts: list[Part] = []
    for part in document.parts:
        if isinstance(part, Text):
            if len(part.text) > characters and not part.text[:characters].strip():
                break  # what would be left of it is white space alone
            part = Text(part.text[:characters])
            characters -= len(part.text)
        parts.append(part)
    return Document(tuple(parts), document.place, document.meta)


def _before_media(document: Document, number: int) -> Document:
    """Return the parts before the part `number`, counted from 0, that is no text."""
    places = [place for place, part in enumerate(document.parts) if isinstance(part, Media)]
    return Document(document.parts[: places[number]], document.place, document.meta)


def _by_kind(values: Sequence[tuple[type[Media], Any]]) -> dict[type[Media], list[Any]]:
    """Return values, in their order, by their kind."""
    found: dict[type[Media], list[Any]] = {}
    for kind, value in values:
        found.setdefault(kind, []).append(value)
    return found


def _arguments(media: dict[type[Media], list[Any]]) -> dict[str, list[Any]]:
    """Return one row's values by the arguments of a processor that take their kinds."""
    found: dict[str, list[Any]] = {}
    for kind, values in media.items():
        given = found.setdefault(kind.argument, [] if kind.is_flat else [[]])
        (given if kind.is_flat else given[0]).extend(kind.plain(value) for value in values)
    return found


# Strings in a document that the tokenizer would read as special tokens: hidden while the processor works, then spelt
# out as text.
#
# A processor counts placeholders in the prompt and a tokenizer knows special tokens wherever they stand, so a
# document about prompts would grow pictures and turns of its own. transformers can mark such strings
# (`sanitize_control_tokens`), but then gives no offsets, and some processors count the marked placeholders all the
# same; so one private character stands for each of them.

_PRIVATE = range(0xE002, 0xF8FF)


@dataclass(frozen=True)
class HiddenTexts:
    """Texts as the processor gets them; `mark` stands for each of the `hidden` strings, in order."""

    shown: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    mark: str = ""


class ControlStrings:
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

    def hide(self, texts: Sequence[str]) -> HiddenTexts:
        """Put a private character, one that the texts do not hold, in the place of each control string."""
        if not any(map(self._pattern.search, texts)):
            return HiddenTexts(tuple(texts))
        present = set("".join(texts))
        mark = next(char for char in map(chr, _PRIVATE) if char not in present)
        found = tuple(match for text in texts for match in self._pattern.findall(text))
        return HiddenTexts(tuple(self._pattern.sub(mark, text) for text in texts), found, mark)

    def spell(self, row: TokenRow, texts: HiddenTexts, tokenizer: Any, place: Place | None) -> tuple[Ints, Ints]:
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


# Where a document's texts stand in the prompt that a model reads.
#
# The chat template is rendered once for each order of texts and pictures, with sentinels in the place of the texts,
# so what lies between the sentinels is the template's and nothing of it is ever taken for the document's, whatever
# words the document holds. A row is then assembled from these pieces. What a template does to a text (a trim) and
# what a processor does to the prompt (a mark behind the last picture) show in the same rendering.

Style = Literal["chat", "plain"]
# White space of a kind that templates do not write, so that a trim shows.
_EDGE, _OPEN, _CLOSE = "\u2003", "\ue000", "\ue001"
_SLOT = re.compile(f"({_EDGE}?){_OPEN}(\\d+){_CLOSE}({_EDGE}?)")


@dataclass(frozen=True)
class Slot:
    """The place of text number `index`; `left` and `right` say whether its edges are trimmed."""

    index: int
    left: bool
    right: bool

    def fill(self, text: str) -> str:
        """Return the text as the template writes it."""
        text = text.lstrip() if self.left else text
        return text.rstrip() if self.right else text


@dataclass(frozen=True)
class Frame:
    """What the template writes around the texts: `len(slots) + 1` literals, in the order of the prompt."""

    literals: tuple[str, ...]
    slots: tuple[Slot, ...]

    @classmethod
    def parse(cls, rendered: str, texts: int) -> Frame | None:
        """Cut a rendering with sentinels into pieces; `None` where a text is missing or repeated."""
        pieces = _SLOT.split(rendered)
        slots = tuple(
            Slot(int(index), not before, not after) for before, index, after in zip(pieces[1::4], pieces[2::4], pieces[3::4], strict=True)
        )
        if sorted(slot.index for slot in slots) != list(range(texts)):
            return None
        return cls(tuple(pieces[0::4]), slots)

    def fill(self, texts: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
        """Return the prompt and the characters (start, end) that each slot's text fills."""
        parts, spans, at = [self.literals[0]], [], len(self.literals[0])
        for slot, literal in zip(self.slots, self.literals[1:], strict=True):
            text = slot.fill(texts[slot.index])
            spans.append((at, at + len(text)))
            parts += [text, literal]
            at += len(text) + len(literal)
        return "".join(parts), spans


@dataclass(frozen=True)
class Frames:
    """The pieces of a prompt before and after the processor lays it out (most leave it as it is)."""

    prompt: Frame
    laid: Frame


class Template:
    """The frames of one processor, rendered as they are needed."""

    def __init__(self, processor: Any, style: Style = "chat") -> None:
        """Take the processor's own chat template, or with `plain` the contents alone, one behind the other."""
        self.processor, self.style = processor, style
        self._frames: dict[tuple[str, str, tuple[str, ...]], Frames] = {}
        if style not in ("chat", "plain"):
            raise TwowayError(f"the template is chat or plain, not {style!r}")
        has = bool(getattr(processor, "chat_template", None))
        if style == "chat" and not has:
            raise TwowayError("the processor has no chat template; give it one, or use template: plain")
        self._placeholders = placeholders(processor) if style == "plain" else {}

    def frames(self, document: Document, instruction: str = "", side: str = "") -> Frames:
        """Return the pieces for a document's order of parts.

        An `instruction` is what sentence-transformers makes of a prompt, a system message; where it stands is the chat template's business.
        `side` is for a template that writes a query in another way than a document.
        """
        shape = tuple(part.key for part in document.parts)
        key = instruction, side, shape
        if key not in self._frames:
            if len(self._frames) > 4096:  # data with many orders must not fill the memory
                self._frames.clear()
            self._frames[key] = self._make(shape, instruction, side)
        return self._frames[key]

    def check(self, document: Document, texts: Sequence[str], prompt: str, instruction: str = "", side: str = "") -> None:
        """Refuse a row whose texts the template itself changes in a way that the frame does not know."""
        if self.style == "chat":
            kinds = iter(texts)
            content = [{"type": part.modality} | ({"text": next(kinds)} if isinstance(part, Text) else {}) for part in document.parts]
            if self._render(content, instruction, side) != prompt:
                raise ContentError("the chat template rewrites this row's text; use template: plain", document.place)

    def _make(self, shape: tuple[str, ...], instruction: str, side: str) -> Frames:
        content: list[dict[str, str]] = []
        texts, media = 0, []
        for kind in (KINDS[key] for key in shape):
            if issubclass(kind, Media):
                content.append({"type": kind.modality})
                media.append((kind, kind.sample((32, 32, 2)).value))
            else:
                content.append({"type": "text", "text": f"{_EDGE}{_OPEN}{texts}{_CLOSE}{_EDGE}"})
                texts += 1
        rendered = self._render(content, instruction, side)
        frames = [Frame.parse(rendered, texts), Frame.parse(self._lay_out(rendered, _by_kind(media)), texts)]
        if frames[0] is None or frames[1] is None:
            raise TwowayError(f"the chat template does not write every text once (order {', '.join(shape)}); use template: plain")
        return Frames(frames[0], frames[1])

    def _render(self, content: list[dict[str, str]], instruction: str, side: str) -> str:
        if self.style == "plain":
            return instruction + "".join(part["text"] if "text" in part else self._placeholders[part["type"]] for part in content)
        messages = [{"role": "user", "content": content}]
        if instruction:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": instruction}]})
        return str(self.processor.apply_chat_template(messages, tokenize=False, **({"task": side} if side else {})))

    def _lay_out(self, rendered: str, media: dict[type[Media], list[Any]]) -> str:
        """Return the prompt as the processor hands it on before it expands the placeholders."""
        if not media:
            return rendered
        laid = self.processor.prepare_inputs_layout(text=[rendered], **_arguments(media))[1]
        return str(laid[0])
