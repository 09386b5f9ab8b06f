"""Every task's answers both ways: legal texts come back as they were, torn ones give what is certain, labels are never
misread.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.codec import constrain, grammar, locations, parsing
from florence.codec.constrain import TokenClass
from florence.codec.grammar import Form
from florence.errors import DecodeError, EncodeError
from florence.records import FINE_TUNED, TASKS, Region
from florence.tasks import Answer, task

NAMES = (*TASKS, *FINE_TUNED)
PLACED = [name for name in NAMES if task(name).form not in (Form.TEXT, Form.TEXT_OR_NOTHING)]
SPELT = {TokenClass.SEP: "<sep>", TokenClass.POLY_OPEN: "<poly>", TokenClass.POLY_CLOSE: "</poly>"}
PIECES = (
    "dog",
    "a",
    "Übung",
    "狗",
    "🐕",
    "e\u0301",
    "<",
    "< 5",
    "<loc_",
    "<lo c_5>",
    "&lt;",
    "\\",
    "{input}",
    "x > y",
    "\u3000",
    "\x85",
    "5",
    "'s",
    ".",
    " cat",
    "STOP ",
)
FOREIGN = (
    "<s>",
    "</s>",
    "<pad>",
    "<od>",
    "<and>",
    "<sep>",
    "<poly>",
    "</poly>",
    "<loc_1000>",
    "<loc_007>",
    "<mask>",
    "<loc_3>",
    "dog",
    " ",
    "\n",
    "\u202e",
    "\ud800",
    "\x00",
    "<loc_",
)
side = st.integers(1, 20_000)
size = st.tuples(side, side)
seed = st.integers(0, 2**32 - 1)


def legal(name, rng):
    """Draw a random legal text of the grammar, with any bin anywhere."""
    state, left, parts = (
        np.asarray([task(name).start]),
        int(rng.integers(constrain.tokens_to_finish(np.asarray([task(name).start]))[0], 60)),
        [],
    )
    while True:
        weight = constrain.allowed_classes(state, left)[0] * rng.random(constrain.CLASSES)
        weight[TokenClass.EOS] *= 0.2
        chosen = TokenClass(int(weight.argmax()))
        if chosen is TokenClass.EOS:
            return "".join(parts)
        spelt = {
            TokenClass.LOC: locations.TOKENS[rng.integers(1000)],
            TokenClass.TEXT: str(rng.choice(PIECES)),
            TokenClass.BLANK: str(rng.choice(list(grammar.WHITE))),
        }
        parts.append((SPELT | spelt)[chosen])
        state, left = constrain.next_states(state, np.asarray([chosen])), left - 1


def pieces(text):
    return [text[token.start : token.end] for token in parsing.tokenise(text)]


def torn(rng, text):
    """Draw a legal text that is cut, doubled, swapped, or has foreign tokens in it."""
    parts = pieces(text)
    for _ in range(rng.integers(1, 4)):
        a, b = sorted(int(v) for v in rng.integers(0, len(parts) + 1, 2))
        match int(rng.integers(6)):
            case 0:
                parts = parts[:a]
            case 1:
                parts[a:b] = []
            case 2:
                parts[a:b] = parts[a:b] * 2
            case 3:
                parts[a:b] = parts[a:b][::-1]
            case 4:
                parts.insert(a, str(rng.choice(FOREIGN)))
            case 5:
                parts.insert(a, "".join(chr(int(c)) for c in rng.integers(1, 0x3000, 3)))
    return "".join(parts)


@pytest.mark.parametrize("name", NAMES)
@given(seed=seed, extent=size)
@settings(max_examples=40, deadline=None)
def test_a_legal_text_decoded_and_encoded_is_itself(name, seed, extent):
    text = legal(name, np.random.default_rng(seed))
    answer = task(name).decode(text, extent, "a thing")
    assert answer.error is None, answer.error
    assert task(name).encode(answer, extent) == text
    # without what the text looked like, the same regions in the same order
    again = task(name).decode(task(name).encode(Answer(answer.text, answer.regions), extent), extent, "a thing")
    assert again.error is None
    assert [(r.label, r.box, r.quad, r.polygons) for r in again.regions] == [
        (r.label, r.box, r.quad, r.polygons) for r in answer.regions
    ]


@pytest.mark.parametrize("name", NAMES)
@given(seed=seed, extent=size)
@settings(max_examples=60, deadline=None)
def test_a_torn_text_gives_what_is_certain_and_where_it_went_wrong(name, seed, extent):
    rng = np.random.default_rng(seed)
    text = torn(rng, legal(name, rng))
    answer = task(name).decode(text, extent, "a thing")
    assert len(answer.regions) == len(answer.spans) == len(answer.label_spans)
    for region in answer.regions:
        x0, y0, x1, y1 = region.bounds
        assert 0 <= x0 <= x1 <= extent[0] and 0 <= y0 <= y1 <= extent[1]
    if answer.error is None:
        assert task(name).encode(answer, extent) == text
        return
    assert type(answer.error) is DecodeError and answer.error.task == name and answer.error.reason in str(answer.error)
    at, tokens = answer.error.position, parsing.tokenise(text)
    assert 0 <= at <= len(tokens)
    # what stands before that token is the beginning of a legal text, and its regions are decoded
    before = text[: tokens[at].start] if at < len(tokens) else text
    begun = task(name).decode(before, extent, "a thing")
    assert begun.error is None or begun.error.position in (at, len(parsing.tokenise(before)))
    if task(name).form is not Form.POLYGONS and at < len(tokens):
        certain = [r for r, (_, end) in zip(begun.regions, begun.spans, strict=True) if end < len(before)]
        assert list(answer.regions[: len(certain)]) == certain


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text(max_size=30))
@settings(max_examples=40, deadline=None)
def test_no_text_is_too_strange(name, text):
    answer = task(name).decode(text, (640, 480), text)
    assert not answer.regions
    if answer.error is None:
        assert task(name).encode(answer, (640, 480)) == text


corner_lists = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8)


@pytest.mark.parametrize("name", PLACED)
@given(
    labels=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4),
    shares=st.lists(corner_lists, min_size=4, max_size=4),
    extent=size,
)
@settings(max_examples=60, deadline=None)
def test_regions_come_back_within_half_a_bin_and_labels_as_they_were(name, labels, shares, extent):
    form = task(name).form
    regions = [_region(form, label, points, extent) for label, points in zip(labels, shares, strict=False)]
    labelled = form in (Form.LABELLED_BOXES, Form.LABELLED_QUADS, Form.LABELLED_SHAPES)
    if labelled and any(
        [token.type for token in parsing.tokenise(label)] != ["text"] or not label.strip(grammar.WHITE)
        for label in labels
    ):
        with pytest.raises(EncodeError):
            task(name).encode(Answer("", tuple(regions)), extent)
        return
    answer = task(name).decode(task(name).encode(Answer("", tuple(regions)), extent), extent, "a thing")
    assert answer.error is None and len(answer.regions) == len(regions)
    if labelled:
        assert [r.label for r in answer.regions] == [label.strip(grammar.WHITE) for label in labels]
        assert [g.label for g in answer.groups for _ in g.regions] == labels
    for mine, there in zip(answer.regions, regions, strict=True):
        back, gone = (
            np.asarray(r.box or r.quad or [v for p in r.polygons for v in p]).reshape(-1, 2) for r in (mine, there)
        )
        assert back.shape == gone.shape
        assert (np.abs(back - gone) <= np.asarray(extent) / 2000 * (1 + 1e-9)).all()


def _region(form, label, shares, extent):
    points = [(x * extent[0], y * extent[1]) for x, y in shares]
    if form is Form.LABELLED_QUADS:
        return Region(label, quad=tuple(v for k in range(4) for v in points[k % len(points)]))
    if form is Form.POLYGONS:
        return Region(label, polygons=(tuple(v for p in points for v in p), tuple(v for p in points[:3] for v in p)))
    (a, b), (c, d) = points[:2]
    return Region(label, box=(min(a, c), min(b, d), max(a, c), max(b, d)))


SPECIAL = [
    "<loc_5>",
    "<loc_1000>",
    "<loc_00>",
    "<sep>",
    "<poly>",
    "</poly>",
    "<and>",
    "<s>",
    "</s>",
    "<pad>",
    "<mask>",
    "<od>",
    "<image>",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mark", SPECIAL)
def test_a_label_with_a_token_in_it_is_refused_with_a_message(name, mark):
    region = Region(f"a{mark}b", box=(1, 2, 3, 4), quad=(1, 2, 3, 2, 3, 4, 1, 4), polygons=((1, 2, 3, 2, 3, 4),))
    if task(name).form in (Form.BOXES, Form.POLYGONS):  # labels are not written
        assert task(name).decode(task(name).encode(Answer("", (region,)), (9, 9)), (9, 9)).error is None
        return
    with pytest.raises(EncodeError, match=mark):
        task(name).encode(Answer(region.label, (region,)), (9, 9))


@pytest.mark.parametrize(
    "name", [name for name in NAMES if task(name).takes_input and not task(name).name.startswith("<REGION")]
)
def test_an_input_with_a_token_in_it_is_refused(name):
    with pytest.raises(EncodeError, match="<loc_5>"):
        task(name).prompt("what is at <loc_5>?")
    assert "<b>" in task(name).prompt("a <b> c")


@given(a=st.tuples(st.floats(0, 1), st.floats(0, 1)), b=st.tuples(st.floats(0, 1), st.floats(0, 1)), extent=size)
@settings(max_examples=60, deadline=None)
def test_a_region_in_a_prompt_says_where_it_is(a, b, extent):
    box = tuple(share * length for share, length in zip((*a, *b), extent * 2, strict=True))
    prompt = task("<REGION_TO_CATEGORY>").prompt(grammar.box_tokens(box, extent))
    bins = [token.value for token in parsing.tokenise(prompt) if token.type == "loc"]
    there = (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
    for index, (value, wanted) in enumerate(zip(locations.dequantise(bins, extent), there, strict=True)):
        assert math.isclose(value, wanted, abs_tol=extent[index % 2] / 2000 * (1 + 1e-9))


def test_what_does_not_fit_the_form_is_not_encoded():
    for name, answer in [
        ("<VQA>", Answer("")),
        ("<REGION_TO_CATEGORY>", Answer(" ")),
        ("<OD>", Answer("", (Region("a"),))),
        ("<OD>", Answer("", (Region("", box=(1, 2, 3, 4)),))),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", Answer("", (Region("a", box=(1, 2, 3, 4)),))),
        ("<OD>", Answer("", (Region("a", box=(1, 2, 3, math.nan)),))),
    ]:
        with pytest.raises(EncodeError):
            task(name).encode(answer, (9, 9))


@pytest.fixture(scope="module")
def words():
    from florence.model.vocabulary import load_tokenizer, make_lexicon

    return make_lexicon(load_tokenizer(), len(load_tokenizer()))


@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_shipped_vocabulary_can_write_is_legal_and_comes_back(name, words):
    """Any token of an allowed class, bytes that are no whole character too."""
    rng = np.random.default_rng([6, NAMES.index(name)])
    by_class = [np.flatnonzero(words.classes[:, number]) for number in range(constrain.CLASSES)]
    assert {words.pieces[i].decode() for i in by_class[TokenClass.BLANK]} >= {" ", "\n", "\t"}
    for _ in range(60):
        state, left, written = np.asarray([task(name).start]), int(rng.integers(2, 80)), b""
        left = max(left, int(constrain.tokens_to_finish(state)[0]))
        while True:
            weight = constrain.allowed_classes(state, left)[0] * rng.random(constrain.CLASSES)
            weight[TokenClass.EOS] *= 0.2
            chosen = int(weight.argmax())
            if chosen == TokenClass.EOS:
                break
            token = rng.choice(by_class[chosen])
            assert words.class_of(np.asarray([token]))[0] == chosen
            written += words.pieces[token]
            state, left = constrain.next_states(state, np.asarray([chosen])), left - 1
        text = written.decode("utf-8", "replace")
        answer = task(name).decode(text, (800, 600), "a thing")
        assert answer.error is None, (text, answer.error)
        assert task(name).encode(answer, (800, 600)) == text
