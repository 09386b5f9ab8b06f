"""The one command, `florence`. It acts on the workspace in the current folder, as git and dvc do.

Commands import what they need when they run: `florence --help` is quick.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from florence.garbage import relax_garbage_collection
from flows.cli import audit, data, loop, models, registry, stages, workspace
from flows.cli.context import CommandGroup
from flows.terminal import prepare_streams

GRACE = 20.0
"""Seconds that a stopped command has to end by itself."""

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 110},
)


def main() -> None:
    """Run the `florence` command."""
    _use_utf8()
    relax_garbage_collection()
    prepare_streams()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    # The bars and notices of these libraries are not for people who look at ours.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    app(prog_name="florence")


def _use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode where the locale is another: names of files are UTF-8."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, sys.orig_argv)


def _stop(number: int, _: object) -> None:
    """Stop; end the process after `GRACE` seconds. What is finished is kept, and nothing half-written is ever read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("\nstopping; what is finished is kept: the same command goes on from here", file=sys.stderr, flush=True)
    # Annotators in threads cannot be interrupted, and a shard of theirs may take long.
    timer = threading.Timer(GRACE, os._exit, [128 + number])
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"florence {installed_version('florence')}")
        raise typer.Exit


@app.callback()
def florence(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pictures in; a versioned data set and a promoted vision model out, round after round.

    Commands act on the workspace in the current folder: the one that holds params.yaml. Begin with

    \b
      florence init work
      cd work
      florence loop --images ~/Pictures --rounds 1
    """


for group in (workspace, loop, stages, data, audit, registry, models):
    app.registered_commands += group.commands.registered_commands
app.add_typer(data.review, name="review")
app.add_typer(registry.models, name="models")
