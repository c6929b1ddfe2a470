"""Clips of the samples: opposites show the same pictures in another order, and nothing less than the order tells them apart."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image as PILImage

from twoway.content import Text, Video
from twoway.data.sources import samples
from twoway.data.sources.clips import FRAMES, MOTIONS, SIDE, Clip, motion_clips, named_things, order_clips, write_clips
from twoway.images import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from pathlib import Path

THINGS, LOTS = 12, 25
COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "black": (0, 0, 0), "yellow": (255, 255, 0)}


@pytest.fixture(scope="module")
def things() -> dict[str, bytes]:
    return named_things(samples.load_world(), "unseen", THINGS)


def colours() -> dict[str, bytes]:
    """Return things that a pixel tells."""
    written = {name: io.BytesIO() for name in COLOURS}
    for name, file in written.items():
        PILImage.new("RGB", (8, 8), COLOURS[name]).save(file, "PNG")
    return {name: file.getvalue() for name, file in written.items()}


def shown(frame: bytes) -> np.ndarray:
    with PILImage.open(io.BytesIO(frame)) as opened:
        return np.asarray(opened.convert("RGB"))


def test_the_things_are_of_one_half_and_no_flags() -> None:
    world = samples.load_world()
    names = {half: set(named_things(world, half)) for half in ("seen", "unseen")}
    assert min(map(len, names.values())) > 900
    assert not names["seen"] & names["unseen"]
    assert not {row["names"]["en"] for row in world.concepts.values() if row["kind"] == "country"} & (names["seen"] | names["unseen"])
    assert len(named_things(world, "seen", 7)) == 7


def test_opposites_show_the_same_pictures_in_another_order(things: dict[str, bytes]) -> None:
    for clip, other in motion_clips(things):
        assert {MOTIONS.index(one.motion) // 2 for one in (clip, other)} == {MOTIONS.index(clip.motion) // 2}
        assert clip.frames != other.frames
        assert Counter(clip.frames) == Counter(other.frames)
        assert clip.frames[0] == other.frames[0]
        assert clip.frames[FRAMES // 2] == other.frames[FRAMES // 2]
    for clip, other in order_clips(things):
        assert clip.frames != other.frames
        assert Counter(clip.frames) == Counter(other.frames)
        assert clip.frames[0] == clip.frames[-1] == other.frames[0] == other.frames[-1]


def test_a_plain_clip_backwards_is_its_opposite(things: dict[str, bytes]) -> None:
    for clip, other in motion_clips(dict(list(things.items())[:3]), None, frames=5):
        assert clip.frames == other.frames[::-1]
        assert clip.frames[2] == other.frames[2]
        assert len({*clip.frames}) == 5


def test_motions_are_what_their_words_say() -> None:
    black = {"box": colours()["black"]}
    found = {clip.motion: [shown(frame)[:, :, 0] < 128 for frame in clip.frames] for clip in chain.from_iterable(motion_clips(black))}
    sizes = {motion: [int(frame.sum()) for frame in frames] for motion, frames in found.items()}
    for motion, opposite in (("growing", "shrinking"), ("coming in", "going out")):
        assert sum(before < after for before, after in pairwise(sizes[motion])) >= FRAMES - 2, "once it begins again"
        assert sum(before > after for before, after in pairwise(sizes[opposite])) >= FRAMES - 2
    step = SIDE // FRAMES
    for motion, way in (("moving to the right", step), ("moving to the left", -step)):
        assert all(np.array_equal(np.roll(before, way, axis=1), after) for before, after in pairwise(found[motion]))


def test_one_thing_comes_right_after_another_and_never_before_it() -> None:
    of = {rgb: name for name, rgb in COLOURS.items()}
    clips = list(chain.from_iterable(order_clips(colours())))
    assert len(clips) == 2 * len(COLOURS)
    for clip in clips:
        names = [of[tuple(shown(frame)[0, 0].tolist())] for frame in clip.frames]
        later, earlier = clip.words.split(" right after ")
        assert (earlier, later) in set(pairwise(names))
        assert (later, earlier) not in set(pairwise(names))


def guessed(things: dict[str, bytes], seen: Callable[[Clip], Hashable]) -> float:
    """Return how often a clip is told from its opposite by who knows other clips of these very things by heart, but sees less of each."""
    known: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for lot in range(1, LOTS):
        for clip in chain.from_iterable(motion_clips(things, lot)):
            known[clip.name, seen(clip)][clip.motion] += 1
    right: list[float] = []
    for both in motion_clips(things):
        for clip, other in (both, both[::-1]):
            mine, its = (known[clip.name, seen(clip)][one.motion] for one in (clip, other))
            right.append(0.5 if mine == its else float(mine > its))
    return float(np.mean(right))


@pytest.mark.parametrize("at", [*range(FRAMES), -1, "all"])
def test_one_frame_or_all_in_any_order_are_a_guess_for_who_knows_the_things(things: dict[str, bytes], at: int | str) -> None:
    few = dict(list(things.items())[:6])
    share = guessed(few, lambda clip: frozenset(clip.frames) if at == "all" else clip.frames[int(at)])
    assert 0.35 < share < 0.65


def test_all_frames_in_order_are_enough(things: dict[str, bytes]) -> None:
    assert guessed(dict(list(things.items())[:6]), lambda clip: clip.frames) > 0.98


@pytest.mark.parametrize("at", range(FRAMES))
def test_one_frame_is_a_guess_of_what_comes_next(at: int) -> None:
    """What is told by whether a frame shows the thing that is said to come earlier, later, or neither."""
    of, votes = {rgb: name for name, rgb in COLOURS.items()}, Counter[tuple[str, bool]]()
    for lot in range(60):
        for clip, other in order_clips(colours(), lot, side=8):
            name = of[tuple(shown(clip.frames[at])[0, 0].tolist())]
            for words, right in ((clip.words, True), (other.words, False)):
                later, earlier = words.split(" right after ")
                votes["later" if name == later else "earlier" if name == earlier else "neither", right] += 1
    for role in ("later", "earlier", "neither"):
        assert 0.4 < votes[role, True] / (votes[role, True] + votes[role, False]) < 0.6


def test_pairs_for_training_are_of_the_seen_half_with_the_opposite_as_hard_negative() -> None:
    world = samples.load_world()
    pairs = list(samples.pairs("train-clips"))
    unseen = set(named_things(world, "unseen"))
    assert Counter(pair.task for pair in pairs).keys() == {"clip-words", "words-clip", "motion", "order"}
    assert not {pair.query.meta["name"] for pair in pairs} & unseen
    for pair in pairs:
        clip = next(part for part in pair.query.parts + pair.positive.parts if isinstance(part, Video))
        (negative,) = pair.negatives
        if pair.task == "words-clip":
            (wrong,) = negative.parts
            assert isinstance(wrong, Video)
            assert {one.source for one in wrong.source} == {one.source for one in clip.source}
        else:
            right, wrong = (part.text for one in (pair.positive, negative) for part in one.parts if isinstance(part, Text))
            assert right != wrong
            if pair.task == "clip-words":
                assert right.removesuffix(next(filter(right.endswith, MOTIONS))) == wrong.removesuffix(
                    next(filter(wrong.endswith, MOTIONS))
                )
            if pair.task == "order":
                assert right.split(" right after ") == wrong.split(" right after ")[::-1]


def test_files_are_the_same_each_time_and_opposites_have_one_first_picture(things: dict[str, bytes], tmp_path: Path) -> None:
    few = dict(list(things.items())[:1])
    first, again = (write_clips(tmp_path / folder, motion_clips(few)) for folder in "ab")
    assert [one.file.read_bytes() for one in first] == [one.file.read_bytes() for one in again]
    opened = [Video(one.file).opened(None, DEFAULT).source.pixels for one in first]
    assert {one.shape for one in opened} == {(FRAMES, 3, SIDE, SIDE)}
    for clip, other in zip(opened[::2], opened[1::2], strict=True):
        assert np.array_equal(clip[0], other[0])
        assert sorted(frame.tobytes() for frame in clip) == sorted(frame.tobytes() for frame in other)
