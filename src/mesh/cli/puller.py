"""``mesh puller``: the puller as a process of its own."""

import click


@click.command()
def puller() -> None:
    """Run the puller between a mesh and a model server, for pods that keep the containers apart.

    It serves mmesh.ModelRuntime on localhost, fetches a model's files before the model server loads them, and removes
    them after it was unloaded. Settings come from the environment, by the names that KServe ModelMesh's puller has:
    PORT (8084), MODEL_SERVER_ENDPOINT (port:8085), ROOT_MODEL_DIR (/models), STORAGE_CONFIG_DIR (/storage-config),
    PVC_MOUNTS_DIR (/pvc_mounts), LOG_LEVEL (debug); of our own MESH_LOCAL_MODEL_DIRS and MESH_KEPT_MODEL_BYTES.
    """
    import asyncio
    import os
    import signal

    from mesh.instance.logs import configure
    from mesh.pulling import StandalonePuller, StandaloneSettings
    from mesh.runtimes import RuntimeFailure

    async def run(settings: StandaloneSettings) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        process = StandalonePuller(settings)
        try:
            await process.start()
            await stop.wait()
        finally:
            await process.close()

    try:
        settings = StandaloneSettings.from_environment(os.environ)
        configure(settings.log_level)
        asyncio.run(run(settings))
    except (ValueError, RuntimeFailure, RuntimeError, OSError) as error:
        raise click.ClickException(str(error)) from None
