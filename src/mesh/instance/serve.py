"""``mesh serve``: one instance from start to drain, as the process of a pod."""

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from mesh.instance import logs
from mesh.instance.channels import Channels
from mesh.instance.instance import Instance
from mesh.instance.settings import LifecycleSettings, Settings
from mesh.instance.unsupported import check_unsupported
from mesh.registry import open_store
from mesh.runtimes import ModelRuntime, OpenChannel, RuntimeEndpoints, SpiRuntime

log = logging.getLogger(__name__)


def run(environment: Mapping[str, str] = os.environ) -> None:
    """Runs the instance that the environment describes, on an event loop of its own.

    Raises:
        SettingError: a setting cannot be used.
        Exception: as `serve`. The text of either is left where Kubernetes looks for why a container ended.
    """
    try:
        uvloop.run(serve(Settings.from_environment(environment)))
    except Exception as error:
        _leave_termination_message(
            LifecycleSettings.termination_log_in(environment), str(error) or repr(error)
        )
        raise


async def serve(settings: Settings) -> None:
    """Runs an instance until SIGTERM or SIGINT, then drains it.

    A second signal ends it at once.

    Raises:
        Exception: whatever kept it from starting.
    """
    logs.configure(settings.log_level, instance=settings.instance_id)
    for warning in check_unsupported():
        log.warning(warning)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop_or_abort, stop)
    async with AsyncExitStack() as stack:
        channels = await stack.enter_async_context(Channels())
        store = await stack.enter_async_context(open_store(settings.kv_store, channels.open))
        runtime = make_runtime(settings, channels.open)
        if runtime is not None:
            stack.push_async_callback(runtime.close)
        instance = Instance(settings, store, runtime, channels.open)
        stack.push_async_callback(instance.close)
        start = asyncio.ensure_future(instance.start())
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait((start, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not start.done():
            start.cancel()
            return
        await start
        await stopped
        await instance.drain()
    log.info("stopped")


def _stop_or_abort(stop: asyncio.Event) -> None:
    if stop.is_set():
        os._exit(1)
    stop.set()


def _leave_termination_message(path: Path, message: str) -> None:
    if path.parent.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK):
        path.write_text(f"{message}\n", encoding="utf-8")


def make_runtime(settings: Settings, opener: OpenChannel) -> ModelRuntime | None:
    """The driver of the model server that the settings name, with channels of ``opener``; None for a pure router."""
    runtime: ModelRuntime
    match settings.adapter:
        case "none":
            return None
        case "mlserver":
            from mesh.runtimes.adapters import AdapterSettings, MLServerRuntime

            runtime = MLServerRuntime(AdapterSettings.from_environment(), opener)
        case "triton":
            from mesh.runtimes.adapters import AdapterSettings, TritonRuntime

            runtime = TritonRuntime(AdapterSettings.from_environment(), opener)
        case "ovms":
            from mesh.runtimes.adapters import OvmsRuntime, OvmsSettings

            runtime = OvmsRuntime(OvmsSettings.from_environment(), opener)
        case "torchserve":
            from mesh.runtimes.adapters import TorchServeRuntime, TorchServeSettings

            runtime = TorchServeRuntime(TorchServeSettings.from_environment(), opener)
        case _:
            runtime = SpiRuntime(RuntimeEndpoints.from_environment(os.environ), opener=opener)
    return _with_puller(runtime, settings) if settings.pull_models else runtime


def _with_puller(runtime: ModelRuntime, settings: Settings) -> ModelRuntime:
    from mesh.puller import Puller, PullerSettings
    from mesh.pulling import PullingRuntime

    storage = PullerSettings(
        root=Path(settings.models_dir),
        storage_config_dir=Path(settings.storage_config_dir),
        pvc_mounts_dir=Path(settings.pvc_mounts_dir),
        local_roots=tuple(Path(directory) for directory in settings.local_models_dirs),
        max_idle_bytes=settings.kept_model_bytes,
    )
    return PullingRuntime(runtime, Puller(storage))
