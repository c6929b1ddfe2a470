"""LlamaIndex over `twoway serve`: an index of texts, and a retriever that needs no language model."""

from __future__ import annotations

import os
import sys

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

TEXTS = {
    "tea": "Pour boiling water over the leaves and wait four minutes.",
    "bread": "Flour, water, salt and yeast; let it rise overnight.",
    "bicycle": "Grease the chain and check the brakes before winter.",
}


def main(address: str, question: str = "how long does tea take?") -> list[str]:
    """Ask the server at an address, with `/v1` at its end; a key, where it wants one, is read from OPENAI_API_KEY."""
    model = OpenAILikeEmbedding(
        model_name=os.environ.get("MODEL", "my-model"),
        api_base=address,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        embed_batch_size=64,
    )
    index = VectorStoreIndex([TextNode(id_=name, text=text) for name, text in TEXTS.items()], embed_model=model)
    found = index.as_retriever(similarity_top_k=2).retrieve(question)
    for one in found:
        print(f"{one.score:6.3f}  {one.node.node_id}: {one.node.get_content()}")
    return [one.node.node_id for one in found]


if __name__ == "__main__":
    main(*sys.argv[1:])
