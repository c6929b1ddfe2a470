"""What `make demo` shows is right: the shipped model finds what the demo asks for, among pictures of the samples drawn by lot."""

from __future__ import annotations

import random

import numpy as np

from snippets import ROOT, load_example
from twoway.content import Document, Image, Text
from twoway.data.sources.samples import load_world
from twoway.embedding import open_embedder
from twoway.search.store import normalized

OTHERS = 300
ANSWERS = {"flag of France": "France", "Spritze": "syringe", "soleil": "sun"}


def test_the_shipped_model_finds_what_the_demo_asks_for():
    demo, world, engine = load_example("demo"), load_world(), open_embedder(ROOT / "samples" / "search", device="cpu")
    named = {row["names"]["en"]: key for key, row in world.concepts.items()}
    drawn = world.one_each()
    right = {words: named[ANSWERS.get(words, words)] for words in (*demo.WORDS, demo.THING)}
    others = random.Random("others").sample([key for key in drawn if key not in right.values()], OTHERS)
    keys = [*right.values(), *others]
    pictures = normalized(engine.array([Document((Image(drawn[key]["image"]),)) for key in keys], side="document"))
    held = next(row for style in world.held_styles for row in world.drawn(style=style) if row["concept"] == named[demo.THING])
    asked = {words: Text(words) for words in demo.WORDS} | {demo.THING: Image(held["image"])}
    queries = normalized(engine.array([Document((part,)) for part in asked.values()], side="query"))
    found = [keys[best] for best in np.argmax(queries @ pictures.T, axis=1)]
    assert found == [right[words] for words in asked]


def test_the_shipped_model_finds_the_page_that_the_demo_asks_for():
    demo, world, engine = load_example("demo"), load_world(), open_embedder(ROOT / "samples" / "search", device="cpu")
    right = next(number for number, row in enumerate(world.pages) if demo.ON_A_PAGE in row["queries"].values())
    shown = [*range(1, demo.PAGES, 4), right]
    pages = normalized(engine.array([Document((Image(world.pages[number]["image"]),)) for number in shown], side="document"))
    query = normalized(engine.array([Document((Text(demo.ON_A_PAGE),))], side="query"))
    assert right < demo.PAGES
    assert shown[int(np.argmax(query @ pages.T))] == right
