"""Small videos and sounds, made with PyAV; nothing is fetched."""

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


def tone(path: Path, *, seconds: float = 1.0, rate: int = 16_000, channels: int = 1, hertz: float = 440.0, loud: float = 0.5) -> Path:
    """Write a tone; of two channels the second is silent."""
    samples = (loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate) * 32767).astype(np.int16)
    codec = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame", ".m4a": "aac", ".webm": "libopus"}[path.suffix]
    # What a browser records says not how long it is.
    with av.open(str(path), "w", options={"live": "1"} if path.suffix == ".webm" else {}) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo" if channels == 2 else "mono")
        whole = np.stack([samples, *[np.zeros_like(samples)] * (channels - 1)], axis=1).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="stereo" if channels == 2 else "mono")
        frame.sample_rate = rate
        converter = av.AudioResampler(format=stream.codec_context.format, layout=stream.codec_context.layout, rate=rate)
        size = stream.codec_context.frame_size or len(samples)
        pieces = av.AudioFifo()
        for one in converter.resample(frame):
            pieces.write(one)
        while piece := pieces.read(size, partial=True):
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    return path
