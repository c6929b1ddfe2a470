"""The server that people write by hand: FastAPI around `SentenceTransformer.encode`, a request at a time. `serve_plain MODEL [DTYPE]`."""

from __future__ import annotations

import base64
import io
import socket
import sys
import threading
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from sentence_transformers import SentenceTransformer


def app(folder: str, dtype: str = "float32") -> FastAPI:
    """Return the application."""
    model, turn, served = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype}), threading.Lock(), FastAPI()

    @served.post("/v1/embeddings")
    def embeddings(body: dict[str, Any]) -> dict[str, Any]:
        given = body.get("input")
        inputs = [_content(body["messages"][0]["content"])] if given is None else [given] if isinstance(given, str) else given
        with turn:
            vectors = model.encode(inputs, show_progress_bar=False)
        return {"data": [{"index": number, "embedding": vector.tolist()} for number, vector in enumerate(vectors)]}

    return served


def _content(parts: list[dict[str, Any]]) -> Any:
    """Return a picture, with its text where it has one."""
    found: dict[str, Any] = {}
    for part in parts:
        if part["type"] == "text":
            found["text"] = part["text"]
        else:
            found["image"] = Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2]))).convert("RGB")
    return found if len(found) > 1 else next(iter(found.values()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        served = app(*sys.argv[1:])
        sys.stderr.write(f"http://127.0.0.1:{taken.getsockname()[1]}/\n")
        sys.stderr.flush()
        uvicorn.Server(uvicorn.Config(served, log_level="warning")).run(sockets=[taken])
