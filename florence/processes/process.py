"""A program that reads and writes lines. Whatever it does, it cannot make us wait for ever."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from florence.processes.protocol import LineReader
from florence.redact import redact

KEPT_BYTES = 8192
"""Bytes of the program's standard error that are kept."""
SHOWN_LINES = 12
"""Lines of its standard error that an error shows."""
GRACE = 5.0
"""Seconds that a program has to end, after each way of asking it to."""
CHECK_INTERVAL = 1.0
"""Seconds between looks at a silent program: its children may keep its output open when it has died."""


class ProcessError(Exception):
    """A program that will answer no more; the text says why."""


class LineProcess:
    """A running program, in a process group of its own, so that it ends with all its children.

    ``environment``: all its variables. ``secrets``: texts to mask in what it writes. Raises OSError where it cannot
    be started.
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
        self.secrets = secrets
        self._lines = LineReader()
        self._stderr = b""
        self._ended = False
        self._listener = threading.Thread(target=self._listen, args=(self._program.stderr,), daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Its process id, which is its process group's too."""
        return self._program.pid

    @property
    def lines_read(self) -> int:
        """The number of lines that it has written."""
        return self._lines.number

    def is_alive(self) -> bool:
        """Return whether it still runs."""
        return not self._ended and not self._has_exited()

    def exchange(
        self, lines: Iterator[bytes], take: Callable[[bytes, int], bool], patience: Callable[[], float]
    ) -> None:
        """Write ``lines``, each with its end, and read answers, until all are written and ``take`` returns True.

        ``take`` is given each line and its number, and returns whether no more lines are awaited. ``patience``: seconds
        without a line read or written after which the program counts as hanging. Reading never waits for writing nor
        writing for reading, so no full pipe can stop both. Raises ProcessError saying why there will be no more
        answers, ProtocolError for a line that is too long, and what ``take`` and ``lines`` raise.
        """
        is_awaited, unsent, last_move = True, b"", time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            selector.register(self._in, selectors.EVENT_WRITE)
            while is_awaited or self._in in selector.get_map():
                ready = {key.fd for key, _ in selector.select(min(CHECK_INTERVAL, patience()))}
                if self._in in ready:
                    data = unsent or next(lines, b"")
                    rest = self._write(data)
                    if rest is None:
                        selector.unregister(self._in)
                    else:
                        last_move = time.monotonic() if len(rest) < len(data) else last_move
                        unsent = rest
                if self._out in ready:
                    for line in self._read():
                        is_awaited = not take(line, self.lines_read) and is_awaited
                        last_move = time.monotonic()
                elif not ready and self._has_exited():
                    raise ProcessError(self._describe_end())
                if time.monotonic() - last_move > patience():
                    raise ProcessError(f"it has answered nothing for {patience():g} seconds and was ended")

    def _write(self, data: bytes) -> bytes | None:
        """Write ``data`` and return what is left; None where there is none, or the program reads no more."""
        try:
            return data[os.write(self._in, data) :] if data else None
        except BlockingIOError:
            return data
        except BrokenPipeError:  # what it wrote before is still read
            return None

    def _read(self) -> Iterator[bytes]:
        """Return the lines that are complete by now."""
        data = os.read(self._out, 1 << 16)
        if not data:
            raise ProcessError(self._describe_end() + (", in the middle of a line" if self._lines.rest else ""))
        return self._lines.feed(data)

    # ------------------------------------------------------------ ending

    def end(self) -> None:
        """Make it end: by the end of its input, else by SIGTERM, else by SIGKILL."""
        if self._ended or os.getpid() != self._owner:  # a fork of this process ends, and the program goes on
            return
        if self._program.stdin:
            self._program.stdin.close()
        if not self._wait(GRACE):
            self._signal(signal.SIGTERM)
            self._wait(GRACE)
        self.kill()

    def kill(self) -> int:
        """Kill it and its children; return its exit code, or minus the signal that ended it."""
        if not self._ended:
            # Before it is waited for: after that its id, and so the group's, may be another process's.
            self._signal(signal.SIGKILL)
            # One that is stuck in a driver does not end even so, and is left behind.
            with contextlib.suppress(subprocess.TimeoutExpired):
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

    def _has_exited(self) -> bool:
        """Return whether it has exited, without reaping it."""
        try:
            return os.waitid(os.P_PID, self._program.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True

    def _wait(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not self._has_exited():
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def _describe_end(self) -> str:
        """Return how it ended, and reap it."""
        if not self._wait(GRACE):
            return "it closed its output"
        code = self.kill()
        if code >= 0:
            return f"it ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
        memory = "; mostly that is the system, out of memory" if -code == signal.SIGKILL else ""
        return f"it was killed by signal {-code} ({name}{memory})"

    # ------------------------------------------------------------ standard error

    def _listen(self, pipe: IO[bytes]) -> None:
        with pipe:
            while data := os.read(pipe.fileno(), 1 << 16):
                self._stderr = (self._stderr + data)[-KEPT_BYTES:]

    def last_words(self) -> str:
        """Return the last lines of its standard error, one indented line each, without secrets; "" without any."""
        written = self._stderr.replace(b"\r", b"\n")
        if len(written) == KEPT_BYTES:  # its first line is cut off, and half a secret would not be known
            written = written.partition(b"\n")[2]
        text = redact(written.decode(errors="replace"), self.secrets)
        lines = ["".join(c if c.isprintable() else " " for c in line)[:500].rstrip() for line in text.split("\n")]
        return "".join(f"\n    {line}" for line in [line for line in lines if line][-SHOWN_LINES:])
