"""LangChain over `twoway serve`: documents into a vector store, and the nearest ones to a question."""

from __future__ import annotations

import os
import sys

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

TEXTS = {
    "tea": "Pour boiling water over the leaves and wait four minutes.",
    "bread": "Flour, water, salt and yeast; let it rise overnight.",
    "bicycle": "Grease the chain and check the brakes before winter.",
}


def main(address: str, question: str = "how long does tea take?") -> list[str]:
    """Ask the server at an address, with `/v1` at its end; a key, where it wants one, is read from OPENAI_API_KEY."""
    # The server counts tokens itself: LangChain would cut texts into the token numbers of another model.
    embeddings = OpenAIEmbeddings(
        model=os.environ.get("MODEL", "my-model"),
        base_url=address,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),  # type: ignore[arg-type]
        check_embedding_ctx_length=False,
    )
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(id=name, page_content=text) for name, text in TEXTS.items()])
    found = store.similarity_search_with_score(question, k=2)
    for document, score in found:
        print(f"{score:6.3f}  {document.id}: {document.page_content}")
    return [str(document.id) for document, _ in found]


if __name__ == "__main__":
    main(*sys.argv[1:])
