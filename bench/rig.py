"""The machine under the measurements: programs on chosen cores, and what the machine is."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from tests.servers.process import ServerProcess, free_port

HERE = Path(__file__).parent
ROOT = HERE.parent
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass
class Rig:
    """Starts programs, each on one core, and ends them all when it is left."""

    #: For logs, sockets and configuration of the programs.
    directory: Path
    #: Of what is measured; the rest has the other one.
    proxy_core: int
    load_core: int
    #: Niceness of everything that takes part in a measurement; below 0 it goes before other programs.
    niceness: int = 0
    _stack: ExitStack = field(default_factory=ExitStack)
    _started: int = 0

    def __enter__(self) -> Self:
        """Makes a directory of this run's own."""
        self.directory /= f"{time.strftime('%H%M%S')}-{os.getpid()}"
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what was started, the latest first."""
        self._stack.close()

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        core: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> ServerProcess:
        """Starts a program on one core, or on any where none is given; it need not be ready yet."""
        self._started += 1
        process = ServerProcess(
            name,
            [*self.placed(core), *command],
            self.directory / f"{self._started:02}-{name}.log",
            env=env,
            cwd=ROOT,
        )
        process.start()
        self.favour(process.pid)
        self._stack.callback(process.stop)
        return process

    @staticmethod
    def placed(core: int | None) -> list[str]:
        """What goes before a command to run it on one core."""
        return [] if core is None else ["taskset", "--cpu-list", str(core)]

    def favour(self, pid: int) -> None:
        """Gives a process the niceness of this rig; its threads and children to come inherit it."""
        if self.niceness:
            os.setpriority(os.PRIO_PROCESS, pid, self.niceness)
            # Where the kernel groups processes by session, niceness counts only inside the group.
            if (group := Path(f"/proc/{pid}/autogroup")).exists():
                group.write_text(str(self.niceness))

    def on_exit(self, end: Callable[[], object]) -> None:
        """Has something else ended when the rig is left."""
        self._stack.callback(end)

    def memory_directory(self) -> Path:
        """A folder on a disk in memory, where the machine has one, that goes with the rig."""
        shared_memory = Path("/dev/shm")
        parent = shared_memory if shared_memory.is_dir() else None
        return Path(self._stack.enter_context(TemporaryDirectory(prefix="mesh-bench-", dir=parent)))

    def python(
        self, name: str, module: str, *arguments: str, core: int | None, env: Mapping[str, str] | None = None
    ) -> ServerProcess:
        """Starts a Python module of this repository on one core."""
        return self.start(name, [sys.executable, "-m", module, *arguments], core=core, env=env)


def build_tools() -> Path:
    """Builds the Rust programs.

    Returns: the folder that has them.
    """
    manifest = HERE / "Cargo.toml"
    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "--locked", "--manifest-path", manifest], check=True
    )
    return HERE / "target" / "release"


def move(pid: int, core: int) -> None:
    """Puts every thread of a process on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def free_address() -> str:
    """A free address of loopback."""
    return f"127.0.0.1:{free_port()}"


def machine_busy_seconds() -> float:
    """CPU seconds that the whole machine spent busy since it was started, stolen time included."""
    fields = [int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, waiting = fields[3:5]
    return (sum(fields) - idle - waiting) / TICKS_PER_SECOND


def cpu_seconds(pid: int) -> float:
    """User and system CPU seconds of a process with its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def wait_for_quiet(limit: float, patience: float) -> None:
    """Waits until the machine's CPUs are busy for at most a share ``limit`` of a quarter second.

    Goes on after ``patience`` seconds all the same: the share of foreign CPU is reported with every figure.
    """
    deadline = time.monotonic() + patience
    cores = os.cpu_count() or 1
    while time.monotonic() < deadline:
        busy, begun = machine_busy_seconds(), time.monotonic()
        time.sleep(0.25)
        if (machine_busy_seconds() - busy) / (time.monotonic() - begun) / cores <= limit:
            return


def describe_machine() -> dict[str, str]:
    """What a reader needs to know to compare the figures with others."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_kb = int(Path("/proc/meminfo").read_text().split(maxsplit=2)[1])
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": f"{os.cpu_count()} x {cpu}",
        "memory": f"{memory_kb / 2**20:.0f} GiB",
        "system": f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}",
        "python": platform.python_version(),
    }


def program(name: str, variable: str) -> Path | None:
    """Finds a program by an environment variable, beside this Python, or on the PATH."""
    if path := os.environ.get(variable):
        return Path(path)
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    return Path(found) if found else None


def add_rig_options(parser: argparse.ArgumentParser) -> None:
    """Options that both runners have."""
    parser.add_argument("--directory", type=Path, default=Path("/tmp/mesh-bench"), help="logs and sockets")
    parser.add_argument("--output", type=Path, help="JSON file; a .md file is written beside it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measured window")
    parser.add_argument("--quiet", type=float, default=0.1, help="share of foreign CPU at which to measure")
    parser.add_argument("--patience", type=float, default=5.0, help="longest wait for that, in seconds")
    parser.add_argument("--niceness", type=int, default=0, help="of what takes part; below 0 needs root")
    parser.add_argument("--proxy-core", type=int, default=1)
    parser.add_argument("--load-core", type=int, default=0)


def rig_of(settings: argparse.Namespace) -> Rig:
    """The rig that the options describe."""
    rig = Rig(settings.directory, settings.proxy_core, settings.load_core, settings.niceness)
    rig.favour(os.getpid())
    return rig
