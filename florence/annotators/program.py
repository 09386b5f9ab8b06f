"""Annotators that are programs of their own, with their own environment, language or GPU: they read lines and write lines (docs/annotators.md)."""

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

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, among
from florence.config import Section
from florence.errors import SettingsError, UnavailableError
from florence.processes.isolation import AskFailure, FaultIsolator
from florence.processes.process import LineProcess, ProcessError
from florence.processes.protocol import ProtocolError, answer, encode_png, format_request
from florence.records import ANNOTATION_TYPES, ClaimsOrError, ImageRecord

PASSED_ON = (
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
"""Variables that every program is given. Not among them: PYTHONPATH, whose packages would be ours, and proxies and tokens, which can be secrets."""
INTERPRETER = re.compile(r"(python|pypy|ruby|perl|lua|julia|node|deno|java|Rscript|bash|sh)[\d.]*$")


@ANNOTATORS.register("program")
class Program(Annotator):
    """Whatever a program of the user's claims. It is started once, and again where it died; it ends when this process does."""

    class Options(Section):
        """Settings. Those that say how long to wait and how often to try are no part of the annotator's version."""

        command: tuple[str, ...] = Field(
            min_length=1, description="the program and its arguments, as a list or as one line; no shell reads it"
        )
        tasks: Annotated[tuple[str, ...], among(ANNOTATION_TYPES)] = Field(min_length=1, description="kinds it claims")
        version: str = Field(
            "",
            description="raised by you when it comes to answer otherwise; files that the command names are seen to by themselves",
        )
        vocabulary: tuple[str, ...] | None = Field(
            None, min_length=1, description="the names it can give to objects; none: any"
        )
        role: Literal["annotator", "ranker"] = Field(
            "annotator", description="a ranker tells how well texts that others claimed fit"
        )
        reads_claims: bool = Field(False, description="whether it is given what annotators before it claimed")
        timeout: float = Field(
            120.0, gt=0, exclude=True, description="seconds without an answer after which it counts as hanging"
        )
        start: float = Field(
            300.0, gt=0, exclude=True, description="the same until its first answer: loading takes time"
        )
        restarts: int = Field(
            3,
            ge=0,
            exclude=True,
            description="times in a row that it is started again without an answer in between; then it is given up",
        )
        environment: tuple[str, ...] = Field((), description="names of more environment variables that it is given")
        cwd: str | None = Field(None, description="folder it runs in; none: the workspace")

        @field_validator("command", mode="before")
        @classmethod
        def _words(cls, value: Any) -> Any:
            return tuple(shlex.split(value)) if isinstance(value, str) else value

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self.role = self.options.role
        self.needs = frozenset({"pixels", "claims"} if self.options.reads_claims else {"pixels"})
        self._asking = FaultIsolator(self.options.restarts)
        self._process: LineProcess | None = None
        self._before: dict[str, ImageRecord] = {}
        self._ending: weakref.finalize | None = None

    def ingredients(self) -> dict[str, str]:
        """Hashes of the files that the command names, but for an interpreter's.

        Raises SettingsError where the program is not there, or nothing would tell that it has changed.
        """
        folder = Path(self.options.cwd or ".").absolute()
        self._check(folder)
        first, *others = self.options.command
        words = others if INTERPRETER.match(Path(first).name) else [first, *others]
        files = {word: path for word in words if os.path.isfile(path := folder / word)}
        if not files and not self.options.version:
            raise SettingsError(
                f"annotators.{self.name}.command: {shlex.join(self.options.command)} names no file that is there, so nothing would tell that the program has changed: "
                f"correct it, or set annotators.{self.name}.version and raise it whenever it comes to answer otherwise"
            )
        return {word: _hash(str(path), path.stat().st_size, path.stat().st_mtime_ns) for word, path in files.items()}

    def _check(self, folder: Path) -> None:
        first = self.options.command[0]
        if not folder.is_dir():
            raise SettingsError(f"annotators.{self.name}.cwd: {folder} is no folder")
        if not shutil.which(str(folder / first) if os.sep in first else first):
            raise SettingsError(
                f"annotators.{self.name}.command: {first} is no program that can be run; name one on the PATH, or its file (relative to cwd)"
            )

    def vocabulary(self) -> tuple[str, ...] | None:
        """As the settings say."""
        return self.options.vocabulary

    def load(self) -> None:
        """Start the program, where it is not running, without waiting for it. One that was given up gets another chance.

        Raises UnavailableError where it cannot be started.
        """
        if self._asking.given_up:
            self._asking = FaultIsolator(self.options.restarts)
        try:
            self._running()
        except OSError as error:
            raise UnavailableError(f"{self.options.command[0]} cannot be started: {error}") from None

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """What the program says of each image. One that it cannot get through is found, by asking about each alone, and costs that image.

        Raises UnavailableError where it answers about none, and was not shown to be an image's fault.
        """
        if not batch.records:
            return []
        places = {record.image_id: index for index, record in enumerate(batch.records)}
        try:
            with TemporaryDirectory(prefix="florence-", ignore_cleanup_errors=True) as folder:

                def ask(images: Sequence[str], said: dict[str, ClaimsOrError]) -> AskFailure | None:
                    return self._ask(batch, [places[image] for image in images], Path(folder), said)

                found = self._asking.about(list(places), ask)
        except OSError as error:
            raise UnavailableError(f"no temporary folder can be made for its pictures: {error}") from None
        return [found[record.image_id] for record in batch.records]

    def _ask(
        self, batch: ImageBatch, chosen: Sequence[int], folder: Path, said: dict[str, ClaimsOrError]
    ) -> AskFailure | None:
        """Ask about the chosen images of the batch. Whatever goes wrong ends the program: what it would write next could be about anything."""
        try:
            process = self._running()
        except OSError as error:
            return AskFailure(f"{self.options.command[0]} cannot be started: {error}", lasting=True)
        asked = {batch.records[index].image_id: batch.records[index] for index in chosen}
        known = ChainMap(asked, self._before)
        self._before = asked  # a second answer about one of these may come when others are asked about

        def take(line: bytes, number: int) -> bool:
            image, claims = answer(line, number, known, self.tasks)
            if image in asked:
                said.setdefault(
                    image, claims if isinstance(claims, list) else type(claims)(process.blotted(str(claims)))
                )
            return asked.keys() <= said.keys()

        try:
            process.exchange(self._lines(batch, chosen, folder), take, lambda: self._patience(process))
            return None
        except (ProcessError, ProtocolError) as error:
            process.kill()
            return (
                None if asked.keys() <= said.keys() else AskFailure(process.blotted(str(error)) + process.last_words())
            )
        except OSError as error:
            process.kill()
            return AskFailure(f"pictures cannot be written for it: {error}", lasting=True)
        except BaseException:
            process.kill()
            raise

    def _patience(self, process: LineProcess) -> float:
        return self.options.timeout if process.lines else max(self.options.start, self.options.timeout)

    def _running(self) -> LineProcess:
        """The program, started where it does not run. Raises OSError where it cannot be."""
        if self._process is not None and self._process.alive():
            return self._process
        if self._process is not None:
            self._process.kill()
        environment = {name: os.environ[name] for name in (*PASSED_ON, *self.options.environment) if name in os.environ}
        secrets = [value for name in self.options.environment if len(value := os.environ.get(name, "")) > 5]
        environment |= {"FLORENCE_DEVICE": self.device, "PYTHONUTF8": "1"}
        self._process = LineProcess(self.options.command, environment, self.options.cwd, secrets)
        self._before = {}
        if self._ending is not None:
            self._ending.detach()
        self._ending = weakref.finalize(self, self._process.end)
        return self._process

    def _lines(self, batch: ImageBatch, chosen: Sequence[int], folder: Path) -> Iterator[bytes]:
        """What is asked about the chosen images, whose pictures are written on the way, and the blank line that ends a batch."""
        for index in chosen:
            path = folder / f"{index}.png"
            if not path.exists():
                path.write_bytes(encode_png(batch.pixels[index], 0))
            yield format_request(
                batch.records[index], batch.claims[index] if self.options.reads_claims else None, path=str(path)
            )
        yield b"\n"


@lru_cache(maxsize=256)
def _hash(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
