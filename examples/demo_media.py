"""Videos from end to end, in minutes on two cores: make clips, fine-tune, embed, index, search, and see whether what is found is right.

Run it with `make demo-media`. The clips are of the samples' pictures: a thing moves to the right or to the left, grows or shrinks, comes in
or goes out; the opposite of a clip is the clip backwards, so both have one middle frame. Every step is a command of `twoway`, printed
before it runs; results are in `demo-media/`. The shipped base has never seen a video. Its family (Qwen2-VL) takes them, so it is made
two-way and fine-tuned on clips of some things. It is asked for clips that it was not trained on: of these things, each in a motion that it
was not trained in, and of things that it was not trained on at all. A model this small, trained for minutes, is often wrong about the
latter; whether it sees how a thing moves is what is shown here.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging as transformers_logging

import twoway
from twoway.cli import main as run
from twoway.data.sources.clips import MOTIONS, motion_clips, named_things, write_clips
from twoway.data.sources.samples import load_world, samples_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twoway.data.sources.clips import ClipFile

OUT = Path("demo-media")
FRAMES = 3  # an odd number, so that one is in the middle
TRAINED, ASKED = 160, 30  # things that are trained on; so many of them, and as many others, are asked about
SHOWN = 4  # of the searches, right or wrong
FINETUNE = (
    "max_steps=160 global_batch_size=24 hard_negatives=1 learning_rate=6e-4 loss.temperature=0.05 freeze_tower=true num_train_epochs=9 "
    "budget=30000 calibrate=none max_length=512 limits.num_frames=3 held_out=0 dataloader_num_workers=1 save_steps=160 logging_steps=10"
)


def command(line: str) -> None:
    """Print a command, run it, and stop where it fails."""
    started = time.perf_counter()
    print(f"\n$ twoway {line}", flush=True)
    if code := run(shlex.split(line)):
        sys.exit(f"the command ended with {code}")
    print(f"  ({time.perf_counter() - started:.0f} s)", flush=True)


def make_clips(folder: Path, half: str, things: int) -> list[ClipFile]:
    """Write the clips of so many things of a half of the samples: one for each motion, opposites side by side."""
    return write_clips(folder, motion_clips(named_things(load_world(), half, things), None, frames=FRAMES))


def hold_out(clips: Sequence[ClipFile]) -> list[ClipFile]:
    """Return a clip of each thing, in another motion from thing to thing."""
    return [clips[len(MOTIONS) * number + number % len(MOTIONS)] for number in range(len(clips) // len(MOTIONS))]


def write_pairs(clips: Sequence[ClipFile], held: Sequence[ClipFile], file: Path) -> None:
    """Write what is fine-tuned on: words, their clip, and as hard negative the opposite; nothing of what is held out."""
    rows = []
    for number, clip in enumerate(clips):
        other = clips[number ^ 1]
        negatives = [] if other in held else [{"video": other.file.name}]
        if clip not in held:
            rows.append({"query": clip.words, "positive": {"video": clip.file.name}, "negatives": negatives})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def score(index: Path, model: Any, asked: Sequence[ClipFile], clips: Sequence[ClipFile]) -> dict[str, float]:
    """Ask for clips by their words; return how often the best hit shows the thing, and the best of that thing's clips the motion."""
    finder = twoway.Finder(twoway.open_store(index), model)
    of = {str(one.file): one for one in clips}
    right = {"thing": 0, "motion": 0}
    for clip in asked:
        found = [of[hit.item.place] for hit in finder.search(clip.words, top_k=len(clips), exact=True)]
        right["thing"] += found[0].name == clip.name
        right["motion"] += next(one for one in found if one.name == clip.name).motion == clip.motion
    finder.store.close()
    return {name: count / len(asked) for name, count in right.items()}


def main() -> None:
    """Run the whole demo."""
    started = time.perf_counter()
    transformers_logging.disable_progress_bar()
    shutil.rmtree(OUT, ignore_errors=True)
    seen = make_clips(OUT / "trained", "seen", TRAINED)
    held = hold_out(seen)
    write_pairs(seen, held, OUT / "trained" / "pairs.jsonl")
    others = make_clips(OUT / "asked", "unseen", ASKED)
    known = [clip._replace(file=OUT / "asked" / f"known-{clip.file.name}") for clip in seen[: ASKED * len(MOTIONS)]]
    for clip, copy in zip(seen, known, strict=False):
        shutil.copyfile(clip.file, copy.file)
    asked = {"new clips of things trained on": hold_out(known), "things not trained on": others}
    print(f"{len(seen) + len(others):,} clips of {TRAINED + ASKED} things ({time.perf_counter() - started:.0f} s)")
    command(f"convert {samples_folder() / 'base'} {OUT / 'two-way'} --attention two-way --pooling mean")
    command(f"finetune {OUT / 'two-way'} {OUT / 'model'} --data {OUT / 'trained' / 'pairs.jsonl'} {FINETUNE}")
    rows = {"chance": [1 / (2 * ASKED), 1 / len(MOTIONS)] * len(asked)}
    for name, model, frames in (("before", "two-way", FRAMES), ("one frame", "model", 1), ("three frames", "model", FRAMES)):
        index = OUT / f"index-{name.replace(' ', '-')}"
        command(f"index {OUT / 'asked'} --model {OUT / model} --index {index} --limits.num-frames {frames}")
        engine = twoway.open_embedder(OUT / model, device="cpu")
        rows[name] = [value for group in asked.values() for value in score(index, engine, group, [*known, *others]).values()]
    print(f"\nThe best of {len(known) + len(others)} clips of {2 * ASKED} things: is the thing right, and of that thing the motion?")
    print(f"  {'':14s}" + "".join(f"{group + f' ({len(clips)})':>40s}" for group, clips in asked.items()))
    print(f"  {'':14s}" + f"{'thing right':>20s}{'motion right':>20s}" * len(asked))
    for name, values in rows.items():
        print(f"  {name:14s}" + "".join(f"{value:20.1%}" for value in values))
    print("\nThe middle frame of a clip is that of its opposite, too: with one frame, the motion is right by half at best.")
    for clip in hold_out(known)[:SHOWN]:
        command(f"search {OUT / 'index-three-frames'} {shlex.quote(clip.words)} --top-k 2")
    print(f"\nDone in {time.perf_counter() - started:.0f} s.")
    print(f"To see them play: twoway serve {OUT / 'model'} --index {OUT / 'index-three-frames'}")


if __name__ == "__main__":
    main()
