"""Small videos, made with PyAV; nothing is fetched."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path


def clip(path: Path, *, frames: int = 24, rate: int = 12, size: tuple[int, int] = (64, 48), times: list[int] | None = None) -> Path:
    """Write a video whose frame N is grey of brightness 5 N; `times` are the milliseconds of its frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames if times is None else len(times)):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 5 * number % 256, np.uint8), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def brightness(pixels: np.ndarray) -> list[float]:
    """Return the brightness of each frame, in steps of `clip`."""
    return [round(float(one.mean()) / 5, 1) for one in pixels]
