"""Constrained decoding: which classes of token are allowed next, so that every answer is legal.

One table of small state machines, one machine for each `Form`; a state is an integer, and a batch may mix rows of
different forms. Given the number of tokens left, a class is allowed only if a legal end can still be reached after it:
a length limit never cuts an answer in two. That a box's second corner lies right of and below its first is not enforced
here: `florence.codec.parsing` puts corners in order.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from florence.codec.grammar import Form


class TokenClass(IntEnum):
    """Classes of tokens. A token in no class (other special tokens) is never allowed."""

    TEXT = 0
    """A piece of text with at least one character that is not white space."""
    LOC = 1
    SEP = 2
    POLY_OPEN = 3
    POLY_CLOSE = 4
    AND = 5
    """<and> joins names in inputs; no answer holds it."""
    EOS = 6
    BLANK = 7
    """A piece of white space alone (`grammar.WHITE`): legal in a text that has another piece too."""


CLASSES = len(TokenClass)
DONE = 0
"""The state after EOS; only EOS, as padding, may follow."""

_Machine = dict[str, dict[TokenClass, str]]


def _locations(prefix: str, count: int, last: dict[TokenClass, str]) -> _Machine:
    """Return the states ``prefix``1…count after so many locations; ``last`` are the arcs from the last of them."""
    machine: _Machine = {f"{prefix}{i}": {TokenClass.LOC: f"{prefix}{i + 1}"} for i in range(1, count)}
    machine[f"{prefix}{count}"] = last
    return machine


def _opens(name: str) -> dict[TokenClass, str]:
    """Return the arcs to the text ``name`` of `_label`."""
    return {TokenClass.TEXT: name, TokenClass.BLANK: f"{name} blank"}


def _label(name: str, after: dict[TokenClass, str]) -> _Machine:
    """Return the states of a text, which has more than white space; ``after``: the arcs to what follows it."""
    return {name: {TokenClass.TEXT: name, TokenClass.BLANK: name, **after}, f"{name} blank": _opens(name)}


def _points(prefix: str, ends: dict[TokenClass, str]) -> _Machine:
    """Return the states of polygons of three points or more, from ``prefix``1 on; ``ends``: the arcs after them."""
    machine = _locations(prefix, 6, {TokenClass.LOC: f"{prefix}odd", TokenClass.SEP: f"{prefix}0", **ends})
    machine[f"{prefix}0"] = {TokenClass.LOC: f"{prefix}1"}
    machine[f"{prefix}odd"] = {TokenClass.LOC: f"{prefix}6"}
    return machine


_END = {TokenClass.EOS: "done"}
_MACHINES: dict[Form, _Machine] = {
    Form.TEXT: {"start": _opens("text"), **_label("text", _END)},
    Form.TEXT_OR_NOTHING: {"start": {**_opens("text"), **_END}, **_label("text", _END)},
    Form.BOXES: {"start": {TokenClass.LOC: "box1", **_END}, **_locations("box", 4, {TokenClass.LOC: "box1", **_END})},
    Form.LABELLED_BOXES: {
        "start": {**_opens("label"), **_END},
        **_label("label", {TokenClass.LOC: "box1"}),
        **_locations("box", 4, {TokenClass.LOC: "box1", **_opens("label"), **_END}),
    },
    Form.LABELLED_QUADS: {
        "start": {**_opens("label"), **_END},
        **_label("label", {TokenClass.LOC: "quad1"}),
        **_locations("quad", 8, {**_opens("label"), **_END}),
    },
    Form.POLYGONS: {
        "start": {TokenClass.LOC: "bare1", TokenClass.POLY_OPEN: "inner0", **_END},
        **_points("bare", _END),
        **_points("inner", {TokenClass.POLY_CLOSE: "closed"}),
        "closed": {TokenClass.POLY_OPEN: "inner0", **_END},
    },
    Form.LABELLED_SHAPES: {
        "start": {**_opens("first"), **_END},
        **_label("first", {TokenClass.LOC: "box1", TokenClass.POLY_OPEN: "inner0"}),
        **_label("boxed", {TokenClass.LOC: "box1"}),
        **_locations("box", 4, {TokenClass.LOC: "box1", **_opens("boxed"), **_END}),
        **_label("shaped", {TokenClass.POLY_OPEN: "inner0"}),
        **_points("inner", {TokenClass.POLY_CLOSE: "closed"}),
        "closed": {TokenClass.POLY_OPEN: "inner0", **_opens("shaped"), **_END},
    },
}


def _build() -> tuple[np.ndarray, dict[Form, int]]:
    states = [(form, state) for form, machine in _MACHINES.items() for state in machine]
    number = {key: index for index, key in enumerate(states, start=1)} | {(form, "done"): DONE for form in _MACHINES}
    table = np.full((len(states) + 1, CLASSES), -1, dtype=np.int16)
    table[DONE, TokenClass.EOS] = DONE
    for form, machine in _MACHINES.items():
        for state, arcs in machine.items():
            for token, following in arcs.items():
                table[number[form, state], token] = number[form, following]
    return table, {form: number[form, "start"] for form in _MACHINES}


def _distances(table: np.ndarray) -> np.ndarray:
    """Return the fewest tokens from each state to the end, EOS included."""
    far = np.iinfo(np.int32).max // 2
    steps = np.full(len(table), far, dtype=np.int64)
    steps[DONE] = 0
    for _ in range(len(table)):
        steps = np.minimum(steps, 1 + np.where(table >= 0, steps[table], far).min(axis=1))
    return steps


TABLE, _STARTS = _build()
"""(states, classes) int16: the state after a class, −1 where it is not allowed. State 0 is `DONE`."""
_FINISH = _distances(TABLE)
# tokens needed after each class; huge where the class is not allowed
_AFTER = np.where(TABLE >= 0, _FINISH[TABLE], np.iinfo(np.int32).max // 2)


def start_state(form: Form) -> int:
    """Return the state before the first token of an answer of ``form``."""
    return _STARTS[form]


def tokens_to_finish(states: np.ndarray) -> np.ndarray:
    """Return the fewest tokens (n,), EOS included, that end each answer legally; 0 where it has ended."""
    return _FINISH[np.asarray(states)]


def allowed_classes(states: np.ndarray, remaining: np.ndarray | int | None = None) -> np.ndarray:
    """Return the classes (n, classes) bool that are allowed next in ``states`` (n,).

    ``remaining``: tokens left, EOS included; only classes after which the answer can end legally within them are
    allowed. Where too few were given from the start, only the shortest way to an end is allowed.
    """
    states = np.asarray(states)
    legal = TABLE[states] >= 0
    if remaining is None:
        return legal
    after = _AFTER[states]
    fits = legal & (after < np.broadcast_to(remaining, states.shape)[:, None])
    shortest = legal & (after == after.min(axis=1, keepdims=True))
    return np.where(fits.any(axis=1, keepdims=True), fits, shortest)


def next_states(states: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the states (n,) after a token of ``classes`` (n,). Raises ValueError where a class is not allowed."""
    following = TABLE[np.asarray(states), np.asarray(classes)].astype(np.int64)
    if (following < 0).any():
        row = int(np.argmax(following < 0))
        name, state = TokenClass(int(np.asarray(classes)[row])).name, int(np.asarray(states)[row])
        raise ValueError(f"row {row}: {name} is not allowed in state {state}")
    return following
