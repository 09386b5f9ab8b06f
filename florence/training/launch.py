"""A whole training, in this process, as one of several that were started together, or in several that it starts (by accelerate's launcher).

Processes that are started here are given a `Job`; the first tells what happens, a line of JSON for each thing, on its standard output.
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
from florence.config import Model, Train
from florence.errors import FlorenceError, ModelError
from florence.store import Store
from florence.training.corpus import Progress, read_corpus
from florence.training.loop import Log, Trained, train

MARK = "\x1e"
"""Begins a line that is for the process that started this one."""


@dataclass(frozen=True, slots=True)
class Job:
    """A training. ``data``: URI of the snapshot; ``folder``, ``key``: of its checkpoints; ``out``: where the trained model is written."""

    model: Model
    train: Train
    data: str
    folder: str
    key: str
    out: str


def run(job: Job, log: Log | None = None, progress: Progress = lambda what, done, of: None) -> Trained:
    """Train, and write the model to ``job.out``. With `train.processes` above 1 that many processes are started; where this one was started by
    ``accelerate launch`` or torchrun it joins the others, of which the first alone writes, logs and shows progress.

    Raises what `florence.training.train` raises, ModelError also where the processes cannot be started or one of them ends.
    """
    if job.train.processes > 1 and rank_of() is None:
        return _start(job, log, progress)
    return _train(job, log, progress)


def rank_of() -> int | None:
    """This process's number among those that train together; None where it was not started as one of several."""
    import torch
    from accelerate import PartialState

    found = PartialState(cpu=not torch.cuda.is_available())
    return found.process_index if found.num_processes > 1 else None


def _train(job: Job, log: Log | None, progress: Progress) -> Trained:
    from florence.model.checkpoint import load

    rank = rank_of()
    if rank:
        log, progress = None, lambda what, done, of: None
    checkpoint = load(job.model.init, image_size=job.model.image_size, seed=job.train.seed)
    corpus = read_corpus(checkpoint, job.train, Store(job.data), progress)
    done = train(checkpoint, corpus, job.train, Path(job.folder), job.key, log, progress)
    if not rank:
        shutil.rmtree(job.out, ignore_errors=True)
        checkpoint.model.to("cpu")
        checkpoint.save(job.out)
    return done


def _start(job: Job, log: Log | None, progress: Progress) -> Trained:
    """Start `train.processes` processes and wait for them."""
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        str(job.train.processes),
        "--num_machines",
        "1",
        "--main_process_port",
        "0",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_cpu_threads_per_process",
        str(job.train.threads),
        "--module",
        "florence.training.launch",
        _written(job),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    done: Trained | None = None
    failure: FlorenceError | None = None
    try:
        for line in process.stdout or ():
            told: dict[str, Any] = json.loads(line[1:]) if line.startswith(MARK) else {}
            if "progress" in told:
                progress(*told["progress"])
            elif "log" in told and log is not None:
                log(*told["log"])
            elif "done" in told:
                done = Trained(**told["done"])
            elif "failed" in told and failure is None:
                failure = _error(*told["failed"])
            elif not told:
                sys.stderr.write(line)
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if failure is not None:
        raise failure
    if code or done is None:
        raise ModelError(
            f"one of the {job.train.processes} processes of the training ended (exit {code}); what it said stands above. Started again, the training goes on from its last checkpoint"
        )
    return done


def _error(kind: str, text: str) -> FlorenceError:
    """An error that a process told of, as it was raised there."""
    found = FlorenceError.__new__(getattr(errors, kind, FlorenceError))
    Exception.__init__(found, text)
    return found


def _written(job: Job) -> str:
    return json.dumps(
        {**asdict(job), "model": job.model.model_dump(mode="json"), "train": job.train.model_dump(mode="json")}
    )


def _read(text: str) -> Job:
    told = json.loads(text)
    return Job(**{**told, "model": Model(**told["model"]), "train": Train(**told["train"])})


def _main(text: str) -> int:
    def tell(**what: Any) -> None:
        print(MARK + json.dumps(what), flush=True)

    job = _read(text)
    try:
        done = _train(
            job, lambda step, values: tell(log=[step, values]), lambda what, done, of: tell(progress=[what, done, of])
        )
    except FlorenceError as error:
        tell(failed=[type(error).__name__, str(error)])
        return 1
    if not rank_of():
        tell(done=asdict(done))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
