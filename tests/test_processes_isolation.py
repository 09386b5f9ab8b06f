"""The claims of a batch whose annotator crashes: the table of docs/annotators.md, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from florence.errors import FlorenceError, UnavailableError
from florence.processes.isolation import Ask, AskFailure, FaultIsolator
from florence.records import Claim, ClaimsOrError

CLAIMS = [Claim("<OD>", "cat")]


def crash_on(is_fatal: Callable[[str], bool], calls: list[Sequence[str]], *, is_lasting: bool = False) -> Ask:
    """Return an annotator that answers image by image, and crashes on a fatal one."""

    def ask(images: Sequence[str], results: dict[str, ClaimsOrError]) -> AskFailure | None:
        calls.append(list(images))
        for image in images:
            if is_fatal(image):
                return AskFailure("it crashed", is_lasting)
            results[image] = CLAIMS
        return None

    return ask


def test_only_the_image_that_it_crashes_on_has_no_claims():
    calls: list[Sequence[str]] = []
    results = FaultIsolator(3).ask("abcd", crash_on("c".__eq__, calls))
    assert [results[image] for image in "abd"] == [CLAIMS] * 3
    assert type(results["c"]) is FlorenceError and str(results["c"]) == "asked about this image alone: it crashed"
    assert calls == [["a", "b", "c", "d"], ["c"], ["d"]], "what was answered before is not asked about again"


def test_after_too_many_crashes_in_a_row_the_rest_is_left_for_a_later_run():
    calls: list[Sequence[str]] = []
    isolator = FaultIsolator(2)
    results = isolator.ask("abcdefg", crash_on("bcdefg".__contains__, calls))
    assert results["a"] == CLAIMS and isolator.is_given_up
    assert {type(results[image]) for image in "bcdefg"} == {UnavailableError}, "no image is blamed"
    assert calls == [list("abcdefg"), ["b"], ["c"]]
    with pytest.raises(UnavailableError, match="given up after 3 failures in a row, the last one: it crashed"):
        isolator.ask("h", crash_on("".__contains__, calls))


def test_an_annotator_that_never_answered_blames_no_image():
    with pytest.raises(UnavailableError, match="^it crashed$"):
        FaultIsolator(3).ask("ab", crash_on("ab".__contains__, []))


def test_a_lasting_failure_ends_the_asking_at_once():
    calls: list[Sequence[str]] = []
    results = FaultIsolator(3).ask("abc", crash_on("b".__eq__, calls, is_lasting=True))
    assert results["a"] == CLAIMS and calls == [["a", "b", "c"]]
    assert type(results["b"]) is type(results["c"]) is UnavailableError
