"""Which part of a row is A, what EOS has to carry, and which is B, the words that are restored from it (CoCoA, arXiv 2603.01471).

- A pair: A is the query and B its positive. B is words, so where the positive has a picture and the query has none, they change places.
- A document of several parts: B is its last text and A everything else, in its order: a picture and its caption, a page and its words, a
  question with a picture and the answer.
- A document of one text: the text is cut in two at the white space next to `cut` of its characters (0: such a row is bad).

The paper trains on captioned pictures and on pairs. The last rule is ours, so that plain text serves too.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from twoway.content import ContentError, Document, Pair, Text
from twoway.data.collators import collate
from twoway.data.masking import MaskedRow, mask_inputs
from twoway.data.mixture import Mixture, open_source_table, require_names
from twoway.data.processing import Encoder, Example
from twoway.data.rows import Policy
from twoway.data.sources.formats import PAIR_FORMATS, ToDocument, ToEither, ToPair, document_format, pair_format
from twoway.errors import TwowayError, UsageError
from twoway.images import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from twoway.content import DocumentOrPair
    from twoway.data.config import MaskingConfig, SourceConfig
    from twoway.data.patches import Ints, PatchGeometry
    from twoway.data.processing import Style
    from twoway.data.sources.formats import Converter
    from twoway.limits import Limits


@dataclass(frozen=True)
class BridgeSides:
    """A row, cut in two."""

    a: Document
    b: str

    @property
    def modality(self) -> str:
        """What A is made of: image, text or both."""
        kinds = {part.modality for part in self.a.parts}
        return "both" if len(kinds) > 1 else kinds.pop()

    @property
    def joined(self) -> Document:
        """The document that is cut into the same two."""
        return Document((*self.a.parts, Text(self.b)), self.a.place)


def cut_in_two(document: DocumentOrPair, cut: float = 0.5) -> BridgeSides:
    """Cut a row in two, or say why it cannot be."""
    if isinstance(document, Pair):
        return _of_pair(document)
    texts = [place for place, part in enumerate(document.parts) if isinstance(part, Text) and not part.blank]
    if not texts:
        raise ContentError("B is empty: the row has no text that could be restored", document.place)
    if len(document.parts) == 1:
        return _of_text(document, cut)
    last = document.parts[texts[-1]]
    rest = (*document.parts[: texts[-1]], *document.parts[texts[-1] + 1 :])
    return _checked(Document(rest, document.place), last.text if isinstance(last, Text) else "")


def _of_pair(pair: Pair) -> BridgeSides:
    a, b = pair.query, pair.positive
    if b.media and not a.media:
        a, b = b, a
    if b.media:
        raise ContentError("both sides have pictures, and B is words; leave such pairs out (--on-bad skip)", pair.place)
    return _checked(Document(a.parts, pair.place), "\n".join(b.texts))


def _of_text(document: Document, cut: float) -> BridgeSides:
    """Cut a text in two where white space is; a text without any is cut between characters."""
    text = document.texts[0].strip()
    if not cut:
        raise ContentError("A is empty: the row is one text, and text_cut is 0", document.place)
    wished = cut * len(text)
    gaps = [(found.start(), found.end()) for found in re.finditer(r"\s+", text)]
    end, start = min(gaps, key=lambda gap: abs(gap[0] - wished)) if gaps else (round(wished), round(wished))
    if not 0 < end <= start < len(text):
        raise ContentError("A is empty: the row is one text, too short to be cut in two", document.place)
    return _checked(Document((Text(text[:end]),), document.place), text[start:])


def _checked(a: Document, b: str) -> BridgeSides:
    if all(part.blank for part in a.parts):
        raise ContentError("A is empty: nothing stands beside the words that are restored", a.place)
    if not b.strip():
        raise ContentError("B is empty: no words to restore", a.place)
    return BridgeSides(a, b)


# A row as `A [EOS] B` (CoCoA, arXiv 2603.01471): A as a model reads it when it embeds, then one EOS, then the words
# of B, masked in part.
#
# Where EOS stands is known because the row is built here, and goes along as a number. A is written as everywhere,
# chat template and all; B is words alone, as the tokenizer cuts them; so EOS ids inside a template, A or B are tokens
# like any other. Where a base already appends EOS to what it reads, that EOS is the one.
#
# What is masked in B is drawn as for pre-training (`mask_inputs`): a pure function of seed, epoch and the row's identity.
# A loses nothing.
#
# Deviation: the paper does not say what becomes of a long target. Here B is cut at `max_target` tokens, which is
# counted, and A gets what is left of `max_length`.


@dataclass(frozen=True)
class BridgeExample(Example):
    """One row; `words` are those of B, and `eos` is the place of the token between."""

    eos: int = 0
    target_cut: bool = False


@dataclass(frozen=True)
class BridgeRow(MaskedRow):
    """One row with masks."""

    eos: int = 0


class BridgeEncoder:
    """Turns documents and pairs into examples; can be pickled and sent to workers."""

    def __init__(
        self,
        processor: Any,
        geometry: PatchGeometry,
        *,
        max_length: int,
        max_target: int = 256,
        template: Style = "chat",
        whole_words: bool = False,
        text_cut: float = 0.5,
    ) -> None:
        """Read what is needed of the processor; `text_cut` is where a row of one text is cut in two."""
        self.processor, self.max_length, self.max_target, self.text_cut = processor, max_length, max_target, text_cut
        self.eos = eos_of(processor.tokenizer)
        if max_target > max_length - 2:
            raise UsageError(f"max_target {max_target} leaves no room for A and EOS in rows of max_length {max_length} tokens")
        self.source = Encoder(processor, geometry, max_length=max_length, template=template, as_used=True)
        self.target = Encoder(processor, geometry, max_length=max_target + _BESIDE, template="plain", whole_words=whole_words)
        self.appends = appends_eos(processor.tokenizer)

    def __call__(self, identity: str, document: DocumentOrPair) -> BridgeExample:
        """Encode one row."""
        found = cut_in_two(document, self.text_cut)
        target = self.target(identity, Document((Text(found.b),), document.place))
        words = target.words.nonzero()[:, 0]
        if not len(words):
            raise ContentError("B is empty: the tokenizer makes nothing of its text", document.place)
        kept = words[: self.max_target]
        source = self.alone(identity, found.a, length=self.max_length - len(kept))
        units = None if target.units is None else torch.cat([torch.full((source.eos + 1,), -1), target.units[kept]])
        return _joined(source, target.inputs["input_ids"][kept], units, target_cut=target.cut or len(kept) < len(words))

    def alone(self, identity: str, document: Document, *, length: int | None = None) -> BridgeExample:
        """Encode A with its EOS, as it is embedded: nothing follows."""
        encode = copy.copy(self.source)
        ends = self.appends and (bool(document.media) or encode.takes_text_alone)
        encode.max_length = (length or self.max_length) - (not ends)
        example = encode(identity, document)
        place = len(example.words) - ends
        if not ends:
            example = _longer(example, torch.tensor([self.eos]))
        elif int(example.inputs["input_ids"][-1]) != self.eos:
            raise TwowayError(f"{type(self.processor).__name__} takes the EOS token off again, so it cannot be the bridge")
        return BridgeExample(**vars(example) | {"words": torch.zeros_like(example.words)}, eos=place)


# Tokens that a tokenizer may put around a text.
_BESIDE = 8


def eos_of(tokenizer: Any) -> int:
    """Return the id of EOS, or say that there is none."""
    if tokenizer.eos_token_id is None:
        raise TwowayError("this tokenizer has no EOS token, which is the bridge; set eos_token in tokenizer_config.json")
    return int(tokenizer.eos_token_id)


def appends_eos(tokenizer: Any) -> bool:
    """Tell whether a tokenizer ends every row in EOS by itself, as the models that come out of this stage do."""
    bare, whole = (tokenizer("a", add_special_tokens=adds)["input_ids"] for adds in (False, True))
    return len(whole) > len(bare) and whole[-1] == tokenizer.eos_token_id and bare[-1:] != whole[-1:]


def mask_target(
    example: BridgeExample,
    *,
    epoch: int,
    config: MaskingConfig,
    seed: int,
    mask_token: int,
    geometry: PatchGeometry,
    ordinary: Ints | None = None,
) -> BridgeRow:
    """Mask words of B."""
    row = mask_inputs(example, config, seed=seed, epoch=epoch, mask_token=mask_token, geometry=geometry, ordinary=ordinary)
    counts = row.counts | {"targets_cut": int(example.target_cut), "sources_cut": int(example.cut)}
    return BridgeRow(**vars(row) | {"counts": counts}, eos=example.eos)


def collate_bridge(rows: Sequence[BridgeRow], *, pad_token: int, padding_side: Literal["left", "right"] = "right") -> dict[str, Any]:
    """Return a batch as `collate` does, with `eos`, the place of each row's EOS, counted with the padding."""
    batch = collate(rows, pad_token=pad_token, padding_side=padding_side)
    longest = batch["labels"].shape[1]
    shifts = [longest - len(row.labels) if padding_side == "left" else 0 for row in rows]
    batch["eos"] = torch.tensor([row.eos + shift for row, shift in zip(rows, shifts, strict=True)])
    return batch


def _joined(source: BridgeExample, target: Tensor, units: Tensor | None, *, target_cut: bool) -> BridgeExample:
    """Put B behind EOS."""
    longer = _longer(source, target)
    words = torch.cat([torch.zeros_like(source.words), torch.ones(len(target), dtype=torch.bool)])
    return BridgeExample(**vars(longer) | {"words": words, "units": units, "eos": source.eos, "target_cut": target_cut})


def _longer(example: Example, ids: Tensor) -> Example:
    """Put tokens of text behind a row."""
    length, added = len(example.words), torch.zeros(len(ids), dtype=torch.bool)

    def grow(name: str, value: Tensor) -> Tensor:
        if value.shape != (length,):
            return value
        return torch.cat([value, ids if name == "input_ids" else torch.zeros(len(ids), dtype=value.dtype)])

    inputs = {name: grow(name, value) for name, value in example.inputs.items()}
    changed = {"inputs": inputs, "words": torch.cat([example.words, added]), "image_tokens": torch.cat([example.image_tokens, added])}
    return type(example)(**vars(example) | changed)


# Sources of rows `A [EOS] B`: pairs and documents in one mixture, each row read as what it is.
#
# A row with the columns of a pair (`formats.pair_columns`) is one, any other is a document. A `row_template` that maps to
# pairs makes pairs, one that maps to documents makes documents; a public data set that has both is read as pairs.
# Views of the samples and PDFs are what they are.


def open_bridge_mixture(
    sources: Sequence[SourceConfig], *, folder: Path | None = None, policy: Policy | None = None, limits: Limits = DEFAULT
) -> Mixture:
    """Open every source; a `folder` keeps the tables, and one policy serves all sources."""
    require_names(sources)
    policy = policy or Policy()
    kept: dict[str, Any] = {"folder": folder, "policy": policy, "limits": limits}
    return Mixture(tuple(sources), tuple(open_source_table(source, convert=_converter(source), **kept) for source in sources))


def _converter(source: SourceConfig) -> Converter[Any]:
    """Return what a source's rows become."""
    if source.row_template is None:
        return ToEither()
    if source.row_template in PAIR_FORMATS:
        return ToPair(pair_format(source.row_template), source.label)
    return ToDocument(document_format(source.row_template))
