"""How a model's inputs are written, as a chat template that is saved with it: so that what training saw is what `encode` gives.

sentence-transformers makes a prompt a system message. The templates of chat models write that as a turn of its own, and some put a sentence
of theirs there when there is none. VLM2Vec (arXiv 2410.05160, section 3.2) and MoCa's released code write an instruction into the user's
text instead, behind the picture: "[image] Represent the given image with the following question: …". With `place="user"` the template does
that itself: a system message before a user's moves into that user's turn, behind the pictures that it begins with.

`style="plain"` replaces the template by one that writes contents in order and nothing else, as VLM2Vec and MoCa do; `chat` keeps the
model's own; `bare` is `plain` with a picture's placeholder alone, without the marks around it, which is what VLM2Vec's code writes.
"""

from __future__ import annotations

from typing import Any, Literal

from twoway.errors import TwowayError

from .processor import plain_template

Place = Literal["user", "system"]
Style = Literal["chat", "plain", "bare"]

_MOVED = "{#- an instruction moves into the user's turn -#}"
# One line without white space between its tags, so that nothing is written and nothing of the template behind it is lost.
_MOVE = (
    _MOVED + "{% if messages | length > 1 and messages[0]['role'] == 'system' and messages[1]['role'] == 'user' %}"
    "{% set said = messages[0]['content'] %}{% set asked = messages[1]['content'] %}"
    "{% if said is string %}{% set said = [{'type': 'text', 'text': said}] %}{% endif %}"
    "{% if asked is string %}{% set asked = [{'type': 'text', 'text': asked}] %}{% endif %}"
    "{% set at = namespace(first=0) %}"
    "{% for part in asked %}{% if part['type'] == 'image' and at.first == loop.index0 %}"
    "{% set at.first = loop.index %}{% endif %}{% endfor %}"
    "{% set messages = [{'role': 'user', 'content': asked[:at.first] + said + asked[at.first:]}] + messages[2:] %}"
    "{% endif %}{{ '' }}"
)


def set_template(processor: Any, *, style: Style, place: Place | None) -> None:
    """Give the processor the template that all of training and everything after it use; without a place, prompts stay where they are."""
    template = str(processor.chat_template)
    if style != "chat":
        template = plain_template(picture_mark(processor) if style == "plain" else str(processor.image_token))
    if place == "user" and _MOVED not in template:
        template = _MOVE + template
    if place == "system":
        template = template.replace(_MOVE, "")
    processor.chat_template = processor.tokenizer.chat_template = template


def picture_mark(processor: Any) -> str:
    """Return what stands for a picture in a prompt: the placeholder, in the wrapper that the chat template gives it."""
    token = str(processor.image_token)
    opening, closing = "\ue000", "\ue001"
    content = [{"type": "text", "text": opening}, {"type": "image"}, {"type": "text", "text": closing}]
    rendered = str(processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False))
    between = rendered.partition(opening)[2].partition(closing)[0].strip()
    return between if token in between else token


def require_prompts(processor: Any, prompts: dict[str, str]) -> None:
    """See that the template writes every prompt, once."""
    for name, text in prompts.items():
        message = {"role": "user", "content": [{"type": "text", "text": "\ue000"}]}
        system = {"role": "system", "content": [{"type": "text", "text": text}]}
        try:
            rendered = str(processor.apply_chat_template([system, message], tokenize=False))
        except Exception as error:  # templates raise errors of their own
            raise TwowayError(f"the chat template takes no instruction as a system message ({error}); use prompt_place=user") from error
        if rendered.count(text.strip()) < 1:
            raise TwowayError(f"the chat template does not write the prompt {name!r}; use prompt_place=user")
