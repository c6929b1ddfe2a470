"""One side of the fine-tuning benchmark, in a process: `python -m benchmarks.finetune_side SIDE BASE ROWS BATCH STEPS`.

SIDE is ours, stream, or theirs-NUMBER-rows or -tokens, which says how large their chunks are. Both train the same two-way model on the
same rows, in the type that the machine is fast in, in one thread, with one worker that prepares batches, and look at the same negatives.
Timed is the whole of the training, from reading the first row to the last step, by the clock and by the processor's own count (which other
work on the machine changes little); memory is the most that the process had.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TEMPERATURE, RATE, BUDGET = 0.03, 1e-5, 2048.0  # of our chunks, in tokens
CHUNKS = {"rows": "mini_batch_size", "tokens": "mini_batch_num_tokens"}


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Return the seconds that something takes, by the clock and by the processors' count, workers included."""
    start, before = time.perf_counter(), processor_time()
    work()
    return {"seconds": time.perf_counter() - start, "processor": processor_time() - before}


def processor_time() -> float:
    """Return the seconds that this process and those it has waited for were on a processor."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def ours(base: str, rows: str, batch: int, steps: int) -> dict[str, Any]:
    """Train with the trainer of `finetune`."""
    from twoway.data.config import PairSource
    from twoway.methods.finetune.config import FinetuneConfig
    from twoway.methods.finetune.data import open_data
    from twoway.methods.finetune.method import prepare
    from twoway.training.distributed import Ranks
    from twoway.training.progress import read_log
    from twoway.training.trainer import Trainer

    data = (PairSource(rows),)
    config = FinetuneConfig(
        data=data,
        global_batch_size=batch,
        budget=BUDGET,
        max_steps=steps,
        learning_rate=RATE,
        held_out=0,
        dataloader_num_workers=1,
        save_steps=10**6,
    )
    with tempfile.TemporaryDirectory() as out:
        prepared = prepare(base, config)
        opened = open_data(config, prepared, Path(out), shards=1, bad_rows=None)
        trainer = Trainer(prepared.module, config, Path(out), total_steps=steps, ranks=Ranks("cpu"))
        trainer.save = lambda: None  # type: ignore[method-assign]
        seconds = timed(lambda: trainer.train(opened.loader))
        log = read_log(Path(out))
    tokens = sum(line["tokens"] for line in log)
    padding = sum(line["padding"] * line["tokens"] / (1 - line["padding"]) for line in log)
    return seconds | {"tokens": tokens, "padding": padding / (padding + tokens), "loss": log[-1]["loss"]}


def stream(base: str, rows: str, batch: int, steps: int) -> dict[str, Any]:
    """Read, decode and put together what `ours` trains on, every chunk twice, and leave the model out."""
    from twoway.data.config import PairSource
    from twoway.methods.finetune.config import FinetuneConfig
    from twoway.methods.finetune.data import open_data
    from twoway.methods.finetune.method import prepare

    config = FinetuneConfig(
        data=(PairSource(rows),), global_batch_size=batch, budget=BUDGET, max_steps=steps, held_out=0, dataloader_num_workers=1
    )
    prepared = prepare(base, config)
    sizes: list[int] = []

    def work() -> None:
        for batches in opened.loader.steps(0, steps):
            for chunks in (one["chunks"] for one in batches if one is not None):
                sizes.extend(sum(value.nbytes for value in chunk["inputs"].values()) for chunk in chunks)
                for _ in chunks.reread(range(len(chunks.costs))):
                    pass

    with tempfile.TemporaryDirectory() as out:
        opened = open_data(config, prepared, Path(out), shards=1, bad_rows=None)
        seconds = timed(work)
    return seconds | {"chunks": len(sizes), "megabytes": sum(sizes) / 2**20}


def theirs(size: int, unit: str, base: str, rows: str, batch: int, steps: int) -> dict[str, Any]:
    """Train with the trainer of sentence-transformers and its cached loss, in chunks of `size` rows or tokens."""
    import torch
    from datasets import Dataset
    from PIL import Image
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    from twoway.training.precision import choose_dtype

    home, half = Path(rows).parent, choose_dtype(torch.device("cpu")).dtype == "bfloat16"
    given = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()]

    def message(side: dict[str, str]) -> list[dict[str, Any]]:
        shown = [{"type": "image", "image": Image.open(home / side["image"]).convert("RGB")}] if "image" in side else []
        words = [{"type": "text", "text": side["text"]}] if "text" in side else []
        return [{"role": "user", "content": [*shown, *words]}]

    def load(chosen: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {name: [message(given[number][name]) for number in chosen["query"]] for name in ("query", "positive", "negative")}

    numbers = list(range(len(given)))
    data = Dataset.from_dict(dict.fromkeys(("query", "positive", "negative"), numbers)).with_transform(load)
    model = SentenceTransformer(base, device="cpu")
    tokens = {"all": 0, "real": 0}

    def count(_module: Any, inputs: tuple[Any, ...]) -> None:
        if not torch.is_grad_enabled():
            mask = inputs[0]["attention_mask"]
            tokens["all"] += mask.numel()
            tokens["real"] += int(mask.sum())

    model[0].register_forward_pre_hook(count)
    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, **{CHUNKS[unit]: size})
    with tempfile.TemporaryDirectory() as out:
        arguments = SentenceTransformerTrainingArguments(
            out, per_device_train_batch_size=batch, max_steps=steps, learning_rate=RATE, bf16=half, use_cpu=True, report_to="none",
            save_strategy="no", logging_steps=1, dataloader_num_workers=1, dataloader_prefetch_factor=2, disable_tqdm=True,
            remove_unused_columns=False, max_grad_norm=5.0, weight_decay=0.0,
        )  # fmt: skip
        trainer = SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss)
        seconds = timed(trainer.train)
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return seconds | {"tokens": tokens["real"], "padding": 1 - tokens["real"] / tokens["all"], "loss": losses[-1]}


def main() -> None:
    """Run one side, and print what it took as JSON."""
    import torch

    torch.set_num_threads(1)
    side, base, rows, batch, steps = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    _, size, unit = side.split("-") if side.startswith("theirs") else ("", "0", "")
    train = {"ours": ours, "stream": stream}.get(side) or partial(theirs, int(size), unit)
    found = train(base, rows, batch, steps)
    found |= {"rows": batch * steps, "rows_per_second": batch * steps / found["seconds"]}
    print("\n" + json.dumps(found | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
