"""Short clips of the sample pictures, of which the order of frames decides what is told: one maker for training, evaluation and demos.

A clip is a loop of a few pictures that begins at any of them, and its opposite is the same loop backwards. A thing moves to the right or
to the left (beyond one edge it is at the other), grows or shrinks, comes in or goes out, each over and over; or three things follow each
other, and one comes right after another. So a clip and its opposite show the same pictures, the first at the same time, and of one thing
the middle one too. As the beginning is drawn by lot, no other frame alone says either which of the two it is. Plain clips, of no seed,
begin at the beginning, and their opposites at the end: the first and the last frame tell them apart, and they are learned sooner.
"""

from __future__ import annotations

import io
import random
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image as PILImage

from twoway.content import Document, Image, Pair, Text, Video
from twoway.recordings import import_av

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from twoway.content import Part

    from .samples import World

MOTIONS = ("moving to the right", "moving to the left", "growing", "shrinking", "coming in", "going out")  # opposites are neighbours
HOW = "How does it move?"
TOGETHER = 3  # things that follow each other
FRAMES, RATE, SIDE = 4, 4, 64
SMALLEST, USUAL = 0.3, 0.75  # share of the side that a thing takes: one that begins to grow, and one that moves


class Clip(NamedTuple):
    """The frames of a clip, each a PNG, and what is seen in it."""

    name: str  # of the thing
    motion: str  # none of things that follow each other
    words: str
    frames: tuple[bytes, ...]

    @property
    def video(self) -> Video:
        """The clip as a part of a document."""
        return Video(tuple(Image(frame) for frame in self.frames))


Opposites = tuple[Clip, Clip]


class ClipFile(NamedTuple):
    """A clip in its file."""

    file: Path
    name: str
    motion: str
    words: str


def named_things(world: World, half: str, count: int | None = None) -> dict[str, bytes]:
    """Return things of a half by name, all or so many evenly, with a picture of each in a training style; flags are none."""
    torn = world.torn()
    drawn = {key: row["image"] for key, row in world.one_each(half).items() if key not in torn}
    named = sorted((world.concepts[key]["names"]["en"], image) for key, image in drawn.items() if world.concepts[key]["kind"] != "country")
    return dict(named if count is None else named[:: max(1, len(named) // count)][:count])


def motion_clips(things: Mapping[str, bytes], seed: int | None = 0, *, frames: int = FRAMES, side: int = SIDE) -> Iterator[Opposites]:
    """Yield the clips of each thing in each motion, beside the opposite; without a seed plain ones."""
    for name, image in things.items():
        picture = _opened(image)
        for motions in zip(MOTIONS[::2], MOTIONS[1::2], strict=True):
            lot = random.Random(f"clips/{seed}/{name}/{motions[0]}")
            loop = [_written(frame) for frame in _motion(picture, motions[0], frames, side, above=lot.random() < 0.5)]
            begin = 0 if seed is None else lot.randrange(frames)
            forth = tuple(loop[(begin + at) % frames] for at in range(frames))
            back = forth[::-1] if seed is None else (forth[0], *forth[:0:-1])
            yield Clip(name, motions[0], f"{name} {motions[0]}", forth), Clip(name, motions[1], f"{name} {motions[1]}", back)


def order_clips(things: Mapping[str, bytes], seed: int = 0, *, frames: int = FRAMES, side: int = SIDE) -> Iterator[Opposites]:
    """Yield clips of three things that follow each other, beside the opposite; each thing is in three of them."""
    stills = {name: _written(_laid(_sized(_opened(image), side), 0, 0, side)) for name, image in things.items()}
    names = list(things)
    lot = random.Random(f"orders/{seed}")
    lot.shuffle(names)
    for number, first in enumerate(names):
        second, third = (names[(number + more) % len(names)] for more in (1, 2))
        loop, begin = (first, second, third), lot.randrange(TOGETHER)
        forth, back = (tuple(stills[loop[(begin + way * at) % TOGETHER]] for at in range(frames)) for way in (1, -1))
        yield Clip(first, "", f"{second} right after {first}", forth), Clip(first, "", f"{first} right after {second}", back)


def read_clip_pairs(world: World, half: str, seed: int) -> Iterator[Pair]:
    """Yield what is trained on, in a random order: clips and words, and how a thing moves; the hard negative is the opposite."""
    things = named_things(world, half)
    lot, found = random.Random(f"clip-pairs/{half}/{seed}"), []
    for both in (*motion_clips(things, seed), *order_clips(things, seed)):
        task = lot.choice(("clip-words", "words-clip", "motion") if both[0].motion else ("order",))
        found += [_pair(task, clip, other, half) for clip, other in (both, both[::-1])]
    lot.shuffle(found)
    return iter(found)


def _pair(task: str, clip: Clip, other: Clip, half: str) -> Pair:
    """Ask for a clip's words, for the clip of words, or how it moves."""

    def document(*parts: Part) -> Document:
        return Document(parts, meta={"half": half, "name": clip.name})

    if task == "words-clip":
        return Pair(document(Text(clip.words)), (document(clip.video),), (document(other.video),), task=task)
    if task == "motion":
        return Pair(document(clip.video, Text(HOW)), (document(Text(clip.motion)),), (document(Text(other.motion)),), task=task)
    return Pair(document(clip.video), (document(Text(clip.words)),), (document(Text(other.words)),), task=task)


def write_clips(folder: Path, clips: Iterable[Opposites]) -> list[ClipFile]:
    """Write clips into a folder as MP4s that browsers play, opposites side by side; they have the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    made: list[ClipFile] = []
    for clip in chain.from_iterable(clips):
        file = folder / f"{len(made):04d}-{(clip.motion or 'order').replace(' ', '-')}.mp4"
        write_video(file, [_opened(frame) for frame in clip.frames])
        made.append(ClipFile(file, clip.name, clip.motion, clip.words))
    return made


def write_video(file: Path, frames: Sequence[PILImage.Image], rate: int = RATE) -> None:
    """Write frames as an MP4, each by itself, so that none shows a trace of the one before."""
    av = import_av()
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "qp": "12", "g": "1", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for one in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(one.convert("RGB"))))
        container.mux(stream.encode())


def _motion(picture: PILImage.Image, motion: str, frames: int, side: int, *, above: bool) -> Iterator[PILImage.Image]:
    """Draw the loop of a motion; what comes in does so from above or from below."""
    usual = _sized(picture, round(USUAL * side))
    margin = (side - usual.width) // 2
    for at in range(frames):
        if motion == "moving to the right":
            yield _laid(usual, (margin + side * (at - frames // 2) // frames) % side, margin, side)
        elif motion == "growing":
            shown = _sized(picture, round(side * (SMALLEST + (1 - SMALLEST) * at / (frames - 1))))
            yield _laid(shown, (side - shown.width) // 2, (side - shown.width) // 2, side)
        else:
            away = (frames - 1 - at) * (side - margin) // frames
            yield _laid(usual, margin, margin - away if above else margin + away, side)


def _laid(shown: PILImage.Image, left: int, top: int, side: int) -> PILImage.Image:
    """Lay a thing on white; what is beyond the right edge is at the left one, too."""
    made = PILImage.new("RGB", (side, side), "white")
    for at in (left, left - side):
        made.paste(shown, (at, top), shown)
    return made


def _sized(picture: PILImage.Image, side: int) -> PILImage.Image:
    return picture.resize((side, side), PILImage.Resampling.BICUBIC)


def _opened(image: bytes) -> PILImage.Image:
    with PILImage.open(io.BytesIO(image)) as opened:
        return opened.convert("RGBA")


def _written(frame: PILImage.Image) -> bytes:
    written = io.BytesIO()
    frame.save(written, "PNG", compress_level=1)
    return written.getvalue()
