"""Starts the controller, and ends it."""

import asyncio
import logging
import signal
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from mesh.controller.cluster import Cluster, ClusterError
from mesh.controller.configuration import InvalidConfiguration
from mesh.controller.controller import Controller, LeadershipLost
from mesh.controller.migration import Installation, read_installation
from mesh.controller.probes import QueueMetrics, serve_metrics, serve_probes
from mesh.controller.settings import ControllerSettings, InvalidSetting
from mesh.controller.webhook import SelfSigned, Webhook

_log = logging.getLogger(__name__)
#: Connections to the API server: one for each kind that is followed, and for calls.
_CONNECTIONS = 64


def run_controller(settings: ControllerSettings) -> str:
    """Runs the controller until SIGTERM or SIGINT.

    Returns:
        Why it ended by itself; "" where it was told to.
    """
    return asyncio.run(_run(settings))


class NoCluster(Exception):
    """There is no way to a Kubernetes API. The message says what to set."""


async def look_at_installation(
    controller_namespace: str, namespace: str, *, etcd_secret: str
) -> Installation:
    """Reads an installation of KServe ModelMesh by the kubeconfig in use.

    Raises:
        NoCluster: there is none.
        ClusterError: the cluster could not be read.
    """
    async with await _client() as client:
        return await read_installation(
            Cluster(client), controller_namespace, namespace, etcd_secret=etcd_secret
        )


async def _run(settings: ControllerSettings) -> str:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(await _client())
        except NoCluster as problem:
            return str(problem)
        controller = Controller(client, settings)
        for runner in (
            await serve_probes(settings.probe_address, lambda: controller.ready),
            await serve_metrics(
                settings.metrics_address, QueueMetrics(lambda: controller.queues, lambda: controller.leads)
            ),
        ):
            if runner is not None:
                stack.push_async_callback(runner.cleanup)
        tasks = [asyncio.create_task(controller.run(), name="controller")]
        if settings.webhook_port:
            tasks.append(asyncio.create_task(_serve_webhook(client, settings, controller), name="webhook"))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        ended = next((task for task in tasks if task.done()), None)
        for task in (*tasks, stopped):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        if ended is None:
            return ""
        result = results[tasks.index(ended)]
        return _told(result) if isinstance(result, BaseException) else f"the {ended.get_name()} ended"


async def _serve_webhook(client: ApiClient, settings: ControllerSettings, controller: Controller) -> None:
    """Serves the webhook until cancelled, with a certificate of the controller's own where none is given."""
    if settings.webhook_certificates is not None:
        await Webhook(
            settings.webhook_port, settings.webhook_certificates, lambda: controller.server_types
        ).run()
        return
    with tempfile.TemporaryDirectory(prefix="mesh-webhook-") as directory:
        own = SelfSigned(Cluster(client), settings.namespace, Path(directory))
        await own.prepare()
        async with asyncio.TaskGroup() as group:
            group.create_task(own.run())
            group.create_task(
                Webhook(settings.webhook_port, Path(directory), lambda: controller.server_types).run()
            )


async def _client() -> ApiClient:
    configuration = Configuration()
    configuration.connection_pool_maxsize = _CONNECTIONS
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        try:
            await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except config.ConfigException as problem:
            raise NoCluster(
                f"no way to the Kubernetes API: {problem}. In a cluster, give the pod a service account; else set "
                "KUBECONFIG"
            ) from problem
    return ApiClient(configuration)


def _told(problem: BaseException) -> str:
    while isinstance(problem, BaseExceptionGroup) and len(problem.exceptions) == 1:
        problem = problem.exceptions[0]
    match problem:
        case LeadershipLost():
            return "another controller leads, or the Lease could not be renewed"
        case InvalidSetting() | InvalidConfiguration() | ClusterError() | OSError():
            return str(problem)
    _log.error("the controller failed", exc_info=problem)
    return f"the controller failed: {problem!r}"
