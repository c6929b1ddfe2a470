"""Pages as they stand in the repository, fitted to the site: no page is left out of the navigation, and links to code name the file.

A page links to files outside `docs/` by relative paths, which work where the repository is looked at; on the site they become the path in
plain sight. A page that no section of `mkdocs.yml` names is put with the guides under its own title; those of results, which studies
write, with the results.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

OUTSIDE = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+)([^)\s]*)\)")
GUIDES, RESULTS = "Guides", "Results"
# Studies write these pages. Until one has, what leads to its page leads to these words.
WORDS = "# Results\n\nNo study has been written into this page yet; the page on [studies](study.md) tells how it comes about.\n"
UNWRITTEN = dict.fromkeys(("results.md", "results-doses.md", "results-beyond.md"), WORDS)


def on_config(config: Any) -> Any:
    """Add the pages that the navigation does not name."""
    folder = Path(config["docs_dir"])
    named = set(_pages(config["nav"]))
    sections = {title: pages for section in config["nav"] for title, pages in section.items()}
    for path in sorted(folder.rglob("*.md")):
        page = path.relative_to(folder).as_posix()
        if page not in named:
            sections[RESULTS if path.stem.startswith("results") else GUIDES].append({_title(path): page})
    sections[RESULTS].extend({"Results": page} for page in UNWRITTEN if page not in named and not (folder / page).exists())
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what is not written yet."""
    for page, words in UNWRITTEN.items():
        if not files.get_file_from_path(page):
            files.append(File.generated(config, page, content=words))
    return files


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
