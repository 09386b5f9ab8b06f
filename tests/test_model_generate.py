"""Generation: against transformers' own `generate`, against its parts, and never outside the grammar."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from florence.codec import constrain
from florence.errors import ModelError
from florence.model import decoding, generate
from florence.model.checkpoint import Checkpoint, build, load
from florence.model.decoder import Decoder
from florence.model.encoding import encode_images, encode_prompts
from florence.model.generate import Prompt, Query, predict
from florence.model.presets import PRESETS
from florence.records import TASKS
from florence.tasks import task

INPUTS = {
    "<CAPTION_TO_PHRASE_GROUNDING>": "a cat on a mat",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "the cat",
    "<OPEN_VOCABULARY_DETECTION>": "cat<and>dog",
}
ASKED = [
    (name, INPUTS.get(name, "<loc_10><loc_20><loc_700><loc_800>") if task(name).takes_input else "") for name in TASKS
]
SCALE = 20.0
"""Factor of a random model's logits: its choices are clear then, and not one token repeated for ever."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8) for _ in range(count)]


def lively(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """Give a model random weights whose answers vary.

    Token embeddings are tied to the head, so a random model repeats what it reads; a head of its own does not.
    """
    model = checkpoint.model
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    random = torch.Generator().manual_seed(seed)
    head = torch.randn(model.lm_head.weight.shape, generator=random) * SCALE / model.config.text_config.d_model
    model.lm_head.weight = torch.nn.Parameter(head)
    with torch.no_grad():
        model.lm_head.weight[model.config.text_config.eos_token_id] *= 5
    return checkpoint


@pytest.fixture(scope="module")
def small_base() -> Checkpoint:
    """Return a model of the shape of ``base`` (depths, strides, windows, heads), a quarter as wide."""
    parts = {
        "vision": {
            "embed_dim": (32, 64, 128, 256),
            "num_heads": (2, 4, 8, 16),
            "num_groups": (2, 4, 8, 16),
            "projection_dim": 192,
            "depths": (1, 1, 2, 1),
        },
        "text": {
            **PRESETS["base"]["text"],
            "d_model": 192,
            "encoder_layers": 3,
            "decoder_layers": 3,
            "encoder_ffn_dim": 768,
            "decoder_ffn_dim": 768,
        },
    }
    PRESETS["small base"] = parts
    try:
        return lively(build("small base", image_size=128, seed=5), 10)
    finally:
        del PRESETS["small base"]


@pytest.fixture(scope="module")
def scratch() -> Checkpoint:
    return lively(build("nano", image_size=64, seed=7), 1)


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return load("nano")


def theirs(checkpoint: Checkpoint, picture: np.ndarray, text: str, **options) -> tuple[list[int], list[torch.Tensor]]:
    """Return transformers' tokens of one prompt without start and padding, and the logits before each (of one beam)."""
    model, ids = checkpoint.model, checkpoint.tokenizer(text).input_ids
    pixels = checkpoint.normalise(checkpoint.resize(picture)[None])
    with torch.inference_mode():
        image = [model.config.image_token_id] * encode_images(model, pixels).shape[1]
        found = model.generate(
            input_ids=torch.tensor([image + ids]),
            pixel_values=pixels,
            attention_mask=torch.ones(1, len(image) + len(ids), dtype=torch.long),
            do_sample=False,
            no_repeat_ngram_size=0,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
    tokens = found.sequences[0, 1:].tolist()
    if checkpoint.lexicon.eos in tokens:
        tokens = tokens[: tokens.index(checkpoint.lexicon.eos) + 1]
    return tokens, [logits[0].float() for logits in found.logits]


PROMPTS = [(image, task(name).prompt(given)) for image in range(2) for name, given in ASKED]


@pytest.mark.parametrize("which", ["scratch", "small_base", "shipped"])
@pytest.mark.parametrize("bos", [None, 0])
def test_greedy_gives_the_tokens_of_transformers(which, bos, request, monkeypatch):
    """Every prompt alone in transformers, all together here.

    A first difference only where the two best logits are within 1e-4.
    """
    checkpoint = request.getfixturevalue(which)
    monkeypatch.setattr(checkpoint.model.generation_config, "forced_bos_token_id", bos)
    images = pictures(2)
    prompts = PROMPTS[:: 2 if which == "shipped" else 4]
    ours = generate.generate(checkpoint, images, [Prompt(*prompt) for prompt in prompts], max_tokens=40, batch_size=7)
    lengths = set()
    for (image, text), mine in zip(prompts, ours, strict=True):
        right, logits = theirs(checkpoint, images[image], text, num_beams=1, max_new_tokens=40)
        same_until = next((at for at, (a, b) in enumerate(zip(mine, right, strict=False)) if a != b), None)
        if same_until is None:
            assert mine.tolist() == right
        else:
            best = logits[same_until].topk(2)[0]
            assert best[0] - best[1] < 1e-4, (text, same_until)
        assert bos is None or mine[0] == bos
        lengths.add(len(right))
    assert len(lengths) > 1, "answers of one length would prove little"


@pytest.mark.parametrize("which", ["scratch", "small_base", "shipped"])
@pytest.mark.parametrize(("beams", "penalty"), [(3, 1.0), (2, 0.0), (4, 2.0)])
def test_beams_give_the_tokens_of_transformers(which, beams, penalty, request):
    checkpoint = request.getfixturevalue(which)
    images = pictures(2)
    prompts = PROMPTS[:: 3 if which == "shipped" else 6]
    ours = generate.generate(
        checkpoint,
        images,
        [Prompt(*prompt) for prompt in prompts],
        max_tokens=24,
        batch_size=9,
        beams=beams,
        length_penalty=penalty,
    )
    for (image, text), mine in zip(prompts, ours, strict=True):
        assert (
            mine.tolist()
            == theirs(
                checkpoint,
                images[image],
                text,
                num_beams=beams,
                max_new_tokens=24,
                length_penalty=penalty,
                early_stopping=False,
            )[0]
        ), text


def test_answers_of_fixed_length_equal_those_of_transformers(scratch):
    images, lengths = pictures(1), [3, 17, 9]
    prompts = [Prompt(0, task(name).prompt()) for name in ("<CAPTION>", "<OD>", "<OCR>")]
    ours = generate.generate(scratch, images, prompts, max_tokens=lengths, has_fixed_length=True)
    assert [len(one) for one in ours] == lengths
    for prompt, length, mine in zip(prompts, lengths, ours, strict=True):
        assert (
            mine.tolist()
            == theirs(scratch, images[0], prompt.text, num_beams=1, min_new_tokens=length, max_new_tokens=length)[0]
        )


def test_the_decoder_is_transformers_own(small_base):
    """Hidden states of beams that follow each other about, with rows leaving, against a whole pass over each beam's
    tokens.
    """
    model = small_base.model
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        features = encode_images(model, small_base.normalise(np.stack(pictures(1)).repeat(2, 1).repeat(2, 2)))
        prompts = torch.tensor([[5, 6, 7, 8], [9, 10, 1, 1], [11, 1, 1, 1]])
        states, mask = encode_prompts(model, features, torch.zeros(3, dtype=torch.long), prompts)
        decoder, beams, rows = Decoder(model, states, mask, beams=2), 2, torch.arange(3)
        text = torch.zeros((3, beams, 0), dtype=torch.long)
        for step in range(70):  # the buffers grow twice
            token = torch.from_numpy(rng.integers(10, 4000, (len(rows), beams)))
            text = torch.cat([text, token[..., None]], dim=2)
            hidden = decoder(token)
            if step in (0, 5, 31, 33, 69):
                whole = model.model.language_model.decoder(
                    input_ids=text.flatten(0, 1),
                    encoder_hidden_states=states[rows].repeat_interleave(beams, 0),
                    encoder_attention_mask=mask[rows].repeat_interleave(beams, 0),
                    use_cache=False,
                ).last_hidden_state[:, -1]
                assert torch.allclose(hidden.flatten(0, 1), whole, atol=1e-4), step
            order = torch.from_numpy(rng.integers(0, beams, (len(rows), beams)))
            decoder.reorder_beams(order)
            text = text.gather(1, order[..., None].expand_as(text))
            if step == 20:
                decoder.keep_rows(torch.tensor([2, 0]))
                rows, text = rows[[2, 0]], text[[2, 0]]


def test_prompts_are_batched_by_length_and_few_features_are_held():
    rng = np.random.default_rng(1)
    images, lengths = rng.integers(0, 40, 300).tolist(), rng.integers(3, 60, 300).tolist()
    found = list(generate.batch_prompts(images, lengths, 8, 32))
    assert sorted(index for batches in found for rows in batches for index in rows) == list(range(300))
    for batches in found:
        members = [index for rows in batches for index in rows]
        assert len({images[index] for index in members}) <= 8 and all(len(rows) <= 32 for rows in batches)
        assert all(lengths[a] <= lengths[b] for a, b in pairwise(members))
    padded = sum(max(lengths[i] for i in rows) * len(rows) for batches in found for rows in batches)
    unsorted = sum(max(lengths[i : i + 32]) * len(lengths[i : i + 32]) for i in range(0, 300, 32))
    assert padded < 0.8 * unsorted


def test_an_image_is_encoded_once_and_few_at_a_time(scratch, monkeypatch):
    counts: list[int] = []
    real = generate.encode_images
    monkeypatch.setattr(
        generate, "encode_images", lambda model, pixels: counts.append(len(pixels)) or real(model, pixels)
    )
    monkeypatch.setattr(generate, "MAX_PIXELS", 2 * 64 * 64)
    images = pictures(6)
    queries = [Query(image, name) for name in ("<OD>", "<CAPTION>", "<OCR>") for image in (0, 1, 2, 4, 5)]
    few = predict(scratch, images, queries, max_tokens=12, batch_size=3)
    assert counts == [2, 1, 2], "image 3 is asked nothing; at most three are held, two encoded at once"
    assert [a.text for a in few] == [a.text for a in predict(scratch, images, queries, max_tokens=12)]


def test_finished_rows_leave_the_batch_and_each_answer_has_its_own_limit(scratch, monkeypatch):
    rows: list[int] = []
    real = Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda self, tokens: rows.append(len(tokens)) or real(self, tokens))
    limits = [2, 4, 8, 30]
    answers = predict(scratch, pictures(1), [Query(0, "<MORE_DETAILED_CAPTION>")] * 4, max_tokens=limits)
    assert rows[0] == 4 and rows[-1] == 1 and sorted(rows, reverse=True) == rows and len(rows) <= 33
    alone = [
        predict(scratch, pictures(1), [Query(0, "<MORE_DETAILED_CAPTION>")], max_tokens=limit)[0].text
        for limit in limits
    ]
    assert [a.text for a in answers] == alone and alone[0] != alone[3]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("which", ["nano-scratch", "nano", "lively"])
def test_no_answer_leaves_the_grammar(which, beams, scratch):
    checkpoint = scratch if which == "lively" else load(which, seed=11)
    check_answers(checkpoint, beams, images=4, lengths=(1, 2, 3, 9, 40))


@pytest.mark.accept
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("which", ["nano-scratch", "nano"])
def test_two_thousand_answers_of_each_model_and_none_leaves_the_grammar(which, beams):
    assert check_answers(load(which, seed=1), beams, images=150, lengths=(3, 20, 60, 160)) >= 2000


def check_answers(checkpoint: Checkpoint, beams: int, images: int, lengths: tuple[int, ...]) -> int:
    """Ask every task of every image; returns the number of answers.

    The parser decides, not the automaton of the grammar.
    """
    queries = [Query(image, name, given) for image in range(images) for name, given in ASKED]
    limits = [lengths[index % len(lengths)] for index in range(len(queries))]
    answers = predict(checkpoint, pictures(images, seed=3), queries, max_tokens=limits, beams=beams)
    wrong = [
        (query.task, limit, answer.text)
        for query, limit, answer in zip(queries, limits, answers, strict=True)
        if answer.error is not None
    ]
    assert not wrong, wrong[:5]
    assert all(answer.score is not None and 0 <= answer.score <= 1 for answer in answers)
    assert all(region.score is not None and 0 <= region.score <= 1 for answer in answers for region in answer.regions)
    assert len({query.task for query in queries}) == len(TASKS)
    return len(answers)


def test_beams_find_answers_at_least_as_likely_and_of_the_same_search(shipped, monkeypatch):
    """Tokens have the probability that the model gives them among the legal ones; more beams find a text that is
    likelier by length, mostly.
    """
    images = pictures(3)
    queries = [Query(image, name) for image in range(3) for name in ("<CAPTION>", "<DETAILED_CAPTION>", "<OCR>")]
    worth = {}
    for beams in (1, 4):
        found = predict(shipped, images, queries, max_tokens=40, beams=beams)
        worth[beams] = [
            mean_log_probability(shipped, images[query.image], query, answer)
            for query, answer in zip(queries, found, strict=True)
        ]
        for query, answer, mean in zip(queries, found, worth[beams], strict=True):
            length = len(shipped.tokenizer(answer.text, add_special_tokens=False).input_ids) + 1
            if length > 40:  # its end was the limit's choice, not the model's
                continue
            # a caption's is that of a token
            assert np.log(answer.score) == pytest.approx(
                mean if "CAPTION" in query.task else mean * length, rel=1e-2, abs=1e-2
            )
    assert np.mean(worth[4]) > np.mean(worth[1])
    assert sum(b >= a - 1e-6 for a, b in zip(worth[1], worth[4], strict=True)) >= len(queries) - 1


def mean_log_probability(checkpoint: Checkpoint, picture: np.ndarray, query: Query, answer) -> float:
    """Mean log-probability of a text's tokens and its end among those legal in a text, by one pass of transformers'
    model.
    """
    model, lexicon = checkpoint.model, checkpoint.lexicon
    labels = [lexicon.bos, *checkpoint.tokenizer(answer.text, add_special_tokens=False).input_ids, lexicon.eos]
    pixels = checkpoint.normalise(checkpoint.resize(picture)[None])
    with torch.inference_mode():
        image = [model.config.image_token_id] * encode_images(model, pixels).shape[1]
        prompt = checkpoint.tokenizer(task(query.task).prompt(query.input)).input_ids
        logits = model(
            input_ids=torch.tensor([image + prompt]), pixel_values=pixels, labels=torch.tensor([labels])
        ).logits[0, 1:]
    states, total = np.asarray([task(query.task).start]), 0.0
    for at, token in enumerate(labels[1:]):
        legal = torch.from_numpy(lexicon.classes @ constrain.allowed_classes(states)[0])
        total += float(torch.log_softmax(logits[at].masked_fill(~legal, -torch.inf), dim=0)[token])
        states = constrain.next_states(states, lexicon.class_of(np.asarray([token])))
    return total / (len(labels) - 1)


def test_locations_are_candidates_by_neighbourhood(shipped):
    """Two broad peaks of locations and one sharp word: the search sees two candidates that share what locations have,
    not a thousand.
    """
    lexicon = shipped.lexicon
    bins = np.arange(1000)
    mass = 0.5 * np.exp(-0.5 * ((bins - 200) / 9) ** 2) / 22.56 + 0.25 * np.exp(-0.5 * ((bins - 700) / 9) ** 2) / 22.56
    probability = np.full(len(lexicon.pieces), 1e-12)
    probability[lexicon.locations] += mass
    probability[lexicon.eos] = 0.25
    from florence.model.beam_search import ConstrainedScorer

    states = np.asarray([task("<REGION_PROPOSAL>").start])
    scorer = ConstrainedScorer(decoding.TokenGrammar(lexicon, "cpu"), states)
    scores = scorer.scores(torch.from_numpy(np.log(probability)).float()[None], 0, np.asarray([50]))[0].exp()
    order = scores.argsort(descending=True)[:3].tolist()
    assert order == [int(lexicon.locations[200]), lexicon.eos, int(lexicon.locations[700])] or order == [
        int(lexicon.locations[200]),
        int(lexicon.locations[700]),
        lexicon.eos,
    ]
    assert scores[order].tolist() == pytest.approx([0.5, 0.25, 0.25], abs=5e-3)
    near = scorer.probability(torch.tensor([0]), torch.tensor([order[0]]))
    assert float(near) == pytest.approx(mass[185:216].sum(), abs=1e-3)


# ---------------------------------------------------------------- the greatest length


@pytest.mark.parametrize("beams", [1, 3])
def test_an_answer_that_its_limit_has_cut_says_so(beams, shipped):
    images = pictures(2)
    queries = [Query(image, name) for image in range(2) for name in ("<OD>", "<CAPTION>", "<REGION_PROPOSAL>")]
    whole = predict(shipped, images, queries, max_tokens=300, beams=beams)
    for query, answer in zip(queries, whole, strict=True):
        length = len(shipped.tokenizer(answer.text, add_special_tokens=False).input_ids)
        if answer.truncated:
            assert length > 250
            continue
        (same, longer), (less,) = (
            predict(shipped, images, [query] * len(limits), max_tokens=limits, beams=beams)
            for limits in ([length + 20, length + 40], [max(1, length // 2)])
        )
        assert same.text == longer.text == answer.text and not same.truncated and not longer.truncated
        assert less.truncated == (less.text != answer.text), "an answer of one token has no half"
        assert less.error is None
    assert not all(answer.truncated for answer in whole)
    cut = predict(shipped, images, queries, max_tokens=1, beams=beams)
    assert [answer.truncated for answer in cut] == [bool(answer.text) for answer in whole]


def test_an_answer_that_just_fits_is_whole(shipped):
    images = pictures(1)
    (whole,) = predict(shipped, images, [Query(0, "<CAPTION>")], max_tokens=60)
    length = len(shipped.tokenizer(whole.text, add_special_tokens=False).input_ids)
    limits = list(range(1, length + 3))
    found = predict(shipped, images, [Query(0, "<CAPTION>")] * len(limits), max_tokens=limits)
    assert [answer.truncated for answer in found] == [limit < length for limit in limits]
    assert [answer.text == whole.text for answer in found] == [limit >= length for limit in limits]


@pytest.mark.parametrize("limit", [0, -1, [5, 0], 2.5, [1, 2.0], True, "9"])
def test_a_limit_that_is_none_is_refused(limit, scratch):
    with pytest.raises(ModelError, match="max_tokens: whole numbers of at least 1"):
        predict(scratch, pictures(1), [Query(0, "<OD>")] * 2, max_tokens=limit)
    with pytest.raises(ModelError, match="max_tokens"):
        generate.generate(scratch, pictures(1), [Prompt(0, "a")] * 2, max_tokens=limit)


def test_a_limit_beyond_the_model_s_positions_takes_no_more_memory(scratch):
    few, many = (predict(scratch, pictures(1), [Query(0, "<OD>")], max_tokens=limit) for limit in (510, 10**12))
    assert few[0].text == many[0].text
