"""`florence init` and `florence doctor`: a new workspace, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer()


@commands.command()
def init(folder: Annotated[Path, typer.Argument(help="A new folder, or one without a workspace.")]) -> None:
    """Make a workspace.

    That is params.yaml, dvc.yaml, expectations/, .gitignore, git and DVC.

    \b
    Example: florence init work
    """
    from flows.init import create_workspace

    created = create_workspace(folder)
    started = [name for name, is_new in (("git", created.git), ("DVC", created.dvc)) if is_new]
    print(f"{created.folder} is a workspace" + (f"; {' and '.join(started)} initialised" if started else ""))
    if created.unhidden:
        print(f"its .gitignore has lines against others, by which git would not hold {created.unhidden}")
    if created.uncommitted:
        print(f"{created.uncommitted}: `dvc exp run` needs a first commit, `git add .` and `git commit`")
    print(
        f"Next: cd {folder}, then florence loop --images DIR, or name sources in params.yaml; "
        "florence doctor checks what is there"
    )


@commands.command()
def doctor() -> None:
    """Look for faults, and say what to do about them.

    Checks versions, settings, stores, remotes, bucket permissions, disk, models and data. The exit code is 1 if a
    check fails.

    \b
    Example: florence doctor
    """
    from flows.doctor import check_workspace, format_checks

    checks = check_workspace(Path.cwd())
    print(format_checks(checks))
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)
