"""A real Triton Inference Server on the CPU, with its Python backend and one for ONNX."""

import os
import shutil
import uuid
from pathlib import Path

from tests.servers.cache import Build, Recipe, interpreter
from tests.servers.process import ServerProcess, free_port, http_ok

_VERSION = "2.51.0"
_REQUIREMENTS = Path(__file__).with_name("requirements") / "triton.txt"
_ONNX_BACKEND = Path(__file__).with_name("triton_backend") / "model.py"
# The process in which the Python backend runs models is linked against one of these.
_PYTHONS = ("3.11", "3.12")
_LINK_LIBPYTHON = """
import ctypes.util, sys, sysconfig
from pathlib import Path
name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
folders = [Path(sysconfig.get_config_var("LIBDIR")), Path(sys.base_prefix, "lib")]
found = [folder / name for folder in folders if (folder / name).exists()]
if found:
    Path(sys.argv[1], name).symlink_to(found[0])
elif ctypes.util.find_library(name.removeprefix("lib").removesuffix(".so.1.0")) is None:
    sys.exit(
        f"{name} is in none of {[str(folder) for folder in folders]} and unknown to the linker: install a Python "
        "that was built with --enable-shared (Debian: apt install libpython3.11)"
    )
"""


def _build(build: Build) -> None:
    base = interpreter(_PYTHONS, needed_by=f"Triton {_VERSION}")
    libraries = build.folder / "lib"
    libraries.mkdir()
    build.run(base, "-c", _LINK_LIBPYTHON, libraries)
    python = build.venv(base)
    build.pip_install(python, "--no-deps", "--requirement", _REQUIREMENTS)
    [packages] = build.folder.glob("venv/lib/python*/site-packages")
    packed = packages / "pytriton/tritonserver"
    (build.folder / "tritonserver").symlink_to(packed / "bin/tritonserver")
    (build.folder / "nvidia-lib").symlink_to(packages / "nvidia_pytriton.libs")
    python_backend = build.folder / "backends/python"
    shutil.copytree(packed / "backends/python", python_backend)
    version = packages.parent.name.removeprefix("python")
    shutil.copy2(packed / "python_backend_stubs" / version / "triton_python_backend_stub", python_backend)
    onnx_backend = build.folder / "backends/onnxruntime"
    onnx_backend.mkdir()
    shutil.copy2(_ONNX_BACKEND, onnx_backend)


def recipe() -> Recipe:
    """Triton in an environment of its own."""
    inputs = [_REQUIREMENTS.read_text(), _ONNX_BACKEND.read_text(), _LINK_LIBPYTHON]
    return Recipe("triton", _VERSION, inputs, "1 minute, 330 MB", _build)


class TritonServer:
    """One Triton that loads models on request only, as beside a mesh instance in a pod.

    Backends: ``python`` and ``onnxruntime``.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        """Prepares the server; nothing runs yet.

        Args:
            program: The folder that :func:`recipe` installs into.
            folder: For its model repository and log.
        """
        self.models = folder / "_triton_models"
        self.models.mkdir(parents=True)
        self.grpc_port = free_port()
        self.http_port = free_port()
        self._shared_memory = f"mesh-test-{uuid.uuid4().hex[:8]}-"
        self.process = ServerProcess(
            "tritonserver",
            [
                program / "tritonserver",
                f"--model-repository={self.models}",
                f"--backend-directory={program / 'backends'}",
                f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
                "--grpc-address=127.0.0.1",
                f"--grpc-port={self.grpc_port}",
                "--http-address=127.0.0.1",
                f"--http-port={self.http_port}",
                "--allow-metrics=false",
                "--pinned-memory-pool-byte-size=0",
                "--exit-timeout-secs=3",
                # As KServe starts it.
                "--model-control-mode=explicit",
                "--strict-model-config=false",
                "--strict-readiness=false",
                "--allow-http=true",
                "--allow-sagemaker=false",
            ],
            folder / "triton.log",
            cwd=folder,
            env={
                "LD_LIBRARY_PATH": f"{program / 'nvidia-lib'}:{program / 'lib'}",
                # By the first `python3` of PATH the backend's processes find their packages.
                "PATH": f"{program / 'venv/bin'}:{os.environ['PATH']}",
            },
        )

    @property
    def endpoint(self) -> str:
        """The address of its gRPC services, as ``host:port``."""
        return f"127.0.0.1:{self.grpc_port}"

    def start(self) -> None:
        """Starts the server, the first time or again, and waits until it is ready."""
        self.process.start()
        self.process.wait_until(
            lambda: http_ok(f"http://127.0.0.1:{self.http_port}/v2/health/ready"), within=90
        )

    def stop(self) -> None:
        """Ends the server and removes what it shared with its models' processes."""
        self.process.stop()
        self._remove_shared_memory()

    def kill(self) -> None:
        """Ends the server and its models' processes as a crash would."""
        self.process.kill()
        self._remove_shared_memory()

    def restart(self) -> None:
        """Kills the server, if it runs, and starts it again: it has forgotten its models."""
        if self.process.running:
            self.kill()
        self.start()

    def _remove_shared_memory(self) -> None:
        for left in Path("/dev/shm").glob(f"*{self._shared_memory}*"):
            left.unlink()
