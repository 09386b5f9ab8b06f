"""The grammar in transformers' own `generate`: the answers of `predict`, and none that is not legal."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessor, LogitsProcessorList

from florence.errors import ModelError, UnknownNameError
from florence.model.checkpoint import Checkpoint, load
from florence.model.generate import Query, predict
from florence.model.logits_processor import GrammarLogitsProcessor, constrain_generation
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
FEW = [ASKED[TASKS.index(name)] for name in ("<OD>", "<CAPTION>", "<REGION_TO_SEGMENTATION>", "<OCR_WITH_REGION>")]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ours() -> Checkpoint:
    return load("nano")


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory) -> tuple:
    """Return model and processor of transformers, read from a folder that we have written."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    ours.save(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    # as published: both break answers that repeat labels
    model.generation_config.no_repeat_ngram_size, model.generation_config.num_beams = 3, 3
    return model, AutoProcessor.from_pretrained(folder)


def picture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 255, (5, 4 + seed, 3)), np.ones((19, 17, 1))).astype(np.uint8)


def write(theirs: tuple, asked: list, seeds: list[int], options: dict) -> torch.Tensor:
    model, processor = theirs
    inputs = processor(
        text=[task(name).prompt(given) for name, given in asked],
        images=[picture(seed) for seed in seeds],
        padding=True,
        return_tensors="pt",
    )
    return model.generate(**inputs, **options)


def size(seed: int) -> tuple[int, int]:
    return picture(seed).shape[1], picture(seed).shape[0]


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_predict(beams, ours, theirs):
    """All tasks in one batch, with prompts of different lengths, about two pictures."""
    asked, seeds = ASKED * 2, [0] * len(ASKED) + [3] * len(ASKED)
    options = constrain_generation(*theirs, [name for name, _ in asked], max_tokens=30, num_beams=beams)
    found = options["logits_processor"][0].read_answers(
        write(theirs, asked, seeds, options), [size(seed) for seed in seeds], [given for _, given in asked]
    )
    images = [picture(0), picture(3)]
    queries = [Query(image, *one) for image in range(2) for one in ASKED]
    right = predict(ours, images, queries, max_tokens=30, beams=beams)
    assert [answer.text for answer in found] == [answer.text for answer in right]
    for one, two in zip(found, right, strict=True):
        assert one.error is None
        assert [(r.label, r.box, r.quad, r.polygons) for r in one.regions] == [
            (r.label, r.box, r.quad, r.polygons) for r in two.regions
        ]
    assert len({answer.text for answer in right}) > 15


def test_the_score_of_a_greedy_token_is_its_probability(ours, theirs):
    options = constrain_generation(*theirs, ["<CAPTION>"])
    model, processor = theirs
    inputs = processor(text="<CAPTION>", images=picture(), return_tensors="pt")
    found = model.generate(**inputs, **options, output_scores=True, return_dict_in_generate=True)
    mean = torch.stack([score.max() for score in found.scores]).mean().exp()
    (answer,) = predict(ours, [picture()], [Query(0, "<CAPTION>")])
    assert float(mean) == pytest.approx(answer.score, rel=1e-4)


def test_sampled_answers_differ_and_are_legal(theirs):
    names = [name for name, _ in FEW]
    options = constrain_generation(*theirs, names, max_tokens=24, do_sample=True)
    torch.manual_seed(0)
    tokens = write(theirs, FEW, [0] * len(FEW), {**options, "num_return_sequences": 5, "temperature": 2.0, "top_k": 0})
    found = options["logits_processor"][0].read_answers(tokens, [size(0)] * len(FEW), [given for _, given in FEW])
    assert len(found) == 20 and not [answer.error for answer in found if answer.error]
    assert len({str(answer) for answer in found}) > 12


@pytest.mark.parametrize("beams", [1, 3])
def test_the_processor_alone_is_enough_for_legal_answers(beams, theirs):
    """With the generation configuration that was published, which blocks repeated n-grams and forces first tokens."""
    constraint = GrammarLogitsProcessor(theirs[1].tokenizer, [name for name, _ in FEW], max_tokens=40, num_beams=beams)
    options = {"logits_processor": [constraint], "num_beams": beams, "max_new_tokens": 42}
    tokens = write(theirs, FEW, [2] * len(FEW), options)
    answers = constraint.read_answers(tokens, [size(2)] * len(FEW), [given for _, given in FEW])
    assert not [answer.error for answer in answers if answer.error]


def test_a_processor_that_forbids_all_that_is_legal_does_not_break_the_grammar(theirs):
    class NoLocations(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores[:, theirs[1].tokenizer.convert_tokens_to_ids("<loc_0>") :] = -torch.inf
            return scores

    options = constrain_generation(*theirs, ["<OD>"], max_tokens=20)
    options["logits_processor"] = LogitsProcessorList([NoLocations(), *options["logits_processor"]])
    (answer,) = options["logits_processor"][1].read_answers(write(theirs, [("<OD>", "")], [0], options), [size(0)])
    assert answer.error is None


def test_limits_hold_and_never_cut_an_answer_in_two(ours, theirs):
    for limit in (1, 2, 5, 7, 10**9):
        options = constrain_generation(*theirs, ["<OD>", "<CAPTION>"], max_tokens=limit)
        tokens = write(theirs, [("<OD>", ""), ("<CAPTION>", "")], [1, 1], options)
        found = options["logits_processor"][0].read_answers(tokens, [size(1)] * 2)
        queries = [Query(0, "<OD>"), Query(0, "<CAPTION>")]
        right = predict(ours, [picture(1)], queries, max_tokens=limit)
        assert [answer.text for answer in found] == [answer.text for answer in right]
        assert not [answer.error for answer in found if answer.error]


def test_what_does_not_fit_is_refused(theirs):
    with pytest.raises(ModelError, match="the task of each prompt is expected"):
        GrammarLogitsProcessor(theirs[1], [])
    tokenizer = theirs[1].tokenizer
    with pytest.raises(UnknownNameError, match="<OD>"):
        GrammarLogitsProcessor(tokenizer, ["<COUNT>"])
    for limit in (0, -1, 2.5, True):
        with pytest.raises(ModelError, match="max_tokens"):
            GrammarLogitsProcessor(tokenizer, ["<OD>"], max_tokens=limit)
    options = constrain_generation(*theirs, ["<OD>"])
    with pytest.raises(ModelError, match="2 rows are generated for 1 tasks"):
        write(theirs, [("<OD>", "")], [0], {**options, "num_beams": 2})
    with pytest.raises(ModelError, match="name the task of each prompt"):
        write(
            theirs,
            [("<OD>", ""), ("<CAPTION>", "")],
            [0, 0],
            {"logits_processor": [GrammarLogitsProcessor(tokenizer, ["<OD>"])], "num_beams": 1},
        )


def test_the_documented_example_runs(ours, tmp_path: Path, monkeypatch, capsys):
    """The code in docs/models.md, as it stands, on a model that we have written."""
    text = (Path(__file__).parents[1] / "docs/models.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    ours.save(tmp_path / "model")
    Image.fromarray(picture()).save(tmp_path / "photo.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/models.md", "exec"), {})
    pixels = np.asarray(Image.open(tmp_path / "photo.jpg").convert("RGB"))
    objects, caption = predict(ours, [pixels], [Query(0, "<OD>"), Query(0, "<CAPTION>")])
    lines = [f"{region.label} {region.box}" for region in objects.regions]
    assert capsys.readouterr().out.splitlines() == [*lines, caption.text]
