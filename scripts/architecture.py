"""The two drawings of `docs/architecture.md`, made from the imports of the code: nine concepts with what each builds on, and the layers.

    python -m scripts.architecture      # writes docs/pictures/concepts.svg and docs/pictures/layers.svg

A name and a description stand here; which module imports which is read from the code by grimp, and the order of the layers from the
contract in `pyproject.toml` that `lint-imports` checks. Imports for type checkers alone do not count.
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"
PACKAGE = "twoway"


@dataclass(frozen=True)
class Concept:
    """One idea: what it is in two short lines, the modules or packages it lives in, and the row of the drawing that it stands in."""

    name: str
    lines: tuple[str, str]
    modules: tuple[str, ...]
    row: int


CONCEPTS = (
    Concept("Document", ("texts, images, videos", "and sounds in order"), ("content", "images", "videos", "sounds", "parts"), 1),
    Concept(
        "Dataset",
        ("files to documents", "and pairs"),
        (
            *(f"data.{name}" for name in ("dataset", "mixture", "rows")),
            *(f"data.sources.{name}" for name in ("readers", "formats", "parquet", "pdf", "samples")),
        ),
        0,
    ),
    Concept("Processor", ("a document to", "model inputs"), ("data.processing", "data.patches", "data.masking"), 1),
    Concept("Checkpoint", ("load, attention,", "pooling, save"), ("models",), 2),
    Concept("Sampler, Collator", ("rows of a batch,", "tensors"), ("data.sampler", "data.lengths", "data.collators", "data.loader"), 0),
    Concept("Trainer, Callback", ("the loop, ranks,", "exact resume"), ("training",), 1),
    Concept("Method", ("config, data, step;", "losses"), ("methods", "losses"), 0),
    Concept("Embedder", ("documents", "to vectors"), ("embedding",), 2),
    Concept("Store", ("vectors", "to answers"), ("search",), 2),
)
LAYERS = {
    "cli": "the verbs of the command line",
    "server": "HTTP: embeddings, search, the page",
    "search": "indexes and queries",
    "study": "grids of arms and seeds, verdicts",
    "recipes": "several stages from one file, plans",
    "methods": "pretrain, bridge, finetune, convert, mine",
    "reports": "HTML pages and charts",
    "evaluation": "suites, scores, intervals, mteb",
    "training": "the trainer, ranks, checkpoints of a run",
    "embedding": "documents to vectors",
    "losses": "tensors in, a loss out",
    "proof": "what attention does, measured",
    "data": "files to batches",
    "models": "load, attention, pooling, save",
    "content": "a document: parts in order",
    "sounds": "a sound: samples and their rate",
    "videos": "a video: frames and their times",
    "images": "images within bounds",
    "recordings": "files in time, in a child process",
    "parts": "what every content kind has",
    "limits": "the bounds of what is read",
    "config": "settings from YAML and key=value",
    "processes": "worker processes",
    "progress": "progress bars",
    "files": "outputs that are whole or absent",
    "sandbox": "untrusted files in a child process",
    "errors": "the two errors that users meet",
}
STYLE = """<style>
text{font:14px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#1f2328}
.small{font-size:12px}.bold{font-weight:600}.mid{text-anchor:middle}
.on{fill:#3b6fd4}.soft{fill:#3b6fd4;fill-opacity:.13;stroke:#3b6fd4;stroke-width:1.5}.band{fill:#57606a;fill-opacity:.09}
.line{fill:none;stroke:#57606a;stroke-width:1.5}.head{fill:#57606a}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.on{fill:#7ea6ff}.soft{fill:#7ea6ff;stroke:#7ea6ff}
.band{fill:#9aa4af}.line{stroke:#9aa4af}.head{fill:#9aa4af}}
</style>"""
ARROW = """<defs><marker id="a" markerWidth="9" markerHeight="9" refX="8" refY="4.5" orient="auto">
<path class="head" d="M0 0 9 4.5 0 9z"/></marker></defs>"""
WIDTH, HEIGHT, GAP = 148, 70, 46  # of a box, and between two
LINE, LEFT, CELL = 22, 330, 22  # of the matrix: height of a row, where its columns begin, their width

Edges = set[tuple[str, str]]


def main() -> None:
    """Write both drawings."""
    for name, drawing in drawings().items():
        (FOLDER / name).write_text(drawing, encoding="utf-8")
        sys.stdout.write(f"{(FOLDER / name).relative_to(ROOT)}\n")


def drawings() -> dict[str, str]:
    """Return both drawings by their file names."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None, exclude_type_checking_imports=True)
    imports = {(one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one)}
    return {"concepts.svg": draw_concepts(imports), "layers.svg": draw_layers(imports)}


def draw_concepts(imports: Edges) -> str:
    """Draw the concepts; an arrow leads from a concept to each that imports it and does not reach it through another one."""
    homes = {f"{PACKAGE}.{module}": concept.name for concept in CONCEPTS for module in concept.modules}
    modules = {name for edge in imports for name in edge}
    if missing := [home for home in homes if not any(name == home or name.startswith(f"{home}.") for name in modules)]:
        raise SystemExit(f"no such module: {', '.join(missing)}; correct CONCEPTS")
    edges = grouped(imports, homes)
    columns = {concept.name: depth(concept.name, edges) for concept in CONCEPTS}
    needed = {(one, other) for one, other in edges if not any((one, step) in edges and reaches(step, other, edges) for step in columns)}
    places = {concept.name: (10 + columns[concept.name] * (WIDTH + GAP), 10 + concept.row * (HEIGHT + 30)) for concept in CONCEPTS}
    parts = [ARROW]
    for one, other in sorted(needed):
        (left, top), (right, bottom) = places[other], places[one]
        start, end, middle = left + WIDTH, right - 2, HEIGHT // 2
        bend = GAP * 2 // 3
        turn = max(start + bend, end - GAP // 2)  # a long arrow stays in its row until it is past the boxes between
        curve = f"M{start} {top + middle}C{turn} {top + middle} {end - bend} {bottom + middle} {end} {bottom + middle}"
        parts.append(f'<path class="line" d="{curve}" marker-end="url(#a)"/>')
    for concept in CONCEPTS:
        left, top = places[concept.name]
        middle = left + WIDTH // 2
        parts.append(f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="8" class="soft"/>')
        parts.append(text(middle, top + 24, concept.name, "mid bold"))
        parts += [text(middle, top + 42 + 16 * number, line, "mid small") for number, line in enumerate(concept.lines)]
    size = (20 + (max(columns.values()) + 1) * (WIDTH + GAP) - GAP, 20 + 3 * HEIGHT + 2 * 30)
    return svg(size, "Nine concepts and what each builds on: from a document to batches, methods, vectors and answers", parts)


def draw_layers(imports: Edges) -> str:
    """Draw the layers, the topmost first, and beside each row a mark in the column of every package that it imports."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    names = [name.strip().removeprefix(f"{PACKAGE}.") for layer in layers for name in layer.split("|")]
    if set(names) != set(LAYERS):
        raise SystemExit(f"LAYERS and the contract in pyproject.toml differ: {', '.join(sorted(set(names) ^ set(LAYERS)))}")
    edges = grouped(imports, {f"{PACKAGE}.{name}": name for name in names})
    top = 100
    parts = []
    for column, name in enumerate(names):
        place = LEFT + column * CELL + CELL // 2
        parts.append(f'<text x="{place}" y="{top - 8}" class="small" transform="rotate(-60 {place} {top - 8})">{name}</text>')
    for row, name in enumerate(names):
        y = top + row * LINE
        if row % 2 == 0:
            parts.append(f'<rect x="4" y="{y}" width="{LEFT + len(names) * CELL - 4}" height="{LINE}" class="band"/>')
        parts += [text(10, y + 16, name, "bold small"), text(92, y + 16, LAYERS[name], "small")]
        for column, other in enumerate(names):
            if (name, other) in edges:
                parts.append(f'<circle cx="{LEFT + column * CELL + CELL // 2}" cy="{y + LINE // 2}" r="5" class="on"/>')
            elif name == other:
                parts.append(f'<path class="line" d="M{LEFT + column * CELL + 6} {y + LINE // 2}h{CELL - 12}"/>')
    return svg(
        (LEFT + len(names) * CELL + 50, top + len(names) * LINE + 8), "Layers of the package, and which package imports which", parts
    )


def grouped(imports: Edges, homes: dict[str, str]) -> Edges:
    """Return imports between groups; a module belongs to the group with the longest name that holds it."""

    def home(module: str) -> str | None:
        inside = [name for name in homes if module == name or module.startswith(f"{name}.")]
        return homes[max(inside, key=len)] if inside else None

    pairs = {(home(one), home(other)) for one, other in imports}
    return {(one, other) for one, other in pairs if one is not None and other is not None and one != other}


def depth(name: str, edges: Edges, path: tuple[str, ...] = ()) -> int:
    """Return the length of the longest chain of imports below a group."""
    if name in path:
        raise SystemExit(f"these import each other: {' -> '.join([*path[path.index(name) :], name])}")
    return max((1 + depth(other, edges, (*path, name)) for one, other in edges if one == name), default=0)


def reaches(one: str, other: str, edges: Edges) -> bool:
    """Whether a group imports another, directly or through others."""
    return (one, other) in edges or any(reaches(step, other, edges) for start, step in edges if start == one)


def text(x: int, y: int, words: str, kind: str) -> str:
    """Return a line of text."""
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(words)}</text>'


def svg(size: tuple[int, int], title: str, parts: list[str]) -> str:
    """Return a drawing."""
    width, height = size
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
    return "\n".join([f'{head} aria-label="{escape(title)}">', f"<title>{escape(title)}</title>", STYLE, *parts, "</svg>\n"])


if __name__ == "__main__":
    main()
