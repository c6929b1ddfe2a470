"""The one table of names: on the left the name that the contract uses for good, on the right how this commit spells it.

A rename changes a right side here and nothing else of the contract, so that two commits say the same thing in their own words.
"""

from __future__ import annotations

import json
from typing import Any

# Verbs of the command, as words of the command line.
VERBS = {
    name: [name] for name in ("convert", "check", "pretrain", "bridge", "finetune", "embed", "index", "search", "evaluate", "mine", "serve")
}

# Options, as words of the command line with a place for each value; `VERB.NAME` goes before `NAME`.
OPTIONS = {
    # what a model is and reads
    "prompts": "--prompts {}",
    "device": "--device {}",
    "as_json": "--json",
    "backends": "--backends {}",
    # training
    "train_data": "--data {}",
    "eval_data": "--eval-data {}",
    "eval_rows": "eval_rows={}",
    "on_bad": "--on-bad {}",
    "objective": "objective={}",
    "max_steps": "max_steps={}",
    "seed": "seed={}",
    "dtype": "dtype={}",
    "learning_rate": "learning_rate={}",
    "warmup_steps": "warmup_steps={}",
    "max_grad_norm": "max_grad_norm={}",
    "save_steps": "save_steps={}",
    "eval_steps": "eval_steps={}",
    "dataloader_num_workers": "dataloader_num_workers={}",
    "training_device": "device={}",
    "batch_rows": "per_device_train_batch_size={}",
    "batch_size": "global_batch_size={}",
    "budget": "budget={}",
    "max_length": "max_length={}",
    "held_out": "held_out={}",
    "mask_words": "mask.words={}",
    "mask_patches": "mask.patches={}",
    "max_target": "max_target={}",
    "hard_negatives": "hard_negatives={}",
    "temperature": "loss.temperature={}",
    "query_prompt": "prompts.query={}",
    "lora_r": "lora.r={}",
    "lora_alpha": "lora.lora_alpha={}",
    "lora_dropout": "lora.lora_dropout={}",
    "lora_dora": "lora.use_dora={}",
    # vectors, index, search, server
    "data": "--data {}",
    "out": "--out {}",
    "side": "--side {}",
    "shard_rows": "--shard-rows {}",
    "truncate_dim": "--truncate-dim {}",
    "precision": "--precision {}",
    "db": "--index {}",
    "image": "--image {}",
    "like": "--like {}",
    "top_k": "--top-k {}",
    "filter": "--filter {}",
    "hybrid": "--hybrid",
    "port": "--port {}",
    # scores and hard negatives
    "suite": "--suite {}",
    "output": "--out {}",
    "negatives": "--num-negatives {}",
    "range_min": "--range-min {}",
    "range_max": "--range-max {}",
    "relative_margin": "--relative-margin {}",
}

# Files and folders that commands leave, columns, keys of JSON and addresses of the server, where they are not as on the left.
WRITTEN: dict[str, str] = {"lr": "learning_rate", "gradient": "grad_norm", "k": "top_k"}

# Values that time, memory or the machine make, and sums over bytes of code or weights: never compared.
NEVER = (
    "rows_per_second", "tokens_per_second", "seconds_left", "seconds", "memory_mb", "peak_share", "took_ms", "created", "fingerprint",
)  # fmt: skip


def command(verb: str, *places: str, **options: Any) -> list[str]:
    """Return the words of a command; a value of several words is a list, and of an option that is only said, True."""
    words = [*VERBS[verb], *places]
    for name, value in options.items():
        spelt = OPTIONS.get(f"{verb}.{name}", OPTIONS.get(name))
        if spelt is None:
            raise KeyError(f"tests/contract/names.py has no spelling of {name}")
        values = [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
        head, _, place = spelt.rpartition(" ")
        if place == "{}":
            words += [head, *values]
        else:
            words.append(spelt.format(*values))
    return words


def here(name: str) -> str:
    """Return how this commit spells a file, a column, a key or an address."""
    return WRITTEN.get(name, name)


def spelt(found: Any) -> Any:
    """Return JSON to be sent with the keys of this commit."""
    if isinstance(found, dict):
        return {here(key): spelt(value) for key, value in found.items()}
    return [spelt(one) for one in found] if isinstance(found, list) else found


def canonical(found: Any) -> Any:
    """Return what was read with the names of the contract, and without what differs from run to run."""
    back = {ours: name for name, ours in WRITTEN.items()}
    if isinstance(found, dict):
        named = {back.get(key, key): value for key, value in found.items()}
        return {key: canonical(value) for key, value in named.items() if key not in NEVER}
    return [canonical(one) for one in found] if isinstance(found, list | tuple) else found


def lines(text: str) -> list[Any]:
    """Return the rows of a JSONL file, with the names of the contract."""
    return [canonical(json.loads(line)) for line in text.splitlines()]
