"""What a rank does that looks at its share of the pairs; little is imported, because each rank is a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

from twoway.data.config import PairSource
from twoway.data.mixture import open_pairs
from twoway.data.sampler import TaskBatchSampler
from twoway.training.distributed import Ranks


def note_tasks(rows, out, steps):
    """Be a rank: write down which tasks the rows of each global batch have, on all ranks together."""
    ranks = Ranks("cpu")
    pairs = open_pairs([PairSource(str(rows))])
    epochs = TaskBatchSampler(pairs, batch=6, seed=1, sampling="smooth", max_repeats=2, shards=ranks.world_size)
    found = []
    for step in range(steps):
        _, pieces = epochs.rows(step, ranks.rank, ranks.world_size)
        own = [(pairs.tasks[pairs.task_of[row]], int(row)) for piece in pieces for row in piece]
        found.append(ranks.all_gather_object(own))
    if ranks.is_main_process:
        Path(out).write_text(json.dumps(found))
    ranks.destroy()
