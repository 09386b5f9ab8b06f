"""The sentence embedding against its makers' own code; other texts of the batch change nothing."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from florence.packaged_models import sentences
from florence.packaged_models.sentences import ROWS, SentenceEncoder, sentence_encoder

TEXTS = [
    "kitten",
    "a cat",
    "a car",
    "",
    "Ein Kätzchen 🐈 schläft.",
    "two dogs near a tree",
    "a photo of a big red bus that stops at the corner of a long street",
]


def test_vectors_equal_those_of_the_library_that_the_model_was_made_with():
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(sentences._model_folder()), device="cpu")
    texts = [*TEXTS, "word " * 600]
    assert np.abs(sentence_encoder().encode(texts) - theirs.encode(texts, normalize_embeddings=True)).max() < 1e-5
    assert theirs.max_seq_length == 256


def test_a_kitten_is_more_like_a_cat_than_like_a_car():
    kitten, cat, car = sentence_encoder().encode(["kitten", "cat", "car"])
    assert kitten @ cat > 0.7 > 0.5 > kitten @ car


def test_a_text_has_one_vector_in_whatever_company():
    alone = [SentenceEncoder().encode([text])[0] for text in TEXTS[:2]]
    words = "dog car tree ball house street table chair window flower bird horse boat train lamp cup".split()
    crowd = [*words, *(f"a {word}" for word in words)]
    assert len(words) == ROWS
    together = SentenceEncoder().encode([*crowd, *TEXTS, *TEXTS[::-1]])[len(crowd) :]
    assert (together[:2] == alone).all()
    assert (together[: len(TEXTS)] == together[len(TEXTS) :][::-1]).all()
    assert (sentence_encoder().encode(TEXTS) == together[: len(TEXTS)]).all()
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)


def test_no_texts_give_no_vectors():
    assert sentence_encoder().encode([]).shape == (0, 384)


def test_it_remembers_no_more_than_it_is_let(monkeypatch):
    monkeypatch.setattr(sentences, "MAX_CACHED", 3)
    encoder = SentenceEncoder()
    first = encoder.encode(TEXTS)
    assert list(encoder._cache) == TEXTS[-3:]
    assert (encoder.encode(TEXTS) == first).all()


def test_threads_may_ask_at_once():
    encoder, answers = SentenceEncoder(), {}
    threads = [
        threading.Thread(target=lambda i=i: answers.update({i: encoder.encode([f"{i}", *TEXTS])[1:]})) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4 and all(
        (vectors == sentence_encoder().encode(TEXTS)).all() for vectors in answers.values()
    )
