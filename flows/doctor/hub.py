"""Whether models that settings name by a name on a hub can be had: from the cache, else from the hub itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from florence.redact import redact
from flows.doctor.check import Check, Status

TIMEOUT = 5.0
"""Seconds in which the hub has to answer."""


def check_hub_models(models: Sequence[tuple[str, str, str | None]]) -> Iterator[Check]:
    """Check for each (setting, name on the hub, revision) that the model can be had.

    A model in the cache is not asked about. Once the hub is not reached, it is not asked again.
    """
    unreached = ""
    for where, name, revision in models:
        if commit := find_cached_commit(name, revision):
            pin = "" if revision == commit else f", at commit {commit}; `revision` pins it"
            yield Check(where, "ok", f"{name}, in the hub's cache{pin}")
            continue
        status: Status = "warn"
        found = unreached
        if not unreached:
            status, found = ask_hub(name, revision)
        if status == "warn":
            unreached = found
        remedy = (
            "correct the name or revision, or ask its owner for access"
            if status == "fail"
            else "it will be downloaded at first use; offline, download it first"
        )
        yield Check(where, status, f"{name}, not in the hub's cache; {found}", remedy)


def find_cached_commit(name: str, revision: str | None) -> str:
    """Return the commit of a model in the hub's cache, "" where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else ""


def ask_hub(name: str, revision: str | None) -> tuple[Status, str]:
    """Return whether the hub has a model: ok, fail (it has not, or does not give it), or warn where it is not reached.

    The second value says what was found: commit and licence, or why not.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(name, revision=revision, timeout=TIMEOUT)
    except GatedRepoError:
        return "fail", "the hub gives it only to those who have accepted its terms"
    except RevisionNotFoundError:
        return "fail", f"the hub has no revision {revision!r} of it"
    except RepositoryNotFoundError:
        return "fail", "the hub has no such model, or it is private"
    except Exception as error:  # of whatever library makes the connection
        return "warn", f"the hub is not reached ({redact(str(error).splitlines()[0] if str(error) else repr(error))})"
    licences = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return "ok", f"the hub has it, at commit {info.sha}, licence {', '.join(licences) or 'not stated'}"
