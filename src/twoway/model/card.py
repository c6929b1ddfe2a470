"""The model card and the provenance: what a checkpoint is, and everything that was done to it, by which version, from what.

`twoway.json` is for programs: the settings, and a chain with one entry a step, which every later step copies and appends to. It holds
hashes of the weights that went in and came out, so a chain can be checked, and no date or folder of the machine, so the same
command gives the same file. `README.md` says the same to people, in the hub's form.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from .source import read_json

if TYPE_CHECKING:
    from pathlib import Path

FILE, CARD = "twoway.json", "README.md"


@dataclass(frozen=True)
class Card:
    """Everything a checkpoint says about itself."""

    base: str
    family: str
    attention: dict[str, Any]
    pooling: str
    width: int
    dim: int | None
    max_length: int
    mask_token: dict[str, Any]
    prompts: dict[str, str]
    licence: str | None
    heads: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    chain: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write both files."""
        (folder / FILE).write_text(json.dumps({"format": 1} | asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / CARD).write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """Return the card as the hub shows it."""
        head: dict[str, Any] = {
            "library_name": "sentence-transformers",
            "pipeline_tag": "feature-extraction",
            "tags": ["sentence-transformers", "feature-extraction", "multimodal", "twoway"],
            "base_model": self.base,
        }
        if self.licence:
            head["license"] = self.licence
        token = self.mask_token
        rows = [
            ("Base", f"{self.base} ({self.family})"),
            ("Licence of the base", self.licence or "not stated by the base; look there before you pass this on"),
            ("Attention, declared", self.attention["declared"]),
            ("Attention, as measured", self.attention["measured"] + (f" ({why})" if (why := self.attention.get("reason")) else "")),
            ("Pooling", self.pooling),
            ("Numbers a vector", f"{self.dim or self.width}" + (f" (the first of {self.width})" if self.dim else "")),
            ("Longest row", f"{self.max_length} tokens"),
            ("Mask token", f"`{token['token']}`, id {token['id']} ({token['how']})"),
            ("Prompts", "; ".join(f"{name}: `{text}`" for name, text in self.prompts.items()) or "none"),
        ]
        table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows)
        steps = "\n".join(f"{number}. {_step(step)}" for number, step in enumerate(self.chain, 1))
        notes = "".join(f"\n- {note}" for note in (_CHAT, *self.notes))
        front, kind = yaml.safe_dump(head, sort_keys=False).strip(), self.attention["declared"]
        return _TEXT.format(front=front, kind=kind, table=table, notes=notes, steps=steps, file=FILE)


def read(folder: Path) -> dict[str, Any]:
    """Read the provenance beside a model; empty where there is none."""
    return read_json(folder / FILE) if (folder / FILE).exists() else {}


def attention(provenance: dict[str, Any]) -> str | None:
    """Return the attention that a provenance declares."""
    said = provenance.get("attention")
    return said.get("declared") if isinstance(said, dict) else said


def licence(folder: Path) -> str | None:
    """Read the licence from a base's card."""
    front = _front(folder)
    named = front.get("license")
    if named == "other":
        named = front.get("license_name") or named
    return str(named) if named else None


def speaks(folder: Path) -> bool:
    """Say whether a card calls its model one that answers, which reads its inputs as a chat."""
    return _front(folder).get("pipeline_tag") in ("image-text-to-text", "any-to-any", "visual-question-answering", "text-generation")


def _front(folder: Path) -> dict[str, Any]:
    """Read what a card says to programs; empty where there is no card, or none that can be read."""
    card = folder / CARD
    lines = card.read_text(encoding="utf-8", errors="replace").split("---", 2) if card.exists() else []
    if len(lines) < 3 or lines[0].strip():
        return {}
    try:
        front = yaml.safe_load(lines[1])
    except yaml.YAMLError:
        return {}
    return front if isinstance(front, dict) else {}


def _step(step: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in step["versions"].items())
    done = " ".join(f"{key}={value}" for key, value in step["options"].items() if value not in (None, {}, []))
    sums = ", ".join(f"`{name}` {value[:16]}" for name, value in step["weights"].items())
    return f"**{step['step']}** from {step['source']} ({done}), by {versions}; SHA-256 of the result: {sums}."


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


_CHAT = (
    "Encode chat messages in a call of their own: in a call that also holds texts or images, sentence-transformers 6.2 drops what "
    "the messages say."
)
_TEXT = """---
{front}
---

# A {kind} multimodal embedding model

| | |
|---|---|
{table}

```python
from sentence_transformers import SentenceTransformer
from PIL import Image

model = SentenceTransformer("path/to/this/folder")
vectors = model.encode(["a text", Image.open("a.png"), {{"image": Image.open("a.png"), "text": "and words"}}])
content = [{{"type": "text", "text": "first"}}, {{"type": "image", "image": Image.open("a.png")}}, {{"type": "text", "text": "then"}}]
vectors = model.encode([[{{"role": "user", "content": content}}]])
```

Texts and images in any order go in as the content of a chat message, as above.
{notes}

## What was done

{steps}

The whole chain, with every hash, is in `{file}`.
"""
