"""Which families can be two-way: each image-text-to-text family of the installed transformers, tried, in a table.

A family's own default config is made small by what its fields mean, a random model is made of it, the switch is set, and the proof says
what the model does, unpadded and padded on the left, layer by layer. No family is named here. A family runs in a process of its own with a
bound on time and memory, so that one that hangs costs its own row. Rows are of texts, since a picture needs the family's processor; with
pictures the whole proof is made for those that the tests build with theirs.

    python -m scripts.families --write docs/families.md      # all of them
    python -m scripts.families llava qwen3_5                 # some, as JSON
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import re
import resource
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection

SECONDS, BYTES = 60, 6 << 30
TWO_WAY, MIXED, REFUSED, NOT_TRIED = "two-way", "mixed", "refused", "not tried"
WAYS = ("all", "sections", "language")
ORDER = (TWO_WAY, MIXED, REFUSED, NOT_TRIED)
TINY = Path(__file__).parents[1] / "tests" / "tiny.py"
WORDS = 512  # of the vocabulary
# What a field of a config means, and what it is in a small model: the first pattern that its whole name matches.
SIZES: tuple[tuple[str, int], ...] = (
    (r"num_kv_shared_layers|first_k_dense_replace|moe_layer_start_index|mlp_only_layers|num_nextn_predict_layers|num_dense_layers", 0),
    (r"(moe_)?(num|n)_(routed_|local_)?experts|(moe_)?num_experts", 4),
    (r"(num_)?experts_per_tok|num_experts_per_token|moe_k|moe_topk|top_k_experts|(moe_)?num_shared_experts|n_shared_experts", 1),
    (r"n_group|topk_group", 1),
    (r"vocab_size\w*", WORDS),
    (r"(global_)?head_dim|v_head_dim", 32),
    (r"qk_head_dim", 64),
    (r"qk_(nope|rope)_head_dim", 32),
    (r"linear_(key|value)_head_dim|conv_dim\w*", 16),
    (r"linear_num_(key|value)_heads", 2),
    (r"[qkv]+_lora_rank|hidden_size_per_layer_input|laurel_rank", 16),
    (r"num_(global_)?(key_value|kv)_heads|n_kv_heads", 2),
    (r"num_(attention_)?heads|n_heads?|encoder_attention_heads|decoder_attention_heads", 4),
    (r"hidden_size|d_model|n_embd|embed_dim|dim|block_dim|projection_dim|text_hidden_size|out_hidden_size|proj_dim", 128),
    (r"(\w+_)?intermediate_size|(encoder_|decoder_)?ffn_dim|mlp_dim|block_ff_dim|intermediate_size_mlp", 64),
    (r"sliding_window|attention_chunk_size", 16),
)
DEPTH = re.compile(r"(num_hidden_|num_|n_|encoder_|decoder_|vision_)?(layers?|depth)|num_blocks")
EXPERTS = re.compile(r".*(expert|moe|vocab|n_group|topk_group|kv_shared|dense_replace).*")


@dataclass(frozen=True)
class Tried:
    """What came of a family."""

    family: str
    outcome: str
    why: str = ""
    pictures: bool = False  # proved with pictures too

    def row(self) -> str:
        """Return its row of the table."""
        return f"| `{self.family}` | {self.outcome} | {'yes' if self.pictures else ''} | {self.why.replace('|', ' ')} |"


def families() -> dict[str, Any]:
    """Return the config class of every family that transformers calls image-text-to-text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    kinds = sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.keys(), key=lambda one: str(one.model_type))
    return {str(kind.model_type): kind for kind in kinds}


def small(config: Any, *, widths: Sequence[Any] | None = None, sections: bool = False) -> Any:
    """Make a config small in place; `widths` are those inside it that become narrow, `sections` writes rotary ones that code implies."""
    _with_all_kinds(config)
    spare = iter(range(WORDS - 1, 0, -1))
    for part in _configs(config):
        narrow = widths is None or any(part is one for one in widths)
        depth = _few(part)
        if sections and isinstance(getattr(part, "rope_parameters", None), dict):
            part.rope_parameters.setdefault("mrope_section", [8, 12, 12])
        before = {name: value for name, value in vars(part).items() if not name.startswith("_")}
        layers = next((value for name, value in before.items() if DEPTH.fullmatch(name) and isinstance(value, int)), None)
        for name, value in before.items():
            found = _value(name, value, narrow, depth, layers, spare)
            if found is not value:
                setattr(part, name, found)
        if before.get("num_key_value_heads") == before.get("num_attention_heads") is not None:
            part.num_key_value_heads = part.num_attention_heads
    return config


def _value(name: str, value: Any, narrow: bool, depth: int, layers: int | None, spare: Iterator[int]) -> Any:
    """Return the small value of one field."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        if re.fullmatch(r"\w*_(token_)?(id|index)", name):
            return next(spare) if value >= WORDS else value
        if DEPTH.fullmatch(name):
            return min(value, depth)
        for pattern, size in SIZES:
            if re.fullmatch(pattern, name) and (narrow or EXPERTS.fullmatch(name)):
                return min(value, size)
        return value
    if isinstance(value, list) and layers is not None and len(value) == layers:
        return value[:depth]  # one entry a layer
    if isinstance(value, list | tuple) and re.fullmatch(r"\w*(layer|block)_?(indexes|indices|idx)", name):
        return [index for index in value if index < depth] or [depth - 1]
    if isinstance(value, list | tuple) and re.fullmatch(r"\w*_token_ids?", name):
        return [next(spare) if isinstance(one, int) and one >= WORDS else one for one in value]
    if isinstance(value, list | tuple) and EXPERTS.fullmatch(name) and all(isinstance(one, int) for one in value):
        return [min(one, 4) for one in value]
    return _rope(value, narrow) if isinstance(value, dict) and "rope" in name else value


def _rope(rope: dict[str, Any], narrow: bool) -> dict[str, Any]:
    """Cut the sections of a rotary embedding to the small head."""
    made = {name: _rope(value, narrow) if isinstance(value, dict) else value for name, value in rope.items()}
    if narrow and "mrope_section" in made:
        half = int(32 * float(rope.get("partial_rotary_factor", 1.0))) // 2
        parts = len(made["mrope_section"])
        made["mrope_section"] = [half - (parts - 1) * (half // parts), *[half // parts] * (parts - 1)]
    return made


def _with_all_kinds(config: Any) -> None:
    """Leave full attention to some layers alone where a config names them one by one: by default these may be all."""
    for part in _configs(config):
        for name, inner in list(vars(part).items()):
            named = (
                [field for field in vars(inner) if re.fullmatch(r"full_attn_(idxs|indices)", field)]
                if hasattr(inner, "sub_configs")
                else []
            )
            if named:
                setattr(part, name, type(inner)(**{named[0]: [2]}))


def _few(config: Any) -> int:
    """Return how many layers are enough to have one of each kind."""
    kinds = list(getattr(config, "layer_types", None) or ())
    return max(3, *(kinds.index(kind) + 1 for kind in set(kinds))) if kinds else 3


def _configs(config: Any) -> list[Any]:
    """Return a config and those inside it."""
    from transformers import PreTrainedConfig

    found, at = [config], 0
    while at < len(found):
        found += [value for value in vars(found[at]).values() if isinstance(value, PreTrainedConfig)]
        at += 1
    return found


def model_of(kind: Any, how: str) -> Any:
    """Make a small random model of a family, narrow throughout or in fewer places."""
    import torch
    import transformers

    config = kind()
    parts = {"all": None, "sections": None, "language": _configs(config.get_text_config()), "depth": []}[how]
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(
        small(config, widths=parts, sections=how == "sections"), dtype=torch.float32
    )
    _tiny().randomise(model)
    return model.eval()


def measured(kind: Any) -> Any:
    """Switch a small model and prove it; where a part does not bear to be so narrow, the next way is tried."""
    from twoway.errors import TwowayError
    from twoway.models import loading
    from twoway.models.attention import set_attention
    from twoway.proof import probe

    first: Exception | None = None
    for how in WAYS:
        try:
            model = model_of(kind, how)
            set_attention(model, "two-way")
            return probe.probe(loading.inner(model), None, paddings=("none", "left"))
        except (TwowayError, ImportError):
            raise
        except Exception as error:  # whatever a family's own code raises
            first = first or error
    raise NotImplementedError(f"no small model of its config runs on a text alone: {_line(first)}")


def try_family(name: str, kind: Any) -> Tried:
    """Try one family, as `convert` would."""
    from twoway.errors import TwowayError
    from twoway.models import loading

    tiny = _tiny()
    if name in tiny.FAMILIES or name in tiny.LISTENERS:
        return _with_pictures(name, tiny)
    try:
        loading.require_vision_language(kind(), Path(name))
        verdict = measured(kind)
    except NotImplementedError as error:
        return Tried(name, NOT_TRIED, _line(error))
    except ImportError as error:
        return Tried(name, NOT_TRIED, f"needs a package that is not here: {_line(error)}")
    except TwowayError as error:
        return Tried(name, REFUSED, _line(error).removeprefix(f"{name} ").partition("; convert takes")[0])
    return _outcome(name, verdict)


def _with_pictures(name: str, tiny: Any) -> Tried:
    """Prove a family that the tests build with its processor, with pictures too."""
    from twoway.models import loading
    from twoway.models.attention import set_attention
    from twoway.models.processor import load_processor
    from twoway.proof import probe

    with tempfile.TemporaryDirectory() as folder:
        built = tiny.build(tiny.LISTENERS.get(name, name), Path(folder))
        model, parts = loading.load_model(built, dtype="float32").model, load_processor(built)
    set_attention(model, "two-way")
    return _outcome(name, probe.probe(loading.inner(model), parts, paddings=("none", "left")), pictures=True)


def _outcome(name: str, verdict: Any, *, pictures: bool = False) -> Tried:
    """Name what the proof says."""
    if verdict.attention in (TWO_WAY, MIXED):
        return Tried(name, verdict.attention, verdict.reason, pictures)
    said = "the switch changes nothing, it stays causal" if verdict.attention == "causal" else f"it is measured {verdict.attention}"
    return Tried(name, REFUSED, f"{said}{f' ({verdict.reason})' if verdict.reason else ''}", pictures)


def _tiny() -> Any:
    """Return the tests' tiny models."""
    if "tiny" not in sys.modules:
        found = importlib.util.spec_from_file_location("tiny", TINY)
        assert found is not None
        assert found.loader is not None
        sys.modules["tiny"] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules["tiny"])
    return sys.modules["tiny"]


def _line(error: BaseException | None) -> str:
    """Return the first line of an error, without what changes from run to run."""
    text = next(iter(str(error).strip().splitlines()), "")
    ours = type(error).__name__ in ("TwowayError", "NotImplementedError")
    return re.sub(r"0x[0-9a-f]+", "…", text if ours and text else f"{type(error).__name__}: {text}")[:200]


def _child(name: str, kind: Any, answer: Connection) -> None:
    """Try a family within a bound on memory."""
    import transformers

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    transformers.logging.set_verbosity_error()
    answer.send(try_family(name, kind))
    answer.close()


def tried(names: Sequence[str] = ()) -> list[Tried]:
    """Try families one after the other, each in a process of its own."""
    import sentence_transformers  # noqa: F401 - loaded once, and not by every child
    import torch

    torch.set_num_threads(1)
    known = families()
    processes = multiprocessing.get_context("fork")
    found = []
    for name in names or known:
        ours, theirs = processes.Pipe(duplex=False)
        process = processes.Process(target=_child, args=(name, known[name], theirs))
        process.start()
        theirs.close()
        try:
            found.append(ours.recv() if ours.poll(SECONDS) else Tried(name, NOT_TRIED, f"its small model is not done in {SECONDS} seconds"))
        except EOFError:
            found.append(Tried(name, NOT_TRIED, f"its process ended without an answer (it has {BYTES >> 30} GiB)"))
        process.kill()
        process.join()
        sys.stderr.write(f"{found[-1].family}: {found[-1].outcome} {found[-1].why}\n")
    return found


def page(found: Sequence[Tried]) -> str:
    """Return the page."""
    import transformers

    counts = ", ".join(f"{sum(one.outcome == name for one in found)} {name}" for name in ORDER)
    rows = "\n".join(one.row() for name in ORDER for one in found if one.outcome == name)
    return PAGE.format(version=transformers.__version__, total=len(found), counts=counts, rows=rows)


PAGE = """# Families

Which vision-language models can be two-way. Every image-text-to-text family of transformers {version} was tried by
`python -m scripts.families --write docs/families.md`, which makes this page: a small random model of the family's own config, the switch
set, and [the proof](check.md) of what the model then does, layer by layer, unpadded and padded on the left. Of {total}: {counts}.

- **two-way**: the switch opens every layer.
- **mixed**: some layers run along the row and stay causal. `convert` refuses it and names them; `convert --attention mixed` opens the
  others, and says so in the card.
- **refused**: `convert` refuses it, for the reason given.
- **not tried**: no small model could be made without code for the family, or it does not read a text alone.

Most rows were tested with texts alone, because an image needs the family's processor; *pictures* marks those that were tested with
images. The project's tests prove `gemma4`, `qwen2_5_omni_thinker` and `qwen3_omni_moe_thinker` on a video and on a sound, too, and
`qwen2_vl`, `qwen2_5_vl` and `qwen3_vl` on a video. `convert` always proves its result with images, and refuses a model whose attention is
not the requested one; so it also decides the families that were not tried. Random weights show where attention can go, and nothing about
how well a model embeds.

| family | outcome | pictures | why |
|---|---|---|---|
{rows}
"""


def main() -> int:
    """Try families, and write the page or answer in JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="FAMILY", help="model types (default: all)")
    parser.add_argument("--write", metavar="FILE", type=Path, help="write the page, of all families")
    args = parser.parse_args()
    found = tried(args.names)
    if args.write:
        args.write.write_text(page(found), encoding="utf-8")
    else:
        sys.stdout.write(json.dumps([asdict(one) for one in found], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
