"""A thumbnail is the picture, small: within its bounds, upright, and of anything that can be opened."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw

from twoway.content import ContentError, Image
from twoway.search.pictures import MOST_BYTES, SIDE, thumbnail


def written(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return Image(file.getvalue())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(2, 3), (320, 10), (2400, 1500)])
def test_it_is_within_its_bounds_and_looks_the_same(kind, size):
    picture = PILImage.new("RGB", size, (200, 30, 30))
    with PILImage.open(io.BytesIO(thumbnail(written(picture, kind)))) as small:
        assert small.format == "WEBP"
        assert max(small.size) == min(SIDE, max(size))
        assert small.width / small.height == pytest.approx(size[0] / size[1], rel=0.05)
        assert np.abs(np.asarray(small.convert("RGB"), int).mean((0, 1)) - (200, 30, 30)).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_a_small_drawing_keeps_every_pixel(kind):
    drawing = PILImage.new("RGB", (SIDE, 200), (255, 255, 255))
    ImageDraw.Draw(drawing).ellipse((20, 20, 120, 120), outline=(200, 0, 0), width=3)
    ImageDraw.Draw(drawing).text((140, 60), "fox 7", fill=(0, 0, 0))
    with PILImage.open(io.BytesIO(thumbnail(written(drawing, kind, **({"lossless": True} if kind == "WEBP" else {}))))) as small:
        assert (np.asarray(small.convert("RGB")) == np.asarray(drawing)).all()


def test_small_noise_is_kept_within_the_bytes():
    noise = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8))
    assert len(thumbnail(Image(noise))) <= MOST_BYTES


def test_noise_is_kept_within_the_bytes():
    noise = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8))
    assert len(thumbnail(Image(noise))) <= MOST_BYTES


def test_what_is_broken_is_said():
    with pytest.raises(ContentError, match="picture"):
        thumbnail(Image(b"no picture"))
