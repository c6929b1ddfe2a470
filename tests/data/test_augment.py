"""Augmentation changes what it is told to, the same each time, and nothing by default."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from twoway.content import Document, Image, Text
from twoway.data.augment import PictureTransform, augment, augmented
from twoway.data.config import AugmentConfig
from twoway.errors import UsageError
from twoway.images import open_image

ALL = AugmentConfig(
    scale=(0.8, 1.2), rotate=20, shift=0.2, flip=0.5, background=0.5, colour=0.3, grey=0.2, lines=0.2, two_tone=0.2, invert=0.2
)


def noise(width=40, height=24, mode="RGB"):
    bands = len(mode)
    return PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, bands), dtype=np.uint8), mode)


def changed(picture, key="0", **options):
    return np.asarray(PictureTransform(AugmentConfig(**options), key)(picture))


def test_the_defaults_change_nothing():
    assert not AugmentConfig().changes
    assert ALL.changes
    assert np.abs(changed(noise()).astype(int) - np.asarray(noise())).max() <= 1


def test_the_same_key_gives_the_same_pixels_and_another_does_not():
    once, again = (np.asarray(PictureTransform(ALL, "a")(noise())) for _ in range(2))
    assert (once == again).all()
    assert (once != np.asarray(PictureTransform(ALL, "b")(noise()))).any()
    assert once.shape == (24, 40, 3)


def test_threads_do_not_change_the_pixels():
    large, before, made = noise(700, 500), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(np.asarray(PictureTransform(ALL, "a")(large)))
    finally:
        torch.set_num_threads(before)
    assert (made[0] == made[1]).all()


def test_each_setting_does_what_it_says():
    picture, plain = noise(), np.asarray(noise()).astype(int)
    assert np.abs(changed(picture, flip=1.0) - plain[:, ::-1]).max() <= 1
    assert np.abs(changed(picture, invert=1.0) - (255 - plain)).max() <= 1
    grey = changed(picture, grey=1.0)
    assert np.ptp(grey.astype(int), axis=2).max() <= 1
    assert set(np.unique(changed(PILImage.new("RGB", (8, 8), "red"), two_tone=1.0) > 127)) <= {True, False}
    smaller = changed(PILImage.new("RGB", (40, 40), "black"), scale=(0.5, 0.5))
    assert smaller[:9].min() == 255  # what is outside is white
    assert smaller[12:28, 12:28].max() == 0
    moved = [changed(PILImage.new("RGB", (40, 40), "black"), str(key), shift=0.5)[0, 0].min() for key in range(8)]
    assert set(moved) == {0, 255}
    shades = {int(changed(PILImage.new("RGBA", (8, 8), (0, 0, 0, 0)), str(key), background=0.5)[0, 0].sum()) for key in range(8)}
    assert 765 in shades
    assert len(shades) > 2
    assert min(shades) > 0.69 * 765


def test_a_turn_of_a_wide_picture_does_not_shear_it():
    # A square in the middle of a wide picture, turned by up to 45 degrees, keeps its area.
    picture = PILImage.new("RGB", (120, 60), "white")
    picture.paste("black", (45, 15, 75, 45))
    dark = [(changed(picture, str(key), rotate=45.0)[..., 0] < 128) for key in range(6)]
    assert all(one.sum() == pytest.approx(900, rel=0.03) for one in dark)
    wide = [np.ptp(one.nonzero()[axis]) for one in dark for axis in (0, 1)]
    assert np.abs(np.array(wide[::2]) - np.array(wide[1::2])).max() <= 1


def test_pictures_whose_colours_are_their_meaning_keep_them_and_some_are_never_mirrored():
    rgba = torch.from_numpy(np.array(noise(16, 16).convert("RGBA")))[None].repeat(8, 1, 1, 1)
    config = AugmentConfig(flip=1.0, grey=1.0)
    half = torch.arange(8) < 4
    seen = augment(rgba, (16, 16), torch.Generator().manual_seed(0), config, may_flip=half, keep_colours=(~half).float())
    same = (seen - rgba[..., :3].permute(0, 3, 1, 2) / 255).abs().amax((1, 2, 3)) < 0.01
    assert (same == ~half).all()


def test_a_document_is_augmented_when_its_pictures_are_opened():
    file = io.BytesIO()
    noise().save(file, "png")
    document = Document((Text("a"), Image(file.getvalue()), Image(file.getvalue())), meta={"id": 1})
    shown = augmented(document, ALL, "row 1")
    assert shown.parts[0] == document.parts[0]
    assert shown.fingerprint() == document.fingerprint()
    first, second = (np.asarray(open_image(one)) for one in shown.images)
    assert (first != second).any()
    assert (first == np.asarray(open_image(augmented(document, ALL, "row 1").images[0]))).all()
    assert (np.asarray(open_image(document.images[0])) == np.asarray(noise())).all()


def test_a_scale_is_said_from_small_to_large():
    with pytest.raises(UsageError, match=r"from the smaller to the larger size, not from 1.2 to 0.8"):
        AugmentConfig(scale=(1.2, 0.8))
