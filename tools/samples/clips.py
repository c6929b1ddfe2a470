"""Short clips of the sample pictures: a thing moves to the right or to the left, grows or shrinks; only several frames together say which.

A thing that moves is as large as one that grows is halfway, and halfway all four stand in the middle: the middle frame of the four clips
of a thing is the same picture.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from twoway.data.sources.samples import load_world
from twoway.recordings import import_av

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MOTIONS = ("moves to the right", "moves to the left", "grows", "shrinks")
OPPOSITE = dict(zip(MOTIONS, (MOTIONS[1], MOTIONS[0], MOTIONS[3], MOTIONS[2]), strict=True))
FRAMES, RATE, SIDE = 9, 4, 64  # an odd number of frames, so that one is the middle


class Clip(NamedTuple):
    """A clip in its file, what is seen in it, and how it moves."""

    file: Path
    name: str
    motion: str

    @property
    def caption(self) -> str:
        """What is said of it."""
        return f"{self.name} {self.motion}"


def write_clips(folder: Path, half: str, things: int, *, style: str = "flat", side: int = SIDE) -> list[Clip]:
    """Write a clip of each motion for so many things of one half of the samples, the first by name; the same bytes each time."""
    world = load_world()
    rows = {world.concepts[row["concept"]]["names"]["en"]: row["image"] for row in world.drawn(style=style, half=half)}
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, (name, image) in enumerate(sorted(rows.items())[:: max(1, len(rows) // things)][:things]):
        with Image.open(io.BytesIO(image)) as opened:
            picture = opened.convert("RGBA")
        for motion in MOTIONS:
            clip = Clip(folder / f"{number:03d}-{motion.replace(' ', '-')}.mp4", name, motion)
            write_video(clip.file, [frame(picture, motion, at / (FRAMES - 1), side) for at in range(FRAMES)])
            made.append(clip)
    return made


def frame(picture: Image.Image, motion: str, time: float, side: int = SIDE) -> Image.Image:
    """Return how it looks at a time from 0 to 1."""
    if OPPOSITE[motion] in MOTIONS[::2]:
        motion, time = OPPOSITE[motion], 1 - time
    small, large = side // 4, side - side // 4
    size = side // 2 if motion == MOTIONS[0] else round(small + (large - small) * time)
    left = round((side - size) * time) if motion == MOTIONS[0] else (side - size) // 2
    shown = picture.resize((size, size), Image.Resampling.BICUBIC)
    made = Image.new("RGB", (side, side), "white")
    made.paste(shown, (left, (side - size) // 2), shown)
    return made


def write_video(file: Path, frames: Sequence[Image.Image], rate: int = RATE) -> None:
    """Write frames as an MP4 that browsers play."""
    av = import_av()
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "12", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for one in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(one)))
        container.mux(stream.encode())
