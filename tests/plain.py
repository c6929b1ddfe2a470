"""Open checkpoints as somebody without this package does, and write down what comes out.

Run as a script: `plain.py OUT.npz REQUESTS.json`; a request is a folder, an attention backend, and `golden`, `inputs`, `sides` or `many`.
"""

from __future__ import annotations

import importlib.abc
import json
import sys
from pathlib import Path


class Blocked(importlib.abc.MetaPathFinder):
    """Make `import twoway` fail, wherever it would come from."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] == "twoway":
            raise ImportError("this Python has no twoway")


def everything(model) -> object:
    """Encode each kind of input alone, so that the result is one row a kind."""
    import numpy as np

    kinds = inputs()
    return np.concatenate([model.encode([kinds[name]], show_progress_bar=False) for name in sorted(kinds)])


def sides(model) -> object:
    """Encode every kind of input in company and one text that is cut, padded left, then right; and which tokens the rows end in."""
    import numpy as np

    kinds = inputs() | {"long": "w5 " * model.max_seq_length}
    batches = [[kinds[name] for name in names] for names in (("text", "image", "image and text", "long"), ("chat", "interleaved"))]
    vectors, ends = [], []
    for side in ("left", "right"):
        model.tokenizer.padding_side = side
        vectors.append(np.concatenate([model.encode(batch, show_progress_bar=False) for batch in batches]))
        for features in map(model.preprocess, batches):
            last = features["attention_mask"].shape[1] - 1 - features["attention_mask"].flip(1).argmax(1)
            ends += features["input_ids"].gather(1, last[:, None])[:, 0].tolist()
    return np.concatenate([np.stack(vectors).ravel(), np.array(ends, np.float32)])


def inputs() -> dict[str, object]:
    """Return one of each kind of input that sentence-transformers takes."""
    import numpy as np
    from PIL import Image

    first, second = (Image.fromarray(np.random.default_rng(n).integers(0, 255, (40, 52, 3), dtype=np.uint8)) for n in (1, 2))
    content = [
        {"type": "text", "text": "w7 "},
        {"type": "image", "image": first},
        {"type": "text", "text": " w9 "},
        {"type": "image", "image": second},
        {"type": "text", "text": " w4"},
    ]
    talk = [
        {"role": "user", "content": [{"type": "text", "text": "w5 w6"}, {"type": "image", "image": first}]},
        {"role": "assistant", "content": [{"type": "text", "text": "w8"}]},
    ]
    return {
        "chat": talk,
        "image": first,
        "image and text": {"image": first, "text": "w5 w6"},
        "images and text": {"image": [first, second], "text": "w5 w6"},
        "interleaved": [{"role": "user", "content": content}],
        "text": "w4 w5 w6",
    }


def many(model) -> object:
    """Return the many vectors of a text as a query, of a text and of a picture as documents, row behind row."""
    import numpy as np

    kinds = inputs()
    documents = [model.encode_document([kinds[name]], show_progress_bar=False)[0] for name in ("text", "image")]
    query = model.encode_query([kinds["text"]], show_progress_bar=False)[0]
    return np.concatenate([one.float().cpu().numpy() for one in (query, *documents)])


def golden(model) -> object:
    """Return the pooled states of the golden batch, before normalisation."""
    import torch
    from safetensors.torch import load_file

    batch = load_file(Path(__file__).parent / "golden" / "batch.safetensors")
    features = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
    # The processor says which tokens are an image's; without it, these models number positions as if all were text.
    features["mm_token_type_ids"] = (batch["input_ids"] == model[0].config.image_token_id).int()
    with torch.no_grad():
        return model[1](model[0](features | {"modality": "message"}))["sentence_embedding"].numpy()


def main(out: str, requests: str) -> None:
    """Answer every request."""
    import numpy as np
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer

    answers = {}
    for number, (folder, backend, what) in enumerate(json.loads(Path(requests).read_text())):
        kind = MultiVectorEncoder if what == "many" else SentenceTransformer
        model = kind(folder, device="cpu", model_kwargs={"attn_implementation": backend})
        answers[str(number)] = {"golden": golden, "inputs": everything, "sides": sides, "many": many}[what](model)
    np.savez(out, **answers)


if __name__ == "__main__":
    sys.meta_path.insert(0, Blocked())
    try:
        import twoway  # noqa: F401
    except ImportError:
        main(*sys.argv[1:])
    else:
        sys.exit("twoway could be imported")
