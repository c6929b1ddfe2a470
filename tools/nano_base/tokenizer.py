"""The base's own tokenizer: byte-level BPE over the world's captions and texts, with the special tokens of the family's processor.

A few reserved tokens are added and never trained on, as real models have them: a later stage can take one as its mask token without
a new row in the embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

END = "<|endoftext|>"
RESERVED = tuple(f"<|reserved_special_token_{number}|>" for number in range(4))


def train_tokenizer(texts: Iterable[str], vocabulary: int, special: Mapping[str, str]) -> Any:
    """Return a fast tokenizer of exactly `vocabulary` entries; `special` names further special tokens by the attribute that holds them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, *dict.fromkeys(special.values()), *RESERVED],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=END,
        extra_special_tokens={**special, **{f"reserved_{number}_token": token for number, token in enumerate(RESERVED)}},
        padding_side="right",
    )
