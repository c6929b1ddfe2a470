"""What can be told of data: its sources, what is masked, and what a batch's rows cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from twoway.config import Field, Range, SettingPath, settings
from twoway.errors import TwowayError, UsageError

Share = Annotated[float, Range(ge=0, le=1)]

# Beside the rows that mining writes: what it did, and under `root` the folder that their pictures' paths are relative to.
MINED_FILE = "mine.json"
SCORED_FILE = "score.json"  # the same beside rows with a teacher's scores
QUERY, DOCUMENT = "query", "document"  # the sides of a pair, as prompts are called
Unit = Literal["token", "word", "span"]
VideoUnit = Literal["patch", "tube", "frame"]
OnBad = Literal["fail", "skip"]  # a bad row stops the run, or is left out, counted and listed


@settings
class AugmentConfig:
    """How pictures are changed each time that they are trained on, drawn anew for each; the defaults change nothing."""

    scale: tuple[Annotated[float, Range(gt=0, le=10)], Annotated[float, Range(gt=0, le=10)]] = Field(
        default=(1.0, 1.0), description="size, between these two: [0.9, 1.15]"
    )
    rotate: float = Field(default=0.0, ge=0, le=180, description="turned by so many degrees at most, either way")
    shift: Share = Field(default=0.0, description="moved by this share of half a side at most, along each")
    flip: Share = Field(default=0.0, description="share of the pictures that are mirrored")
    background: Share = Field(default=0.0, description="share of them whose transparent parts get a light colour instead of white")
    colour: Share = Field(default=0.0, description="brightness, contrast and saturation are changed by this share at most")
    grey: Share = Field(default=0.0, description="share of the pictures without colours")
    lines: Share = Field(default=0.0, description="share of them drawn in lines alone")
    two_tone: Share = Field(default=0.0, description="share of them in black and white")
    invert: Share = Field(default=0.0, description="share of them inverted")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.scale[0] > self.scale[1]:
            raise UsageError(f"scale goes from the smaller to the larger size, not from {self.scale[0]:g} to {self.scale[1]:g}")

    @property
    def changes(self) -> bool:
        """Whether any picture is changed at all."""
        return self != AugmentConfig()


@settings
class SourceConfig:
    """One source of training data."""

    spec: str = Field(description="a file, a folder, samples:NAME or hub:NAME")
    weight: float = Field(default=1.0, gt=0, le=1000, description="how often an epoch has its rows: 1 once, 2 twice, 0.5 every second one")
    cap: int | None = Field(default=None, ge=1, description="read only its first rows, so many")
    row_template: str | None = Field(default=None, description="the format of its rows by name, or a mapping of columns")
    name: str | None = Field(default=None, description="its name in logs and identities; default: the file's")
    root: SettingPath | None = Field(default=None, description="folder that the paths of its pictures are relative to")

    def __post_init__(self) -> None:
        """Refuse what no source can have."""
        self.check_row_template()

    def check_row_template(self) -> None:
        """Refuse a template that there is not."""
        if self.row_template is not None:
            from .sources.formats import document_format

            document_format(self.row_template)

    def picture_root(self) -> Path | None:
        """Return the folder that the pictures' paths are relative to: the one that is given, or the one that mined rows remember."""
        folder = Path(self.spec.removeprefix("parquet:"))
        mined = next((folder / name for name in (MINED_FILE, SCORED_FILE) if (folder / name).is_file()), None)
        if self.root is not None or self.spec.startswith("hub:") or mined is None:
            return self.root
        try:
            root = json.loads(mined.read_text(encoding="utf-8"))["root"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TwowayError(f"{mined} cannot be read ({error}); name the pictures' folder (root: …)") from error
        return None if root is None else Path(root)

    def conditions(self) -> dict[str, object]:
        """Return what of it a run is told by; where it lies is not, and what it holds its table's digest says."""
        return {"name": self.label, "weight": self.weight, "cap": self.cap, "row_template": self.row_template}

    @property
    def label(self) -> str:
        """The name that identities begin with: by default the file's, without its folder, so that data can move."""
        return self.name or (self.spec if self.spec.partition(":")[0] in ("samples", "hub") else Path(self.spec).name)


@settings
class PairSource(SourceConfig):
    """One source of pairs; `row_template` is a ready mapping (`formats`), `task` the task of all its rows.

    `query` and `document` are the instructions of its sides, where its rows are of one task.
    """

    task: str | None = Field(default=None, description="the task of all its rows")
    query: str = Field(default="", description="the instruction of its queries")
    document: str = Field(default="", description="the instruction of its documents")

    def conditions(self) -> dict[str, object]:
        """Return what of it a run is told by."""
        return super().conditions() | {"task": self.task, "prompts": self.prompts()}

    def prompts(self) -> dict[str, str]:
        """Return its instructions by the names that a checkpoint has them under."""
        named = ((QUERY, self.query), (DOCUMENT, self.document))
        return {f"{self.task or self.label}-{side}": text for side, text in named if text}

    def check_row_template(self) -> None:
        """Refuse a mapping that there is not."""
        if self.row_template is not None:
            from .sources.formats import pair_format

            pair_format(self.row_template)


@settings
class MaskingConfig:
    """What is masked."""

    words: Share = Field(default=0.4, description="share of a document's tokens that is masked")
    keep: Share = Field(default=0.0, description="share of the masked tokens that stay as they are")
    random: Share = Field(default=0.0, description="share of the masked tokens that become a random one; the others become the mask token")
    unit: Unit = Field(default="token", description="what is masked at once")
    patches: Share = Field(default=0.5, description="share of each picture's tokens that is masked")
    video: VideoUnit = Field(
        default="patch", description="what of a video is masked at once: a patch, a tube (its place in all frames), or whole frames"
    )
    noise: Literal["independent", "shared"] = Field(default="independent", description="masked patches have noise of their own, or one")
    masking: Literal["joint", "alternate"] = Field(default="joint", description="alternate: words in some rows, patches in the others")
    whole_pictures: Share = Field(default=0.0, description="share of rows with words whose pictures are left whole")

    def __post_init__(self) -> None:
        """Refuse shares of more than all."""
        if self.keep + self.random > 1:
            raise UsageError(f"keep {self.keep} and random {self.random} are shares of the masked words and together at most 1")


@settings
class CostWeights:
    """What an image token and a picture cost, in text tokens; 1 and 0 count the language model alone."""

    image_token: float = Field(default=1.0, ge=1, description="cost of an image token, in text tokens")
    image: float = Field(default=0.0, ge=0, description="cost of a picture beside its tokens")


@settings
class SamplesConfig:
    """How the shipped samples are looked at."""

    show: int = Field(default=0, ge=0, description="with NAME, print so many first rows")
    seed: int = Field(default=0, description="seed of a view's random choices")
