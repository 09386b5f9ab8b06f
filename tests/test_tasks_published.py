"""Against the published processor, as `transformers` has it: prompts, tokens and answers."""

import string

import numpy as np
import pytest

from florence.codec.grammar import Form, box_tokens
from florence.records import FINE_TUNED, TASKS
from florence.tasks import TASK, task


@pytest.fixture(scope="module")
def processor():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPImageProcessor, PreTrainedTokenizerFast
    from transformers.models.florence2.processing_florence2 import Florence2Processor

    raw = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3, "<image>": 4}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    images = CLIPImageProcessor()
    images.image_seq_length = 1
    named = (
        "ocr",
        "phrase_grounding",
        "pure_text",
        "description_with_bboxes",
        "polygons",
        "bboxes",
        "description_with_bboxes_or_polygons",
    )
    return Florence2Processor(images, tokenizer, post_processor_config={name: {} for name in named})


def test_all_fifteen_tasks_are_there_and_two_more():
    assert TASK.names() == tuple(sorted((*TASKS, *FINE_TUNED)))
    for name in (*TASKS, *FINE_TUNED):
        assert task(name).name == name


INPUTS = {
    "<CAPTION_TO_PHRASE_GROUNDING>": "a dog {on} a lawn",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "the dog",
    "<OPEN_VOCABULARY_DETECTION>": "dog<and>red cat",
    "<REGION_TO_SEGMENTATION>": "<loc_1><loc_2><loc_3><loc_4>",
    "<REGION_TO_CATEGORY>": "<loc_1><loc_2><loc_3><loc_4>",
    "<REGION_TO_DESCRIPTION>": "<loc_1><loc_2><loc_3><loc_4>",
    "<REGION_TO_OCR>": "<loc_1><loc_2><loc_3><loc_4>",
}


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_the_published_ones(processor, name):
    given = INPUTS.get(name, "")
    assert task(name).takes_input == bool(given)
    assert [task(name).prompt(given)] == processor._construct_prompts(name + given)


def test_regions_that_are_asked_about_are_spelt_as_published(processor):
    import torch

    rng = np.random.default_rng(12)
    for _ in range(500):
        width, height = (int(v) for v in rng.integers(1, 5000, 2))
        (x0, x1), (y0, y1) = (np.sort(rng.random(2) * side) for side in (width, height))
        bins = processor.post_processor.quantize(
            torch.tensor([[x0, y0, x1, y1]], dtype=torch.float64), (width, height)
        )[0].tolist()
        assert box_tokens((x0, y0, x1, y1), (width, height)) == "".join(f"<loc_{b}>" for b in bins)


LETTERS = [c for c in string.printable if c not in string.whitespace + "<"]


def answer_text(rng, name):
    """Draw a well-formed ASCII answer of a task: several words of any printable characters but "<".

    At times there is more than one space between words.
    """

    def word():
        return "".join(rng.choice(LETTERS, rng.integers(1, 7)))

    def label():
        return "".join(word() + " " * rng.choice([1, 1, 1, 2]) for _ in range(rng.integers(0, 4))) + word()

    def locs(count):
        return "".join(f"<loc_{i}>" for i in rng.integers(0, 1000, count))

    def box():
        a, b = np.sort(rng.integers(0, 1000, (2, 2)), axis=0)
        return "".join(f"<loc_{i}>" for i in (*a, *b))

    def polygon():
        return "<sep>".join(locs(2 * rng.integers(3, 7)) for _ in range(rng.integers(1, 3)))

    parts = rng.integers(1 if task(name).form is Form.TEXT else 0, 5)
    if not parts:
        return ""
    if name in ("<OD>", "<DENSE_REGION_CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>"):
        return "".join(label() + "".join(box() for _ in range(rng.integers(1, 3))) for _ in range(parts))
    if name == "<OPEN_VOCABULARY_DETECTION>":
        if rng.random() < 0.5:
            return "".join(label() + "".join(box() for _ in range(rng.integers(1, 4))) for _ in range(parts))
        return "".join(
            label() + "".join(f"<poly>{polygon()}</poly>" for _ in range(rng.integers(1, 3))) for _ in range(parts)
        )
    if name == "<REGION_PROPOSAL>":
        return "".join(box() for _ in range(parts))
    if name == "<OCR_WITH_REGION>":
        return "".join(label() + locs(8) for _ in range(parts))
    if "SEGMENTATION" in name:
        return polygon() if rng.random() < 0.5 else "".join(f"<poly>{polygon()}</poly>" for _ in range(parts))
    return " ".join(label() for _ in range(parts))


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_read_as_published_up_to_its_whole_pixels(processor, name):
    rng = np.random.default_rng([11, TASKS.index(name)])
    for _ in range(400):
        size = tuple(int(2**v) for v in rng.uniform(0, 14.3, 2))
        text = answer_text(rng, name)
        theirs = processor.post_process_generation(text=text, task=name, image_size=size)[name]
        ours = task(name).decode(text, size, INPUTS.get(name, ""))
        assert ours.error is None
        if isinstance(theirs, str):
            assert ours.text == theirs
            continue
        regions = [(r.label, shape) for r in ours.regions for shape in _shapes(r)]
        names = [words for words, _ in regions]
        if name in ("<REFERRING_EXPRESSION_SEGMENTATION>",):
            assert set(names) == ({INPUTS[name]} if text else set())
        else:
            assert names == _theirs(theirs)[0]
        for (_, mine), published in zip(regions, _theirs(theirs)[1], strict=True):
            assert len(mine) == len(published)
            for value, whole in zip(mine, published, strict=True):
                # theirs works in single precision, then truncates
                assert whole - 1e-3 * max(1, whole) ** 0.5 <= value < whole + 1 + 1e-3 * max(1, whole) ** 0.5


def _shapes(region):
    return [region.box] if region.box else [region.quad] if region.quad else list(region.polygons)


def _theirs(found):
    if "quad_boxes" in found:
        return found["labels"], found["quad_boxes"]
    if "bboxes_labels" in found:
        flat = [
            (name, p) for name, group in zip(found["polygons_labels"], found["polygons"], strict=True) for p in group
        ]
        return found["bboxes_labels"] + [n for n, _ in flat], found["bboxes"] + [p for _, p in flat]
    if "polygons" in found:
        flat = [(name, p) for name, group in zip(found["labels"], found["polygons"], strict=True) for p in group]
        return [n for n, _ in flat], [p for _, p in flat]
    return found["labels"], found["bboxes"]
