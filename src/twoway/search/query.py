"""`find`: words, a picture, or both, answered from an index by the model that made its vectors, and by no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as PILImage

from twoway.config import gather, takes
from twoway.content import Audio, ContentError, Document, Image, Text, recording_at
from twoway.errors import TwowayError, UsageError

from .config import SearchConfig
from .reading import explain_item, rerank_hits, same_recording
from .store import search_near_item

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from twoway.content import Part
    from twoway.embedding import Embedder
    from twoway.embedding.config import Side
    from twoway.embedding.reranker import Reranker

    from .lance import LanceStore
    from .milvus import MilvusStore
    from .store import Hit, IndexInfo, Store

ImageInput = str | Path | bytes | Image | PILImage.Image


class Finder:
    """An open index and its model, for many questions."""

    def __init__(self, store: Store, engine: Embedder, reranker: Reranker | None = None) -> None:
        check_model(store, engine)
        self.store, self.engine, self.reranker = store, engine, reranker

    def vector(
        self,
        text: str | None,
        image: ImageInput | None = None,
        *,
        side: Side | None = "query",
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> NDArray[np.float32]:
        """Return the vector of a question, cut to the length of those in the index, or its many; a picture is a path, bytes, or PIL's."""
        how: dict[str, Any] = {"side": side, "prompt": prompt, "prompt_name": prompt_name, "truncate_dim": self.store.dimension}
        _, vector = next(self.engine.embed([_question(text, image)], **how))
        return vector

    def search(
        self,
        text: str | None = None,
        image: ImageInput | None = None,
        *,
        top_k: int = 10,
        filter: str | None = None,
        hybrid: bool = False,
        exact: bool = False,
        maxsim_top: int | None = None,
        side: Side | None = "query",
        prompt: str | None = None,
        prompt_name: str | None = None,
        rerank_top: int = 100,
        why: bool = False,
    ) -> list[Hit]:
        """Return the best items for words, a picture, or both; `hybrid` also looks for the words themselves.

        Of many vectors an item, the `maxsim_top` nearest by the mean of their vectors are compared. With a reranker, the `rerank_top` best
        of them are put into its order. `why` says of each what in it was found.
        """
        if why and self.engine.late_interaction:
            raise UsageError("why is said of models with one vector a document; for many vectors there is explain.match_words")
        if hybrid and not text:
            raise UsageError("a hybrid search needs words")
        vector = self.vector(text, image, side=side, prompt=prompt, prompt_name=prompt_name)
        wanted = top_k if self.reranker is None else max(top_k, rerank_top)
        words = text if hybrid else None
        hits = self.store.search(vector, top_k=wanted, filter=filter, words=words, exact=exact, maxsim_top=maxsim_top)
        if self.reranker is not None:
            hits = [*rerank_hits(self.reranker, _question(text, image), hits[:rerank_top]), *hits[rerank_top:]]
        return self._explained(hits[:top_k], vector) if why else hits[:top_k]

    def _explained(self, hits: list[Hit], vector: NDArray[np.float32]) -> list[Hit]:
        """Say what in each hit was found: in its video or sound where its file is as it was, else in its small picture; or why not."""
        from twoway.embedding.explain import Explainer

        explainer, found = Explainer(self.engine), []
        for hit in hits:
            recording = same_recording(hit.item, self.engine.settings.limits)
            of_sound = isinstance(recording_at(hit.item.media), Audio)
            if recording is None and of_sound:
                found.append(replace(hit, why_not="its sound is not where it was indexed, or has changed"))
            elif recording is None and hit.item.thumbnail is None:
                found.append(replace(hit, why_not="it has no picture"))
            else:
                try:
                    found.append(replace(hit, why=explain_item(explainer, hit.item, vector, recording)[0]))
                except ContentError as error:
                    found.append(replace(hit, why_not=error.reason))
        return found


def _question(text: str | None, image: ImageInput | None) -> Document:
    """Return what is asked as a document."""
    parts: list[Part] = [] if image is None else [*Document.from_parts([{"image": image}]).parts]
    parts += [Text(text)] if text else []
    if not parts:
        raise UsageError("nothing is asked: give words, a picture, or both")
    return Document(tuple(parts))


def check_model(store: Store, engine: Embedder) -> None:
    """Refuse a model that has not made the vectors of an index."""
    found = engine.fingerprint
    if found != store.fingerprint:
        other = engine.name or "this model"
        raise UsageError(
            f"{store.location} holds vectors of {store.model} with the fingerprint {store.fingerprint[:12]}, and {other} has {found[:12]}: "
            "it is another model, has changed since, or is opened otherwise (--dtype, --max-length, --max-pixels, --pooling); "
            "open it as it was, or embed and index again"
        )


@takes(SearchConfig)
def find(
    index: str | Path,
    text: str | None = None,
    image: ImageInput | None = None,
    *,
    model: str | Path | Embedder | None = None,
    config: SearchConfig | None = None,
    **options: Any,
) -> list[Hit]:
    """Open an index and its model and answer one question; `options` are the settings of `SearchConfig`.

    `like` asks for what is near an item. `Finder` keeps index and model open for more questions.
    """
    config = gather(SearchConfig, config, options, find)
    model = config.model if model is None else model
    if config.like is not None and (text or image is not None):
        raise UsageError("--like asks by an item; leave the words and the picture out")
    if config.like is not None and config.rerank is not None:
        raise UsageError("--rerank reads hits with a question, and --like asks by an item; leave one of them out")
    if config.like is not None and config.hybrid:
        raise UsageError("--hybrid looks for words, and --like asks by an item; leave one of them out")
    if config.like is not None and config.why:
        raise UsageError("--why explains hits by a question, and --like asks by an item; leave one of them out")
    if config.like is None and not text and image is None:
        raise UsageError("nothing is asked: give words, --image FILE, both, or --like ID")
    store = open_store(index)
    try:
        if not store.count():
            raise TwowayError(f"{index} is empty; add to it with 'twoway index DIR --index {index}'")
        store.count(config.filter)  # a filter with a typing error is met before a model is loaded
        how: dict[str, Any] = {name: getattr(config, name) for name in ("top_k", "filter", "exact", "maxsim_top")}
        if config.like is not None:
            return search_near_item(store, store.get(config.like), **how)
        from twoway.embedding import open_embedder

        try:
            engine = open_embedder(store.model if model is None else model, **config.opening(), late_interaction=store.info.many)
        except TwowayError as error:
            if model is not None:
                raise
            raise type(error)(f"{error} (the model that {index} names; where it lies elsewhere now, say so with --model)") from error
        reranker = None
        if config.rerank is not None:
            from twoway.embedding.reranker import open_reranker

            reranker = open_reranker(config.rerank, device=config.device)
        how |= {"hybrid": config.hybrid, "why": config.why, "side": config.side, "prompt": config.prompt, "prompt_name": config.prompt_name}
        return Finder(store, engine, reranker).search(text, image, rerank_top=config.rerank_top, **how)
    finally:
        store.close()


# Which engine a location means. A new engine is a class with the methods of `Store`, and a line in `find_engine`.


def find_engine(location: str | Path) -> type[LanceStore] | type[MilvusStore]:
    """Return the engine of a location: Milvus for `milvus://host:port/collection` and `NAME.db`, LanceDB for a folder."""
    place = str(location)
    scheme, separator, _ = place.partition("://")
    if separator and scheme not in ("milvus", "milvus+https"):
        raise UsageError(f"{place}: an index is a folder, a Milvus Lite file that ends in .db, or milvus://host:port/collection")
    if separator or Path(place).suffix == ".db":
        from .milvus import MilvusStore

        return MilvusStore
    from .lance import LanceStore

    return LanceStore


def open_store(location: str | Path) -> Store:
    """Open an index that is there."""
    return find_engine(location).open(str(location))


def create_store(location: str | Path, info: IndexInfo, *, overwrite: bool = False) -> Store:
    """Make an empty index; with `overwrite` beside one that is there, which answers until the new one is published (`Store.publish`)."""
    engine = find_engine(location)
    if info.many and engine.__name__ != "LanceStore":
        raise UsageError(f"{location}: many vectors an item (late interaction) go into a LanceDB folder alone; name one with --index")
    return engine.create(str(location), info, overwrite=overwrite)


def store_exists(location: str | Path) -> bool:
    """Say whether there is an index at a location; what cannot be reached is an error."""
    return find_engine(location).exists(str(location))
