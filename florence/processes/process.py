"""A program at work: lines in, lines out, and nothing that it does can hold us up."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from florence.processes.protocol import LineReader

HEARD = 8192
"""Bytes of the program's standard error that are kept."""
TOLD = 12
"""Lines of them that an error tells."""
GRACE = 5.0
"""Seconds that a program is given to end after each way of asking it to."""
GLANCE = 1.0
"""Seconds after which a silent program is looked at: its children may keep its output open when it has died."""


class ProcessError(Exception):
    """A program that answers no more: why."""


class LineProcess:
    """A program that was started, in a process group of its own, so that it is ended with all its children.

    ``environment``: all that it is given. ``secrets``: what is not told of what it writes. Raises OSError where it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], cwd: str | None, secrets: Sequence[str] = ()
    ) -> None:
        self._program = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
        assert self._program.stdin and self._program.stdout and self._program.stderr
        self._in, self._out = self._program.stdin.fileno(), self._program.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._owner = os.getpid()
        self._secrets = secrets
        self._lines = LineReader()
        self._heard = b""
        self._ended = False
        self._listener = threading.Thread(target=self._listen, args=(self._program.stderr,), daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Its number, which is its process group's too."""
        return self._program.pid

    @property
    def lines(self) -> int:
        """How many it has written."""
        return self._lines.number

    def alive(self) -> bool:
        """Whether it is still there."""
        return not self._ended and not self._exited()

    def exchange(
        self, lines: Iterator[bytes], take: Callable[[bytes, int], bool], patience: Callable[[], float]
    ) -> None:
        """Write ``lines``, each with its end, while reading what is answered, until all are written and ``take`` says that nothing is awaited any more.

        ``take`` is given each line and its number. ``patience``: seconds without an answer, or a line taken, after which the program counts as
        hanging. Reading never waits for writing nor writing for reading, so no full pipe can stop both. Raises Broken saying why there will be
        no more answers, ProtocolError for a line that is too long, and what ``take`` and ``lines`` raise.
        """
        awaited, unsent, moved = True, b"", time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            selector.register(self._in, selectors.EVENT_WRITE)
            while awaited or self._in in selector.get_map():
                ready = {key.fd for key, _ in selector.select(min(GLANCE, patience()))}
                if self._in in ready:
                    data = unsent or next(lines, b"")
                    rest = self._write(data)
                    if rest is None:
                        selector.unregister(self._in)
                    else:
                        moved = time.monotonic() if len(rest) < len(data) else moved
                        unsent = rest
                if self._out in ready:
                    for line in self._read():
                        awaited = not take(line, self.lines) and awaited
                        moved = time.monotonic()
                elif not ready and self._exited():
                    raise ProcessError(self._ending())
                if time.monotonic() - moved > patience():
                    raise ProcessError(f"it has answered nothing for {patience():g} seconds and was ended")

    def _write(self, data: bytes) -> bytes | None:
        """What is left of ``data``; None where there was none, or the program reads no more (what it wrote before is still read)."""
        try:
            return data[os.write(self._in, data) :] if data else None
        except BlockingIOError:
            return data
        except BrokenPipeError:
            return None

    def _read(self) -> Iterator[bytes]:
        """The lines that are whole by now."""
        data = os.read(self._out, 1 << 16)
        if not data:
            raise ProcessError(self._ending() + (", in the middle of a line" if self._lines.rest else ""))
        return self._lines.of(data)

    # ------------------------------------------------------------ ending

    def end(self) -> None:
        """Have it end: by the end of its input, else by a signal, else by force."""
        if self._ended or os.getpid() != self._owner:  # a fork of ours, at whose exit the program goes on
            return
        if self._program.stdin:
            self._program.stdin.close()
        if not self._wait(GRACE):
            self._signal(signal.SIGTERM)
            self._wait(GRACE)
        self.kill()

    def kill(self) -> int:
        """End it and its children by force; its exit code, or minus the signal that ended it."""
        if not self._ended:
            # Before it is waited for: after that its number, and so the group's, may be somebody else's.
            self._signal(signal.SIGKILL)
            with contextlib.suppress(
                subprocess.TimeoutExpired
            ):  # stuck in a driver: not even this ends it, and it is left behind
                self._program.wait(GRACE)
            self._ended = True
            self._listener.join(GRACE)
            for pipe in (self._program.stdin, self._program.stdout):
                if pipe:
                    pipe.close()
        return -signal.SIGKILL if self._program.returncode is None else self._program.returncode

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._program.pid, number)

    def _exited(self) -> bool:
        """Whether it has exited. It is left to be waited for."""
        try:
            return os.waitid(os.P_PID, self._program.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True

    def _wait(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not self._exited():
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def _ending(self) -> str:
        if not self._wait(GRACE):
            return "it closed its output"
        code = self.kill()
        if code >= 0:
            return f"it ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
        memory = "; mostly that is the system, out of memory" if -code == signal.SIGKILL else ""
        return f"it was killed by signal {-code} ({name}{memory})"

    # ------------------------------------------------------------ standard error

    def _listen(self, pipe) -> None:
        with pipe:
            while data := os.read(pipe.fileno(), 1 << 16):
                self._heard = (self._heard + data)[-HEARD:]

    def last_words(self) -> str:
        """The last lines of its standard error, one indented line each, without secrets; empty where it wrote none."""
        heard = self._heard.replace(b"\r", b"\n")
        if len(heard) == HEARD:
            heard = heard.partition(b"\n")[
                2
            ]  # of the first line the beginning is gone, and half a secret would not be known
        text = self.blotted(heard.decode(errors="replace"))
        lines = ["".join(c if c.isprintable() else " " for c in line)[:500].rstrip() for line in text.split("\n")]
        return "".join(f"\n    {line}" for line in [line for line in lines if line][-TOLD:])

    def blotted(self, text: str) -> str:
        """``text`` without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text
