"""Settings of the consensus, the filters and the validation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from florence.config.base import Section

Share = Annotated[float, Field(ge=0, le=1)]
PRONOUNS: tuple[str, ...] = tuple(
    (
        "i me my mine myself you your yours yourself he him his himself she her hers herself it its itself we us "
        "our ours ourselves they them their theirs themselves this that these those one ones another other others "
        "each both either neither all any some none few many most several much more less which what who whom whose "
        "somebody someone something anybody anyone anything everybody everyone everything nobody nothing here "
        "there where when how why"
    ).split()
)
"""Pronouns, as phrases or as heads of phrases."""
BLACKLIST: tuple[str, ...] = (
    *PRONOUNS,
    # what an image is, and positions in it
    *(
        "image picture photo photograph pic shot snapshot closeup close-up view scene background foreground front "
        "back left right top bottom middle center centre side sides distance direction position part parts area "
        "place spot way"
    ).split(),
    # amounts and sorts
    *(
        "kind type sort variety lot lots number amount couple bit rest pair thing things stuff style shape size "
        "color colour example"
    ).split(),
    # times, and what is not visible
    *(
        "time day night morning afternoon evening today moment minute hour week month year season love freedom "
        "peace joy happiness beauty fun life luck idea thought fact reason case sense feeling mood atmosphere "
        "action motion purpose use work fashion history tradition culture"
    ).split(),
)
"""Pronouns and abstract nouns, which no box can be drawn around (as in GrIT, Kosmos-2)."""


class StudentSettings(Section):
    """The student: the model of the round before, as one more annotator."""

    cap: float = Field(
        0.5,
        ge=0,
        le=1,
        description="largest share of the evidence about an item that may come from the student; 0 turns it off",
    )
    min_score: float = Field(
        0.05,
        ge=0,
        le=1,
        description=(
            "score below which it claims nothing: a confidence where its model is calibrated, else a token probability"
        ),
    )
    tasks: tuple[str, ...] = Field(
        ("<OD>", "<CAPTION>", "<OCR_WITH_REGION>"), description="annotation types it annotates"
    )
    alone: tuple[str, ...] = Field(
        (),
        description=(
            "annotation types whose label may rest on the student alone where nobody else claims one: "
            "texts that only a few images have, because they are written by people or expensive"
        ),
    )
    second_look: bool = Field(
        True,
        description="whether it is asked once more to name each object it found, from its box, and claims that name",
    )
    batch_size: int = Field(128, ge=1, description="images in one call")


class EngineSettings(Section):
    """Consensus and filters."""

    iou: float = Field(0.4, gt=0, lt=1, description="least overlap (IoU) of boxes in one cluster")
    same_iou: float = Field(
        0.2, gt=0, lt=1, description="the same for boxes with the same label; more where the annotators draw alike"
    )
    min_confidence: float = Field(
        0.4,
        ge=0,
        le=1,
        description="least confidence of a label that is kept: how likely it is right, given all annotators' claims",
    )
    min_caption_confidence: float = Field(
        0.0,
        ge=0,
        le=1,
        description="least confidence of a caption that is kept (weighted word overlap with the annotators' captions)",
    )
    min_caption_overlap: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of common words from which captions are versions of one text and are merged word by word",
    )
    min_score: dict[str, Share] = Field(
        {"*": 0.05},
        description=(
            "least score of a claim: by 'annotator <TYPE>', else by annotator, else by annotation type, else '*'; "
            "for phrases, of each box"
        ),
    )
    min_phrase_score: dict[str, Share] = Field(
        {"*": 0.05}, description="least score of a phrase, whatever its boxes score: by annotator, else '*'"
    )
    synonyms: dict[str, tuple[str, ...]] = Field(
        {},
        description="a name, and the names of the same object that it replaces; added to the built-in synonyms",
    )
    hypernyms: dict[str, tuple[str, ...]] = Field(
        {},
        description="a general name and the names it includes, such as animal: [dog, cat]; added to the built-in ones",
    )
    nms_iou: float = Field(0.5, gt=0, le=1, description="fused regions of one label that overlap more are merged")
    phrase_nms_iou: float = Field(
        0.9,
        gt=0,
        le=1,
        description="boxes of different phrases of one caption that overlap more are one; the better phrase keeps it",
    )
    min_side: float = Field(2.0, ge=0, description="pixels; boxes with a shorter side are degenerate")
    max_area: float = Field(0.98, gt=0, le=1, description="share of the image; larger boxes are near-full")
    mask_iou: float = Field(
        0.7,
        gt=0,
        le=1,
        description="least overlap (IoU) of a region without a mask with a label's box to take its mask",
    )
    min_polygon_iou: float = Field(
        0.95,
        gt=0,
        le=1,
        description=(
            "polygons get the fewest corners that keep this overlap (IoU) with the claimed mask; "
            "1 leaves them as they are; polygons by people are never changed"
        ),
    )
    alt_noise: bool = Field(
        True,
        description="drop captions that describe nothing: addresses, file names, search terms, phrases of shops …",
    )
    language: str | None = Field(
        "en",
        pattern="^[a-z]{2,3}$",
        description="captions in another language are dropped (ISO 639 code); none: every language is kept",
    )
    min_words: dict[str, Annotated[int, Field(ge=0)]] = Field(
        {"*": 2}, description="fewest words of a caption: by its annotation type, else '*'"
    )
    max_words: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {"<CAPTION>": 60, "<DETAILED_CAPTION>": 150, "*": 400},
        description="most words of a caption: by its annotation type, else '*'",
    )
    max_repeats: int = Field(3, ge=1, description="how often the same words may follow each other in a text")
    max_objects: int = Field(60, ge=1, description="a text with more objects is noise")
    min_object_complexity: int = Field(0, ge=0, description="least degree of an object in the text's dependency tree")
    min_action_complexity: int = Field(0, ge=0, description="least degree of an action in the tree")
    blacklist: tuple[str, ...] = Field(
        BLACKLIST,
        description=(
            "phrases that name nothing visible, with or without an article; phrases headed by a pronoun are dropped too"
        ),
    )
    near_duplicate: int | None = Field(
        24,
        ge=0,
        le=32,
        description="images whose perceptual hashes (256 bits) differ in at most this many bits are copies; none: off",
    )
    student: StudentSettings = StudentSettings()


class ValidationSettings(Section):
    """Bounds that the expectations check."""

    max_drop_rate: float = Field(
        0.95, ge=0, le=1, description="largest share of the labels of one annotation type that may be dropped"
    )
    max_shift: float = Field(
        0.5,
        gt=0,
        description=(
            "largest relative change of the kept labels per image, of one annotation type, against the parent snapshot"
        ),
    )
