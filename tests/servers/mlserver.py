"""A real MLServer with its scikit-learn, XGBoost and LightGBM runtimes."""

from pathlib import Path

from tests.servers.cache import Build, Recipe, interpreter
from tests.servers.process import ServerProcess, free_port, http_ok

_VERSION = "1.7.1"
_REQUIREMENTS = Path(__file__).with_name("requirements") / "mlserver.txt"
_PYTHONS = ("3.11", "3.12")


def _build(build: Build) -> None:
    python = build.venv(interpreter(_PYTHONS, needed_by=f"MLServer {_VERSION}"))
    build.pip_install(python, "--no-deps", "--requirement", _REQUIREMENTS)


def recipe() -> Recipe:
    """MLServer in an environment of its own."""
    return Recipe("mlserver", _VERSION, [_REQUIREMENTS.read_text()], "2 minutes, 550 MB", _build)


class MLServer:
    """One MLServer that loads models on request only, as beside a mesh instance in a pod."""

    def __init__(self, program: Path, folder: Path) -> None:
        """Prepares the server; nothing runs yet.

        Args:
            program: The folder that :func:`recipe` installs into.
            folder: For its working files and log.
        """
        self.models = folder / "_mlserver_models"
        self.models.mkdir(parents=True)
        self.grpc_port = free_port()
        self.http_port = free_port()
        self.process = ServerProcess(
            "mlserver",
            [program / "venv/bin/mlserver", "start", self.models],
            folder / "mlserver.log",
            cwd=folder,
            env={
                "MLSERVER_MODELS_DIR": str(self.models),
                "MLSERVER_HOST": "127.0.0.1",
                "MLSERVER_GRPC_PORT": str(self.grpc_port),
                "MLSERVER_HTTP_PORT": str(self.http_port),
                "MLSERVER_METRICS_PORT": str(free_port()),
                "MLSERVER_LOAD_MODELS_AT_STARTUP": "false",
                # As KServe sets it: without a name, listing the models fails while there are none.
                "MLSERVER_MODEL_NAME": "dummy-model-fixme",
                "MLSERVER_GRPC_MAX_MESSAGE_LENGTH": "-1",
                # With workers, this release and uvloop 0.23 hang at the first load.
                "MLSERVER_PARALLEL_WORKERS": "0",
                "OMP_NUM_THREADS": "1",
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
        """Ends the server."""
        self.process.stop()

    def restart(self) -> None:
        """Kills the server, if it runs, and starts it again: it has forgotten its models."""
        if self.process.running:
            self.process.kill()
        self.start()
