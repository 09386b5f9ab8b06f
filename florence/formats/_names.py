"""Names of classes as other people's files have them, in the one form that is kept."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

from florence.codec.grammar import check_text
from florence.errors import EncodeError
from florence.formats import LabelProblem, UnusableLabelError
from florence.records import is_blank, normalize_label


def check_name(value: Any, what: str) -> str:
    """Return the name of a class in the form of `normalize_label`; a whole number is its digits.

    Raises UnusableLabelError, whose message begins with ``what``, for what is no text, shows nothing, or could not be
    written in an answer of the model.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise UnusableLabelError("a name that is no text", f"{what}: found {value!r:.60}; a text is expected")
    name = normalize_label(value)
    if is_blank(name):
        raise UnusableLabelError("a name that shows nothing", f"{what}: found {value!r:.60}; a text is expected")
    if bad := next((character for character in name if unicodedata.category(character) == "Cc"), ""):
        raise UnusableLabelError(
            "a name with a control character", f"{what}: {name!r:.60} has {bad!r}; characters that show are expected"
        )
    try:
        return check_text(name, "name")
    except EncodeError as error:
        raise UnusableLabelError("a name with a token of the model", f"{what}: {error}") from None


def list_usable_names(names: Iterable[Any]) -> list[str]:
    """Return the names that `check_name` accepts, in the form that is kept, each once, in their order."""
    found: dict[str, None] = {}
    for value in names:
        try:
            found[check_name(value, "")] = None
        except UnusableLabelError:
            continue
    return list(found)


def explain_spellings(names: Iterable[Any], where: str) -> list[LabelProblem]:
    """Return what happens to names that are not kept as they are spelled.

    ``names``: of the classes, each once for each class; what `check_name` refuses is passed over. Names that become
    equal are one class. Names that differ in case alone stay two, which the engine compares as one.
    """
    spellings: dict[str, Counter[str]] = {}
    for value in names:
        try:
            spellings.setdefault(check_name(value, where), Counter())[str(value)] += 1
        except UnusableLabelError:
            continue
    problems = []
    for name, found in spellings.items():
        times = ", ".join(
            f"{spelling!r}{f' ({count} times)' if count > 1 else ''}" for spelling, count in found.items()
        )
        if found.total() > 1:
            detail = f"{where}: {times} are one class, {name!r}"
            problems.append(LabelProblem("classes of one name are one class", detail, "part", found.total() - 1))
        elif name not in found:
            detail = f"{where}: {times} is read as {name!r}"
            problems.append(LabelProblem("white space or Unicode form of a name changed", detail, "part"))
    folded: dict[str, list[str]] = {}
    for name in spellings:
        folded.setdefault(unicodedata.normalize("NFC", name.casefold()), []).append(name)
    for same in folded.values():
        if len(same) > 1:
            detail = f"{where}: {', '.join(map(repr, same))} are compared as one name, and exported as they are spelled"
            problems.append(LabelProblem("names that differ in case alone", detail, "part", len(same) - 1))
    return problems
