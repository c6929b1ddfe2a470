"""`twoway convert`: make a two-way embedding model out of a vision-language model."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from .options import add_attn_implementation

if TYPE_CHECKING:
    import argparse

HELP = """Turn a vision-language model into a two-way embedding model that sentence-transformers loads.

SRC is a hub id or a folder: a causal vision-language model, a sentence-transformers model, a PEFT adapter (merged into its base),
or a checkpoint as MoCa's or CoCoA's trainer saves it, whose pooling and way of writing inputs are kept. OUT is a plain
sentence-transformers checkpoint with a model card; its attention is measured, not assumed, and the model is refused where it is not
what was asked for."""
EXAMPLE = """twoway convert Qwen/Qwen2-VL-2B-Instruct my-model --prompt "query=Find a picture of " --max-length 2048
  twoway convert moca-checkpoint my-model --processor Qwen/Qwen2.5-VL-3B-Instruct"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("src", metavar="SRC", help="hub id or folder")
    parser.add_argument("out", metavar="OUT", help="folder to write; it must not exist")
    parser.add_argument("--config", metavar="FILE", help="YAML file with these options (max_length: 2048); options given here win")
    parser.add_argument(
        "--attention",
        choices=("two-way", "causal", "mixed"),
        help="who sees whom (default: two-way); mixed: where layers allow it",
    )
    parser.add_argument("--pooling", choices=("mean", "last", "eos"), help="states to vector (default: the source's own, or mean)")
    parser.add_argument(
        "--template", choices=("chat", "plain"), help="turns of a chat, or contents one behind the other (default: as SRC was trained)"
    )
    parser.add_argument("--processor", metavar="DIR", help="folder or hub id of the processor, where SRC has none")
    parser.add_argument("--base", metavar="SRC", help="base of an adapter (default: the one it names)")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="of the weights; auto keeps SRC's"
    )
    parser.add_argument("--mask-token", metavar="TOKEN", help="token for masked training (default: an unused one, or a new one)")
    parser.add_argument("--prompt", metavar="NAME=TEXT", action="append", default=[], help="a prompt to save; may be repeated")
    parser.add_argument("--max-length", metavar="N", type=int, help="cut rows at N tokens (default: what the model has positions for)")
    parser.add_argument("--min-pixels", metavar="N", type=int, help="enlarge smaller pictures to this area (default: as SRC's processor)")
    parser.add_argument("--max-pixels", metavar="N", type=int, help="shrink larger pictures to this area (default: as SRC's processor)")
    parser.add_argument("--dim", metavar="N", type=int, help="keep the first N numbers of a vector (for Matryoshka models)")
    add_attn_implementation(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT once the new one is whole")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run(args: argparse.Namespace) -> int:
    """Convert, and say what came out."""
    import dataclasses

    from twoway.config import load
    from twoway.model.encoder import parse_prompts
    from twoway.stages.convert import ConvertConfig
    from twoway.stages.convert import run as convert

    config = load(ConvertConfig, args.config)
    names = [option.name for option in dataclasses.fields(ConvertConfig)]
    given = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    config = dataclasses.replace(config, **given, prompts=config.prompts | parse_prompts(args.prompt))
    result = convert(args.src, args.out, config, overwrite=args.overwrite)
    if args.json:
        sys.stdout.write(json.dumps(result.as_json(), ensure_ascii=False, indent=2) + "\n")
        return 0
    card = result.card
    sys.stdout.write(
        f"{result.out}: {card.family}, {card.attention['measured']} as measured, pooling {card.pooling}, {card.dim or card.width} numbers, "
        f"mask token {card.mask_token['token']} ({card.mask_token['how']})\n"
    )
    return 0
