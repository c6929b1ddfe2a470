"""The processor beside a model: does it fit, how long may a row be, and is there a chat template; `pixels` bounds its pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers

from twoway.errors import TwowayError, UsageError

from .source import first_line, is_hub_id, read_json

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, ProcessorMixin

# Contents in order and nothing else; for a model that brings no template of its own.
_PLAIN = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}PICTURE{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def plain_template(picture: str) -> str:
    """Return the template that writes contents one behind the other, `picture` where there is one."""
    return _PLAIN.replace("PICTURE", picture)


def load_processor(folder: Path) -> ProcessorMixin:
    """Load a whole processor (tokenizer, image processor, chat template) or say what is missing."""
    if not any((folder / name).exists() for name in ("processor_config.json", "preprocessor_config.json")):
        config = folder / "config.json"
        base = read_json(config).get("_name_or_path") if config.exists() else None
        name = f"that of its base is --processor {base}" if base and is_hub_id(str(base)) else "name a folder or hub id with --processor"
        raise TwowayError(f"{folder} has no processor (no processor_config.json or preprocessor_config.json); {name}")
    try:
        processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except ImportError as error:
        raise TwowayError(f"the processor in {folder} needs a package that is not here: {first_line(error)}") from error
    except Exception as error:
        raise TwowayError(f"the processor in {folder} cannot be loaded: {first_line(error)}") from error
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise TwowayError(f"{folder} has a {type(processor).__name__} and no processor for text and images; name one with --processor")
    return processor


def require_fit(model: PreTrainedModel, processor: Any) -> None:
    """Refuse a tokenizer that knows more tokens than the model, and image tokens that are not the model's."""
    tokenizer, rows = processor.tokenizer, model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise TwowayError(
            f"the vocabulary does not fit: the tokenizer goes up to id {highest} and the model has {rows} embeddings; "
            "name the model's own processor with --processor"
        )
    wanted = getattr(model.config, "image_token_id", None)
    named = {getattr(holder, "image_token_id", None) for holder in (processor, tokenizer)}
    if wanted is not None and wanted not in named:
        raise TwowayError(
            f"the processor does not fit: the model's image token has id {wanted} ({tokenizer.convert_ids_to_tokens(wanted)!r} here), "
            f"the processor's {sorted(filter(None, named))}; name the model's own processor with --processor"
        )


def ensure_template(processor: Any) -> bool:
    """Give a processor without a chat template a plain one; return whether it was needed."""
    template = processor.chat_template or processor.tokenizer.chat_template
    needed = not template
    if needed:
        template = plain_template(str(processor.image_token))
    processor.chat_template = processor.tokenizer.chat_template = template
    return needed


def set_max_length(model: PreTrainedModel, processor: Any, length: int | None) -> int:
    """Cap rows at `length` tokens, or at what the model has positions for."""
    tokenizer = processor.tokenizer
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length
    if length is not None and not 0 < length <= positions:
        raise UsageError(f"--max-length {length} is out of range: this model has positions for 1 to {positions} tokens")
    tokenizer.model_max_length = int(length or min(tokenizer.model_max_length, positions))
    return int(tokenizer.model_max_length)
