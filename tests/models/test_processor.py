"""A processor without a template gets a plain one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import AutoProcessor

from twoway.models import processor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_processor_without_a_template_gets_a_plain_one(tiny_model: Callable[[str], Path]) -> None:
    parts = AutoProcessor.from_pretrained(tiny_model("paligemma"))
    assert processor.ensure_template(parts)
    content = [{"type": "image"}, {"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    shown = parts.apply_chat_template([{"role": "user", "content": content}, {"role": "user", "content": " c"}], tokenize=False)
    assert shown == f"{parts.image_token}a b c"
    assert not processor.ensure_template(parts)
