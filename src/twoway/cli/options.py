"""Options that several verbs have: how a model is opened, and what becomes of a bad row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

_OPENING = ("pooling", "attention", "processor", "template", "max_length", "device", "dtype")


def add_opening(parser: argparse.ArgumentParser) -> None:
    """Declare how a model that gives vectors is opened."""
    parser.add_argument("--pooling", choices=("mean", "last", "eos"), help="for a model that is no sentence-transformers checkpoint")
    parser.add_argument(
        "--attention",
        choices=("two-way", "causal", "mixed"),
        help="for a vision-language model that is no sentence-transformers checkpoint (default: what its layout or its config says)",
    )
    parser.add_argument("--processor", metavar="DIR", help="where the processor is (default: with the model)")
    parser.add_argument(
        "--template",
        choices=("chat", "plain"),
        help="as a chat, or contents one behind the other, for a model that is no sentence-transformers checkpoint "
        "(default: plain for VLM2Vec's adapters and MoCa's and CoCoA's checkpoints, else chat)",
    )
    parser.add_argument("--max-length", metavar="N", type=int, help="cut rows at N tokens (default: the model's limit)")
    parser.add_argument("--device", default="auto", help="device to run on")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="of the model (default: float32 on a CPU)")


def opening(args: argparse.Namespace) -> dict[str, Any]:
    """Return what was said of it, as `open_embedder` takes it."""
    return {name: value for name in _OPENING if (value := getattr(args, name)) is not None}


def add_on_bad(parser: argparse.ArgumentParser, *, listed: str = "bad-rows.jsonl") -> None:
    """Declare what becomes of a bad row."""
    parser.add_argument(
        "--on-bad",
        choices=("fail", "skip"),
        default="fail",
        help=f"a bad row stops the run (fail), or is left out, counted and listed in {listed} (skip); default: %(default)s",
    )
