"""Scenes and questions whose answer needs picture and text read together, and plain ones where one side is enough.

Every task is a set of small groups in which each side alone fits several answers equally often, by construction:

- `beside`: four things in two rows, and a question about one of them: "What is left of the cat?" The same four things stand in six
  arrangements, so the picture alone leaves four answers and the question alone leaves three.
- `changed`: a picture of a thing and a wish ("the same on a blue ground", "two of them", "the same with a key beside it"); the answer is
  a picture by another designer. Every thing is asked with all wishes of its group, and every wish of many things.
- `owner`: the answer is a picture of two things and a text that says whose the left one is; "The cat is Ann's, the key is Tom's" is right
  for two of the four that a group has: who owns what follows from the places in the picture and the names in the text.
- `label`: the answer is a picture and a text, each of which stands in three answers of its group. Read one by one and added they are
  enough: no part of the one changes what the other means.
- `scene-names` (plain): a picture of four things and their names: either side names the answer.

All things of a group are of one half, drawn in training styles.
"""

from __future__ import annotations

import io
import itertools
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageOps

from twoway.data.sources.pages import decode
from twoway.data.sources.samples import HELD_SOURCES, HELD_STYLES

from .split import HALVES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

GROUPS = {"beside": 44, "changed": 220, "owner": 150, "label": 110}  # of each half
TILE, MARGIN = 64, 4
QUALITY = 75
LONGEST_NAME = 20
OTHERS = 6
GROUNDS = {"blue": (176, 208, 250), "yellow": (252, 236, 150), "green": (180, 230, 180), "pink": (250, 196, 214), "grey": (196, 196, 202)}
PEOPLE = ("Ann", "Tom", "Eva", "Max", "Lea", "Ben", "Mia", "Paul", "Ida", "Jon")
ROOMS = ("in the kitchen", "in the cellar", "in the garden", "in the attic", "in the hall", "in the garage")
DAYS = ("sold on Monday", "sold on Tuesday", "sold on Friday", "sold on Sunday", "sold in April", "sold in October")
# What is said in the query, and on the card that answers it.
PLACES = {
    **{room: f"Kept {room}." for room in ROOMS},
    **{day: f"To be {day}." for day in DAYS},
}
CHANGES = ("ground", "two", "turned", "corner", "beside")


class Thing(NamedTuple):
    """A concept that scenes show: its name and its pictures by style."""

    concept: str
    name: str
    pictures: Mapping[str, Mapping[str, Any]]


class Made:
    """The rows of `scenes` and `questions` as they grow."""

    def __init__(self) -> None:
        self.scenes: list[dict[str, Any]] = []
        self.questions: list[dict[str, Any]] = []

    def scene(self, kind: str, image: Image.Image, things: Sequence[Thing], half: str) -> str:
        """Add a scene, and return its id."""
        data = io.BytesIO()
        image.save(data, "WEBP", quality=QUALITY, method=4)
        name = f"scene/{kind}-{sum(row['kind'] == kind for row in self.scenes):04d}"
        self.scenes.append({"id": name, "kind": kind, "image": data.getvalue(), "concepts": [one.concept for one in things], "half": half})
        return name

    def question(self, task: str, group: str, half: str, query: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> None:
        """Add a question with its right answers."""
        number = sum(row["task"] == task for row in self.questions)
        row = {"id": f"{task}/{number:04d}", "task": task, "group": group, "half": half, "query": dict(query)}
        self.questions.append({**row, "answers": [dict(answer) for answer in answers]})


def side(text: str | None = None, picture: str | None = None, *, text_first: bool = False) -> dict[str, Any]:
    """Return one side of a question: a text, a picture (by id), or both in an order."""
    return {"text": text, "picture": picture, "text_first": text_first}


def scene_rows(
    concept_rows: Iterable[Mapping[str, Any]], picture_rows: Iterable[Mapping[str, Any]], *, groups: Mapping[str, int] = GROUPS
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of `scenes` and of `questions`."""
    drawn = [row for row in picture_rows if row["style"] not in HELD_STYLES and row["source"] not in HELD_SOURCES]
    made = Made()
    for half in HALVES:
        things = _things(concept_rows, drawn, half)
        for task, make in (("beside", _beside), ("changed", _changed), ("owner", _owner), ("label", _label)):
            for number in range(groups[task]):
                make(made, things, half, f"{task}-{half}-{number}", random.Random(f"scenes/{task}/{half}/{number}"))
    return made.scenes, made.questions


def _things(concept_rows: Iterable[Mapping[str, Any]], drawn: Iterable[Mapping[str, Any]], half: str) -> list[Thing]:
    """Return the concepts of a half with a short name of their own and two styles at least, one of each cluster."""
    pictures: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in drawn:
        pictures.setdefault(row["concept"], {}).setdefault(row["style"], row)
    found: dict[str, Thing] = {}
    for row in concept_rows:
        name, own = row["names"]["en"], pictures.get(row["concept"], {})
        if row["half"] == half and row["kind"] != "country" and len(own) > 1 and len(name) <= LONGEST_NAME:
            found.setdefault(row["cluster"], Thing(row["concept"], name, own))
    return [found[key] for key in sorted(found)]


def _tile(thing: Thing, rng: random.Random) -> Image.Image:
    """Return one picture of a thing, on nothing."""
    row = thing.pictures[rng.choice(sorted(thing.pictures))]
    return _clear(row, TILE - 2 * MARGIN)


def _clear(row: Mapping[str, Any], size: int) -> Image.Image:
    """Return a picture, its transparency kept, at a size."""
    return Image.open(io.BytesIO(row["image"])).convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)


def _paste(canvas: Image.Image, picture: Image.Image, left: int, top: int) -> None:
    canvas.paste(picture, (left, top), picture)


def _row_of(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Lay tiles out in rows on white."""
    canvas = Image.new("RGB", (TILE * columns, TILE * (len(tiles) // columns)), "white")
    for place, tile in enumerate(tiles):
        _paste(canvas, tile, place % columns * TILE + MARGIN, place // columns * TILE + MARGIN)
    return canvas


def _beside(made: Made, things: Sequence[Thing], half: str, group: str, rng: random.Random) -> None:
    """Four things in six arrangements: each is once left and once right of each other one."""
    four, text_first = rng.sample(things, 4), rng.random() < 0.5
    first, second, third, fourth = range(4)
    pairings = (((first, second), (third, fourth)), ((first, third), (second, fourth)), ((first, fourth), (second, third)))
    for pairing, mirrored in itertools.product(pairings, (False, True)):
        rows = [list(reversed(row)) if mirrored else list(row) for row in rng.sample(pairing, 2)]
        order = [four[place] for row in rows for place in row]
        picture = made.scene("four", _row_of([_tile(one, rng) for one in order], 2), order, half)
        for left, right in (order[:2], order[2:]):
            for asked, answer, place in ((right, left, "left"), (left, right, "right")):
                query = side(f"What is {place} of the {asked.name}?", picture, text_first=text_first)
                made.question("beside", group, half, query, [side(answer.name)])
        made.question("scene-names", group, half, side(None, picture), [side(", ".join(sorted(one.name for one in order)))])


def _changed(made: Made, things: Sequence[Thing], half: str, group: str, rng: random.Random) -> None:
    """One thing, changed in four ways, each asked for beside its plain picture by another designer."""
    thing = rng.choice(things)
    # Few others, so that many groups have the same wish.
    others = [one for one in random.Random(f"scenes/others/{half}").sample(things, OTHERS) if one is not thing]
    other = rng.choice(others)
    shown, asked = rng.sample(sorted(thing.pictures), 2)
    for change in rng.sample(CHANGES, 4):
        canvas, wish = _change(change, thing, shown, other, rng)
        answer = made.scene("changed", canvas, [thing, other] if change == "beside" else [thing], half)
        query = side(wish, str(thing.pictures[asked]["id"]), text_first=rng.random() < 0.5)
        made.question("changed", group, half, query, [side(None, answer)])


def _change(change: str, thing: Thing, style: str, other: Thing, rng: random.Random) -> tuple[Image.Image, str]:
    """Draw a thing changed in one way, and say the wish for it."""
    size, small = 80, 36
    canvas = Image.new("RGB", (size, size), "white")
    whole = _clear(thing.pictures[style], size - 2 * MARGIN)
    part = whole.resize((small, small), Image.Resampling.LANCZOS)
    middle = (size - small) // 2
    if change == "ground":
        colour = rng.choice(sorted(GROUNDS))
        canvas.paste(GROUNDS[colour], (0, 0, size, size))
        _paste(canvas, whole, MARGIN, MARGIN)
        return canvas, f"the same on a {colour} ground"
    if change == "two":
        for left in (2, size - small - 2):
            _paste(canvas, part, left, middle)
        return canvas, "two of them"
    if change == "turned":
        _paste(canvas, ImageOps.flip(whole), MARGIN, MARGIN)
        return canvas, "the same upside down"
    if change == "corner":
        name, left, top = rng.choice((("top left", 2, 2), ("top right", size - small - 2, 2), ("bottom left", 2, size - small - 2)))
        _paste(canvas, part, left, top)
        return canvas, f"the same, small, in the {name} corner"
    _paste(canvas, part, 2, middle)
    _paste(canvas, _tile(other, rng).resize((small, small), Image.Resampling.LANCZOS), size - small - 2, middle)
    return canvas, f"the same with a {other.name} beside it"


def _owner(made: Made, things: Sequence[Thing], half: str, group: str, rng: random.Random) -> None:
    """Two things in either order, and two texts that say whose the left one is: each of two owners' statements fits two of the four."""
    one, other = rng.sample(things, 2)
    tom, ann = rng.sample(PEOPLE, 2)
    tiles = _tile(one, rng), _tile(other, rng)
    pictures = [made.scene("two", _row_of(order, 2), shown, half) for order, shown in ((tiles, (one, other)), (tiles[::-1], (other, one)))]
    texts = [f"The left one is {left}'s, the right one is {right}'s." for left, right in ((tom, ann), (ann, tom))]
    # One order in a group: it must not tell the cards apart.
    text_first = rng.random() < 0.5
    cards = {(which, said): side(texts[said], pictures[which], text_first=text_first) for which in (0, 1) for said in (0, 1)}
    for same, (first, second) in ((True, (tom, ann)), (False, (ann, tom))):
        query = side(f"The {one.name} is {first}'s, the {other.name} is {second}'s.")
        made.question("owner", group, half, query, [card for (which, said), card in sorted(cards.items()) if (which == said) == same])


def _label(made: Made, things: Sequence[Thing], half: str, group: str, rng: random.Random) -> None:
    """Three things with each of three texts: nine cards, each the answer to one query."""
    text_first = rng.random() < 0.5
    chosen, places = rng.sample(things, 3), rng.sample(sorted(PLACES), 3)
    for thing in chosen:
        picture = str(thing.pictures[rng.choice(sorted(thing.pictures))]["id"])
        for place in places:
            made.question("label", group, half, side(f"{thing.name}, {place}"), [side(PLACES[place], picture, text_first=text_first)])


# How much each side alone tells, counted on the rows themselves.


def leaks(questions: Sequence[Mapping[str, Any]], images: Mapping[str, bytes]) -> dict[str, dict[str, float | None]]:
    """Return for each task how often the first answer is right: by chance, and for whoever knows all rows but sees one part of a side.

    `words` and `pixels` rank answers by likeness: of the texts' letters, and of the pictures at 16 x 16 pixels.
    """
    return {
        f"{task} ({half})": _leaks_of([row for row in questions if (row["task"], row["half"]) == (task, half)], images)
        for task in dict.fromkeys(row["task"] for row in questions)
        for half in HALVES
    }


def _key(answer: Mapping[str, Any]) -> tuple[Any, Any]:
    return answer["text"], answer["picture"]


def _leaks_of(rows: Sequence[Mapping[str, Any]], images: Mapping[str, bytes]) -> dict[str, float | None]:
    """Return the leaks of one task."""
    pool = list(dict.fromkeys(_key(answer) for row in rows for answer in row["answers"]))
    right = [{_key(answer) for answer in row["answers"]} for row in rows]
    return {
        "questions": len(rows),
        "answers": len(pool),
        "chance": sum(len(one) for one in right) / len(rows) / len(pool),
        "question's text": _query_alone(rows, right, "text"),
        "question's picture": _query_alone(rows, right, "picture"),
        "answer's text": _answer_alone(right, pool, 0),
        "answer's picture": _answer_alone(right, pool, 1),
        "words": _by_words(rows, right, pool),
        "pixels": _by_pixels(rows, right, pool, images),
    }


def _query_alone(rows: Sequence[Mapping[str, Any]], right: Sequence[Collection[Any]], part: str) -> float | None:
    """Return the share that is right where all queries of one text (or picture) get the answer that is right most often for them."""
    if any(row["query"]["text"] is None or row["query"]["picture"] is None for row in rows):
        return None
    found: dict[str, list[Collection[Any]]] = {}
    for row, answers in zip(rows, right, strict=True):
        found.setdefault(row["query"][part], []).append(answers)
    best = 0
    for several in found.values():
        best += max(sum(answer in answers for answers in several) for answers in several for answer in answers)
    return best / len(rows)


def _answer_alone(right: Sequence[Collection[Any]], pool: Sequence[tuple[Any, Any]], place: int) -> float | None:
    """Return the share that is right where the best text (or picture) is known, and answers that share it are drawn at random."""
    if any(None in answer for answer in pool):
        return None
    shares: dict[Any, int] = {}
    for answer in pool:
        shares[answer[place]] = shares.get(answer[place], 0) + 1
    best = 0.0
    for answers in right:
        own: dict[Any, int] = {}
        for answer in answers:
            own[answer[place]] = own.get(answer[place], 0) + 1
        best += max(count / shares[value] for value, count in own.items())
    return best / len(right)


def _by_words(rows: Sequence[Mapping[str, Any]], right: Sequence[Collection[Any]], pool: Sequence[tuple[Any, Any]]) -> float | None:
    """Return the share that is right where answers are ranked by the letters they share with the query; ties count in part."""
    if any(row["query"]["text"] is None for row in rows) or any(answer[0] is None for answer in pool):
        return None
    pieces = [_pieces(answer[0]) for answer in pool]
    score = 0.0
    for row, answers in zip(rows, right, strict=True):
        asked = _pieces(row["query"]["text"])
        likeness = [len(asked & one) / (len(asked) * len(one)) ** 0.5 for one in pieces]
        score += _share_of_best(likeness, pool, answers)
    return score / len(rows)


def _pieces(text: str) -> set[str]:
    plain = f" {text.lower()} "
    return {plain[place : place + 3] for place in range(len(plain) - 2)}


def _by_pixels(
    rows: Sequence[Mapping[str, Any]], right: Sequence[Collection[Any]], pool: Sequence[tuple[Any, Any]], images: Mapping[str, bytes]
) -> float | None:
    """Return the share that is right where answers are ranked by the distance of their pixels to the query's."""
    import numpy as np

    if any(row["query"]["picture"] is None for row in rows) or any(answer[1] is None for answer in pool):
        return None

    def pixels(name: str) -> np.ndarray[Any, Any]:
        small = decode(images[name]).resize((16, 16), Image.Resampling.BOX)
        return np.asarray(small, dtype=np.float32).reshape(-1)

    shown = np.stack([pixels(answer[1]) for answer in pool])
    score = 0.0
    for row, answers in zip(rows, right, strict=True):
        score += _share_of_best((-np.abs(shown - pixels(row["query"]["picture"])).mean(1)).tolist(), pool, answers)
    return score / len(rows)


def _share_of_best(scores: Sequence[float], pool: Sequence[tuple[Any, Any]], answers: Collection[Any]) -> float:
    top = max(scores)
    best = [answer for score, answer in zip(scores, pool, strict=True) if score == top]
    return sum(answer in answers for answer in best) / len(best)
