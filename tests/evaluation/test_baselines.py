"""Models that cannot know: what they see is all they say, and the cache never takes an older definition's vectors for theirs."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PILImage

from twoway.content import Document, Image, Text
from twoway.evaluation import tasks
from twoway.evaluation.tasks import BASELINES

if TYPE_CHECKING:
    import pytest

    from twoway.content import Part


def vector(name: str, *parts: Part) -> np.ndarray:
    ((_, found),) = BASELINES[name].embed([Document(parts)])
    return found


def picture(colour: str) -> Image:
    written = io.BytesIO()
    PILImage.new("RGB", (20, 20), colour).save(written, "PNG")
    return Image(written.getvalue())


def test_words_see_no_picture_and_pixels_read_no_word() -> None:
    red, blue = picture("red"), picture("blue")
    assert np.array_equal(vector("words", red, Text("a fox")), vector("words", blue, Text("a fox")))
    assert np.array_equal(vector("pixels", red, Text("a fox")), vector("pixels", red, Text("a cat")))
    assert not vector("words", red).any()
    assert not vector("pixels", Text("a fox")).any()
    assert vector("words", Text("foxes")) @ vector("words", Text("a fox")) > 0
    assert vector("pixels", red) @ vector("pixels", blue) < 0.99


def test_luck_is_the_same_for_the_same_content() -> None:
    assert np.array_equal(vector("random", Text("a fox")), vector("random", Text("a fox")))
    assert abs(vector("random", Text("a fox")) @ vector("random", Text("a cat"))) < 0.2


def test_another_definition_is_another_model_for_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(tasks.__file__).read_text()
    assert "_SIDE = 16" in text
    (tmp_path / "changed.py").write_text(text.replace("_SIDE = 16", "_SIDE = 8"))
    spec = importlib.util.spec_from_file_location("twoway.evaluation.changed", tmp_path / "changed.py")
    assert spec is not None
    assert spec.loader is not None
    changed = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, changed)  # dataclasses look their module up there
    spec.loader.exec_module(changed)
    assert changed.BASELINES["pixels"].fingerprint != BASELINES["pixels"].fingerprint
