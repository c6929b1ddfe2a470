"""Hugging Face `datasets`: a folder that `save_to_disk` wrote, or a data set of the hub, streamed.

Pictures are taken undecoded, so that one broken picture is one bad row and not the end of the stream. What a hub row names by
path is fetched only from the hub itself; a path on this machine counts only below a local folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..content import ContentError, Place
from ..errors import TwowayError, UsageError
from .rows import COLUMNS, document, require_columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .rows import ReadOptions, Rows

_ASK_SECONDS = 5.0
_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?$")


def load_disk(argument: str) -> Any:
    """Open a folder that `save_to_disk` wrote."""
    import datasets

    try:
        table = datasets.load_from_disk(argument)
    except Exception as error:  # datasets raises many kinds for a damaged folder
        raise TwowayError(f"{argument} is no readable folder of datasets.save_to_disk ({_line(error)})") from error
    if isinstance(table, datasets.DatasetDict):
        if len(table) != 1:
            splits = ", ".join(str(Path(argument) / split) for split in table)
            raise UsageError(f"{argument} holds several splits; name one of {splits}")
        (table,) = table.values()
    return table


def disk_rows(argument: str, options: ReadOptions) -> Rows:
    """Read a folder that `save_to_disk` wrote."""
    table = load_disk(argument)
    # As a stream, because a change of features rewrites a table on disk as a whole.
    passed = options.skip.take(len(table))
    yield from _rows(table.to_iterable_dataset().skip(passed), argument, options, options.root or Path(argument), passed)


def hub_rows(argument: str, options: ReadOptions) -> Rows:
    """Read the rows of a stream."""
    table, local = open_stream(argument)
    yield from _rows(table, f"hub:{argument}", options, options.root or local)


def open_stream(argument: str) -> tuple[Any, Path | None]:
    """Stream `NAME[/CONFIG][:SPLIT]` from the hub, or from a local folder that `load_dataset` understands; the split defaults to train."""
    import datasets

    name, config, local = argument, None, local_root(argument)
    split = argument.rpartition(":")[2] if local is not None and not Path(argument).is_dir() else ""
    if local is not None:
        name = str(local)
    elif (match := _NAME.match(argument)) is not None:
        name, config, split = match["name"], match["config"], match["split"]
    else:
        raise UsageError(
            f"hub:{argument} is no name of a data set; write hub:OWNER/NAME, hub:OWNER/NAME:SPLIT or hub:OWNER/NAME/CONFIG:SPLIT"
        )
    try:
        table = datasets.load_dataset(name, config, split=split or "train", streaming=True)
    except Exception as error:  # network, names, splits and scripts each raise their own kind
        raise TwowayError(f"hub:{argument} cannot be opened ({_line(error)})") from error
    return table, local


def repository_of(argument: str) -> str | None:
    """Return the data set of the hub that is meant; nothing where a folder of this machine is, or where it is no name."""
    match = None if local_root(argument) is not None else _NAME.match(argument)
    return None if match is None else match["name"]


def ask_for(repository: str) -> Literal["there", "gated", "missing", "unreachable"]:
    """Say whether the hub has a data set, and gives it to anybody; nothing of it is fetched."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        found = huggingface_hub.HfApi().dataset_info(repository, timeout=_ASK_SECONDS)
    except GatedRepoError:
        return "gated"
    except RepositoryNotFoundError:
        return "missing"
    except Exception:  # offline, no network, a proxy: each raises its own kind
        return "unreachable"
    return "gated" if found.gated else "there"


def local_root(argument: str) -> Path | None:
    """Return the folder on this machine that is meant, if one is."""
    folder, colon, _ = argument.rpartition(":")
    if Path(argument).is_dir():
        return Path(argument)
    return Path(folder) if colon and Path(folder).is_dir() else None


def raw_rows(table: Any, label: str, root: Path | None, passed: int = 0) -> Iterator[dict[str, Any] | ContentError]:
    """Go through a stream's rows as they are, pictures undecoded but with their bytes; the first few are passed over."""
    table = table.cast(undecoded(table.features)) if table.features else table
    for number, row in enumerate(_guarded(table.skip(passed) if passed else table, label), passed + 1):
        try:
            yield {key: _fetched(value, root, Place(label, number)) for key, value in row.items()}
        except ContentError as error:
            yield error


def _rows(table: Any, label: str, options: ReadOptions, root: Path | None, passed: int = 0) -> Rows:
    """Go through a stream, of which some rows were passed over before."""
    names = table.column_names
    if names is not None:
        require_columns(names, label)
    if table.features is not None:
        table = table.cast(undecoded(table.features))
    for number, row in enumerate(_guarded(table, label), passed + 1):
        if options.skip.take(1):
            continue
        place = Place(label, number)
        try:
            row = {key: _fetched(row[key], root, place) if key in COLUMNS else row[key] for key in row}
        except ContentError as error:
            yield error
            continue
        yield document(row, place, root, unread=options.unread, limits=options.limits)


def _guarded(table: Any, label: str) -> Iterator[dict[str, Any]]:
    """Say a stream that breaks off in one line."""
    try:
        yield from table
    except Exception as error:
        raise TwowayError(f"{label} cannot be read on ({_line(error)})") from error


def undecoded(feature: Any) -> Any:
    """Return the same features with every picture left undecoded, at any depth."""
    import datasets

    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, datasets.Features):
        return datasets.Features({key: undecoded(value) for key, value in feature.items()})
    if isinstance(feature, dict):
        return {key: undecoded(value) for key, value in feature.items()}
    if isinstance(feature, list):
        return [undecoded(value) for value in feature]
    if isinstance(feature, datasets.List | datasets.LargeList):
        return type(feature)(undecoded(feature.feature))
    return feature


def _fetched(value: Any, root: Path | None, place: Place) -> Any:
    """Put the bytes in where a picture is named by its address on the hub."""
    if isinstance(value, list):
        return [_fetched(item, root, place) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {"bytes", "path"}:
        return {key: _fetched(item, root, place) for key, item in value.items()}
    if value["bytes"] is not None or value["path"] is None:
        return value
    if re.match(r"hf://|\w+://[^:]*::hf://", value["path"]):
        from datasets.utils.file_utils import xopen

        try:
            with xopen(value["path"], "rb") as file:
                return {"bytes": file.read(), "path": value["path"]}
        except Exception as error:
            raise ContentError(f"picture {value['path']} cannot be fetched ({_line(error)})", place) from error
    if root is None:
        raise ContentError(f"picture {value['path']} is a path on this machine, which a data set of the hub may not name", place)
    return value


def _line(error: Exception) -> str:
    """Return the first line of another library's error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
