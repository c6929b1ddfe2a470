"""Where a document's texts stand in the prompt that a model reads.

The chat template is rendered once for each order of texts and pictures, with sentinels in the place of the texts, so what lies between
the sentinels is the template's and nothing of it is ever taken for the document's, whatever words the document holds. A row is then
assembled from these pieces. What a template does to a text (a trim) and what a processor does to the prompt (a mark behind the last
picture) show in the same rendering.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image as PILImage

from ..content import ContentError, Text
from ..errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..content import Document

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
        self._frames: dict[tuple[str, str], Frames] = {}
        if style not in ("chat", "plain"):
            raise TwowayError(f"the template is chat or plain, not {style!r}")
        has = bool(getattr(processor, "chat_template", None))
        if style == "chat" and not has:
            raise TwowayError("the processor has no chat template; give it one, or use template: plain")
        self._picture = self._plain_picture() if style == "plain" else ""

    def frames(self, document: Document, instruction: str = "") -> Frames:
        """Return the pieces for a document's order of texts and pictures.

        An `instruction` is what sentence-transformers makes of a prompt, a system message; where it stands is the chat template's business.
        """
        shape = "".join("T" if isinstance(part, Text) else "I" for part in document.parts)
        if (instruction, shape) not in self._frames:
            if len(self._frames) > 4096:  # data with many orders must not fill the memory
                self._frames.clear()
            self._frames[instruction, shape] = self._make(shape, instruction)
        return self._frames[instruction, shape]

    def check(self, document: Document, texts: Sequence[str], prompt: str, instruction: str = "") -> None:
        """Refuse a row whose texts the template itself changes in a way that the frame does not know."""
        if self.style == "chat":
            kinds = iter(texts)
            content = [{"type": "text", "text": next(kinds)} if isinstance(part, Text) else {"type": "image"} for part in document.parts]
            if self._render(content, instruction) != prompt:
                raise ContentError("the chat template rewrites this row's text; use template: plain", document.place)

    def _make(self, shape: str, instruction: str) -> Frames:
        content: list[dict[str, str]] = []
        texts = 0
        for kind in shape:
            if kind == "T":
                content.append({"type": "text", "text": f"{_EDGE}{_OPEN}{texts}{_CLOSE}{_EDGE}"})
                texts += 1
            else:
                content.append({"type": "image"})
        rendered = self._render(content, instruction)
        pictures = [PILImage.new("RGB", (32, 32))] * (len(shape) - texts)
        frames = [Frame.parse(rendered, texts), Frame.parse(self._lay_out(rendered, pictures), texts)]
        if frames[0] is None or frames[1] is None:
            raise TwowayError(f"the chat template does not write every text once (order {shape}); use template: plain")
        return Frames(frames[0], frames[1])

    def _render(self, content: list[dict[str, str]], instruction: str) -> str:
        if self.style == "plain":
            return instruction + "".join(part.get("text", self._picture) for part in content)
        messages = [{"role": "user", "content": content}]
        if instruction:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": instruction}]})
        return str(self.processor.apply_chat_template(messages, tokenize=False))

    def _lay_out(self, rendered: str, pictures: list[PILImage.Image]) -> str:
        """Return the prompt as the processor hands it on before it expands the pictures."""
        if not pictures:
            return rendered
        laid = self.processor.prepare_inputs_layout(images=[pictures], text=[rendered])[1]
        return str(laid[0])

    def _plain_picture(self) -> str:
        """Return what stands for a picture: the placeholder, in the wrapper that the chat template gives it, if it gives it one."""
        token = str(self.processor.image_token)
        if not getattr(self.processor, "chat_template", None):
            return token
        content = [{"type": "text", "text": _OPEN}, {"type": "image"}, {"type": "text", "text": _CLOSE}]
        message = [{"role": "user", "content": content}]
        rendered = str(self.processor.apply_chat_template(message, tokenize=False))
        between = rendered.partition(_OPEN)[2].partition(_CLOSE)[0].strip()
        return between if token in between else token
