import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mesh.cli.laptop import children, tether
from mesh.cli.laptop.children import Child, ChildSpec, ending


def spec(tmp_path: Path, code: str, stale: Path | None = None) -> ChildSpec:
    return ChildSpec(
        name="the child",
        command=[sys.executable, "-c", code],
        environment=dict(os.environ),
        directory=tmp_path,
        log=tmp_path / "log",
        stale=stale,
    )


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def test_a_child_is_ended_with_what_it_started(tmp_path: Path) -> None:
    code = "import subprocess,time;print(subprocess.Popen(['sleep','1000']).pid,flush=True);time.sleep(1000)"
    child = Child(spec(tmp_path, code))
    await child.start()
    await eventually(child.log_tail)
    grandchild = int(child.log_tail())
    assert await child.stop(10)
    assert child.pid is not None
    assert not alive(child.pid)
    await eventually(lambda: not alive(grandchild))


async def test_a_child_that_does_not_end_is_killed(tmp_path: Path) -> None:
    code = "import signal,time;signal.signal(signal.SIGTERM,signal.SIG_IGN);print('deaf',flush=True);time.sleep(1000)"
    child = Child(spec(tmp_path, code))
    await child.start()
    await eventually(child.log_tail)
    assert not await child.stop(0.2)
    assert child.pid is not None
    assert not alive(child.pid)


async def test_a_child_that_ends_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "RESTART_DELAYS_S", (0.01,))
    stale = tmp_path / "socket"
    child = Child(spec(tmp_path, "import time;print('started',flush=True);time.sleep(1000)", stale))
    told: list[str] = []
    await child.start()
    keeper = asyncio.create_task(child.keep_alive(told.append))
    await eventually(child.log_tail)
    first = child.pid
    assert first is not None
    stale.touch()
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: child.log_tail().count("started") == 2)
    assert child.pid != first
    assert not stale.exists()
    assert told[0].startswith("the child ended (signal SIGKILL); starting it again")
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    assert await child.stop(10)


async def test_a_child_that_cannot_be_run_says_so_in_its_log(tmp_path: Path) -> None:
    child = Child(ChildSpec("x", ["/no/such/program"], {}, tmp_path, tmp_path / "log"))
    await child.start()
    assert await child.ended() == "exit status 1"
    assert "/no/such/program cannot be run" in child.log_tail()


async def test_a_child_never_started_is_stopped_at_once(tmp_path: Path) -> None:
    assert await Child(spec(tmp_path, "")).stop(0)


@pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel ends children with their parent on Linux only"
)
async def test_a_child_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    parent_code = (
        "import os,subprocess,sys,time;"
        f"child=subprocess.Popen([sys.executable,'-I','-S',{str(tether.__file__)!r},str(os.getpid()),'sleep','1000']);"
        "print(child.pid,flush=True);time.sleep(1000)"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent_code, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    await eventually(lambda: psutil.Process(child).name() == "sleep")
    parent.kill()
    await parent.wait()
    await eventually(lambda: not alive(child))


def test_endings_in_words() -> None:
    assert ending(3) == "exit status 3"
    assert ending(-9) == "signal SIGKILL"
    assert ending(-100) == "signal 100"
