import numpy as np
import pytest

from florence.codec import constrain, grammar
from florence.codec.constrain import Class
from florence.codec.grammar import Form

WRITTEN = {
    Class.TEXT: "ab", Class.LOC: "<loc_7>", Class.SEP: "<sep>", Class.POLY_OPEN: "<poly>", Class.POLY_CLOSE: "</poly>",
    Class.AND: "<and>", Class.EOS: "", Class.BLANK: " ",
}  # fmt: skip


def walk(form, rng, budget, eos=0.1, rows=16):
    """Random answers that take only allowed classes, and the classes of each."""
    states = np.full(rows, constrain.start(form))
    written = [[] for _ in range(rows)]
    for left in range(budget, 0, -1):
        mask = constrain.allowed(states, left)
        assert mask.any(axis=1).all()
        weight = mask * rng.random(mask.shape)
        weight[:, Class.EOS] *= eos
        choice = weight.argmax(axis=1)
        for row, token in enumerate(choice):
            if states[row] != constrain.DONE:
                written[row].append(Class(int(token)))
        states = constrain.step(states, choice)
    assert (states == constrain.DONE).all()
    return written


@pytest.mark.parametrize("form", list(Form))
def test_every_walk_ends_within_its_budget_and_is_a_legal_answer(form):
    rng = np.random.default_rng([3, list(Form).index(form)])
    seen = set()
    for budget in [*range(constrain.tokens_to_finish(np.asarray([constrain.start(form)]))[0], 40), 80, 200]:
        for classes in walk(form, rng, budget):
            assert classes[-1] is Class.EOS
            assert len(classes) <= budget
            text = "".join(WRITTEN[token] for token in classes)
            reading = grammar.read(text, form, (100, 100))
            assert reading.position is None, (text, reading.reason)
            seen.update(classes)
    assert Class.AND not in seen


@pytest.mark.parametrize("form", list(Form))
def test_exactly_the_legal_class_sequences_are_accepted(form):
    """All sequences of up to 6 classes: the machine accepts one iff the reader finds it legal."""
    accepted = {(): constrain.start(form)}
    for _ in range(6):
        longer = {}
        for classes, state in accepted.items():
            legal = constrain.allowed(np.asarray([state]))[0]
            text = "".join(WRITTEN[token] for token in classes)
            assert legal[Class.EOS] == (grammar.read(text, form, (100, 100)).position is None), text
            for token in Class:
                if token is not Class.EOS and legal[token]:
                    longer[(*classes, token)] = int(constrain.step(np.asarray([state]), np.asarray([token]))[0])
        accepted = longer


def test_rows_of_different_forms_share_a_batch():
    forms = list(Form)
    states = np.asarray([constrain.start(form) for form in forms])
    mask = constrain.allowed(states)
    assert [bool(v) for v in mask[:, Class.LOC]] == [form in (Form.BOXES, Form.POLYGONS) for form in forms]
    assert not mask[:, Class.BLANK].any()
    assert [bool(v) for v in mask[:, Class.EOS]] == [form is not Form.TEXT for form in forms]


def test_each_row_has_its_own_budget():
    state = np.full(3, constrain.start(Form.LABELLED_BOXES))
    mask = constrain.allowed(state, np.asarray([1, 5, 6]))
    assert mask[:, Class.TEXT].tolist() == [False, False, True]  # label, four locations, EOS
    assert mask[:, Class.EOS].all()


def test_the_number_of_tokens_to_an_end_is_the_shortest_path():
    state = constrain.step(np.asarray([constrain.start(Form.LABELLED_QUADS)]), np.asarray([Class.TEXT]))
    for left in range(9, 0, -1):
        assert constrain.tokens_to_finish(state).tolist() == [left]
        state = constrain.step(state, constrain.allowed(state, left).argmax(axis=1))


def test_a_class_that_may_not_come_is_refused():
    with pytest.raises(ValueError, match="LOC"):
        constrain.step(np.asarray([constrain.start(Form.TEXT)]), np.asarray([Class.LOC]))
