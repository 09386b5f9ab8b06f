"""The errors that Florence raises on purpose. Each says what was wrong, with what, and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class FlorenceError(Exception):
    """Base of every error that Florence raises on purpose; the command line prints it without a traceback."""


class UnknownNameError(FlorenceError):
    """A name was looked up that nothing is registered under."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(self.known) or 'none'}")


class SettingsError(FlorenceError):
    """params.yaml (or an overlay) has a setting that is not allowed."""


class ImageError(FlorenceError):
    """An image cannot be used: unreadable, truncated, too large or too small."""

    def __init__(self, name: str, reason: str, detail: str = "") -> None:
        self.name, self.reason, self.detail = name, reason, detail
        super().__init__(f"{name}: {reason}" + (f" ({detail})" if detail else ""))


class StoreError(FlorenceError):
    """A store cannot be read or written: missing, foreign, half-written, full or forbidden."""


class UnavailableError(FlorenceError):
    """What cannot be done now and may be later: a service that is down, a budget that is spent. What was asked stays to be done."""


class NotListedError(FlorenceError):
    """A data set does not know an image: nobody looked at it there, so that nothing is said of it, which is not the same as that nothing is there."""


class DecodeError(FlorenceError):
    """A text is not a legal answer of its task; ``position`` is the index of the first token that does not fit."""

    def __init__(self, task: str, text: str, position: int, reason: str) -> None:
        self.task, self.text, self.position, self.reason = task, text, position, reason
        super().__init__(f"{task}: {reason} at {position} of {text[:80]!r}")


class EncodeError(FlorenceError):
    """A label cannot be written in a task's grammar."""


class ModelError(FlorenceError):
    """A model cannot be built, loaded, saved or trained."""


class DataError(FlorenceError):
    """A table or a snapshot is not what it should be."""


class ValidationFailedError(FlorenceError):
    """Expectations failed; nothing after them may run."""

    def __init__(self, where: str, failures: Iterable[str]) -> None:
        self.where, self.failures = where, tuple(failures)
        super().__init__(
            f"validation of {where} failed:\n  "
            + "\n  ".join(self.failures)
            + "\nNothing was published or trained. Data Docs: build/data_docs/index.html"
        )
