"""Trains the example models once, in a process of its own, and keeps them for later runs."""

import asyncio
import fcntl
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from mesh.cli.examples import Trained, is_current
from mesh.cli.laptop.children import tethered

#: Between two looks whether another `mesh up` has finished training, seconds.
_LOCK_POLL_S = 0.2


class TrainingError(Exception):
    """The example models could not be trained. The message tells why."""


async def train_examples(
    directory: Path, environment: Mapping[str, str], tell: Callable[[Trained], None]
) -> None:
    """Sees to it that ``directory`` holds the example models; at once where an earlier run did.

    A process of its own keeps the training libraries' memory and threads out of the mesh, and can be ended.

    Args:
        directory: where they go; ``DIRECTORY.log`` and ``DIRECTORY.lock`` appear beside it.
        environment: of the training process.
        tell: called after each model.

    Raises:
        TrainingError: training failed, or scikit-learn is not installed.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    async with _locked(directory.with_suffix(".lock")):
        if is_current(directory):
            return
        log = directory.with_suffix(".log")
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *tethered([sys.executable, "-m", "mesh.cli.examples", str(directory)]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=dict(environment),
                start_new_session=True,
            )
        try:
            assert process.stdout is not None  # noqa: S101 - asked for above
            async for line in process.stdout:
                tell(Trained(**json.loads(line)))
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status != 0:
            raise TrainingError(_last_words(log) or f"training the example models ended with status {status}")


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Keeps two meshes from training into one directory."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(handle)


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
