"""Checkpoints exchanged with transformers: its model and processor, loaded from the same folder, are the reference."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
import torch
from safetensors import safe_open
from trainings import scenes, small
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from florence.model.checkpoint import Checkpoint, image_tokens, load
from florence.model.decoder import Decoder
from florence.model.decoding import LanguageModelHead
from florence.model.encoding import encode_images, encode_prompts
from florence.model.generate import Prompt, Query, generate, predict, spell_tokens
from florence.records import TASKS
from florence.store import Store
from florence.tasks import task
from florence.training import read_dataset, train
from florence.training.trainable import PARTS, part_of

TaskInputs = tuple[tuple[str, str], ...]
"""Tasks, each with the input of its prompt."""
INPUTS = {
    "<CAPTION_TO_PHRASE_GROUNDING>": "a cat on a mat",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "the cat",
    "<OPEN_VOCABULARY_DETECTION>": "cat<and>dog",
}
TASK_INPUTS: TaskInputs = tuple(
    (name, INPUTS.get(name, "<loc_10><loc_20><loc_700><loc_800>") if task(name).takes_input else "") for name in TASKS
)
FEW: TaskInputs = tuple(
    (name, given)
    for name, given in TASK_INPUTS
    if name in ("<CAPTION>", "<OD>", "<REGION_TO_SEGMENTATION>", "<OPEN_VOCABULARY_DETECTION>")
)
PIXELS = 1e-5
"""Largest difference of normalised pixels, which lie between −2.2 and 2.7."""
LOGITS = 1e-4
"""Largest difference of logits, as a share of the largest logit."""
SIDE = 96
"""Side in pixels at which the published layout is tested: nine cells and their mean."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder in the published layout."""
    return published.write(tmp_path_factory.mktemp("published") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Store:
    return scenes(tmp_path_factory.mktemp("data"), 12)


def pictures(count: int = 2) -> list[np.ndarray]:
    """Return pictures of coloured blocks, none of them square."""
    rng = np.random.default_rng(5)
    return [np.kron(rng.integers(0, 255, (5, 4 + n, 3)), np.ones((19, 17, 1))).astype(np.uint8) for n in range(count)]


def check_same(
    ours: Checkpoint,
    folder: Path,
    images: list[np.ndarray],
    asked: TaskInputs,
    searched: TaskInputs = (),
    length: int = 20,
) -> set[str]:
    """Compare pixels, prompts, logits, greedy tokens and texts of ``asked``, and tokens of three beams of ``searched``.

    The reference is transformers with the model in ``folder``, one image and prompt at a time. Returns the texts.
    """
    model = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.num_image_tokens == image_tokens(ours)
    pairs = [(image, *one) for image in range(len(images)) for one in asked]
    prompts = [Prompt(image, task(name).prompt(given)) for image, name, given in pairs]
    logits, forced = logits_of(ours, images, prompts)
    texts = set()
    for (image, name, given), prompt, mine, tokens in zip(
        pairs, prompts, logits, generate(ours, images, prompts, max_tokens=length), strict=True
    ):
        inputs = processor(text=name + given, images=images[image], return_tensors="pt")
        assert torch.allclose(
            ours.normalise(ours.resize(images[image])[None]), inputs["pixel_values"], atol=PIXELS, rtol=0
        )
        shown = [model.config.image_token_id] * image_tokens(ours)
        assert shown + ours.tokenizer(prompt.text).input_ids == inputs["input_ids"][0].tolist(), prompt.text
        with torch.inference_mode():
            right = model(**inputs, decoder_input_ids=forced).logits[0]
        assert float((mine - right).abs().max()) <= LOGITS * float(right.abs().max()), prompt.text
        assert tokens.tolist() == reference_tokens(model, inputs, ours.lexicon.eos, length, num_beams=1), prompt.text
        text, _ = spell_tokens(ours.lexicon, tokens)
        assert text == processor.batch_decode(tokens[None], skip_special_tokens=False)[0]
        assert set(
            processor.post_process_generation(
                text, task=name, image_size=(images[image].shape[1], images[image].shape[0])
            )
        ) == {name}
        texts.add(text)
    prompts = [Prompt(0, task(name).prompt(given)) for name, given in searched]
    for (name, given), tokens in zip(
        searched, generate(ours, images, prompts, max_tokens=length, beams=3), strict=True
    ):
        inputs = processor(text=name + given, images=images[0], return_tensors="pt")
        assert tokens.tolist() == reference_tokens(
            model, inputs, ours.lexicon.eos, length, num_beams=3, early_stopping=False
        ), name
    return texts


def logits_of(ours: Checkpoint, images: list[np.ndarray], prompts: list[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return our logits (prompts, 5, vocabulary) after each of five tokens, and the tokens (1, 5).

    All prompts are in one batch.
    """
    tokens = [2, 0, 40, int(ours.lexicon.locations[7]), 300]
    ids = [torch.tensor(ours.tokenizer(prompt.text).input_ids) for prompt in prompts]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=ours.lexicon.pad)
    with torch.inference_mode():
        features = encode_images(ours.model, ours.normalise(np.stack([ours.resize(image) for image in images])))
        states, mask = encode_prompts(ours.model, features, torch.tensor([prompt.image for prompt in prompts]), padded)
        decoder, head = Decoder(ours.model, states, mask, beams=1), LanguageModelHead(ours.model, ours.lexicon)
        found = [head.logits(decoder(torch.full((len(prompts), 1), token))[:, 0]) for token in tokens]
    return torch.stack(found, dim=1), torch.tensor([tokens])


def reference_tokens(model: Any, inputs: Any, eos: int, length: int, **options: Any) -> list[int]:
    """Return the tokens of transformers without start and padding; n-grams are not blocked."""
    with torch.inference_mode():
        tokens = model.generate(**inputs, do_sample=False, no_repeat_ngram_size=0, max_new_tokens=length, **options)[
            0, 1:
        ].tolist()
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


def weights(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return names and shapes in the weights file of a folder."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def check_grammar(checkpoint: Checkpoint, images: list[np.ndarray]) -> list[str]:
    """Return our answers to every task, after checking that they follow the grammar."""
    queries = [Query(image, *one) for image in range(len(images)) for one in TASK_INPUTS]
    answers = predict(checkpoint, images, queries, max_tokens=24)
    assert not [
        (query.task, answer.text, answer.error)
        for query, answer in zip(queries, answers, strict=True)
        if answer.error is not None
    ]
    assert all(answer.score is not None and 0 <= answer.score <= 1 for answer in answers)
    return [answer.text for answer in answers]


@pytest.mark.parametrize("name", ["nano-scratch", "nano"])
def test_a_saved_model_answers_the_same_in_transformers(name, tmp_path):
    ours = load(name, seed=2)
    ours.save(tmp_path / "model")
    texts = check_same(ours, tmp_path / "model", pictures(), TASK_INPUTS, searched=TASK_INPUTS[::2])
    assert len(texts) > (20 if name == "nano" else 1), "answers that are all alike would prove little"


def test_a_published_folder_is_loaded_unchanged(folder):
    ours = load(str(folder))
    assert (ours.image_size, image_tokens(ours), len(ours.tokenizer), len(ours.lexicon.pieces)) == (
        768,
        577,
        51290,
        published.ROWS,
    )
    assert {mark: ours.tokenizer.convert_tokens_to_ids(mark) for mark in published.IDS} == published.IDS
    assert ours.lexicon.locations.tolist() == list(range(50269, 51269)) and (
        ours.lexicon.bos,
        ours.lexicon.pad,
        ours.lexicon.eos,
    ) == (0, 1, 2)
    assert not ours.lexicon.classes[51290:].any(), "rows that only fill the embeddings up are no token"
    for text in (
        "What does the image describe?",
        "a Käse's 🙂 <loc_0><loc_999>",
        " two  blanks<sep><poly><loc_5></poly>",
    ):
        ids = np.asarray(ours.tokenizer(text, add_special_tokens=False).input_ids)
        assert spell_tokens(ours.lexicon, ids)[0] == text
    texts = check_same(ours, folder, pictures(1), FEW[:2], length=8)
    assert len(texts) == 2


def test_a_published_folder_is_trained_and_saved_in_its_layout(folder, data, tmp_path):
    ours = load(str(folder), image_size=SIDE)
    before = {name: value.clone() for name, value in ours.model.named_parameters()}
    check_grammar(ours, pictures())
    chosen = small(steps=2, batch_size=6, tasks_per_image=4, lr=1e-4)
    done = train(ours, read_dataset(ours, chosen, data), chosen, tmp_path / "checkpoints", "key")
    assert done.steps == 2 and not done.left_out and np.isfinite(done.curve[-1]["loss"])
    moved = {name for name, value in ours.model.named_parameters() if not torch.equal(value, before[name])}
    assert {part_of(name) for name in moved} == set(PARTS)
    check_grammar(ours, pictures())
    saved = tmp_path / "model"
    ours.save(saved)
    assert len(check_same(ours, saved, pictures(), FEW, searched=FEW)) > 4
    assert weights(saved) == weights(folder)
    read = [json.loads((at / "config.json").read_text(encoding="utf-8")) for at in (folder, saved)]
    for part in ("text_config", "vision_config"):
        assert {**read[0].pop(part), "dtype": ""} == {**read[1].pop(part), "dtype": ""}
    assert {**read[0], "dtype": "float32"} == read[1]
    assert (folder / "generation_config.json").read_bytes() == (saved / "generation_config.json").read_bytes()
    theirs = [AutoProcessor.from_pretrained(at) for at in (folder, saved)]
    assert theirs[0].tokenizer.get_vocab() == theirs[1].tokenizer.get_vocab() and type(theirs[0].tokenizer) is type(
        theirs[1].tokenizer
    )
    assert theirs[0].post_processor_config == theirs[1].post_processor_config == published.POST_PROCESSING
    kept = (
        "image_mean",
        "image_std",
        "resample",
        "do_center_crop",
        "do_resize",
        "do_rescale",
        "do_normalize",
        "rescale_factor",
    )
    seen = [{name: getattr(one.image_processor, name) for name in kept} for one in theirs]
    assert seen[0] == seen[1]
    assert (theirs[1].image_processor.size["height"], theirs[1].num_image_tokens) == (SIDE, 10)
    again = load(str(saved))
    assert again.image_size == SIDE and check_grammar(again, pictures(1)) == check_grammar(ours, pictures(1))


def test_adapters_on_a_published_folder_leave_its_weights_alone_and_merge(folder, data, tmp_path):
    ours, images = load(str(folder), image_size=SIDE), pictures()
    before = {name: value.clone() for name, value in ours.model.named_parameters()}
    untrained = check_grammar(ours, images)
    rank, alpha = 4, 24.0
    chosen = small(steps=3, batch_size=6, tasks_per_image=4, lr=0.004, lora={"rank": rank, "alpha": alpha})
    base: dict[str, torch.Tensor] = {}
    change: dict[str, torch.Tensor] = {}
    messages: list[str] = []

    def look(what: str, done: int, of: int | None) -> None:
        """Check the model after the last step, before adapters are merged."""
        if what == "train" and done == of:
            messages.extend(check_grammar(ours, images))
            base.update(
                {
                    name.replace(".base_layer", ""): value.detach().clone()
                    for name, value in ours.model.named_parameters()
                    if "lora_" not in name
                }
            )
            apart = {name: value.detach().clone() for name, value in ours.model.named_parameters() if "lora_" in name}
            for name, value in apart.items():
                if ".lora_B." in name:
                    change[name.split(".lora_B.")[0] + ".weight"] = (
                        alpha / rank * value @ apart[name.replace("lora_B", "lora_A")]
                    )

    train(ours, read_dataset(ours, chosen, data), chosen, tmp_path / "checkpoints", "key", progress=look)
    assert base.keys() == before.keys() and all(torch.equal(base[name], value) for name, value in before.items()), (
        "adapters alone are trained"
    )
    assert change and all(
        name.endswith(tuple(f".{target}.weight" for target in chosen.lora.targets)) and bool(value.any())
        for name, value in change.items()
    )
    merged = dict(ours.model.named_parameters())
    assert merged.keys() == before.keys()
    for name, value in merged.items():
        if name in change:
            assert torch.allclose(value, before[name] + change[name], atol=1e-6, rtol=1e-5), name
        else:
            assert torch.equal(value, before[name]), name
    assert check_grammar(ours, images) == messages != untrained
    ours.save(tmp_path / "model")
    assert weights(tmp_path / "model") == weights(folder), "no adapter is left in what is saved"
    assert check_grammar(load(str(tmp_path / "model")), images) == messages
    assert len(check_same(ours, tmp_path / "model", images[:1], FEW)) > 2


def test_a_folder_that_is_saved_over_is_read_as_it_was_saved_last(folder, tmp_path):
    ours = load(str(folder))
    shutil.copytree(folder, tmp_path / "model")
    dataclasses.replace(ours, image_size=64, mean=(0.5, 0.5, 0.5)).save(tmp_path / "model")
    again = load(str(tmp_path / "model"))
    assert (again.image_size, again.mean) == (64, (0.5, 0.5, 0.5))
