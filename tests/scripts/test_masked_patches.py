"""The table of ways to mask patches: means over seeds, and differences of runs of the same seed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benchmarks.masked_patches import COLUMNS, SAID, WAYS, probed, show

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_runs_of_a_seed_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = dict.fromkeys(SAID, 1)
    for number, way in enumerate(WAYS):
        for seed in (0, 1):
            run = about | {"way": way, "seed": seed} | dict.fromkeys(COLUMNS.values(), seed + number / 10)
            (tmp_path / f"{way}-{seed}.json").write_text(json.dumps(run))
    show(tmp_path)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[3][:2] == ["| drop", "0.7000 ± 6.3530"]  # 12.706 is Student's t for two seeds
    assert rows[6][:2] == ["| drop", "0.2000 ± 0.0000"]
    assert [row[0] for row in rows[4:]] == ["| difference to `noise`, seed by seed", "| skip", "| drop"]


def test_the_last_probe_counts_and_the_first_is_kept(tmp_path: Path) -> None:
    found = dict.fromkeys(COLUMNS.values(), 1.0) | {"patches_gap_shuffled": 0.5}
    steps = [found | {"step": 0}, {"step": 10, "loss": 3.0}, found | {"step": 20, "words_right": 0.25, "patches_gap_shuffled": 0.125}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in steps))
    last = probed(tmp_path / "log.jsonl")
    assert (last["words_right"], last["patches_gap_shuffled"], last["patches_gap_at_start"]) == (0.25, 0.125, 0.5)
