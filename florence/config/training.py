"""Settings of the model, its training, its scores and its promotion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from florence.config.base import Section
from florence.records import TASKS


class ModelSettings(Section):
    """The model that training starts from."""

    init: str = Field("nano", description="preset (nano, base, large), checkpoint folder, or name on the hub")
    image_size: int = Field(96, ge=16, description="side of the model's input, in pixels")


TASK_WEIGHTS: dict[str, float] = {
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
"""Short answers are drawn often: they are cheap, and a small model that cannot name a region cannot find one either."""


class LoraSettings(Section):
    """Low-rank adapters (LoRA): only they are trained, and they are merged into the saved weights."""

    rank: int = Field(8, ge=1, description="rank of the adapters")
    alpha: float = Field(16.0, gt=0, description="adapters are scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the input of the adapters")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        min_length=1,
        description="layers that get adapters, by the last part of their name",
    )


class ResolutionSettings(Section):
    """A stage of training at one image size."""

    image_size: int = Field(ge=16, description="side of the model's input in this stage, in pixels")
    share: float = Field(gt=0, le=1, description="share of the training steps; all shares add up to 1")


class TrainSettings(Section):
    """Multitask training."""

    steps: int = Field(1000, ge=1, description="most optimiser steps")
    max_epochs: float = Field(30.0, gt=0, description="most passes over the training images")
    batch_size: int = Field(24, ge=1, description="images in a step, over all processes and micro-batches")
    gradient_accumulation_steps: int = Field(1, ge=1, description="micro-batches of a step, on each process")
    processes: int = Field(
        1, ge=1, description="processes started on this machine; for several machines use `accelerate launch`"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="precision of the passes (autocast); weights stay fp32, fp16 needs a GPU"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, more time"
    )
    resolutions: tuple[ResolutionSettings, ...] = Field(
        (), description="stages by image size, in order; the last has model.image_size; none: that size in all steps"
    )
    freeze: tuple[Literal["vision", "projector", "encoder", "decoder", "embeddings"], ...] = Field(
        (), description="parts that are not trained and get no adapters"
    )
    lora: LoraSettings | None = Field(None, description="train low-rank adapters instead of the weights")
    tasks_per_image: int = Field(3, ge=1, description="tasks drawn for each image of a step")
    regions_per_image: int = Field(
        4, ge=1, description="regions of an image that one task about single regions asks about"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="muon learns faster from random weights; from trained weights adamw is as good or better",
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate (cosine decay)")
    warmup: int = Field(50, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(0.02, ge=0, description="decoupled weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="largest norm of the gradient; larger ones are scaled down")
    max_target: int = Field(
        160, ge=8, description="most tokens of a target; longer targets lose whole regions, and are counted"
    )
    task_weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        TASK_WEIGHTS,
        description="how often a task is drawn; 1 if not named (0 for fine-tuned tasks), 0 leaves it out",
    )
    absent_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the questions of <OPEN_VOCABULARY_DETECTION> that ask for absent names alone; "
        "0: none, nor together with present names",
    )
    temperature: float = Field(
        1.0, gt=0, description="task weights are raised to 1/temperature: above 1 evens them out, below 1 sharpens them"
    )
    data_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the training images used, by hash; a smaller share is part of every larger one",
    )
    sparse: tuple[str, ...] = Field(
        (),
        description="tasks trained last, on the few images that have labels for them (the paper's detailed texts)",
    )
    sparse_share: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="share of the steps for the sparse tasks, with a warm-up and a learning rate decay of their own",
    )
    shuffle_buffer: int = Field(
        32,
        ge=1,
        description="shards whose images are shuffled together, in memory (twice that while the next are read)",
    )
    save_steps: int = Field(200, ge=1, description="steps between checkpoints")
    seed: int = Field(0, description="seed of the order, the draws and the initial weights")
    threads: int = Field(2, ge=1, description="CPU threads of each process; part of what makes a result repeatable")

    @model_validator(mode="after")
    def _check(self) -> TrainSettings:
        share = sum(stage.share for stage in self.resolutions)
        if self.resolutions and abs(share - 1) > 1e-6:
            raise ValueError(f"resolutions: shares add up to {share:g}; they have to add up to 1")
        if self.batch_size < self.processes * self.gradient_accumulation_steps:
            raise ValueError(
                f"batch_size: {self.batch_size} cannot be cut into processes × gradient_accumulation_steps = "
                f"{self.processes * self.gradient_accumulation_steps} micro-batches"
            )
        if not self.drawn:
            raise ValueError("task_weights: every task has weight 0; give at least one a weight above 0")
        if bad := [name for name in self.sparse if name not in self.drawn]:
            raise ValueError(
                f"sparse: {bad[0]} is not trained at all; give it a weight in task_weights, "
                f"or name others of {', '.join(self.drawn)}"
            )
        if self.sparse and not set(self.drawn) - set(self.sparse):
            raise ValueError("sparse: every trained task is sparse; name fewer")
        return self

    def without_sparse(self) -> TrainSettings:
        """Return these settings without the tasks of ``sparse``."""
        return self.model_copy(
            update={"task_weights": {**self.task_weights, **dict.fromkeys(self.sparse, 0.0)}, "sparse": ()}
        )

    def weight(self, task: str) -> float:
        """Return how often ``task`` is drawn: weight^(1/temperature); 0: never.

        Fine-tuned tasks are drawn only if they are named.
        """
        return float(self.task_weights.get(task, 1.0 if task in TASKS else 0.0)) ** (1 / self.temperature)

    @property
    def drawn(self) -> tuple[str, ...]:
        """The tasks with a weight above 0, in the order of `TASKS`."""
        return tuple(name for name in dict.fromkeys((*TASKS, *sorted(self.task_weights))) if self.weight(name) > 0)


class EvaluateSettings(Section):
    """Scores on held-out images."""

    max_images: int = Field(
        600, ge=1, description="most held-out images scored, for each reference (truth, human, consensus)"
    )
    batch_size: int = Field(128, ge=1, description="images decoded together")
    threads: int = Field(2, ge=1, description="CPU threads; part of what makes a result repeatable")
    bootstrap: int = Field(1000, ge=100, description="bootstrap resamples for the confidence intervals")
    seed: int = Field(0, description="seed of the resamples and of the shuffled-image baseline")
    tasks: tuple[str, ...] = Field(TASKS, description="tasks that are scored")
    max_examples: int = Field(
        3, ge=1, description="most examples of one task for one image, where each region or caption gives an example"
    )
    shuffled_image_tasks: tuple[str, ...] = Field(
        ("<OD>", "<REGION_TO_CATEGORY>"),
        description="tasks whose queries are also asked of another image: the score of a model that ignores the image",
    )


class PromotionSettings(Section):
    """When a round's model is accepted: docs/evaluation.md has the rule."""

    primary_task: str = Field("<OD>", description="task whose score must improve")
    mode: Literal["better", "not_worse"] = Field(
        "better",
        description="whether the primary score must be shown to be better, or only not to be worse by `margin`, "
        "which is for newer data of the same quality",
    )
    approval: Literal["automatic", "manual"] = Field(
        "automatic",
        description="whether an accepted model becomes champion at once, or waits for a person: `florence approve`",
    )
    margin: float = Field(
        0.0, ge=0, description="how much better the primary score must be shown to be; how much worse, for `not_worse`"
    )
    alpha: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="largest chance that a model passes whose primary score is not better; for the k-th model that is "
        "compared with one champion `alpha` / k²",
    )
    min_images: int = Field(30, ge=2, description="tasks with fewer scored images are reported but decide nothing")
    task_margin: float = Field(
        0.05,
        gt=0,
        description="how much worse every other score may at most be, as a share of its highest value "
        "(1; 10 of captions)",
    )
    task_alpha: float = Field(
        0.1, gt=0, lt=0.5, description="largest chance that a model passes of which a task is worse by its margin"
    )
    task_margins: dict[str, float | None] = Field(
        {}, description="the same of single tasks, in units of their score; null: the task decides nothing"
    )
    seed_deviation: float = Field(
        0.01,
        ge=0,
        description="standard deviation of a score over training seeds, as a share of its highest value; "
        "`florence ablate --seed 1,2,3` measures it",
    )
    seed_deviations: dict[str, float] = Field({}, description="the same of single tasks, in units of their score")
    locked_fraction: float = Field(
        0.2, ge=0, lt=1, description="share of the held-out images that decide nothing: their scores are shown beside"
    )

    @model_validator(mode="after")
    def _check(self) -> PromotionSettings:
        if self.mode == "not_worse" and not self.margin:
            raise ValueError(
                "margin: with mode not_worse it has to be above 0: how much worse the primary score may be; 0.01, say"
            )
        for key, values in (("task_margins", self.task_margins), ("seed_deviations", self.seed_deviations)):
            for name, value in values.items():
                if value is not None and (value < 0 or (value == 0 and key == "task_margins")):
                    raise ValueError(f"{key}: {name} is {value:g}; a number above 0 is expected")
        return self

    @property
    def least_change(self) -> float:
        """What the primary score's change must be shown to be above."""
        return -self.margin if self.mode == "not_worse" else self.margin

    def find_margin(self, task: str, highest: float) -> float | None:
        """Return how much worse a task's score may at most be; None where it decides nothing.

        ``highest``: the highest value of the score.
        """
        return self.task_margins.get(task, self.task_margin * highest)

    def find_seed_deviation(self, task: str, highest: float) -> float:
        """Return the standard deviation of a task's score over training seeds. ``highest``: as for `find_margin`."""
        return self.seed_deviations.get(task, self.seed_deviation * highest)
