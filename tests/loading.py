"""Parts of a loader that workers can import: rows become small dictionaries, and every picture is decoded."""

from __future__ import annotations

import os

import torch

from twoway.content import open_document


def encode(identity, document):
    """Decode the pictures, as an encoder does, and keep what the tests look at."""
    return {"identity": identity, "texts": open_document(document).texts, "process": os.getpid()}


def corrupt(example, *, epoch):
    """Mark the epoch, as a mask does."""
    return {**example, "epoch": epoch}


def collate(rows):
    """Put rows together."""
    return {
        "identities": [row["identity"] for row in rows],
        "texts": [row["texts"] for row in rows],
        "epochs": [row["epoch"] for row in rows],
        "labels": torch.tensor([len(row["texts"][0]) for row in rows]),
        "process": rows[0]["process"],
    }


def boom(identity, document):
    """Fail as a mistake in the code would."""
    raise ZeroDivisionError("a mistake")
