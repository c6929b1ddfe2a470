"""Small pictures and helpers for the tests of the readers."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image


@pytest.fixture
def png():
    """The bytes of a small picture of one colour."""

    def make(colour="red", size=(4, 3)):
        file = io.BytesIO()
        Image.new("RGB", size, colour).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture
def jsonl(tmp_path):
    """Write lines (objects, or raw bytes) to a JSONL file and return its path."""

    def make(*lines, name="rows.jsonl"):
        path = tmp_path / name
        path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines) + b"\n")
        return path

    return make
