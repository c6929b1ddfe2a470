"""Find a checkpoint, by hub id or folder, and check its weight files before anything is loaded.

Weights are read from safetensors alone. A pickle runs code while it is read, so it is refused, with the way to convert it;
a cut-off or corrupt file, or a missing shard, is named here and not as a stack of errors out of a loader.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open

from twoway.errors import TwowayError

# A processor alone: its files are kilobytes, the weights beside them gigabytes.
PROCESSOR = ("*.json", "*.jinja", "*.txt", "*.model")
WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def locate(spec: str | Path, wanted: tuple[str, ...] = WANTED) -> Path:
    """Return the folder of a checkpoint; of a hub id, what is `wanted` is fetched (or found in the cache) by the hub's own client."""
    folder = Path(spec)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise TwowayError(f"{folder} is a file; name the folder that holds the checkpoint")
    if isinstance(spec, Path) or not is_hub_id(spec):
        raise TwowayError(f"no such model: {spec} is neither a folder nor a hub id like owner/name")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                spec, allow_patterns=list(wanted), ignore_patterns=["*.index.json"] if wanted is PROCESSOR else None
            )
        )
    except GatedRepoError as error:
        raise TwowayError(f"{spec} is gated on the hub; ask for access there and log in with `hf auth login`") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise TwowayError(f"no such model: {spec} is no folder here and the hub has no repository of that name") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise TwowayError(f"no such model: {spec} is no folder here, and the hub cannot be reached to look there") from error
    except (HfHubHTTPError, OSError) as error:
        raise TwowayError(f"{spec} is no folder here, and the hub did not answer: {first_line(error)}") from error


def is_hub_id(spec: str) -> bool:
    """Say whether a name could be that of a repository on the hub."""
    return _HUB_ID.fullmatch(spec) is not None


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object, or say what is wrong with the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TwowayError(f"{path} is missing; is {path.parent} a whole checkpoint?") from error
    except (ValueError, OSError) as error:
        raise TwowayError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise TwowayError(f"{path} should hold a JSON object, not a {type(content).__name__}")
    return content


def weight_files(folder: Path, stem: str = "model") -> list[Path]:
    """Return the safetensors files of a checkpoint, each opened once to see that it is whole."""
    index = folder / f"{stem}.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map", {})
        files = sorted({folder / str(name) for name in shards.values()})
    else:
        files = [folder / f"{stem}.safetensors"]
    missing = [path.name for path in files if not path.exists()]
    if missing and not index.exists():
        raise _no_weights(folder, stem)
    if missing or not files:
        raise TwowayError(f"{folder} lacks the weight file {', '.join(missing) or '(its index names none)'}; copy the checkpoint again")
    for path in files:
        check_file(path)
    return files


def check_file(path: Path) -> None:
    """Open a safetensors file, which compares its header with its length."""
    try:
        with safe_open(str(path), framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise TwowayError(f"{path} is cut off or corrupt ({first_line(error)}); copy or download it again") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, for messages of one line."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _no_weights(folder: Path, stem: str) -> TwowayError:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern) if path.name != "training_args.bin")
    if not pickles:
        return TwowayError(f"{folder} has no weights: {stem}.safetensors is missing")
    if stem == "model":
        how = f"M.from_pretrained('{folder}').save_pretrained('NEW')"
        way = f'python -c "from transformers import AutoModelForImageTextToText as M; {how}"'
    else:
        way = "peft's PeftModel.from_pretrained(...).save_pretrained('NEW')"
    return TwowayError(
        f"{folder} has only pickle weights ({pickles[0]}), which run code when they are read; "
        f"where you trust the file, convert it once: {way}"
    )
