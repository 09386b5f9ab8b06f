"""Events about models: to Prefect, whose automations react to them, and to a webhook.

Names are ``florence.model.`` and one of promoted, rejected, waiting, approved, refused; and ``florence.loop.failed``.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from florence.errors import FlorenceError
from florence.records import digest
from florence.report.facts import RoundFacts
from flows.adapters.environment import redact_text
from flows.adapters.webhook import deliver_events, find_webhook, store_event
from flows.terminal import say
from flows.tracked import TrackedWorkspace

Kind = Literal["promoted", "rejected", "waiting", "approved", "refused", "failed"]
LONGEST_REASON = 2000
"""Characters."""


@dataclass(frozen=True, slots=True)
class LoopEvent:
    """Something that happened to a model or loop.

    ``id``: the same whenever the same thing is told again; ``event``: its name; ``resource``: the workspace; ``time``:
    UTC, ISO 8601; ``score``: mean of the model's primary score on held-out images, None where unknown.
    """

    id: str
    event: str
    resource: str
    workspace: str
    time: str
    loop_id: str
    version: str | None
    reason: str
    primary_task: str
    score: float | None


def resource_id(workspace: TrackedWorkspace) -> str:
    """Return the id of the workspace as a resource of events: the setting ``workspace``, else of name and folder."""
    settings = workspace.settings
    known = settings.workspace or digest([settings.tracking.model, str(workspace.root)])[:12]
    return f"florence.workspace.{known}"


def send_event(
    workspace: TrackedWorkspace,
    kind: Kind,
    loop_id: str,
    version: str | None,
    reason: str,
    facts: RoundFacts | None = None,
) -> None:
    """Tell Prefect and the webhook what happened. Never fails: what could not be told is a warning."""
    name = f"florence.loop.{kind}" if kind == "failed" else f"florence.model.{kind}"
    resource, task = resource_id(workspace), workspace.settings.promotion.primary_task
    same = uuid5(NAMESPACE_URL, "/".join((resource, loop_id, str(version), kind)))
    event = LoopEvent(
        id=str(uuid4() if kind == "failed" else same),
        event=name,
        resource=resource,
        workspace=workspace.root.name,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        loop_id=loop_id,
        version=version,
        reason=redact_text(reason)[:LONGEST_REASON],
        primary_task=task,
        score=_find_score(task, facts),
    )
    try:
        _emit(event)
    except Exception as error:  # whatever an events client raises: the loop does not depend on it
        say(f"warning: Prefect was not told of {name} ({type(error).__name__})")
    try:
        if (webhook := find_webhook(os.environ)) is None:
            return
        store_event(workspace.root, event.id, asdict(event))
        if fault := deliver_events(workspace.root, webhook):
            say(f"warning: the webhook has not taken {name}; it is sent again with the next event. {fault}")
    except (FlorenceError, OSError) as error:
        say(f"warning: the webhook was not told of {name}: {redact_text(str(error))}")


def _find_score(task: str, facts: RoundFacts | None) -> float | None:
    return next((score.value for score in facts.scores if score.task == task), None) if facts else None


def _emit(event: LoopEvent) -> None:
    """Emit the event, if there is a Prefect server; without one Prefect would start one."""
    if "PREFECT_API_URL" not in os.environ:
        return
    from prefect.events import emit_event

    emit_event(
        event.event,
        resource={"prefect.resource.id": event.resource, "prefect.resource.name": event.workspace},
        payload=asdict(event),
        id=UUID(event.id),
    )
