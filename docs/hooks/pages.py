"""Pages as they stand in the repository, fitted to the site: no page is left out of the navigation, and links to code name the file.

A page links to files outside `docs/` by relative paths, which work where the repository is looked at; on the site they become the path in
plain sight. A page that no section of `mkdocs.yml` names is put with the guides under its own title.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+)([^)\s]*)\)")
GUIDES = "Guides"


def on_config(config: Any) -> Any:
    """Add the pages that the navigation does not name."""
    folder = Path(config["docs_dir"])
    named = set(_pages(config["nav"]))
    (guides,) = (section[GUIDES] for section in config["nav"] if GUIDES in section)
    for path in sorted(folder.rglob("*.md")):
        page = path.relative_to(folder).as_posix()
        if page not in named:
            guides.append({_title(path): page})
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Name files outside the site instead of linking to them."""
    depth = page.file.src_uri.count("/")

    def named(match: re.Match[str]) -> str:
        words, up, rest = match.groups()
        if up.count("../") <= depth:
            return match[0]  # inside the site
        path = f"`{rest}`"
        return words if words.strip("`") == rest else f"{words} ({path})"

    return OUTSIDE.sub(named, markdown)


def _pages(nav: Any) -> list[str]:
    """Return the pages that a part of the navigation names."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in _pages(part)]


def _title(path: Path) -> str:
    """Return the first heading of a page."""
    found = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].replace("`", "") if found else path.stem
