"""Sets of pictures as iconify packs them: one `icons.json` of SVG bodies by name, and who drew them under which terms.

The same emoji by several designers are joined by code point, and by name where a set does not say its code points. Icons of many hands are
joined by name: a name stays where it is an emoji's, or a noun that can be drawn, and enough designers draw it. Brands, letters, arrows and
other marks that show no thing are left out.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twoway.data.sources.pages import slug

from .concepts import Concept, Drawing
from .tabler import STROKE
from .words import ICON_NAMES, ICONIFY_LEFT_OUT, ICONIFY_NAMES, ICONS_LEFT_OUT, MODIFIERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from .wordnet import WordNet

FEWEST_DESIGNERS = 2  # of an icon that is no emoji
# Where the first meaning of a name is of these kinds, one designer is enough: animals, artifacts, the body, food, objects, plants.
PLAIN_KINDS = frozenset({5, 6, 8, 13, 17, 20})
FEWEST_OF_COMPOUNDS = 3  # of a name that no dictionary has
VARIATION = "fe0f"
# Categories of icons that show no thing of their own.
MARKS = re.compile(r"brand|logo|arrow|letter|numeric|currency|arrange|math|vector|database|developer|form\b|text", re.IGNORECASE)
PREFIXES = re.compile(r"^(food|fruit|local|directions|building|device|hat|weather)-(?=[a-z])")


@dataclass(frozen=True)
class IconSet:
    """A set and who drew it; `variants` gives each ending of a name that is drawn its style, `others` are endings that are not."""

    name: str
    designer: str
    variants: Mapping[str, str]
    others: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """The npm package."""
        return f"@iconify-json/{self.name}"


def _one(name: str, designer: str) -> IconSet:
    return IconSet(name, designer, {"": name})


EMOJI_SETS = (
    _one("noto", "Google"),
    _one("noto-v1", "Google"),
    _one("twemoji", "Twitter"),
    _one("emojione", "EmojiOne"),
    _one("fxemoji", "Mozilla"),
)
ICON_SETS = (
    IconSet("material-symbols", "Google", {"outline": "material-outline", "": "material"}, ("rounded", "sharp")),
    IconSet("mdi", "Pictogrammers", {"": "mdi", "outline": "mdi-outline"}),
    IconSet("ph", "Phosphor", {"": "phosphor", "fill": "phosphor-fill", "duotone": "phosphor-duotone"}, ("thin", "light", "bold")),
    IconSet("solar", "480 Design", {"linear": "solar", "bold": "solar-bold"}, ("duotone", "broken", "outline")),
    _one("carbon", "IBM"),
    _one("lucide", "Lucide"),
    IconSet("streamline-plump", "Streamline", {"": "plump", "solid": "plump-solid"}, ("remix",)),
    IconSet("healthicons", "Resolve to Save Lives", {"outline": "healthicons-outline", "": "healthicons"}, ("24px", "negative")),
    _one("maki", "Mapbox"),
    IconSet("fluent-color", "Microsoft", {"48": "fluent-color", "32": "fluent-color", "28": "fluent-color", "24": "fluent-color"}),
    _one("icon-park", "ByteDance"),
    _one("flat-color-icons", "Icons8"),
    IconSet("iconoir", "Iconoir", {"": "iconoir", "solid": "iconoir-solid"}),
    IconSet("mingcute", "MingCute", {"line": "mingcute", "fill": "mingcute-fill"}),
    _one("hugeicons", "Hugeicons"),
    _one("fa7-solid", "Font Awesome"),
    _one("temaki", "Bryan Housel"),
    _one("uil", "Iconscout"),
    _one("game-icons", "game-icons.net"),
)


class Icons:
    """The drawings of one set, by name; another name of a drawing counts as its name."""

    def __init__(self, folder: Path) -> None:
        """Read `icons.json`, and code points and categories where the set has them."""
        content = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
        self.path, self._size = folder / "icons.json", (content.get("width", 16), content.get("height", 16))
        self._icons = {name: one for name, one in content["icons"].items() if not one.get("hidden")}
        # An alias with a turn or a mirror of its own is another drawing, and there are few.
        aliases = {name: one["parent"] for name, one in content.get("aliases", {}).items() if set(one) == {"parent"}}
        self.aliases: dict[str, str] = {name: parent for name, parent in aliases.items() if parent in self._icons}
        codes: dict[str, str] = _read(folder / "chars.json")
        self.codes: dict[str, str] = {}
        for code, name in sorted(codes.items()):
            self.codes.setdefault(bare(code), name)
        self.categories: dict[str, str] = {}
        categories: dict[str, list[str]] = _read(folder / "metadata.json").get("categories", {})
        for category, names in categories.items():
            for name in names:
                self.categories.setdefault(name, category)

    def __contains__(self, name: str) -> bool:
        return name in self._icons or name in self.aliases

    def names(self) -> list[str]:
        """Return all names, a drawing's own before its others."""
        return [*sorted(self._icons), *sorted(self.aliases)]

    def own_name(self, name: str) -> str:
        """Return the name under which a drawing lies."""
        return self.aliases.get(name, name)

    def drawing(self, name: str, source: str, style: str) -> Drawing:
        """Return one drawing, whole."""
        one = self._icons[self.own_name(name)]
        width, height = one.get("width", self._size[0]), one.get("height", self._size[1])
        box = f"{one.get('left', 0)} {one.get('top', 0)} {width} {height}"
        markup = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box}" width="{width}" height="{height}">{one["body"]}</svg>'
        )
        return Drawing(source, style, self.path.with_name(f"{name}.svg"), STROKE, markup=markup)


def _read(path: Path) -> dict[str, Any]:
    """Read a file that not every set has."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def bare(code: str) -> str:
    """Return a code point sequence (`1f600-fe0f`) without the marks that only ask for colour."""
    return "-".join(part for part in code.split("-") if part != VARIATION)


def singular(key: str) -> str:
    """Return a slug without the plural's ending."""
    return re.sub(r"(?<=[a-z]{3})(?<!s)s$", "", key)


def code_of(characters: str) -> str:
    """Return the code point sequence of characters, as the sets write it."""
    return bare("-".join(f"{ord(one):x}" for one in characters))


@dataclass
class Dropped:
    """What was left out, by reason."""

    by_reason: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: str, what: str) -> None:
        """Note one thing."""
        self.by_reason[reason].append(what)

    def rows(self) -> dict[str, dict[str, object]]:
        """Return for each reason how many there were, and ten of them from all over the list."""
        return {
            reason: {"count": len(what), "examples": sorted(set(what))[:: max(1, len(set(what)) // 10)][:10]}
            for reason, what in sorted(self.by_reason.items())
        }


def add_emoji(sets: Mapping[str, Icons], concepts: Iterable[Concept], characters: Mapping[str, str], dropped: Dropped) -> None:
    """Give each emoji, and each flag, the drawings of all designers: by code point, or by one of its names."""
    names: dict[str, set[str]] = defaultdict(set)
    for icons in sets.values():
        for code, name in icons.codes.items():
            names[code] |= {name, *(other for other, parent in icons.aliases.items() if parent == name)}
    squeezed = {name: {one.replace("-", ""): one for one in reversed(icons.names())} for name, icons in sets.items()}
    for concept in concepts:
        character = characters.get(concept.id)
        if character is None:
            continue
        code = code_of(character)
        known = [concept.id, *sorted(names[code])]
        if "-" not in code:
            known.append(slug(unicodedata.name(chr(int(code, 16)), "")))
        for one in EMOJI_SETS:
            icons = sets[one.name]
            by_name = squeezed[one.name]
            words = (word.replace("-", "") for word in known if word)
            icon = icons.codes.get(code) or next((by_name[word] for word in words if word in by_name), None)
            if icon is None:
                dropped.add(f"emoji that {one.name} does not draw", concept.id)
            else:
                concept.drawings.append(icons.drawing(icon, one.name, one.name))


def read_icons(
    sets: Mapping[str, Icons], tabler: Sequence[Concept], known: Sequence[Concept], wordnet: WordNet, dropped: Dropped
) -> list[Concept]:
    """Return the concepts that icons draw, in order of id: those of `known` that icons draw too, and others that enough designers draw."""
    names = _Names(known, wordnet)
    found: dict[str, dict[str, list[Drawing]]] = defaultdict(lambda: defaultdict(list))  # name -> designer -> drawings
    spoken: dict[str, str] = {}
    for one in ICON_SETS:
        for said, drawings in _of_set(one, sets[one.name], names.spoken, dropped).items():
            spoken.setdefault(slug(said), said)
            found[slug(said)][one.designer] += drawings
    for concept in tabler:
        said = names.joined(concept.names["en"])
        if slug(said) in ICONIFY_LEFT_OUT:
            continue
        spoken.setdefault(slug(said), said)
        found[slug(said)]["tabler"] += concept.drawings
    keywords = {names.joined(concept.names["en"]): concept.keywords for concept in tabler}
    merged = _same_meaning(found, spoken, names)
    concepts = []
    for key in sorted(merged):
        designers = merged[key]
        fewest = 1 if key in names.known else _fewest(spoken[key], wordnet)
        if len(designers) < fewest:
            dropped.add(f"icons of fewer than {fewest} designers", key)
            continue
        drawings = [drawing for designer in sorted(designers) for drawing in designers[designer]]
        concepts.append(Concept(key, "icon", {"en": spoken[key]}, dict(keywords.get(spoken[key], {})), drawings=drawings))
    return concepts


def _fewest(name: str, wordnet: WordNet) -> int:
    """Return how many designers must draw what has this name."""
    sense = wordnet.physical(name)
    if sense is None:
        return FEWEST_OF_COMPOUNDS
    return 1 if sense.lexfile in PLAIN_KINDS and wordnet.senses(name)[0] == sense else FEWEST_DESIGNERS


class _Names:
    """What icons are called: by hand, by an emoji's name, by a noun that can be drawn."""

    def __init__(self, known: Sequence[Concept], wordnet: WordNet) -> None:
        self.wordnet = wordnet
        self.known = {concept.id: concept for concept in known}
        self.plurals = {singular(concept.id): concept.names["en"] for concept in reversed(known) if concept.kind == "emoji"}
        senses = ((wordnet.physical(concept.names["en"], concept.keywords.get("en", ())), concept) for concept in reversed(known))
        self.senses = {sense: concept.names["en"] for sense, concept in senses if sense is not None and concept.kind == "emoji"}

    def spoken(self, icon: str) -> str | None:
        """Return the English name of an icon, or None where it says nothing that can be drawn."""
        said = self._whole(icon) or (self._whole(PREFIXES.sub("", icon)) if PREFIXES.match(icon) else None)
        return None if said is None or slug(said) in ICONIFY_LEFT_OUT else said

    def _whole(self, icon: str) -> str | None:
        name = ICONIFY_NAMES.get(icon, ICON_NAMES.get(icon))
        if name is not None:
            return self.joined(name) if name else None
        if icon in ICONS_LEFT_OUT or icon in ICONIFY_LEFT_OUT or re.search(r"\d", icon):
            return None
        said = icon.replace("-", " ")
        if icon in self.known or self.wordnet.physical(said) or ("-" in icon and not set(icon.split("-")) & MODIFIERS):
            return self.joined(said)
        return None

    def joined(self, name: str) -> str:
        """Return the emoji's name that a name stands for, or the name itself: the same but for the plural, or the same meaning."""
        key = slug(name)
        if key in self.known:
            return self.known[key].names["en"]
        if singular(key) in self.plurals:
            return self.plurals[singular(key)]
        sense = self.wordnet.physical(name)
        return self.senses.get(sense, name) if sense is not None and self.wordnet.senses(name)[0] == sense else name


def _of_set(one: IconSet, icons: Icons, spoken: Callable[[str], str | None], dropped: Dropped) -> dict[str, list[Drawing]]:
    """Return what a set draws by English name, one drawing a style; of numbered drawings the first."""
    endings = [ending for ending in one.variants if ending]
    found: dict[str, dict[str, str]] = defaultdict(dict)  # name -> style -> icon
    for icon in sorted(icons.names(), key=lambda name: (name in icons.aliases, len(name), name)):
        ending = next((ending for ending in endings if icon.endswith(f"-{ending}")), "")
        if ending not in one.variants or icon.endswith(tuple(f"-{other}" for other in one.others)):
            continue
        stem = icon.removesuffix(f"-{ending}") if ending else icon
        stem = re.sub(r"-0?\d$", "", stem)
        if MARKS.search(icons.categories.get(icons.own_name(icon), "")):
            dropped.add("icons of categories of marks, letters and brands", f"{one.name}:{icon}")
            continue
        said = spoken(stem)
        if said is None:
            dropped.add("icons whose name says no thing that can be drawn", f"{one.name}:{icon}")
        else:
            found[said].setdefault(one.variants[ending], icon)
    return {
        said: [icons.drawing(icon, one.name, style) for style, icon in sorted(styles.items()) if _first_of(styles, style)]
        for said, styles in found.items()
    }


def _first_of(styles: Mapping[str, str], style: str) -> bool:
    """Say whether this is the first style that shows this very drawing."""
    return next(other for other, icon in sorted(styles.items()) if icon == styles[style]) == style


def _same_meaning(
    found: Mapping[str, Mapping[str, list[Drawing]]], spoken: Mapping[str, str], names: _Names
) -> dict[str, dict[str, list[Drawing]]]:
    """Join names of one meaning (sofa, couch) and of one singular (grape, grapes) under the one that most designers use."""
    count = Counter({key: len(designers) for key, designers in found.items()})
    heads: dict[object, str] = {}
    joined: dict[str, dict[str, list[Drawing]]] = {}
    for key in sorted(found, key=lambda key: (key not in names.known, -count[key], key)):
        sense = names.wordnet.physical(spoken[key])
        first = names.wordnet.senses(spoken[key])[:1]
        marks: list[object] = [singular(key), *([sense] if sense is not None and first == [sense] else [])]
        head = key if key in names.known else next((heads[mark] for mark in marks if mark in heads), key)
        for mark in marks:
            heads.setdefault(mark, head)
        whole = joined.setdefault(head, {})
        for designer, drawings in found[key].items():
            have = {drawing.style for drawing in whole.get(designer, ())}
            whole[designer] = [*whole.get(designer, ()), *(one for one in drawings if one.style not in have)]
    return joined
