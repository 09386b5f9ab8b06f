"""The facts of a loop as build/loop.json holds them, for the report, the tracker and the command line.

A part that a round did not have is None or empty, and the report says so.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from florence.better_annotator import BetterAnnotator
from florence.errors import DataError, NewerFormatError, OldFormatError
from florence.label_report import LabelSetReport
from florence.report.approval import STRICT, ModelApproval

VERSION: Literal[5] = 5
"""The version of build/loop.json."""


@dataclass(frozen=True, slots=True)
class ImageCount:
    """The number of images of one source and split in the snapshot."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    source: str
    split: str
    images: int


@dataclass(frozen=True, slots=True)
class TypeCount:
    """The numbers of labels of one annotation type that were kept and dropped."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    task: str
    kept: int
    dropped: int


@dataclass(frozen=True, slots=True)
class DropCount:
    """The number of labels of one annotation type that were dropped for one reason."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    task: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class FileCount:
    """The files of a source that are no images for one ``reason``: their number, a few of them, and what would help.

    The whole list of rejected files is in the snapshot's ``rejected_files.parquet``, and beside the page.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    reason: str
    count: int
    examples: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class SourceListing:
    """The files that a source had when it was last collected.

    ``files``: all of them: ``images``, ``texts`` that were read beside images, and ``unused`` ones. ``gone``: images
    whose files are no longer there; ``left``: those of folders and sources that are not read any more.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    source: str
    address: str
    files: int
    images: int
    texts: int = 0
    unused: tuple[FileCount, ...] = ()
    gone: int = 0
    gone_examples: tuple[str, ...] = ()
    left: int = 0
    left_examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FailedImages:
    """The images that an annotator could not annotate for one ``reason``: their number, and a few of its messages."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    annotator: str
    reason: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelScore:
    """The quality of a round's labels of one annotation type under one measure.

    ``value``: mean of ``metric`` over ``n`` images. ``low``, ``high``: its 95% bootstrap interval. ``reference``: truth
    or human. ``split``: gold, or train (for the report only; nothing is decided by it).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    task: str
    metric: str
    split: str
    reference: str
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class LabelGain:
    """The change of label quality since round ``since``, paired over ``n`` images, with its 95% interval.

    ``without_student``: the same change without the student's vote, where it was measured.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    task: str
    metric: str
    split: str
    since: int
    value: float
    low: float | None
    high: float | None
    n: int
    without_student: float | None = None


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A model's score on held-out images.

    ``value``: None where nothing could be scored. ``invalid``: share of answers that broke the task's grammar.
    ``reference``: truth, human or consensus. ``shuffled``: the same score with the images shuffled, None if not run.
    ``calibration``: expected calibration error (bins of equal mass) of the answers' scores, and of their confidences;
    ``second_look``: of the confidences of two looks at objects; None where they were not measured.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    task: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    invalid: float
    reference: str
    shuffled: float | None = None
    calibration: tuple[float, float] | None = None
    second_look: float | None = None


@dataclass(frozen=True, slots=True)
class ScoreComparison:
    """The change of a held-out score against an opponent: champion, anchor (the first one), initial or shuffled.

    ``before``, ``after``: means over the ``n`` images that both have; ``low``, ``high``: 95% interval of the change.
    ``bound`` had to be above ``least``; None: the change decides nothing. ``locked``: of images that decide nothing.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    task: str
    reference: str
    against: str
    before: float
    after: float
    low: float | None
    high: float | None
    n: int
    bound: float | None = None
    least: float | None = None
    locked: bool = False


@dataclass(frozen=True, slots=True)
class Churn:
    """The changes of the labels of one annotation type since the last round.

    ``value``: the share that changed, 0…1. ``same``, ``renamed`` (another text with the same box), ``moved`` (the same
    text with another box), ``added``, ``removed``: numbers of labels. ``without_student``: the share that would have
    changed without the student's vote, where it was tried.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    task: str
    value: float
    same: int
    renamed: int
    moved: int
    added: int
    removed: int
    without_student: float | None = None


@dataclass(frozen=True, slots=True)
class AnnotatorActivity:
    """The work of one annotator.

    ``role``, ``family``: see `florence.records.AnnotatorProfile`. ``device``, ``batch_size``: as set. ``images``:
    finished. ``missing``: still to annotate, and the ``missing_reason``. ``calls``, ``tokens``, ``cost``: usage in all
    runs.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    version: str
    role: str
    device: str
    batch_size: int
    images: int
    missing: int
    claims: int
    missing_reason: str = ""
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    family: str = ""


@dataclass(frozen=True, slots=True)
class AnnotatorQuality:
    """The quality of one annotator's claims of one annotation type in this round.

    ``reliability``: the weight, 0…1, that the consensus estimated without truth, if it did. ``failed``: images on which
    the annotator failed. ``measured``: the quality on gold images under ``metric``, where they have references.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    version: str
    task: str
    claims: int
    reliability: float | None = None
    failed: int = 0
    metric: str = ""
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class ReliabilityByName:
    """The share, 0…1, of the objects of one name that an annotator finds and names correctly.

    ``estimated``: without truth. ``measured``: of the ``n`` objects of that name in gold images; None without any.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    annotator: str
    name: str
    estimated: float
    measured: float | None = None
    n: int = 0


@dataclass(frozen=True, slots=True)
class EvidenceWeighing:
    """How the evidence of one annotation type was weighed: see `florence.engine.weighing.Weighing`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    task: str
    basis: str
    families: tuple[tuple[str, ...], ...]
    images: int
    shared: int
    reviewed: int
    sentence: str


@dataclass(frozen=True, slots=True)
class AgreementAlpha:
    """Krippendorff's alpha of some annotators on ``units``, clusters of objects. ``value``: None where not defined."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    annotators: tuple[str, ...]
    value: float | None
    units: int


@dataclass(frozen=True, slots=True)
class ReviewerFacts:
    """A reviewer of ``images`` gold and held-out images.

    ``quality``: F1 of objects with its interval, over ``n`` images, against ``against``; None without any such image.
    ``agreement``: F1 with other reviewers; ``alpha``: Krippendorff's, with them; ``repeated``: F1 with themselves on
    ``repeats`` images shown twice. ``doubtful``: worse than the others; ``excluded``: left out of the reference.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    reviewer: str
    images: int
    against: str
    quality: float | None
    low: float | None
    high: float | None
    n: int
    agreement: float | None = None
    alpha: float | None = None
    repeated: float | None = None
    repeats: int = 0
    doubtful: bool = False
    excluded: bool = False


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """``n`` labels: their mean ``confidence``, and the share that is ``right`` with its 95% interval."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    confidence: float
    right: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class LabelConfidence:
    """How well the confidences of ``n`` consensus labels are calibrated.

    ``source``: of the images, empty for all. ``reference``: truth, or human. ``error``: expected calibration error over
    bins of equal mass. ``sure``: labels of a confidence of 0.9 or more, and ``sure_right`` the share of them that is
    right, None without any.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    task: str
    source: str
    reference: str
    n: int
    error: float
    brier: float
    sure: int
    sure_right: float | None
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """One round of a loop.

    ``decision``, ``reason``: about the model, None while it has not been made; ``comparison``: what it was compared
    with. ``approval``: a person's decision, where one is asked for.
    ``labels_kept``, ``labels_reason``: about the labels of a round whose model was rejected; None of others.
    ``seconds``: stage → seconds of work.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    round: int
    snapshot_id: str
    parent: str | None = None
    dvc_hash: str | None = None
    git_commit: str | None = None
    run_id: str | None = None
    model_version: str | None = None
    decision: Literal["accepted", "rejected"] | None = None
    reason: str = ""
    approval: ModelApproval | None = None
    comparison: tuple[ScoreComparison, ...] = ()
    labels_kept: bool | None = None
    labels_reason: str = ""
    images: tuple[ImageCount, ...] = ()
    counts: tuple[TypeCount, ...] = ()
    drops: tuple[DropCount, ...] = ()
    listings: tuple[SourceListing, ...] = ()
    label_sets: tuple[LabelSetReport, ...] = ()
    failed_images: tuple[FailedImages, ...] = ()
    label_quality: tuple[LabelScore, ...] = ()
    label_quality_gain: tuple[LabelGain, ...] = ()
    scores: tuple[TaskScore, ...] = ()
    churn: tuple[Churn, ...] = ()
    annotator_quality: tuple[AnnotatorQuality, ...] = ()
    reliability_by_name: tuple[ReliabilityByName, ...] = ()
    annotator_activity: tuple[AnnotatorActivity, ...] = ()
    weighing: tuple[EvidenceWeighing, ...] = ()
    without_detector: tuple[str, ...] = ()
    alpha: tuple[AgreementAlpha, ...] = ()
    reviewers: tuple[ReviewerFacts, ...] = ()
    label_confidence: tuple[LabelConfidence, ...] = ()
    better_alone: tuple[BetterAnnotator, ...] = ()
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoopFacts:
    """The rounds of a loop, in order. ``version``: of this form; any other one is refused."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    loop_id: str
    rounds: tuple[RoundFacts, ...] = ()
    version: Literal[5] = VERSION

    def with_round(self, facts: RoundFacts) -> LoopFacts:
        """Return these facts with one round added or replaced; rounds stay in order."""
        others = [r for r in self.rounds if r.round != facts.round]
        return dataclasses.replace(self, rounds=tuple(sorted([*others, facts], key=lambda r: r.round)))

    def to_json(self) -> str:
        """Return the facts as JSON. Raises DataError where a figure is not finite."""
        try:
            return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        except ValueError as error:
            raise DataError(f"facts of loop {self.loop_id}: {error}") from None

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "loop.json") -> LoopFacts:
        """Return the facts of a JSON text.

        Raises OldFormatError for version 1, which a workspace of form 1 has, NewerFormatError for a newer version than
        this one's, DataError for any other, and with each key that is missing, unknown or of the wrong type.
        """
        try:
            version = json.loads(text)["version"]
        except (ValueError, KeyError, TypeError):
            version = VERSION  # what is wrong is said below
        if version == 1:
            raise OldFormatError(where, f"its version is 1, and {VERSION} is read")
        if isinstance(version, int) and version > VERSION:
            raise NewerFormatError(where, f"its version is {version}, and {VERSION} is read")
        if isinstance(version, int) and version != VERSION:
            raise DataError(
                f"{where} was made by an older Florence (its version is {version}, and {VERSION} is read): move "
                "it away, and the next `florence loop` or `florence report` makes it again from the snapshot; "
                "labels, models and the state of the loop are elsewhere and stay"
            )
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            lines = [f"{'.'.join(str(p) for p in e['loc']) or 'top'}: {e['msg']}" for e in error.errors()]
            raise DataError(
                f"{where} is not the facts of a loop:\n  "
                + "\n  ".join(lines)
                + "\nIt may be of another version of Florence; move it away, and the next `florence loop` or "
                "`florence report` makes it again."
            ) from None
