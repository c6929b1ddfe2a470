"""Do the frames of a video and its words help each other? A short pre-training on clips of the samples, and what its probes say.

`python -m scripts.clips OUT` takes some minutes of two cores. On held-out clips, masked words are restored with the right video, with
that of another row, with none, and with the right frames backwards; masked patches with the right caption and that of another row.
OUT/run/report.html has the curves.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from twoway.config import fill
from twoway.data.sources.clips import motion_clips, named_things, write_clips
from twoway.data.sources.samples import load_world, samples_folder
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import pretrain

FRAMES = 3  # of a clip
RECIPE = {
    "learning_rate": 6e-4,
    "max_grad_norm": 1.0,
    "budget": 2048,
    "calibrate": "none",
    "mae_weight": 0.5,
    "mask": {"words": 0.4, "patches": 0.5},
    "limits": {"num_frames": FRAMES},
    "num_train_epochs": 50,
    "logging_steps": 10,
    "dataloader_num_workers": 1,
}
COLUMNS = {
    "words, right": ("words_right", None),
    "against shuffled": ("words_gap_shuffled", "words_gap_shuffled_error"),
    "against none": ("words_gap_none", "words_gap_none_error"),
    "against backwards": ("frames_gap_backwards", "frames_gap_backwards_error"),
    "patches, right": ("patches_right", None),
    "caption shuffled": ("patches_gap_shuffled", "patches_gap_shuffled_error"),
}


def main(argv: list[str] | None = None) -> None:
    """Write the clips, train, and print what was measured at the start, on the way and at the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", type=Path, default=samples_folder() / "base")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--things", type=int, default=130, help="that are shown, six clips each")
    args = parser.parse_args(argv)
    clips = write_clips(args.out / "clips", motion_clips(named_things(load_world(), "seen", args.things), None, frames=FRAMES))
    rows = [{"id": clip.file.stem, "parts": [{"video": clip.file.name}, {"text": clip.words}]} for clip in clips]
    data = args.out / "clips" / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = {"max_steps": args.steps, "eval_steps": max(1, args.steps // 2), "save_steps": args.steps, "held_out": len(rows) // 20}
    pretrain(args.base, args.out / "run", [str(data)], config=fill(PretrainConfig, RECIPE | steps, "clips"))
    print_gaps(args.out / "run" / "log.jsonl")


def print_gaps(log: Path) -> None:
    """Print losses, and what the right one saves, with standard errors over rows."""
    entries = [entry for line in log.read_text().splitlines() if "words_right" in (entry := json.loads(line))]
    print(f"\nOn {entries[-1]['words_rows']:.0f} held-out clips: nats a masked word, error a masked patch, and what the right one saves")
    print(f"  {'step':>5s}" + "".join(f"{name:>20s}" for name in COLUMNS))
    for entry in entries:
        cells = [f"{entry[name]:.4f}" + (f" +- {entry[error]:.4f}" if error else "") for name, error in COLUMNS.values()]
        print(f"  {entry['step']:5d}" + "".join(f"{cell:>20s}" for cell in cells))


if __name__ == "__main__":
    main()
