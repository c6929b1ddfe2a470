"""Words chosen by hand (`words.yaml`, `iconify_words.yaml`): names of icons, titles that say nothing, which sense of a noun is drawn."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

_WORDS: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("words.yaml").read_text(encoding="utf-8"))
ICONS_LEFT_OUT: frozenset[str] = frozenset(_WORDS["icons_left_out"])
ICON_NAMES: dict[str, str] = _WORDS["icon_names"]
VAGUE_TITLES: frozenset[str] = frozenset(_WORDS["vague_titles"])
GLOSS_HOLDS: dict[str, str] = _WORDS["gloss_holds"]

_ICONIFY: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("iconify_words.yaml").read_text(encoding="utf-8"))
SYMBOLS_KEPT: frozenset[str] = frozenset(_ICONIFY["symbols_kept"])
ICONIFY_NAMES: dict[str, str] = _ICONIFY["names"]
ICONIFY_LEFT_OUT: frozenset[str] = frozenset(_ICONIFY["left_out"])
MODIFIERS: frozenset[str] = frozenset(_ICONIFY["modifiers"])
