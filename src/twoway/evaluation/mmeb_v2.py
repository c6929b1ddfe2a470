"""MMEB-V2 (arXiv 2507.04590): 36 tasks of images, 18 of videos, 24 of pages, from a folder in the layout of its authors.

    DIR/image-tasks/…                         pictures of the first MMEB, as TIGER-Lab/MMEB-V2 has them
    DIR/video-tasks/frames/video_cls/UCF101/… a folder of JPEGs for each video (video_cls, video_ret, video_mret, video_qa)
    DIR/annotations/TASK/…                    Parquet of each task's set on the hub, as it is; of page tasks queries, corpus and qrels

A task whose annotations are not there is left out, and said. Of a video 8 frames are shown, evenly from the first to the last, as the
official configuration has it; published scores with more frames are not like these.

Instructions stand before or behind what the row has, with the spaces and line breaks that the released evaluation writes. `local` tasks
rank a row's own candidates, the others all of the task's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import ContentError, Document, Place
from twoway.errors import UsageError, did_you_mean
from twoway.files import disk_errors, write_whole
from twoway.images import SUFFIXES
from twoway.models.loading import first_line
from twoway.videos import by_number

from .suites import GROUPS, parquet_rows
from .tasks import Pool, RankingQuery, RankingTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from twoway.data.rows import Policy

    Row = dict[str, Any]
    Parts = list[dict[str, Any]]

log = logging.getLogger(__name__)

FRAMES = 8
IMAGE, VIDEO, PAGES = "image", "video", "visdoc"
ANNOTATIONS = "annotations"
_MARK = "<|image_1|>"
_SLOT = "\ue000"  # where the image goes

# Instructions of the video and page tasks, as the benchmark has them: before the query, and before a video or page that is found.
ANSWER = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer. Question: "
)
A_VIDEO, A_PAGE = "Understand the content of the provided video.", "Understand the content of the provided document image."
FIND_PAGE = "Find a document image that matches the given query:"
CLASSES: dict[str, tuple[str, str, int]] = {  # folder of frames, instruction, number of classes
    "K700": ("K700", "Recognize the category of the video content.", 700),
    "UCF101": ("UCF101", "What activities or sports are being performed by the person in the video?", 101),
    "HMDB51": ("HMDB51", "What actions or objects interactions are the person in the video doing?", 51),
    "Breakfast": ("Breakfast", "Recognize the breakfast type that the person is cooking in the video. ", 10),
}
FOUND: dict[str, tuple[str, str, str]] = {  # columns of the video's name and its caption, instruction
    "MSR-VTT": ("video_id", "caption", "Find a video that contains the following visual content:"),
    "MSVD": ("video_id", "caption", "Find the video snippet that corresponds to the given summary:"),
    "DiDeMo": ("video", "caption", "Find a video that includes the following described scenes:"),
    "VATEX": ("videoID", "enCap", "Select a video that fits the description provided:"),
    "YouCook2": ("id", "sentence", "Find a video that demonstrates the following action while making a recipe:"),
}
MOMENTS = {"QVHighlight": "QVHighlight", "Charades-STA": "Charades_STA"}
DOCUMENTS = (
    *(f"ViDoRe_{name}" for name in ("arxivqa", "docvqa", "infovqa", "tabfquad", "tatdqa", "shiftproject")),
    *(f"ViDoRe_syntheticDocQA_{name}" for name in ("artificial_intelligence", "energy", "government_reports", "healthcare_industry")),
    "ViDoRe_esg_reports_human_labeled_v2",
    *(f"ViDoRe_{name}_v2_multilingual" for name in ("biomedical_lectures", "economics_reports", "esg_reports")),
    *(f"VisRAG_{name}" for name in ("ArxivQA", "ChartQA", "MP-DocVQA", "SlideVQA", "InfoVQA", "PlotQA")),
    *("ViDoSeek-page", "ViDoSeek-doc", "MMLongBench-page", "MMLongBench-doc"),
)
GROUPS_OF: dict[str, dict[str, tuple[str, ...]]] = {
    IMAGE: {group: kinds[0] + kinds[1] for group, kinds in GROUPS.items()},
    VIDEO: {
        "video classification": ("K700", "SmthSmthV2", "HMDB51", "UCF101", "Breakfast"),
        "video qa": ("MVBench", "Video-MME", "NExTQA", "EgoSchema", "ActivityNetQA"),
        "video retrieval": tuple(FOUND),
        "moment retrieval": (*MOMENTS, "MomentSeeker"),
    },
    PAGES: {"pages": DOCUMENTS},
}
KINDS = {task: (kind, group) for kind, groups in GROUPS_OF.items() for group, tasks in groups.items() for task in tasks}


@dataclass
class _Builder:
    """A task that is being read: its candidates, each once, and its queries."""

    name: str
    root: Path
    policy: Policy
    pool: Pool = field(default_factory=Pool)
    items: list[RankingQuery] = field(default_factory=list)
    unread: int = 0

    def document(self, parts: Parts, place: Place | None = None) -> Document:
        """Check parts, and that their files are there."""
        document = Document.from_parts([part for part in parts if part.get("text") != ""], place=place, root=self.root)
        document.fingerprint()
        return document

    def add(self, query: Parts, candidates: Sequence[Parts], right: Sequence[int], place: Place) -> None:
        """Add a query with candidates of its own; `right` are places among them."""
        asked = self.document(query, place)
        numbers = []
        for number, one in enumerate(candidates, 1):
            try:
                numbers.append(self.pool.add(self.document(one)))
            except ContentError as error:
                raise ContentError(f"candidate {number}: {error.reason}", place) from error
        among, rights = list(dict.fromkeys(numbers)), [numbers[one] for one in right]
        if not rights or len(among) <= len(set(rights)):
            raise ContentError("the row has no candidate besides the right one", place)
        doubled = any(numbers.count(one) > 1 for one in rights)
        self.items.append(RankingQuery(asked, np.unique(rights), np.array(among, np.int64), doubled))

    def read(self, row: Callable[[Row, Place], None], rows: Iterator[tuple[Place, Row]]) -> None:
        """Read rows; a bad one goes to the policy."""
        for place, one in rows:
            try:
                row(one, place)
            except KeyError as error:
                raise UsageError(f"{place.file} has no column {error} (it has {', '.join(one)})") from error
            except ContentError as error:
                self.policy.refuse(error if error.place is not None else ContentError(error.reason, place))
                self.unread += 1
            except (TypeError, ValueError, AttributeError) as error:  # null, or lists of other lengths
                self.policy.refuse(ContentError(f"the row is not as the benchmark has it ({first_line(error)})", place))
                self.unread += 1

    def task(self, metric: str = "precision@1") -> RankingTask:
        """Return the task."""
        if not self.items:
            raise UsageError(f"{self.name} has no usable row")
        kind, group = KINDS[self.name]
        return RankingTask(
            self.name, group, tuple(self.pool.documents), tuple(self.items), metric, marks=(kind,), unread=self.unread,
            official=metric == "precision@1",
        )  # fmt: skip


def open_tasks(root: str | Path, names: Sequence[str], policy: Policy) -> list[RankingTask]:
    """Read the tasks of a folder, all that have annotations or those asked for."""
    root = Path(root)
    there = [name for name in KINDS if (root / ANNOTATIONS / name).is_dir()]
    if not there:
        raise UsageError(f"{root} has no annotations of MMEB-V2: {root / ANNOTATIONS} has no folder named after a task, such as UCF101")
    for name in names:
        if name not in there:
            known = f" ({root / ANNOTATIONS} lacks it)" if name in KINDS else did_you_mean(name, KINDS)
            raise UsageError(f"there is no task {name!r} here{known}; there are {', '.join(there)}")
    if not names and len(there) < len(KINDS):
        lacking = [name for name in KINDS if name not in there]
        log.warning("%s: %d of the 78 tasks of MMEB-V2; without annotations are %s", root, len(there), ", ".join(lacking))
    return [_open(name, root, policy) for name in (names or there)]


def _open(name: str, root: Path, policy: Policy) -> RankingTask:
    """Read one task."""
    build, kind, group = _Builder(name, root, policy), *KINDS[name]
    if kind == PAGES:
        return _pages(build)
    if kind == IMAGE:
        row: Callable[[Row, Place], None] = partial(_image_row, build, group)
    elif name in FOUND or name in CLASSES:
        return _over_all(build)
    else:
        row = partial(_LOCAL[name], build)
    build.read(row, _rows(root / ANNOTATIONS / name))
    return build.task()


# Images: the rows have their instructions; the released evaluation joins them with these spaces and line breaks.


def _image_row(build: _Builder, group: str, row: Row, place: Place) -> None:
    told, asked, path = str(row["qry_inst"] or ""), str(row["qry_text"] or ""), row["qry_img_path"]
    texts, paths = list(row["tgt_text"]), list(row["tgt_img_path"])
    shown = any(paths)  # the candidates are images
    if not path:
        query = _around(f"{told.replace(_MARK, _SLOT)} {asked}\n" + ("\n" if build.name == "VisDial" else ""), None, build)
    else:
        told = told.replace(_MARK, "")
        told = "\n" + told.strip() if group == "vqa" or shown else told
        query = _around(_tidy(f"{_SLOT} {told}" + (f" {asked}" if asked else "")) + "\n", path, build)
    candidates = []
    behind = str(row.get("tgt_inst") or "").replace(_MARK, "")
    worded = bool(texts and str(texts[0] or "").strip())
    for text, one in zip(texts, paths or [""] * len(texts), strict=True):
        if not shown:
            candidates.append([{"text": text}])
            continue
        words = _tidy(f"{_SLOT} {behind} {text}" if worded else f"{_SLOT} {behind}")
        candidates.append(_around(words + ("\n" if worded or not path else ""), one, build))
    build.add(query, candidates, [0], place)


def _tidy(text: str) -> str:
    return text.replace(" \n", "\n")


def _around(text: str, path: str | None, build: _Builder) -> Parts:
    """Return a text with the image where its slot is."""
    before, slot, after = text.partition(_SLOT)
    image: Parts = [{"image": f"image-tasks/{path}"}] if path and slot else []
    return [{"text": before}, *image, {"text": after}]


# Videos: folders of frames.


def _video(build: _Builder, folder: str) -> dict[str, Any]:
    """Return a part with 8 frames of a folder, evenly from the first to the last."""
    place = build.root / "video-tasks/frames" / folder
    try:
        names = sorted((one.name for one in place.iterdir() if one.name.lower().endswith(SUFFIXES)), key=by_number)
    except OSError as error:
        raise ContentError(f"{place} cannot be read ({error.strerror}); it is to hold a video's frames") from error
    if not names:
        raise ContentError(f"{place} holds no frames")
    shown = names if len(names) < FRAMES else [names[int(at)] for at in np.linspace(0, len(names) - 1, FRAMES)]
    return {"video": [place.relative_to(build.root) / name for name in shown], "num_frames": len(shown)}


def _of(row: Row, column: str) -> str:
    """Return a caption; of several the first."""
    value = row[column]
    return str(value[0] if isinstance(value, list) else value)


def _over_all(build: _Builder) -> RankingTask:
    """Read a task whose queries are ranked among all candidates: classes of videos, and videos that captions ask for."""
    name, rows = build.name, list(_rows(build.root / ANNOTATIONS / build.name))

    def classified(row: Row, place: Place) -> None:
        video = _video(build, f"video_cls/{folder}/{row['video_id']}")
        query = build.document([video, {"text": f" {told}"}], place)
        build.items.append(RankingQuery(query, np.array([build.pool.add(build.document([{"text": _of(row, "pos_text")}]))])))

    def captioned(row: Row, place: Place) -> None:
        video_id = Path(str(row[column])).stem if name == "DiDeMo" else str(row[column])
        video = _video(build, f"video_ret/{name}/{video_id}")
        number = build.pool.add(build.document([video, {"text": f" {A_VIDEO}"}], place))
        build.items.append(RankingQuery(build.document([{"text": f"{told} {_of(row, caption)}"}], place), np.array([number])))

    if name in CLASSES:
        folder, told, known = CLASSES[name]
        labels = build.root / ANNOTATIONS / name / "labels.txt"
        listed = labels.read_text(encoding="utf-8").splitlines() if labels.exists() else [_of(row, "pos_text") for _, row in rows]
        for label in dict.fromkeys(filter(None, listed)):
            build.pool.add(build.document([{"text": label}]))
        build.read(classified, iter(rows))
        if len(build.pool.documents) != known:
            count = len(build.pool.documents)
            log.warning("%s: %d classes are ranked, and the benchmark has %d; a file %s names them all", name, count, known, labels)
    else:
        column, caption, told = FOUND[name]
        build.read(captioned, iter(rows))
    return build.task()


def _question(build: _Builder, folder: str, words: str, options: Sequence[str], right: int, place: Place) -> None:
    """Add a question about a video."""
    if not 0 <= right < len(options):
        raise ContentError(f"the answer is none of the {len(options)} options", place)
    query = [_video(build, f"video_qa/{folder}"), {"text": f" {ANSWER} {words}"}]
    build.add(query, [[{"text": option}] for option in options], [right], place)


def _lettered(question: str, options: Sequence[str]) -> tuple[str, list[str]]:
    """Return a question with its options behind letters, and the options so written."""
    written = [f"({chr(ord('A') + number)}) {option}" for number, option in enumerate(options)]
    return "\n".join([question, "Options:", *written]).rstrip(), written


def _bare(option: str) -> str:
    """Return an option without its letter."""
    return option[option.find(". ") :].strip(". ")


def _something(build: _Builder, row: Row, place: Place) -> None:
    told = "What actions or object interactions are being performed by the person in the video?"
    options = list(row["neg_text"])
    if _of(row, "pos_text") not in options:
        raise ContentError("the right class is not among neg_text", place)
    query = [_video(build, f"video_cls/SSv2/{row['video_id']}"), {"text": f" {told}"}]
    build.add(query, [[{"text": option}] for option in options], [options.index(_of(row, "pos_text"))], place)


def _video_mme(build: _Builder, row: Row, place: Place) -> None:
    options = list(row["options"])
    words = "\n".join([row["question"], *options])
    _question(build, f"Video-MME/{row['videoID']}", words, [_bare(one) for one in options], "ABCD".find(row["answer"]), place)


def _next_qa(build: _Builder, row: Row, place: Place) -> None:
    options = [str(row[f"a{number}"]) for number in range(5)]
    _question(build, f"NExTQA/{row['video']}", _lettered(row["question"], options)[0], options, int(row["answer"]), place)


def _ego_schema(build: _Builder, row: Row, place: Place) -> None:
    options = list(row["option"])
    words = row["question"] + " ".join(options)
    _question(build, f"EgoSchema/{row['video_idx']}", words, [_bare(one) for one in options], int(row["answer"]), place)


def _mvbench(build: _Builder, row: Row, place: Place) -> None:
    options = list(row["candidates"])
    words, written = _lettered(row["question"], options)
    right = options.index(row["answer"]) if row["answer"] in options else -1
    _question(build, f"MVBench/{row['subset']}/{row['video']}", words, written, right, place)


def _activity_net(build: _Builder, row: Row, place: Place) -> None:
    options = ["yes", "no"]
    right = options.index(row["answer"]) if row["answer"] in options else -1
    _question(build, f"ActivityNetQA/v_{row['video_name']}", f"{row['question']}? (A) yes; (B) no.", options, right, place)


def _moment(build: _Builder, row: Row, place: Place) -> None:
    folder = f"video_mret/{MOMENTS[build.name]}/{Path(row['video_path']).stem}"
    whole = build.root / "video-tasks/frames" / folder
    clips = sorted(one.name for one in whole.iterdir() if one.is_dir() and one.name != "query") if whole.is_dir() else []
    right = [number for number, name in enumerate(clips) if name.startswith("positive")]
    told = "Find the clip that corresponds to the described scene in the given video:"
    query = [_video(build, f"{folder}/query"), {"text": f" {told} {row['query']}"}]
    build.add(query, [[_video(build, f"{folder}/{clip}"), {"text": f" {A_VIDEO}"}] for clip in clips], right, place)


def _moment_seeker(build: _Builder, row: Row, place: Place) -> None:
    given, asked = str(row["input_frames"] or ""), row["query"]
    if given.endswith(".mp4"):
        told = "Find the clip that corresponds to the given sentence and video segment:"
        query = [_clip(build, given), {"text": f" {told} {asked}"}]
    elif given.endswith(".jpg"):
        told = "Select the video clip that aligns with the given text and image:"
        query = [{"image": f"video-tasks/frames/video_mret/MomentSeeker/query_{given}"}, {"text": f" {told} {asked}"}]
    else:
        query = [{"text": f"Find the clip that corresponds to the given text: {asked}"}]
    clips = [one["output_path"] for one in (*row["positive_frames"], *row["negative_frames"])]
    told = "Understand the content of the provided video clip."
    right = range(len(row["positive_frames"]))
    build.add(query, [[_clip(build, clip), {"text": f" {told}"}] for clip in clips], right, place)


def _clip(build: _Builder, path: str) -> dict[str, Any]:
    return _video(build, f"video_mret/MomentSeeker/video_frames/{path.split('.mp4')[0].replace('/', '_')}")


_LOCAL: dict[str, Callable[[_Builder, Row, Place], None]] = {
    "SmthSmthV2": _something,
    "Video-MME": _video_mme,
    "NExTQA": _next_qa,
    "EgoSchema": _ego_schema,
    "MVBench": _mvbench,
    "ActivityNetQA": _activity_net,
    "QVHighlight": _moment,
    "Charades-STA": _moment,
    "MomentSeeker": _moment_seeker,
}


# Pages: queries, pages and grades in the form of BEIR. The pages' pictures are written out once, beside the annotations, so that no task
# is held in memory.


def _pages(build: _Builder) -> RankingTask:
    folder = build.root / ANNOTATIONS / build.name
    numbers: dict[str, int] = {}

    def page(row: Row, place: Place) -> None:
        parts: Parts = [{"image": _written(build, folder, row["corpus-id"], row["image"], place)}, {"text": f" {A_PAGE}"}]
        numbers[str(row["corpus-id"])] = build.pool.add(build.document(parts, place))

    build.read(page, _rows(folder, "corpus"))
    grades: dict[str, dict[int, float]] = {}
    for place, row in _rows(folder, "qrels"):
        if str(row["corpus-id"]) not in numbers:
            build.policy.refuse(ContentError(f"qrels name the page {row['corpus-id']!r}, which is not in the corpus", place))
        elif float(row["score"]) > 0:
            grades.setdefault(str(row["query-id"]), {})[numbers[str(row["corpus-id"])]] = float(row["score"])

    def query(row: Row, place: Place) -> None:
        right = grades.get(str(row["query-id"]))
        if not right:
            raise ContentError(f"no page answers the query {row['query-id']!r}", place)
        asked = build.document([{"text": f"{FIND_PAGE} {row['query']}"}], place)
        places = sorted(right)
        build.items.append(RankingQuery(asked, np.array(places), gains=tuple(right[one] for one in places)))

    build.read(query, _rows(folder, "queries"))
    return build.task("ndcg@5")


def _written(build: _Builder, folder: Path, name: object, image: Any, place: Place) -> str:
    """Return the path of a page's picture, which is written where it is not yet."""
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        raise ContentError(f"the page {name!r} has no picture", place)
    kind = "png" if data.startswith(b"\x89PNG") else "jpg"
    path = folder / "pages" / f"{Path(place.file).stem}-{place.row}.{kind}"
    if not path.exists() or path.stat().st_size != len(data):
        with disk_errors():
            path.parent.mkdir(exist_ok=True)
            write_whole(path, data)
    return str(path.relative_to(build.root))


def _rows(folder: Path, part: str = "") -> Iterator[tuple[Place, Row]]:
    """Yield the rows of a task's Parquet files; `part` is in the path of those of one of its sets."""
    paths = [path for path in sorted(folder.rglob("*.parquet")) if part in str(path.relative_to(folder))]
    if not paths:
        raise UsageError(f"{folder} has no Parquet file{f' of {part!r}' if part else ''}")
    yield from parquet_rows(paths)
