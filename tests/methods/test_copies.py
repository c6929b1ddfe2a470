"""A document saved once more is known as a copy; one that says or shows something else is not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw

from twoway.content import Document, Image, Text
from twoway.methods.duplicates import is_copy as is_copy_duplicates
from twoway.methods.duplicates import sketch


def drawing(seed=0, size=(120, 90)):
    """Shapes on a ground that changes from place to place."""
    draw = np.random.default_rng(seed)
    picture = PILImage.fromarray(np.linspace(0, 200, size[0] * size[1] * 3).reshape(size[1], size[0], 3).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(6):
        left, top = (int(draw.integers(0, side - 30)) for side in size)
        pen.ellipse((left, top, left + 30, top + 24), fill=tuple(int(one) for one in draw.integers(0, 255, 3)))
    return picture


def is_copy(left, right):
    return is_copy_duplicates(sketch(left), sketch(right))


def saved(picture, kind, **options):
    sink = io.BytesIO()
    picture.save(sink, format=kind, **options)
    return Document((Image(sink.getvalue()),))


@pytest.mark.parametrize(
    "again",
    [
        lambda one: saved(one, "JPEG", quality=60),
        lambda one: saved(one.resize((240, 180)), "PNG"),
        lambda one: saved(one.resize((80, 60)), "WEBP", quality=80),
    ],
)
def test_a_picture_saved_again_is_a_copy(again):
    for seed in range(3):
        assert is_copy(saved(drawing(seed), "PNG"), again(drawing(seed)))


def test_another_picture_or_shape_or_colour_is_none():
    for seed in range(3):
        assert not is_copy(saved(drawing(seed), "PNG"), saved(drawing(seed + 1), "PNG"))
    assert not is_copy(saved(drawing(), "PNG"), saved(drawing().resize((90, 90)), "PNG"))
    red, other = (saved(PILImage.new("RGB", (30, 30), colour), "PNG") for colour in ((200, 20, 20), (208, 12, 20)))
    assert not is_copy(red, other)


def test_parts_are_compared_in_order_and_by_kind():
    picture = saved(drawing(), "PNG").parts[0]
    both, turned = Document((picture, Text("what is this?"))), Document((Text("what is this?"), picture))
    assert is_copy(both, Document((picture, Text("What  is THIS?"))))
    assert not is_copy(both, turned)
    assert not is_copy(both, Document((picture, Text("what is that over there?"))))
    assert not is_copy(both, Document((picture,)))
