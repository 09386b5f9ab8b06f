"""params.yaml → frozen settings. Every setting has its default and its meaning here, once (docs/settings.md is made of it)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from florence.errors import SettingsError
from florence.records import ANNOTATION_TYPES, BASE_TYPES, CAPTIONS, FINE_TUNED, TASKS, digest
from florence.renamed import renamed_keys


class Section(BaseModel):
    """A frozen part of the settings; a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """A hash of the settings in this section."""
        return digest(self.model_dump(mode="json"))


class PluginSection(BaseModel):
    """A named plug-in: ``use`` says which, every other key goes to its constructor."""

    model_config = ConfigDict(frozen=True, extra="allow")
    use: str = Field(description="the plug-in's name")

    @property
    def options(self) -> dict[str, Any]:
        """The plug-in's own settings."""
        return dict(self.model_extra or {})


class SourceSection(PluginSection):
    """Where images come from."""


class AnnotatorSection(PluginSection):
    """An annotator, and what it looks at."""

    sources: tuple[str, ...] = Field(description="keys of sources it annotates; '*' for all, '!key' to leave one out")
    required: bool = Field(True, description="whether the run fails when it fails")
    batch_size: int = Field(16, ge=1, description="images it is given at once")
    sample_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the images that it is asked about, those that look least like each other; for what is dear. Another share makes it another version",
    )
    device: str = Field("auto", description="where it computes: auto (a GPU where there is one), cpu, cuda, cuda:1 …")
    depends_on: tuple[str, ...] = Field(
        ("*",),
        description="annotators whose claims it is given, where it reads claims; '*' for all before it, '!name' to leave one out",
    )

    def looks_at(self, source: str) -> bool:
        """Whether this annotator annotates images of ``source``."""
        return f"!{source}" not in self.sources and ("*" in self.sources or source in self.sources)


class Split(Section):
    """Which image is held out and which is gold, by its hash."""

    held_out: float = Field(0.05, ge=0, le=0.5, description="share held out for scoring models")
    gold: float = Field(0.05, ge=0, le=0.5, description="share whose truth or human labels measure label quality")
    salt: str = Field("florence", description="changes the draw")


class Collect(Section):
    """What is taken in."""

    min_side: int = Field(16, ge=1, description="pixels; smaller images are rejected")
    max_pixels: int = Field(100_000_000, ge=1, description="width × height; larger images are rejected undecoded")
    shard: int = Field(512, ge=1, description="images a shard")


class Student(Section):
    """The model as one more annotator."""

    cap: float = Field(
        0.5,
        ge=0,
        le=1,
        description="the most its word may count, as a share of all evidence about a thing; 0 switches it off",
    )
    min_score: float = Field(0.05, ge=0, le=1, description="token probability under which it claims nothing")
    tasks: tuple[str, ...] = Field(("<OD>", "<CAPTION>", "<OCR_WITH_REGION>"), description="kinds it annotates")
    alone: tuple[str, ...] = Field(
        (),
        description="kinds in which its word stands where nobody else has any: texts that only a few images were given by hand or at a price",
    )
    second_look: bool = Field(
        True, description="whether it is asked about the box of each object once more, and claims that name"
    )
    batch_size: int = Field(128, ge=1, description="images it is given at once")


Share = Annotated[float, Field(ge=0, le=1)]
PRONOUNS: tuple[str, ...] = tuple(
    "i me my mine myself you your yours yourself he him his himself she her hers herself it its itself we us our ours ourselves they them their theirs themselves this that these "
    "those one ones another other others each both either neither all any some none few many most several much more less which what who whom whose somebody someone something "
    "anybody anyone anything everybody everyone everything nobody nothing here there where when how why".split()
)
BLACKLIST: tuple[str, ...] = (
    *PRONOUNS,
    # what a picture is, and where in it
    *"image picture photo photograph pic shot snapshot closeup close-up view scene background foreground front back left right top bottom middle center centre side sides".split(),
    *"distance direction position part parts area place spot way".split(),
    # how much, of what sort
    *"kind type sort variety lot lots number amount couple bit rest pair thing things stuff style shape size color colour example".split(),
    # time, and what cannot be seen
    *"time day night morning afternoon evening today moment minute hour week month year season love freedom peace joy happiness beauty fun life luck idea thought fact".split(),
    *"reason case sense feeling mood atmosphere action motion purpose use work fashion history tradition culture".split(),
)
"""After the idea of GrIT: pronouns and abstract nouns, around which no box could be drawn."""


class Engine(Section):
    """Consensus and filters."""

    iou: float = Field(0.4, gt=0, lt=1, description="boxes that overlap this much speak of one place")
    same_iou: float = Field(0.2, gt=0, lt=1, description="the same for boxes under one label")
    min_confidence: float = Field(
        0.3,
        ge=0,
        le=1,
        description="least agreement: how likely a label is right, all that was said and not said taken together",
    )
    min_caption_confidence: float = Field(
        0.0, ge=0, le=1, description="the same for captions, whose agreement is how far they use the same words"
    )
    min_caption_overlap: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of words in common that makes captions versions of one text, which are then repaired word by word",
    )
    min_score: dict[str, Share] = Field(
        {"*": 0.05},
        description="least score of a claim: by 'annotator <KIND>', else by annotator, else by kind, else '*'; of phrases, of each box",
    )
    min_phrase_score: dict[str, Share] = Field(
        {"*": 0.05}, description="least score of a phrase, whatever its boxes: by annotator, else '*'"
    )
    synonyms: dict[str, tuple[str, ...]] = Field(
        {},
        description="a name, and others that say the same of an object, which are replaced by it; besides the names that are known to say the same",
    )
    hypernyms: dict[str, tuple[str, ...]] = Field(
        {},
        description="a kind, and names of objects that are of it, as animal: [dog, cat]; besides those that are known",
    )
    nms_iou: float = Field(0.7, gt=0, le=1, description="fused regions of one label that overlap more are one")
    phrase_nms_iou: float = Field(
        0.9,
        gt=0,
        le=1,
        description="places of different phrases of one caption that overlap more are one: the better phrase keeps it",
    )
    min_side: float = Field(2.0, ge=0, description="pixels; thinner boxes are degenerate")
    max_area: float = Field(0.98, gt=0, le=1, description="share of the image; larger boxes are near-full")
    mask_iou: float = Field(
        0.7, gt=0, le=1, description="a region without an outline has that of a label whose box overlaps it so much"
    )
    min_polygon_iou: float = Field(
        0.95,
        gt=0,
        le=1,
        description="outlines have as few corners as keep this overlap (IoU) with what was claimed; 1 leaves them as they are, and people's stay in any case",
    )
    alt_noise: bool = Field(
        True,
        description="drop captions that describe nothing: addresses, names of files, lists of search terms, phrases of shops and the like",
    )
    language: str | None = Field(
        "en",
        pattern="^[a-z]{2,3}$",
        description="captions in another language are dropped (ISO 639 code); none: whatever the language",
    )
    min_words: dict[str, Annotated[int, Field(ge=0)]] = Field(
        {"*": 2}, description="words of a caption, at least: by its kind, else '*'"
    )
    max_words: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {"<CAPTION>": 60, "<DETAILED_CAPTION>": 150, "*": 400}, description="words of a caption, at most"
    )
    max_repeats: int = Field(3, ge=1, description="times in a row that the same words may stand in a text")
    max_objects: int = Field(60, ge=1, description="objects in a text above which it is noise")
    min_object_complexity: int = Field(0, ge=0, description="least degree of an object in the text's dependency tree")
    min_action_complexity: int = Field(0, ge=0, description="least degree of an action in the tree")
    blacklist: tuple[str, ...] = Field(
        BLACKLIST,
        description="phrases that name nothing to point at, with or without an article; phrases headed by a pronoun are dropped too",
    )
    near_duplicate: int | None = Field(
        24,
        ge=0,
        le=32,
        description="bits of 256 that the perceptual hashes of two images may differ in for one to be a copy of the other; none: off",
    )
    student: Student = Student()


class Validation(Section):
    """Bounds that the expectations are given."""

    max_drop_rate: float = Field(0.95, ge=0, le=1, description="share of labels of one kind that may be dropped")
    max_shift: float = Field(
        0.5,
        gt=0,
        description="largest change of a kind's kept labels per image against the parent snapshot, as a share",
    )


class Model(Section):
    """Where training starts."""

    init: str = Field("nano", description="preset (nano, base, large), checkpoint folder, or hub name")
    image_size: int = Field(96, ge=16, description="pixels a side that the model sees")


WEIGHTS: dict[str, float] = {
    "<OD>": 4.0,
    "<REGION_TO_CATEGORY>": 6.0,
    "<REGION_TO_DESCRIPTION>": 2.0,
    "<DETAILED_CAPTION>": 0.4,
    "<MORE_DETAILED_CAPTION>": 0.2,
    "<DENSE_REGION_CAPTION>": 0.7,
    "<REGION_PROPOSAL>": 0.5,
    "<CAPTION_TO_PHRASE_GROUNDING>": 0.7,
    "<REFERRING_EXPRESSION_SEGMENTATION>": 0.3,
    "<REGION_TO_SEGMENTATION>": 0.3,
    "<OPEN_VOCABULARY_DETECTION>": 0.7,
    "<REGION_TO_OCR>": 0.7,
    "<OCR>": 0.5,
    "<OCR_WITH_REGION>": 0.5,
}
"""Short answers are drawn often: they cost little, and a small model that cannot name a region cannot find one either."""


class Lora(Section):
    """Low-rank adapters (LoRA), which alone are trained; they are merged into the weights that are saved."""

    rank: int = Field(8, ge=1, description="of the adapters")
    alpha: float = Field(16.0, gt=0, description="adapters are scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what adapters see, in training")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        min_length=1,
        description="layers that get adapters, by the last part of their names",
    )


class Resolution(Section):
    """A stage of the training at one image size."""

    image_size: int = Field(ge=16, description="pixels a side that the model sees in this stage")
    share: float = Field(gt=0, le=1, description="of the training's steps; all shares add up to 1")


class Train(Section):
    """Multitask training."""

    steps: int = Field(1000, ge=1, description="optimiser steps at most")
    max_epochs: float = Field(30.0, gt=0, description="passes over the training images at most")
    batch_size: int = Field(24, ge=1, description="images a step, over all processes and micro-batches together")
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="micro-batches that a step is cut into, on each process"
    )
    processes: int = Field(
        1, ge=1, description="processes started on this machine; for more machines, start each by `accelerate launch`"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="of the pass (autocast); weights stay fp32, and fp16 needs a GPU"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, more time"
    )
    resolutions: tuple[Resolution, ...] = Field(
        (), description="stages by image size, in order; the last is model.image_size; none: that size throughout"
    )
    freeze: tuple[Literal["vision", "projector", "encoder", "decoder", "embeddings"], ...] = Field(
        (), description="parts that are not trained, and get no adapters"
    )
    lora: Lora | None = Field(None, description="train low-rank adapters instead of the weights")
    tasks_per_image: int = Field(3, ge=1, description="tasks drawn for each image of a step")
    regions_per_image: int = Field(
        4, ge=1, description="regions of an image that a drawn task which names what is in a region is asked about"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="muon learns sooner from noise; for weights that have learnt something adamw is as good or better",
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate (cosine decay)")
    warmup: int = Field(50, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(0.02, ge=0, description="decoupled decay")
    max_grad_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    max_target: int = Field(
        160, ge=8, description="target tokens at most; longer targets are shortened by whole regions and counted"
    )
    task_weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        WEIGHTS,
        description="how often a task is drawn; 1 where not named (0 for tasks that are fine-tuned), 0 leaves it out",
    )
    temperature: float = Field(
        1.0, gt=0, description="task weights are raised to 1/temperature: above 1 evens them out, below 1 sharpens them"
    )
    data_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the training images that is learnt from, by hash; a smaller share is part of every larger one",
    )
    sparse: tuple[str, ...] = Field(
        (),
        description="tasks that are learnt last, on the images that have labels for them, because those are few (the paper's detailed texts)",
    )
    sparse_share: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="share of the steps that is left for them; they have a warm-up and a decay of the learning rate of their own",
    )
    shuffle_buffer: int = Field(
        32,
        ge=1,
        description="shards whose images are mixed with each other, and held in memory, at a time (twice, while the next are read)",
    )
    save_steps: int = Field(200, ge=1, description="steps between checkpoints")
    seed: int = Field(0, description="order, draws and initial weights")
    threads: int = Field(2, ge=1, description="CPU threads of each process; part of what makes a result repeatable")

    @model_validator(mode="after")
    def _possible(self) -> Train:
        if self.resolutions and abs(sum(stage.share for stage in self.resolutions) - 1) > 1e-6:
            raise ValueError(
                f"resolutions: shares add up to {sum(stage.share for stage in self.resolutions):g}; they have to add up to 1"
            )
        if self.batch_size < self.processes * self.gradient_accumulation_steps:
            raise ValueError(
                f"batch_size: {self.batch_size} cannot be cut into processes × gradient_accumulation_steps = {self.processes * self.gradient_accumulation_steps} micro-batches"
            )
        if not self.drawn:
            raise ValueError("task_weights: every task has weight 0; give at least one a weight above 0")
        if bad := [name for name in self.sparse if name not in self.drawn]:
            raise ValueError(
                f"sparse: {bad[0]} is not learnt at all; give it a weight in task_weights, or name others of {', '.join(self.drawn)}"
            )
        if self.sparse and not set(self.drawn) - set(self.sparse):
            raise ValueError("sparse: every task that is learnt is sparse; name fewer")
        return self

    def without_sparse(self) -> Train:
        """These settings with the tasks of ``sparse`` left out."""
        return self.model_copy(
            update={"task_weights": {**self.task_weights, **dict.fromkeys(self.sparse, 0.0)}, "sparse": ()}
        )

    def weight(self, task: str) -> float:
        """How often ``task`` is drawn, temperature applied: weight^(1/temperature); 0: never. Of tasks that are fine-tuned, only named ones are drawn."""
        return float(self.task_weights.get(task, 1.0 if task in TASKS else 0.0)) ** (1 / self.temperature)

    @property
    def drawn(self) -> tuple[str, ...]:
        """The tasks of a weight above 0, in the order of `TASKS`."""
        return tuple(name for name in dict.fromkeys((*TASKS, *sorted(self.task_weights))) if self.weight(name) > 0)


class Evaluate(Section):
    """Scores on held-out images."""

    max_images: int = Field(
        600, ge=1, description="held-out images scored at most, of each reference (truth, human, consensus)"
    )
    batch_size: int = Field(128, ge=1, description="images decoded at once")
    threads: int = Field(2, ge=1, description="CPU threads; part of what makes a result repeatable")
    bootstrap: int = Field(1000, ge=100, description="resamples for intervals")
    seed: int = Field(0, description="of the resamples and the shuffled-image control")
    tasks: tuple[str, ...] = Field(TASKS, description="tasks scored")
    max_examples: int = Field(
        3, ge=1, description="examples of one task asked of one image at most, where it has one a region or caption"
    )
    shuffled_image_tasks: tuple[str, ...] = Field(
        ("<OD>", "<REGION_TO_CATEGORY>"),
        description="tasks whose questions are also asked of another image, to show what a model that does not look would score",
    )


class Promotion(Section):
    """When a round is accepted."""

    primary_task: str = Field("<OD>", description="the task whose score must improve")
    alpha: float = Field(0.05, gt=0, lt=1, description="significance of a fall, corrected for the number of tasks")
    min_images: int = Field(30, ge=2, description="a task with fewer scored images is reported, not gating")


class Tracking(Section):
    """MLflow."""

    uri: str = Field("sqlite:///build/mlflow.db", description="tracking and registry URI")
    artifacts: str | None = Field(
        None, description="artifact root of a new experiment, a folder or s3://; default build/mlartifacts"
    )
    experiment: str = Field("florence", description="experiment")
    model: str = Field("florence", description="registered model")


class Snapshots(Section):
    """DVC and git."""

    push: str | None = Field(
        None, description="DVC remote to push each snapshot to; none: the default remote where one is set"
    )
    commit: bool = Field(False, description="commit data.dvc, dvc.lock and metrics to git after each accepted round")


class Flow(Section):
    """Prefect."""

    runner: Literal["threads", "dask"] = Field("threads", description="task runner")
    workers: int = Field(2, ge=1, description="shards annotated, and blocks of claims fused, at once")
    dask: str | None = Field(None, description="address of a running Dask scheduler; none starts a local cluster")
    retries: int = Field(2, ge=0, description="tries again of a failed shard")
    cron: str = Field("0 3 * * *", description="schedule of `florence serve`")
    rounds: int = Field(2, ge=1, description="rounds of a loop")


class Settings(Section):
    """Everything in params.yaml."""

    store: str = Field(
        ".florence/store", description="working store of running annotation: a folder or s3://bucket/prefix"
    )
    sources: dict[str, SourceSection]
    annotators: dict[str, AnnotatorSection]
    split: Split = Split()
    collect: Collect = Collect()
    engine: Engine = Engine()
    validation: Validation = Validation()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    promotion: Promotion = Promotion()
    tracking: Tracking = Tracking()
    snapshots: Snapshots = Snapshots()
    flow: Flow = Flow()

    @model_validator(mode="after")
    def _names(self) -> Settings:
        tasks = {
            **self.train.task_weights,
            **dict.fromkeys((*self.evaluate.tasks, *self.evaluate.shuffled_image_tasks)),
        }
        known = (*TASKS, *FINE_TUNED)
        if bad := sorted(set(tasks) - set(known)):
            raise ValueError(f"unknown task {bad[0]}; known: {', '.join(known)}")
        self._engine_keys()
        if bad := sorted({*self.engine.student.tasks, *self.engine.student.alone} - set(BASE_TYPES)):
            raise ValueError(f"engine.student: {bad[0]} is not annotated; known: {', '.join(BASE_TYPES)}")
        if self.promotion.primary_task not in known:
            raise ValueError(
                f"promotion.primary_task: unknown task {self.promotion.primary_task}; known: {', '.join(known)}"
            )
        if self.train.resolutions and self.train.resolutions[-1].image_size != self.model.image_size:
            raise ValueError(
                f"train.resolutions: the last stage sees {self.train.resolutions[-1].image_size} pixels; it has to be model.image_size, {self.model.image_size}"
            )
        if self.promotion.primary_task not in self.evaluate.tasks:
            raise ValueError(
                f"promotion.primary_task: {self.promotion.primary_task} is not scored; add it to evaluate.tasks"
            )
        return self

    def _engine_keys(self) -> None:
        """Raise ValueError where thresholds are for an annotator or a kind that is not there: nothing would come of them."""
        annotators = ("*", *self.annotators, "student", "human")
        both = [f"{annotator} {kind}" for annotator in annotators[1:] for kind in ANNOTATION_TYPES]
        allowed = {
            "min_score": (*annotators, *ANNOTATION_TYPES, *both),
            "min_phrase_score": annotators,
            "min_words": ("*", *CAPTIONS),
            "max_words": ("*", *CAPTIONS),
        }
        for name, known in allowed.items():
            if bad := sorted(set(getattr(self.engine, name)) - set(known)):
                raise ValueError(
                    f"engine.{name}: {bad[0]!r} is neither of the annotators nor of the kinds; known: {', '.join(k for k in known if ' ' not in k)}"
                )


def settings_from(values: dict[str, Any], where: str = "params.yaml") -> Settings:
    """Return the settings of a plain mapping.

    Raises SettingsError naming the key, what was found and what is allowed; for an old key, the new one.
    """
    if renamed := list(renamed_keys(values)):
        raise SettingsError(f"{where}:\n  " + "\n  ".join(renamed))
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"]) or "params"
            found = "" if item["type"] in ("missing", "value_error") else f"; found {item['input']!r}"
            hint = " (no such setting; docs/settings.md lists all)" if item["type"] == "extra_forbidden" else ""
            lines.append(f"{key}: {item['msg']}{found}{hint}")
        raise SettingsError(f"{where}:\n  " + "\n  ".join(lines)) from None


def read_settings(path: Path | str = "params.yaml") -> Settings:
    """The settings in a YAML file. Raises SettingsError where it is missing or wrong."""
    import yaml

    path = Path(path)
    if not path.exists():
        raise SettingsError(
            f"{path.absolute()} does not exist: this folder is no workspace. `florence init DIR` makes one."
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: a mapping is expected; found {type(values).__name__}")
    return settings_from(values, str(path))


def merged(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``overlay`` laid over it, key by key; lists and scalars are replaced. ``sources`` and ``annotators`` too merge by key; a null removes one."""
    result = dict(base)
    for key, value in overlay.items():
        if value is None and isinstance(result.get(key), dict):
            del result[key]
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def markdown() -> str:
    """docs/settings.md: every setting with its type, default, bounds and meaning."""
    lines = [
        "# Settings",
        "",
        "Every key of `params.yaml`. An overlay (`florence loop --config FILE`) has the same keys and is laid over it. A key",
        "that is not listed here is refused, with its name. Made by `python -m florence.config > docs/settings.md`.",
    ]
    return "\n".join([*lines, *_section_lines("", Settings)]) + "\n"


def _section_lines(prefix: str, section: type[BaseModel]) -> list[str]:
    """A heading and a table for ``section``, then the same for the sections inside it."""
    title = f"`{prefix.rstrip('.')}`" if prefix else "Top level"
    about = " ".join((section.__doc__ or "").split())
    rows, inner = [], []
    for name, field in section.model_fields.items():
        kind = field.annotation
        parts = [a for a in get_args(kind) if isinstance(a, type) and issubclass(a, BaseModel)]
        plugin = next((a for a in parts if issubclass(a, PluginSection)), None)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner += _section_lines(f"{prefix}{name}.", kind)
        elif plugin is not None:
            inner += _section_lines(f"{prefix}{name}.<key>.", plugin)
        else:
            for part in parts:
                inner += _section_lines(f"{prefix}{name}{'[]' if get_origin(kind) is tuple else ''}.", part)
            rows.append(f"| `{prefix}{name}` | {_kind(kind, field)} | {_default(field)} | {field.description} |")
    if issubclass(section, PluginSection):
        rows.append(
            "| any other | | | the plug-in's own settings, given to its constructor; a wrong one is refused with its name |"
        )
    head = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return ["", f"## {title}", "", about, "", *(head if rows else []), *rows, *inner]


def _kind(kind: Any, field: FieldInfo) -> str:
    """The type and bounds of a field in a reader's words."""
    bounds = [
        f"{sign} {getattr(item, name)}"
        for item in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(item, name, None) is not None
    ]
    text = str(kind) if get_args(kind) else kind.__name__
    choices = next((a for a in (kind, *get_args(kind)) if get_origin(a) is Literal), None)
    if choices is not None:
        text = ("list of " if get_origin(kind) is tuple else "") + " or ".join(get_args(choices))
    elif any(isinstance(a, type) and issubclass(a, BaseModel) for a in get_args(kind)):
        text = "list of sections" if get_origin(kind) is tuple else "section or none"
    elif get_origin(kind) is dict:
        text = f"dict[{', '.join(getattr(get_args(a)[0] if get_origin(a) is Annotated else a, '__name__', str(a)) for a in get_args(kind))}]"
    text = (
        text.replace("tuple[str, ...]", "list of str")
        .replace("NoneType", "none")
        .replace("None", "none")
        .replace("|", "or")
    )
    return text + (f" {', '.join(bounds)}" if bounds else "")


def _default(field: FieldInfo) -> str:
    """The default as it would stand in params.yaml."""
    if field.is_required():
        return "required"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    if field.default == TASKS:
        return "all tasks"
    return f"`{json.dumps(value)}`" if value is not None else "none"


if __name__ == "__main__":
    print(markdown(), end="")
