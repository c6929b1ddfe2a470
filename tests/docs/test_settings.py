"""The page of settings is that of today's classes, and has every setting of every command."""

from __future__ import annotations

from scripts import settings
from twoway.cli.verbs import VERBS


def test_the_page_is_made_from_the_classes():
    assert settings.PAGE.read_text(encoding="utf-8") == settings.page(), "run: python -m scripts.settings"


def test_every_class_of_a_command_is_on_it():
    declared = {one.config for verb in VERBS.values() for one in (verb.actions.values() if verb.actions else (verb,)) if one.config}
    assert declared == {f"{cls.__module__}.{cls.__qualname__}" for cls in settings.VERBS.values()}
