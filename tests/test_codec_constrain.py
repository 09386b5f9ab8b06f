import numpy as np
import pytest

from florence.codec import constrain, parsing
from florence.codec.constrain import TokenClass
from florence.codec.grammar import Form

WRITTEN = {
    TokenClass.TEXT: "ab",
    TokenClass.LOC: "<loc_7>",
    TokenClass.SEP: "<sep>",
    TokenClass.POLY_OPEN: "<poly>",
    TokenClass.POLY_CLOSE: "</poly>",
    TokenClass.AND: "<and>",
    TokenClass.EOS: "",
    TokenClass.BLANK: " ",
}


def walk(form, rng, budget, eos=0.1, rows=16):
    """Return random answers of allowed classes only, and the classes of each."""
    states = np.full(rows, constrain.start_state(form))
    written = [[] for _ in range(rows)]
    for left in range(budget, 0, -1):
        mask = constrain.allowed_classes(states, left)
        assert mask.any(axis=1).all()
        weight = mask * rng.random(mask.shape)
        weight[:, TokenClass.EOS] *= eos
        choice = weight.argmax(axis=1)
        for row, token in enumerate(choice):
            if states[row] != constrain.DONE:
                written[row].append(TokenClass(int(token)))
        states = constrain.next_states(states, choice)
    assert (states == constrain.DONE).all()
    return written


@pytest.mark.parametrize("form", list(Form))
def test_every_walk_ends_within_its_budget_and_is_a_legal_answer(form):
    rng = np.random.default_rng([3, list(Form).index(form)])
    seen = set()
    for budget in [*range(constrain.tokens_to_finish(np.asarray([constrain.start_state(form)]))[0], 40), 80, 200]:
        for classes in walk(form, rng, budget):
            assert classes[-1] is TokenClass.EOS
            assert len(classes) <= budget
            text = "".join(WRITTEN[token] for token in classes)
            parsed = parsing.parse(text, form, (100, 100))
            assert parsed.position is None, (text, parsed.reason)
            seen.update(classes)
    assert TokenClass.AND not in seen


PIECES = [token for token in TokenClass if token is not TokenClass.EOS]
OTHER = len(TokenClass)


def is_refused(form, classes):
    """Return the index of the first class that the machine refuses, None where it accepts all.

    Where only the end is refused, it is the number of classes.
    """
    state = constrain.start_state(form)
    for index, token in enumerate([*classes, TokenClass.EOS]):
        state = -1 if token == OTHER else int(constrain.TABLE[state, token])
        if state < 0:
            return index
    return None


def position(form, text):
    return (
        parsing.parse_text(text, form)[1]
        if form in (Form.TEXT, Form.TEXT_OR_NOTHING)
        else parsing.parse(text, form, (100, 100)).position
    )


def check(form, classes):
    """Assert that automaton and parser agree on whether the text is legal and on its first illegal token."""

    def spelt(some):
        return "".join("</s>" if token == OTHER else WRITTEN[token] for token in some)

    text, at = spelt(classes), is_refused(form, classes)
    if at is None:
        assert position(form, text) is None, text
        return True
    # to the parser a text is one token, and wrong if it is white space alone; the machine waits for more pieces of it
    before = parsing.tokenise(spelt(classes[:at]))
    blank = before and before[-1].type == "text" and not spelt(classes[:at])[before[-1].start :].strip()
    assert position(form, text) == len(before) - bool(blank), text
    return False


@pytest.mark.parametrize("form", list(Form))
def test_exactly_the_legal_class_sequences_are_accepted(form):
    """Every sequence of up to five classes, legal or not."""
    sequences = [()]
    for _ in range(5):
        for classes in sequences:
            check(form, classes)
        sequences = [(*classes, token) for classes in sequences for token in (*PIECES, OTHER)]


@pytest.mark.parametrize("form", list(Form))
def test_long_sequences_are_accepted_or_refused_at_the_same_token(form):
    """Legal answers, and the same with classes left out, doubled, swapped or put in."""
    rng = np.random.default_rng([5, list(Form).index(form)])
    agreed = []
    for budget in rng.integers(12, 60, 60):
        for legal in walk(form, rng, int(budget), eos=0.02, rows=4):
            classes = legal[:-1]
            agreed.append(check(form, classes))
            for _ in range(8):
                torn = list(classes)
                for _ in range(rng.integers(1, 3)):
                    at = int(rng.integers(len(torn) + 1))
                    torn[at : at + int(rng.integers(2))] = [
                        int(t) for t in rng.choice([*PIECES, OTHER], rng.integers(3))
                    ]
                agreed.append(check(form, torn))
    assert 240 <= sum(agreed) < len(agreed)


def test_rows_of_different_forms_share_a_batch():
    forms = list(Form)
    states = np.asarray([constrain.start_state(form) for form in forms])
    mask = constrain.allowed_classes(states)
    assert [bool(v) for v in mask[:, TokenClass.LOC]] == [form in (Form.BOXES, Form.POLYGONS) for form in forms]
    assert mask[:, TokenClass.BLANK].tolist() == mask[:, TokenClass.TEXT].tolist()
    assert [bool(v) for v in mask[:, TokenClass.EOS]] == [form is not Form.TEXT for form in forms]


def test_each_row_has_its_own_budget():
    state = np.full(3, constrain.start_state(Form.LABELLED_BOXES))
    mask = constrain.allowed_classes(state, np.asarray([1, 5, 6]))
    assert mask[:, TokenClass.TEXT].tolist() == [False, False, True]  # label, four locations, EOS
    assert mask[:, TokenClass.EOS].all()


def test_the_number_of_tokens_to_an_end_is_the_shortest_path():
    state = constrain.next_states(
        np.asarray([constrain.start_state(Form.LABELLED_QUADS)]), np.asarray([TokenClass.TEXT])
    )
    for left in range(9, 0, -1):
        assert constrain.tokens_to_finish(state).tolist() == [left]
        state = constrain.next_states(state, constrain.allowed_classes(state, left).argmax(axis=1))


def test_a_class_that_is_not_allowed_is_refused():
    with pytest.raises(ValueError, match="LOC"):
        constrain.next_states(np.asarray([constrain.start_state(Form.TEXT)]), np.asarray([TokenClass.LOC]))
