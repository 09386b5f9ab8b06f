"""A whole training: in this process, as one of several that were started together, or in several that this one starts.

Processes are started by accelerate's launcher and get a `TrainingJob`; the first reports to this one, a line of JSON
for each event, on its standard output.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from florence import errors
from florence.config import ModelSettings, TrainSettings
from florence.errors import FlorenceError, ModelError
from florence.garbage import relax_garbage_collection
from florence.progress import Log, Progress, show_nothing
from florence.store import Store
from florence.training.dataset import read_dataset
from florence.training.loop import TrainingResult, train

MARK = "\x1e"
"""Begins a line that is an event for the process that started this one."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A training.

    ``data``: URI of the snapshot; ``folder``, ``key``: of its checkpoints; ``out``: folder of the result.
    """

    model: ModelSettings
    train: TrainSettings
    data: str
    folder: str
    key: str
    out: str


def run_training(job: TrainingJob, log: Log | None = None, progress: Progress = show_nothing) -> TrainingResult:
    """Train, and write the model to ``job.out``.

    With `train.processes` above 1 that many processes are started. If this one was started by ``accelerate launch`` or
    torchrun, it joins the others, of which the first alone writes, logs and shows progress. Raises as
    `florence.training.train`; ModelError also where processes cannot be started or one of them ends.
    """
    if job.train.processes > 1 and process_rank() is None:
        return _launch(job, log, progress)
    return _train_here(job, log, progress)


def process_rank() -> int | None:
    """Return this process's number among those that train together; None if it is not one of several."""
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return state.process_index if state.num_processes > 1 else None


def _train_here(job: TrainingJob, log: Log | None, progress: Progress) -> TrainingResult:
    from florence.model.checkpoint import load

    rank = process_rank()
    if rank:
        log, progress = None, show_nothing
    checkpoint = load(job.model.init, image_size=job.model.image_size, seed=job.train.seed)
    dataset = read_dataset(checkpoint, job.train, Store(job.data), progress)
    result = train(checkpoint, dataset, job.train, Path(job.folder), job.key, log, progress)
    if not rank:
        shutil.rmtree(job.out, ignore_errors=True)
        checkpoint.model.to("cpu")
        checkpoint.model.generation_config.max_new_tokens = job.train.max_target
        checkpoint.save(job.out)
    return result


def _launch(job: TrainingJob, log: Log | None, progress: Progress) -> TrainingResult:
    """Start `train.processes` processes and wait for their result."""
    process = subprocess.Popen(_launch_command(job), stdout=subprocess.PIPE, text=True)
    result: TrainingResult | None = None
    failure: FlorenceError | None = None
    try:
        for line in process.stdout or ():
            event: dict[str, Any] = json.loads(line[1:]) if line.startswith(MARK) else {}
            if "progress" in event:
                progress(*event["progress"])
            elif "log" in event and log is not None:
                log(*event["log"])
            elif "done" in event:
                result = TrainingResult(**event["done"])
            elif "failed" in event and failure is None:
                failure = _restore_error(*event["failed"])
            elif not event:
                sys.stderr.write(line)
        code = process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            process.wait()
    if failure is not None:
        raise failure
    if code or result is None:
        raise ModelError(
            f"one of the {job.train.processes} processes of the training ended (exit {code}); its output stands above. "
            "Started again, the training resumes from its last checkpoint"
        )
    return result


def _launch_command(job: TrainingJob) -> list[str]:
    """Return the command of accelerate's launcher that starts the processes."""
    options = {
        "num_processes": job.train.processes,
        "num_machines": 1,
        "main_process_port": 0,
        "mixed_precision": "no",
        "dynamo_backend": "no",
        "num_cpu_threads_per_process": job.train.threads,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *words]
    return [*launcher, "--module", "florence.training.launch", _job_to_json(job)]


def _restore_error(name: str, text: str) -> FlorenceError:
    """Return an error that another process reported, as it was raised there."""
    error = FlorenceError.__new__(getattr(errors, name, FlorenceError))
    Exception.__init__(error, text)
    return error


def _job_to_json(job: TrainingJob) -> str:
    settings = {"model": job.model.model_dump(mode="json"), "train": job.train.model_dump(mode="json")}
    return json.dumps({**asdict(job), **settings})


def _job_from_json(text: str) -> TrainingJob:
    values = json.loads(text)
    settings = {"model": ModelSettings(**values["model"]), "train": TrainSettings(**values["train"])}
    return TrainingJob(**{**values, **settings})


def _main(text: str) -> int:
    def send(**event: Any) -> None:
        print(MARK + json.dumps(event), flush=True)

    relax_garbage_collection()
    job = _job_from_json(text)
    try:
        result = _train_here(
            job, lambda step, values: send(log=[step, values]), lambda what, done, of: send(progress=[what, done, of])
        )
    except FlorenceError as error:
        send(failed=[type(error).__name__, str(error)])
        return 1
    if not process_rank():
        send(done=asdict(result))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
