"""Hugging Face `datasets`: a folder that `save_to_disk` wrote, or a data set of the hub, streamed.

Pictures are taken undecoded, so that one broken picture is one bad row and not the end of the stream. What a hub row names by
path is fetched only from the hub itself; a path on this machine counts only below a local folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..content import ContentError, Place
from ..errors import TwowayError, UsageError, did_you_mean
from .rows import COLUMNS, document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .rows import ReadOptions, Rows

_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?$")


def disk_rows(argument: str, options: ReadOptions) -> Rows:
    """Read a folder that `save_to_disk` wrote."""
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
    # As a stream, because a change of features rewrites a table on disk as a whole.
    yield from _rows(table.to_iterable_dataset(), argument, options.root or Path(argument))


def hub_rows(argument: str, options: ReadOptions) -> Rows:
    """Stream `NAME[/CONFIG][:SPLIT]` from the hub, or from a local folder that `load_dataset` understands; the split defaults to train."""
    import datasets

    folder, colon, split = argument.rpartition(":")
    name, config, local = argument, None, None
    if Path(argument).is_dir() or (colon and Path(folder).is_dir()):
        name = argument if Path(argument).is_dir() else folder
        split = "" if Path(argument).is_dir() else split
        local = Path(name)
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
    yield from _rows(table, f"hub:{argument}", options.root or local)


def _rows(table: Any, label: str, root: Path | None) -> Rows:
    """Go through a stream."""
    names = table.column_names
    if names is not None and not set(names) & set(COLUMNS):
        hint = next((found for name in names if (found := did_you_mean(name, COLUMNS))), "")
        raise UsageError(f"{label} has none of the columns {', '.join(COLUMNS)}{hint} (it has {', '.join(names)})")
    if table.features is not None:
        table = table.cast(_undecoded(table.features))
    for number, row in enumerate(_guarded(table, label), 1):
        place = Place(label, number)
        try:
            row = {key: _fetched(row[key], root, place) if key in COLUMNS else row[key] for key in row}
        except ContentError as error:
            yield error
            continue
        yield document(row, place, root)


def _guarded(table: Any, label: str) -> Iterator[dict[str, Any]]:
    """Say a stream that breaks off in one line."""
    try:
        yield from table
    except Exception as error:
        raise TwowayError(f"{label} cannot be read on ({_line(error)})") from error


def _undecoded(feature: Any) -> Any:
    """Return the same features with every picture left undecoded, at any depth."""
    import datasets

    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, datasets.Features):
        return datasets.Features({key: _undecoded(value) for key, value in feature.items()})
    if isinstance(feature, dict):
        return {key: _undecoded(value) for key, value in feature.items()}
    if isinstance(feature, list):
        return [_undecoded(value) for value in feature]
    if isinstance(feature, datasets.List | datasets.LargeList):
        return type(feature)(_undecoded(feature.feature))
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
