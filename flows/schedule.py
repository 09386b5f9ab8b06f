"""The loop on a schedule, on one machine: `florence schedule`. For several machines see infra/."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from florence.config import read_settings
from florence.errors import SettingsError
from flows.adapters.prefect_server import prefect_api
from flows.terminal import say
from flows.tracked import PARENT

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

NAME = "florence"


def run_schedule(root: Path, verbose: bool = False) -> None:
    """Run the loop of the workspace in ``root`` on flow.cron until SIGTERM or Ctrl-C; raises KeyboardInterrupt then.

    The server cancels a run that is due while another one is at work. Without PREFECT_API_URL a server is started on
    loopback.
    """
    settings = read_settings(root / "params.yaml")
    with prefect_api(root, verbose=verbose, lasting=True) as url:
        from prefect.runner import Runner

        # Runs are processes of their own; they end when this one is killed.
        os.environ[PARENT] = str(os.getpid())
        try:
            deployment = build_deployment(root, settings.flow.cron)
        except ValueError:
            raise SettingsError(
                f"flow.cron: {settings.flow.cron!r} is no schedule; "
                "five fields as in '0 3 * * *' (every night at three) are expected"
            ) from None
        # The deployment's own limit refuses overlapping runs; one of the runner would keep them waiting instead.
        runner = Runner(pause_on_shutdown=True, limit=None)
        runner.add_deployment(deployment)
        say(
            f"Prefect: {url.removesuffix('/api')} (API {url})\n"
            f"the loop of {root} runs on {settings.flow.cron!r} (UTC); Ctrl-C stops it"
        )
        asyncio.run(_run(runner))


def build_deployment(root: Path, cron: str) -> RunnerDeployment:
    """Return the loop of ``root`` as a deployment: the one of infra/prefect.yaml, for this machine."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import EntrypointType

    from flows.refine import refine

    return refine.to_deployment(  # type: ignore[return-value]
        NAME,
        cron=cron,
        parameters={"root": str(root)},
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        entrypoint_type=EntrypointType.MODULE_PATH,
        description="Collect, annotate, fuse, validate, publish, train, score and promote what is new",
    )


async def _run(runner: Runner) -> None:
    """Run the runner until SIGTERM or Ctrl-C; its runs have stopped when this returns."""
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(runner.start())
    await asyncio.sleep(0)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        say("stopped")
