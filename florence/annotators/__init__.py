"""Annotators: plug-ins that claim annotations of images, one file each.

Each file registers one `Annotator`. params.yaml names it (``use``), gives it options, and says which sources it
annotates. The other modules of Florence know annotators by this interface alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, ValidationError

from florence.config import Section
from florence.errors import SettingsError
from florence.image_files import NO_FILES, ImageFiles
from florence.label_report import LabelSetReport
from florence.records import ANNOTATION_TYPES, BASE_TYPES, Annotation, ClaimsOrError, ImageRecord, digest
from florence.redact import MASK, is_secret_name
from florence.registry import Registry
from florence.renamed import FIRST_INGREDIENT_NAMES, FIRST_OPTION_NAMES
from florence.services.usage import Usage

DETECTOR_EXAMPLE = """annotators:
  boxes:
    use: detector
    model: PekingU/rtdetr_r50vd
    sources: ['*']
"""
"""The lines of params.yaml that name a detector; configs/photos.yaml has a whole set."""
NEEDS: frozenset[str] = frozenset({"pixels", "claims", "truth"})
"""What an annotator may ask for, besides the images' records."""


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images to annotate. Each field has one entry an image, or none at all if the annotator does not need it.

    ``pixels``: (H, W, 3), uint8, upright, RGB. ``claims``: claims of earlier annotators. ``truth``: what is true of the
    image, known for drawn scenes alone.
    """

    records: tuple[ImageRecord, ...]
    pixels: tuple[np.ndarray, ...] = ()
    claims: tuple[tuple[Annotation, ...], ...] = ()
    truth: tuple[tuple[Annotation, ...], ...] = ()


class Annotator(ABC):
    """One annotator. A plug-in must register a subclass, set ``tasks``, and write `annotate`.

    A subclass sets these attributes (an instance may narrow the first two):

    - ``needs``: subset of `NEEDS`, the fields of `ImageBatch` that are filled.
    - ``tasks``: the annotation types that it claims.
    - ``Options``: its settings, a pydantic model. An option called ``tasks`` narrows the annotation types.
    - ``revision``: to be raised with each change of code that changes its claims; they are then made again.
    - ``has_label_set``: whether it claims what a data set says, so that `report_labels` can tell what of it is used.
    - ``later_options``: options that came after the first release; the version covers them where they are set.
    - ``names_only``: whether its claims have boxes of others' claims and names of its own: evidence about a name, none
      that there is an object or where it ends.
    - ``role``: see `florence.records.AnnotatorProfile`. A ranker claims the texts that it scores, word by word and with
      the box of the original claims, with scores of its own.

    These attributes are set by the caller:

    - ``device``: where it computes ("auto", "cpu", "cuda", "cuda:1" …); set before `load`.
    - ``usage``: what it has used in all, set to what earlier runs used before the first `annotate`. An annotator that
      costs something adds to it.
    - ``files``: which files have had which content; set before `version` is read.
    - ``known_labels``: of one that names boxes of others (``names_only``), the names that they may give, which follow
      from their versions; None: any. Set before `load` and `vocabulary`.
    """

    later_options: ClassVar[frozenset[str]] = frozenset()
    needs: frozenset[str] = frozenset({"pixels"})
    tasks: tuple[str, ...] = ()
    revision: ClassVar[int] = 1
    has_label_set: ClassVar[bool] = False
    names_only: ClassVar[bool] = False
    role: str = "annotator"
    device: str = "auto"
    usage: Usage = Usage()
    files: ImageFiles = NO_FILES
    known_labels: tuple[str, ...] | None = None

    class Options(Section):
        """No settings."""

    def __init__(self, *, name: str, **options: Any) -> None:
        """Check the options; nothing is loaded.

        Raises SettingsError naming the option, what was found and what is allowed.
        """
        self.name = name
        self.options = self._validate(options)
        self.tasks = getattr(self.options, "tasks", self.tasks)

    def _validate(self, options: dict[str, Any]) -> Any:
        try:
            return self.Options.model_validate(options)
        except ValidationError as error:
            lines = []
            for item in error.errors():
                key = ".".join(str(part) for part in item["loc"]) or "options"
                is_secret = any(is_secret_name(str(part)) for part in item["loc"])
                value = MASK if is_secret else repr(item["input"])
                if item["type"] == "extra_forbidden":
                    message = (
                        f"no such setting; found {value}; allowed: {_option_names(self.Options, item['loc'][:-1])}"
                    )
                else:
                    message = item["msg"] + ("" if item["type"] == "missing" else f"; found {value}")
                lines.append(f"annotators.{self.name}.{key}: {message}")
            raise SettingsError("\n".join(lines)) from None

    @property
    def version(self) -> str:
        """A short hash of all that its claims depend on: class, revision, options, `ingredients`. Loads no model."""
        fields = self.Options.model_fields
        options = {
            FIRST_OPTION_NAMES.get(name, name): value
            for name, value in self.options.model_dump(mode="json").items()
            if name not in self.later_options or value != fields[name].default
        }
        ingredients = {FIRST_INGREDIENT_NAMES.get(name, name): value for name, value in self.ingredients().items()}
        return digest([type(self).__name__, self.revision, options, ingredients], length=12)

    def ingredients(self) -> dict[str, str]:
        """Return versions or hashes of the packages and weights that its claims depend on. Loads no model."""
        return {}

    @property
    def family(self) -> str:
        """What it shares its training data or method with: annotators of one family share mistakes. Loads no model.

        By default the name of its model on a hub, without revision; of a model in files, a hash of them; empty, a
        family of its own, for an annotator without a model.
        """
        named = self.options if hasattr(self.options, "model") else getattr(self.options, "service", None)
        model = getattr(named, "model", None)
        if not isinstance(model, str):
            return ""
        if not Path(model).exists():
            return model
        found = self.ingredients()
        return found.get("model") or found.get("weights") or model

    def vocabulary(self) -> tuple[str, ...] | None:
        """Return the labels that it can give to objects; None if any. Loads no weights."""
        return None

    def load(self) -> None:  # noqa: B027 - many need nothing loaded
        """Load models. It is called before `annotate`, and may be called more than once."""

    def note_reading(self) -> None:  # noqa: B027 - most read nothing that is made for files of certain names
        """Write down what later runs need to know of this one. It is called after `load` where claims are written."""

    def report_labels(self, images: Sequence[ImageRecord]) -> LabelSetReport:
        """Return what its label set has about ``images``, if `has_label_set`.

        Raises FlorenceError where it cannot be read.
        """
        raise NotImplementedError

    @abstractmethod
    def annotate(self, batch: ImageBatch) -> Sequence[ClaimsOrError]:
        """Return one entry for each image of ``batch``: its claims in a stable order, or the error that it met.

        Boxes (x0, y0, x1, y1), quads and polygons are in pixels of the upright image, and inside it. Scores are between
        0 and 1, or None. The answer to one image must not depend on the other images of the batch. Raises
        UnavailableError if no image can be answered now; an image that is answered with UnavailableError is asked about
        again in a later run.
        """


def _option_names(section: type[BaseModel], path: tuple[int | str, ...]) -> str:
    """Return the settings of the section at ``path`` below ``section``, as they are printed."""
    for part in path:
        field_type = section.model_fields[str(part)].annotation
        candidates = (field_type, *get_args(field_type))
        section = next(a for a in candidates if isinstance(a, type) and issubclass(a, BaseModel))
    return ", ".join(sorted(section.model_fields)) or "none"


def check_tasks(values: tuple[str, ...], allowed: tuple[str, ...] = BASE_TYPES) -> tuple[str, ...]:
    """Return annotation types in the order of `ANNOTATION_TYPES`.

    Raises ValueError, for use in pydantic validators, if one is not in ``allowed``.
    """
    if bad := sorted(set(values) - set(allowed)):
        raise ValueError(f"{bad[0]} is not annotated here; allowed: {', '.join(allowed)}")
    return tuple(task for task in ANNOTATION_TYPES if task in values)


def subset_of(allowed: tuple[str, ...]) -> AfterValidator:
    """Return the validator of an option that is a choice of annotation types.

    Use: ``tasks: Annotated[tuple[str, ...], subset_of(TASKS)]``.
    """
    return AfterValidator(lambda values: check_tasks(values, allowed))


ANNOTATORS: Registry[type[Annotator]] = Registry("annotator", "florence.annotators")
