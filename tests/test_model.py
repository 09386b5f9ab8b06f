"""Florence-2 by presets, on disk, and constrained to the grammar."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from florence.errors import EncodeError, ModelError, UnknownNameError
from florence.geometry import box_iou
from florence.model.checkpoint import build, load, weights_hash
from florence.model.decoding import LanguageModelHead
from florence.model.encoding import encode_images, encode_prompts
from florence.model.generate import Query, predict
from florence.records import TASKS
from florence.tasks import task

INPUTS = {
    "<CAPTION_TO_PHRASE_GROUNDING>": "a cat on a mat",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "the cat",
    "<OPEN_VOCABULARY_DETECTION>": "cat<and>dog",
}


def input_of(name: str) -> str:
    return INPUTS.get(name, "<loc_10><loc_20><loc_700><loc_800>") if task(name).takes_input else ""


@pytest.fixture(scope="module")
def nano():
    torch.set_num_threads(1)
    return build("nano", image_size=64, seed=3)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in ((64, 64), (80, 120), (33, 200))]


def test_nano_is_small_and_a_function_of_its_seed(nano):
    assert sum(p.numel() for p in nano.model.parameters()) <= 4_000_000
    again, other = build("nano", image_size=64, seed=3), build("nano", image_size=64, seed=4)
    same = [torch.equal(a, b) for a, b in zip(nano.model.parameters(), again.model.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(nano.model.get_input_embeddings().weight, other.model.get_input_embeddings().weight)


def test_one_encoding_for_many_prompts_is_transformers_own_pass(nano, pictures):
    """Logits and loss against Florence2ForConditionalGeneration on the same examples, one prompt at a time."""
    pixels = nano.normalise(np.stack([nano.resize(p) for p in pictures]))
    prompts = [
        task("<OD>").prompt(),
        task("<CAPTION>").prompt(),
        task("<REGION_TO_CATEGORY>").prompt("<loc_1><loc_2><loc_3><loc_4>"),
    ]
    targets = ["cat<loc_1><loc_2><loc_3><loc_4>", "a cat", "dog"]
    ids = [nano.tokenizer(p).input_ids for p in prompts]
    padded = torch.tensor([i + [nano.lexicon.pad] * (max(map(len, ids)) - len(i)) for i in ids])
    owners = torch.tensor([2, 0, 2])
    with torch.inference_mode():
        states, mask = encode_prompts(nano.model, encode_images(nano.model, pixels), owners, padded)
        for row, (prompt, target, owner) in enumerate(zip(ids, targets, owners, strict=True)):
            labels = torch.tensor([nano.tokenizer(target).input_ids])
            image = [nano.model.config.image_token_id] * (states.shape[1] - padded.shape[1])
            theirs = nano.model(
                input_ids=torch.tensor([image + prompt]), pixel_values=pixels[owner : owner + 1], labels=labels
            )
            inputs = torch.cat([torch.tensor([[2]]), labels[:, :-1]], dim=1)
            hidden = nano.model.model.language_model.decoder(
                input_ids=inputs,
                encoder_hidden_states=states[row : row + 1],
                encoder_attention_mask=mask[row : row + 1],
                use_cache=False,
            ).last_hidden_state
            ours = nano.model.lm_head(hidden)
            assert torch.allclose(ours, theirs.logits, atol=1e-4)
            by_hand = -torch.log_softmax(ours[0], dim=-1)[range(labels.shape[1]), labels[0]].mean()
            assert torch.allclose(by_hand, theirs.loss, atol=1e-5), (
                "transformers' loss is the cross-entropy of the target tokens"
            )


def test_an_untrained_model_answers_every_task_within_its_grammar(nano, pictures):
    queries = [Query(image, name, input_of(name)) for name in TASKS for image in range(len(pictures))]
    answers = predict(nano, pictures, queries, max_tokens=48, batch_size=16)
    assert len(answers) == len(queries)
    for query, answer in zip(queries, answers, strict=True):
        assert answer.error is None, (query.task, answer.text)
        assert answer.score is not None and 0 <= answer.score <= 1
        height, width = pictures[query.image].shape[:2]
        for region in answer.regions:
            x0, y0, x1, y1 = region.bounds
            assert (
                0 <= x0 <= x1 <= width
                and 0 <= y0 <= y1 <= height
                and region.score is not None
                and 0 <= region.score <= 1
            )


def test_answers_do_not_depend_on_other_queries(nano, pictures):
    queries = [
        Query(image, name, input_of(name))
        for name in ("<OD>", "<CAPTION>", "<REGION_TO_SEGMENTATION>")
        for image in (0, 1, 2)
    ]
    together = predict(nano, pictures, queries, max_tokens=30)
    alone = [predict(nano, [pictures[a.image]], [Query(0, a.task, a.input)], max_tokens=30)[0] for a in queries]
    assert [a.text for a in together] == [a.text for a in alone]
    assert np.allclose([a.score for a in together], [a.score for a in alone], rtol=1e-3)


def test_the_answer_follows_from_the_probabilities(nano, pictures, monkeypatch):
    """A head that always prefers one script of tokens has it written, ended, and scored as certain."""
    script = nano.tokenizer("cat<loc_100><loc_200><loc_500><loc_600>", add_special_tokens=False).input_ids
    steps = iter([*script, nano.lexicon.eos])

    def head(self, hidden):
        logits = torch.zeros(len(hidden), nano.model.config.text_config.vocab_size)
        logits[:, next(steps)] = 40.0
        return logits

    monkeypatch.setattr(LanguageModelHead, "logits", head)
    monkeypatch.setattr(
        LanguageModelHead, "location_logits", lambda self, hidden: head(self, hidden)[:, self.locations]
    )
    (answer,) = predict(nano, [np.zeros((200, 400, 3), np.uint8)], [Query(0, "<OD>")])
    (region,) = answer.regions
    assert region.label == "cat" and region.score == pytest.approx(1.0, abs=1e-4) and answer.error is None
    assert box_iou(np.asarray([region.box]), np.asarray([[40.2, 40.1, 200.2, 120.1]]))[0, 0] > 0.99


def test_saved_and_loaded_it_answers_the_same_and_transformers_reads_it(nano, pictures, tmp_path):
    from transformers import AutoProcessor, Florence2ForConditionalGeneration

    nano.save(tmp_path / "model")
    again = load(str(tmp_path / "model"))
    assert again.image_size == 64
    queries = [Query(0, "<OD>"), Query(1, "<CAPTION>")]
    assert [a.text for a in predict(again, pictures, queries, max_tokens=20)] == [
        a.text for a in predict(nano, pictures, queries, max_tokens=20)
    ]
    theirs = Florence2ForConditionalGeneration.from_pretrained(tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    inputs = processor(text="<OD>", images=pictures[0], return_tensors="pt")
    with torch.inference_mode():
        out = theirs(**inputs, labels=torch.tensor([[0, 5, 2]]))
        pixels = nano.normalise(nano.resize(pictures[0])[None])
    assert torch.isfinite(out.loss) and torch.allclose(inputs["pixel_values"], pixels, atol=1e-4)
    before = weights_hash(tmp_path / "model")
    nano.save(tmp_path / "model")
    assert weights_hash(tmp_path / "model") == before


def test_wrong_models_and_inputs_are_errors(nano, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="empty"):
        load(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="neither a preset"):
        load("./nowhere")
    with pytest.raises(ModelError, match="no weights"):
        weights_hash(tmp_path)
    with pytest.raises(UnknownNameError, match="<OD>"):
        predict(nano, pictures, [Query(0, "<COUNT>")])
    with pytest.raises(EncodeError, match="location tokens"):
        predict(nano, pictures, [Query(0, "<REGION_TO_CATEGORY>", "here")])
