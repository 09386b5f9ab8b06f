"""`florence doctor`: check a workspace, and say what to do about each fault. Secrets are redacted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from florence.config import read_settings
from florence.errors import FlorenceError
from flows.adapters.environment import redact_text
from flows.doctor import folder, installation, mlflow, stores
from flows.doctor.check import Check

__all__ = ["Check", "check_workspace", "format_checks"]


def check_workspace(root: Path) -> list[Check]:
    """Return the results of all checks of the workspace in ``root``; each runs whatever the others found."""
    checks = [installation.check_python(), *installation.check_packages(), *folder.check_folder(root)]
    try:
        settings = read_settings(root / "params.yaml")
    except FlorenceError as error:
        return [
            *checks,
            Check("settings", "fail", str(error), "correct params.yaml; docs/settings.md lists every setting"),
        ]
    checks_of_settings: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("dvc.yaml", lambda: folder.check_sections(root)),
        ("plug-ins", lambda: folder.check_plugins(settings)),
        ("store", lambda: stores.check_store(settings, root)),
        ("sources", lambda: stores.check_buckets(settings)),
        ("DVC remote", lambda: stores.check_remote(root)),
        ("MLflow", lambda: mlflow.check_mlflow(settings, root)),
        ("Prefect", lambda: stores.check_prefect(root)),
        ("disk", lambda: folder.check_disk(root)),
        ("model", lambda: folder.check_model(settings, root)),
        ("labels", lambda: folder.check_labels(settings, root)),
        ("data", lambda: folder.check_data(settings, root)),
    ]
    for name, run in checks_of_settings:
        try:
            checks += run()
        except Exception as error:  # a check that fails itself is a fault too, and the others still run
            checks.append(Check(name, "fail", f"{type(error).__name__}: {redact_text(str(error))}"))
    return checks


def format_checks(checks: list[Check]) -> str:
    """Return the checks as aligned lines, each remedy beneath its fault."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:<4}  {check.name:<{width}}  {check.found}")
        if check.remedy and check.status != "ok":
            lines.append(f"{'':<4}  {'':<{width}}  → {check.remedy}")
    count = {status: sum(check.status == status for check in checks) for status in ("ok", "warn", "fail")}
    warnings = f"{count['warn']} warning{'s' * (count['warn'] != 1)}"
    return "\n".join([*lines, f"{count['ok']} ok, {warnings}, {count['fail']} failed"])
