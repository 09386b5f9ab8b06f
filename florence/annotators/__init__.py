"""Annotators: a batch of images in, what each sees in them out. One file each; found, never listed.

Each file registers one `Annotator`. params.yaml names it (``use``), gives it options and says which sources it looks
at; the other modules of Florence know annotators by this interface alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, ValidationError

from florence.config import Section
from florence.errors import SettingsError
from florence.records import ANNOTATION_TYPES, BASE_TYPES, Annotation, ClaimsOrError, ImageRecord, digest
from florence.registry import Registry
from florence.renamed import FIRST_OPTION_NAMES
from florence.services.usage import Usage

NEEDS: frozenset[str] = frozenset({"pixels", "claims", "truth"})
"""What an annotator may ask for besides the records."""


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images to annotate; every field has one entry an image, empty where the annotator does not need it.

    ``pixels``: (H, W, 3) uint8, upright RGB. ``claims``: what earlier annotators said. ``truth``: what is known.
    """

    records: tuple[ImageRecord, ...]
    pixels: tuple[np.ndarray, ...] = ()
    claims: tuple[tuple[Annotation, ...], ...] = ()
    truth: tuple[tuple[Annotation, ...], ...] = ()


class Annotator(ABC):
    """One annotator. A subclass sets the class attributes and writes `annotate`.

    ``needs``: subset of `NEEDS`. ``tasks``: the kinds it claims (an instance may narrow both). ``Options``: its settings.
    ``revision``: raised whenever its code comes to answer differently, so that its earlier claims are made again.
    ``role``: see `florence.records.AnnotatorProfile`; a ranker claims the texts that it judges, word by word and where they were claimed, under scores of its own.
    ``device``: where it computes ("auto", "cpu", "cuda", "cuda:1" …), set before `load`. ``usage``: what it has used in all, set to what earlier runs used
    before the first `annotate`.
    """

    needs: frozenset[str] = frozenset({"pixels"})
    tasks: tuple[str, ...] = ()
    revision: ClassVar[int] = 1
    role: str = "annotator"
    device: str = "auto"
    usage: Usage = Usage()

    class Options(Section):
        """No settings."""

    def __init__(self, *, name: str, **options: Any) -> None:
        """Check the options; nothing is loaded. Raises SettingsError naming the option, what was found and what is allowed."""
        self.name = name
        self.options = self._checked(options)
        self.tasks = getattr(self.options, "tasks", self.tasks)

    def _checked(self, options: dict[str, Any]) -> Any:
        try:
            return self.Options.model_validate(options)
        except ValidationError as error:
            lines = []
            for item in error.errors():
                key = ".".join(str(part) for part in item["loc"]) or "options"
                if item["type"] == "extra_forbidden":
                    lines.append(
                        f"annotators.{self.name}.{key}: no such setting; found {item['input']!r}; allowed: {_allowed(self.Options, item['loc'][:-1])}"
                    )
                else:
                    found = "" if item["type"] == "missing" else f"; found {item['input']!r}"
                    lines.append(f"annotators.{self.name}.{key}: {item['msg']}{found}")
            raise SettingsError("\n".join(lines)) from None

    @property
    def version(self) -> str:
        """A short hash of all that decides its answers: code revision, options, and `ingredients`. Loads no model."""
        options = {
            FIRST_OPTION_NAMES.get(name, name): value for name, value in self.options.model_dump(mode="json").items()
        }
        return digest([type(self).__name__, self.revision, options, self.ingredients()], length=12)

    def ingredients(self) -> dict[str, str]:
        """Versions or hashes of the packages and weights that it answers with."""
        return {}

    def vocabulary(self) -> tuple[str, ...] | None:
        """The names that it can give to objects; None: any. Loads no weights."""
        return None

    def load(self) -> None:  # noqa: B027 - many need nothing loaded
        """Load models; called before `annotate`, more than once."""

    @abstractmethod
    def annotate(self, batch: ImageBatch) -> Sequence[ClaimsOrError]:
        """The claims about each image, in a stable order, or the error that one image met. What it says of an image does not depend on the others in the batch.

        Raises UnavailableError where none can be answered now.
        """


def _allowed(section: type[BaseModel], path: tuple[int | str, ...]) -> str:
    """The settings of the section at ``path`` in another one."""
    for part in path:
        kind = section.model_fields[str(part)].annotation
        section = next(a for a in (kind, *get_args(kind)) if isinstance(a, type) and issubclass(a, BaseModel))
    return ", ".join(sorted(section.model_fields)) or "none"


def checked_tasks(values: tuple[str, ...], allowed: tuple[str, ...] = BASE_TYPES) -> tuple[str, ...]:
    """``values``, in the order of `ANNOTATION_TYPES`. Raises ValueError (for use in pydantic validators) for a kind not in ``allowed``."""
    if bad := sorted(set(values) - set(allowed)):
        raise ValueError(f"{bad[0]} is not annotated here; allowed: {', '.join(allowed)}")
    return tuple(task for task in ANNOTATION_TYPES if task in values)


def among(allowed: tuple[str, ...]) -> AfterValidator:
    """What makes an option a choice of kinds: ``tasks: Annotated[tuple[str, ...], among(TASKS)]``. An option of that name narrows what an instance claims."""
    return AfterValidator(lambda values: checked_tasks(values, allowed))


ANNOTATORS: Registry[type[Annotator]] = Registry("annotator", "florence.annotators")
