"""The errors that Florence raises on purpose. Each message says what is wrong, with which datum, and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class FlorenceError(Exception):
    """Base of every error that Florence raises on purpose; the command line prints it without a traceback."""


class UnknownNameError(FlorenceError):
    """No plug-in is registered under a name."""

    def __init__(self, plugin_type: str, name: str, known: Iterable[str]) -> None:
        self.plugin_type, self.name, self.known = plugin_type, name, tuple(sorted(known))
        super().__init__(f"unknown {plugin_type} {name!r}; known: {', '.join(self.known) or 'none'}")


class SettingsError(FlorenceError):
    """A setting of params.yaml, or of an overlay, is not allowed."""


class ImageError(FlorenceError):
    """An image cannot be used: unreadable, truncated, too large or too small."""

    def __init__(self, name: str, reason: str, detail: str = "") -> None:
        self.name, self.reason, self.detail = name, reason, detail
        super().__init__(f"{name}: {reason}" + (f" ({detail})" if detail else ""))


class StoreError(FlorenceError):
    """A store cannot be read or written: missing, foreign, half-written, full or forbidden."""


class UnavailableError(FlorenceError):
    """A service is down or a budget is used up: the work stays pending, and a later run may do it."""


class NotListedError(FlorenceError):
    """A data set does not list an image: it was not annotated there, which is not the same as annotated and empty."""


class DecodeError(FlorenceError):
    """A text is not a legal answer of its task; ``position``: index of the first token that is not allowed."""

    def __init__(self, task: str, text: str, position: int, reason: str) -> None:
        self.task, self.text, self.position, self.reason = task, text, position, reason
        super().__init__(f"{task}: {reason} at {position} of {text[:80]!r}")


class EncodeError(FlorenceError):
    """A label cannot be written in the grammar of a task."""


class ModelError(FlorenceError):
    """A model cannot be built, loaded, saved or trained."""


class DataError(FlorenceError):
    """A table or a snapshot does not have the expected content."""


class OldFormatError(DataError):
    """A file was made by an older version of Florence; this one does not read it."""

    def __init__(self, where: str, found: str) -> None:
        self.where, self.found = where, found
        super().__init__(
            f"{where} was made by an older Florence ({found}): move data/, .florence/ and build/loop.json away "
            "(and the working store, if it is elsewhere) and run `florence loop`, "
            "or check out the git revision that made it"
        )


class NewerFormatError(DataError):
    """A file was made by a newer version of Florence; this one neither reads nor changes it."""

    def __init__(self, where: str, found: str) -> None:
        self.where, self.found = where, found
        super().__init__(
            f"{where} was made by a newer Florence ({found}): install that version, or a later one, and run the "
            "command again. Nothing was changed, and nothing need be deleted"
        )


class ValidationFailedError(FlorenceError):
    """Expectations failed; no later step may run."""

    def __init__(self, where: str, failures: Iterable[str]) -> None:
        self.where, self.failures = where, tuple(failures)
        super().__init__(
            f"validation of {where} failed:\n  "
            + "\n  ".join(self.failures)
            + "\nNothing was published or trained. Data Docs: build/data_docs/index.html"
        )
