"""Errors that a user meets: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST_WORD = 200

# Settings and options by the names that other tools have for them, or that ours had, each with what it is here, the likeliest first.
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "batch_size": ("global_batch_size", "per_device_train_batch_size", "budget"),
    "batch": ("global_batch_size", "per_device_train_batch_size", "budget"),
    "batch_rows": ("per_device_train_batch_size",),
    "train_batch_size": ("global_batch_size", "per_device_train_batch_size", "budget"),
    "gradient_accumulation_steps": ("batches_per_step",),
    "shards": ("batches_per_step",),
    "lr": ("learning_rate",),
    "epochs": ("num_train_epochs",),
    "num_epochs": ("num_train_epochs",),
    "warmup": ("warmup_steps",),
    "warmup_ratio": ("warmup_steps",),
    "scheduler": ("lr_scheduler_type",),
    "lr_scheduler": ("lr_scheduler_type",),
    "clip": ("max_grad_norm",),
    "gradient_clipping": ("max_grad_norm",),
    "beta1": ("adam_beta1",),
    "beta2": ("adam_beta2",),
    "log_steps": ("logging_steps",),
    "save_total": ("save_total_limit",),
    "workers": ("dataloader_num_workers",),
    "num_workers": ("dataloader_num_workers",),
    "prefetch": ("dataloader_prefetch_factor",),
    "prefetch_factor": ("dataloader_prefetch_factor",),
    "pin_memory": ("dataloader_pin_memory",),
    "log": ("report_to",),
    "keep": ("load_best_model_at_end",),
    "compile": ("torch_compile",),
    "bf16": ("dtype",),
    "fp16": ("dtype",),
    "torch_dtype": ("dtype",),
    "mixed_precision": ("dtype",),
    "max_seq_length": ("max_length",),
    "max_len": ("max_length",),
    "cutoff_len": ("max_length",),
    "lora_r": ("r",),
    "lora_rank": ("r",),
    "rank": ("r",),
    "alpha": ("lora_alpha",),
    "dropout": ("lora_dropout",),
    "dora": ("use_dora",),
    "dim": ("truncate_dim",),
    "dims": ("matryoshka_dims",),
    "hold": ("keep_graph_tokens",),
    "across_ranks": ("gather_across_devices",),
    "margin_kind": ("margin_strategy",),
    "timeout_minutes": ("ddp_timeout",),
    "scale": ("loss.temperature",),
    "num_hard_negatives": ("hard_negatives",),
    "num_negatives": ("hard_negatives",),
    "train_group_size": ("hard_negatives",),
    "mlm_probability": ("mask.words",),
    "mask_ratio": ("mask.patches",),
    "dataset_name": ("data",),
    "train_file": ("data",),
    "train_data": ("data",),
    "negatives": ("num_negatives",),
    "first": ("range_min",),
    "last": ("range_max",),
    "share": ("relative_margin",),
    "most": ("max_score",),
    "least": ("min_score",),
    "margin": ("absolute_margin",),
    "sampling": ("sampling_strategy",),
    "random": ("random_share",),
    "ranks": ("range_min",),
    "instruction": ("prompt",),
    "as": ("side",),
    "where": ("filter",),
    "k": ("top_k",),
    "n": ("top_k",),
    "limit": ("top_k",),
    "query": ("text",),
    "db": ("index",),
    "output": ("out",),
    "output_dir": ("out",),
    "output_folder": ("out",),
    "cache": ("cache_dir",),
    "cache_folder": ("cache_dir",),
    "ray_address": ("address",),
    "from": ("start",),
    "dimensions": ("truncate_dim",),
    "eval": ("eval_data",),
}
# What is said beside, where the other name counts something else.
_NOTES = {
    "gradient_accumulation_steps": " It counts a step's batches over all ranks: accumulation times ranks.",
    "shards": " It counts a step's batches over all ranks.",
    "share": " It is what the share lacks to 1: 0.05 for 0.95.",
    "first": " It is how many of the nearest are skipped.",
    "timeout_minutes": " It counts seconds.",
}


class TwowayError(Exception):
    """The thing failed; the message is the whole story and is shown without a traceback (exit code 1)."""


class UsageError(TwowayError):
    """The command or the call was used wrongly (exit code 2)."""


class BusyError(UsageError):
    """Somebody else is at work there; the same will do once they are done."""


class SlowError(TwowayError):
    """It was given a time and did not end in it."""


def with_extra(extra: str) -> str:
    """Return the command that installs an extra; the package is on no index, so it is one for a clone."""
    return f"in the clone of twoway, run: pip install -e '.[{extra}]'"


def is_panic(error: BaseException) -> bool:
    """Say whether an error is a panic of a library written in Rust, which is no `Exception` and stops nothing but the call that met it."""
    return not isinstance(error, Exception) and type(error).__name__ == "PanicException"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for what another tool calls so, or for the nearest known word; an empty string where nothing is near."""
    if len(word) > _LONGEST_WORD:
        return ""  # nobody means that by mistake, and comparing costs more than its length
    known = list(known)
    if other := other_name(word, known):
        return other
    import difflib  # not for `--help`

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def other_name(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for a name that others have for a known one: a key (in a group, too), an argument or an option."""
    key = _plain(word)
    for name in OTHER_NAMES.get(key, ()):
        for one in known:
            if f".{_plain(one)}".endswith(f".{name}"):
                return f"; did you mean {one}?{_NOTES.get(key, '')}"
    return ""


def _plain(word: str) -> str:
    """Return the name of an option as a key."""
    return word.lstrip("-").replace("-", "_")
