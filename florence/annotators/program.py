"""Annotators that are programs of the user, with their own environment, language or GPU (docs/annotators.md)."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import weakref
from collections import ChainMap
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, subset_of
from florence.config import Section
from florence.errors import SettingsError, UnavailableError
from florence.processes.isolation import AskFailure, FaultIsolator
from florence.processes.png import encode_png
from florence.processes.process import LineProcess, ProcessError
from florence.processes.protocol import ProtocolError, format_request, parse_answer
from florence.records import ANNOTATION_TYPES, ClaimsOrError, ImageRecord
from florence.redact import redact, refuse_secret_arguments, secret_values

PASSED_VARIABLES = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_HOME",
    "CUDA_PATH",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "TORCH_HOME",
)
"""Variables that every program gets: not PYTHONPATH, whose packages are ours, and nothing that can be a secret."""
INTERPRETER = re.compile(r"(python|pypy|ruby|perl|lua|julia|node|deno|java|Rscript|bash|sh)[\d.]*$")


@ANNOTATORS.register("program")
class Program(Annotator):
    """Give images to a program of the user and return its claims.

    It is started once, and again where it died; it ends with this process. The lines are those of
    `florence.processes.protocol`; docs/annotators.md describes them and the other settings. In params.yaml:

        annotators:
          mine:
            {use: program, command: "python detect.py", version: "1",
             tasks: ["<OD>"], sources: ["*"], required: false}
    """

    class Options(Section):
        """Settings. How long to wait and how often to try is no part of the annotator's version.

        Raise `version` when its answers change.
        """

        command: tuple[str, ...] = Field(
            min_length=1, description="the program and its arguments, as a list or as one line; no shell reads it"
        )
        tasks: Annotated[tuple[str, ...], subset_of(ANNOTATION_TYPES)] = Field(
            min_length=1, description="annotation types it claims"
        )
        version: str = Field(
            "",
            description="raise it when the program answers differently; "
            "changes of files that the command names count by themselves",
        )
        vocabulary: tuple[str, ...] | None = Field(
            None, min_length=1, description="the names it can give to objects; none: any"
        )
        role: Literal["annotator", "ranker"] = Field(
            "annotator", description="a ranker scores how well texts of other annotators fit"
        )
        reads_claims: bool = Field(False, description="whether it gets the claims of earlier annotators")
        timeout: float = Field(
            120.0, gt=0, exclude=True, description="seconds without an answer after which a call fails"
        )
        start: float = Field(
            300.0, gt=0, exclude=True, description="the same before its first answer: loading takes time"
        )
        restarts: int = Field(
            3,
            ge=0,
            exclude=True,
            description="times in a row that it is started again with no answer in between; then it is given up",
        )
        environment: tuple[str, ...] = Field((), description="names of more environment variables that it gets")
        cwd: str | None = Field(None, description="folder it runs in; none: the workspace")

        @field_validator("command", mode="before")
        @classmethod
        def _words(cls, value: Any) -> Any:
            return tuple(shlex.split(value)) if isinstance(value, str) else value

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        refuse_secret_arguments(
            self.options.command, f"annotators.{name}.command", f"name its variable in annotators.{name}.environment"
        )
        self.role = self.options.role
        self.needs = frozenset({"pixels", "claims"} if self.options.reads_claims else {"pixels"})
        self._isolator = FaultIsolator(self.options.restarts)
        self._process: LineProcess | None = None
        self._requested_before: dict[str, ImageRecord] = {}
        self._finalizer: weakref.finalize[[], Program] | None = None

    def ingredients(self) -> dict[str, str]:
        """Return the hashes of the files that the command names, except an interpreter's.

        Raises SettingsError where the program is missing, or where nothing would show that it has changed.
        """
        folder = Path(self.options.cwd or ".").absolute()
        self._check_command(folder)
        first, *others = self.options.command
        words = others if INTERPRETER.match(Path(first).name) else [first, *others]
        files = {word: path for word in words if os.path.isfile(path := folder / word)}
        if not files and not self.options.version:
            raise SettingsError(
                f"annotators.{self.name}.command: {shlex.join(self.options.command)} names no file that exists, "
                "so nothing would show that the program has changed: correct it, "
                f"or set annotators.{self.name}.version and raise it whenever the program answers differently"
            )
        return {word: _hash(str(path), path.stat().st_size, path.stat().st_mtime_ns) for word, path in files.items()}

    def _check_command(self, folder: Path) -> None:
        """Raise SettingsError where the folder or the program is missing."""
        first = self.options.command[0]
        if not folder.is_dir():
            raise SettingsError(f"annotators.{self.name}.cwd: {folder} is no folder")
        if not shutil.which(str(folder / first) if os.sep in first else first):
            raise SettingsError(
                f"annotators.{self.name}.command: {first} is no program that can be run; "
                "name one on the PATH, or its file (relative to cwd)"
            )

    def vocabulary(self) -> tuple[str, ...] | None:
        """Return the names in the settings."""
        return self.options.vocabulary

    def load(self) -> None:
        """Start the program, where it does not run, without waiting for it. One that was given up gets another chance.

        Raises UnavailableError where it cannot be started.
        """
        if self._isolator.is_given_up:
            self._isolator = FaultIsolator(self.options.restarts)
        try:
            self._running()
        except OSError as error:
            raise UnavailableError(f"{self.options.command[0]} cannot be started: {error}") from None

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """Return the program's claims about each image, or the image's error.

        See `florence.processes.isolation` for what happens when the program crashes. Raises UnavailableError where it
        answers about none of the images, and no image was found to be the cause.
        """
        if not batch.records:
            return []
        indices = {record.image_id: index for index, record in enumerate(batch.records)}
        try:
            with TemporaryDirectory(prefix="florence-", ignore_cleanup_errors=True) as folder:

                def ask(images: Sequence[str], results: dict[str, ClaimsOrError]) -> AskFailure | None:
                    return self._ask(batch, [indices[image] for image in images], Path(folder), results)

                results = self._isolator.ask(list(indices), ask)
        except OSError as error:
            raise UnavailableError(f"no temporary folder can be made for its pictures: {error}") from None
        return [results[record.image_id] for record in batch.records]

    def _ask(
        self, batch: ImageBatch, indices: Sequence[int], folder: Path, results: dict[str, ClaimsOrError]
    ) -> AskFailure | None:
        """Ask about images of the batch, and put the answers into ``results``; return what failed.

        Whatever goes wrong ends the program: its next answer could be about anything.
        """
        try:
            process = self._running()
        except OSError as error:
            return AskFailure(f"{self.options.command[0]} cannot be started: {error}", is_lasting=True)
        requested = {batch.records[index].image_id: batch.records[index] for index in indices}
        known = ChainMap(requested, self._requested_before)
        self._requested_before = requested  # a second answer about one of these may come when others are asked about

        def take(line: bytes, number: int) -> bool:
            image, answer = parse_answer(line, number, known, self.tasks)
            if image in requested:
                results.setdefault(
                    image, answer if isinstance(answer, list) else type(answer)(redact(str(answer), process.secrets))
                )
            return requested.keys() <= results.keys()

        try:
            process.exchange(self._lines(batch, indices, folder), take, lambda: self._patience(process))
            return None
        except (ProcessError, ProtocolError) as error:
            process.kill()
            if requested.keys() <= results.keys():
                return None
            return AskFailure(redact(str(error), process.secrets) + process.last_words())
        except OSError as error:
            process.kill()
            return AskFailure(f"pictures cannot be written for it: {error}", is_lasting=True)
        except BaseException:
            process.kill()
            raise

    def _patience(self, process: LineProcess) -> float:
        return self.options.timeout if process.lines_read else max(self.options.start, self.options.timeout)

    def _running(self) -> LineProcess:
        """Return the running program, started where it does not run. Raises OSError where it cannot be started."""
        if self._process is not None and self._process.is_alive():
            return self._process
        if self._process is not None:
            self._process.kill()
        names = (*PASSED_VARIABLES, *self.options.environment)
        environment = {name: os.environ[name] for name in names if name in os.environ}
        secrets = secret_values(environment)
        environment |= {"FLORENCE_DEVICE": self.device, "PYTHONUTF8": "1"}
        self._process = LineProcess(self.options.command, environment, self.options.cwd, secrets)
        self._requested_before = {}
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, self._process.end)
        return self._process

    def _lines(self, batch: ImageBatch, indices: Sequence[int], folder: Path) -> Iterator[bytes]:
        """Yield the requests about images, whose pictures are written first, and the blank line that ends a batch."""
        for index in indices:
            path = folder / f"{index}.png"
            if not path.exists():
                path.write_bytes(encode_png(batch.pixels[index], 0))
            claims = batch.claims[index] if self.options.reads_claims else None
            yield format_request(batch.records[index], claims, path=str(path))
        yield b"\n"


@lru_cache(maxsize=256)
def _hash(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
