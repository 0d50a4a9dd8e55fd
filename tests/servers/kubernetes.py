"""A real Kubernetes control plane on loopback: API server, controllers, scheduler, kubectl, fake nodes if asked for.

One Go program links the upstream packages; there is no kubelet and no container. With fake nodes every pod that is
scheduled becomes ready at once, with an address that nobody answers at.
"""

import json
import re
import secrets
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.servers.cache import Build, Recipe, require_program
from tests.servers.process import ServerProcess, free_port

_SOURCE = Path(__file__).with_name("kubernetes_server")
_VERSION_PACKAGE = "k8s.io/component-base/version"


def recipe() -> Recipe:
    """The control plane, of one release of Kubernetes."""
    sources = [(_SOURCE / name).read_text() for name in ("main.go", "go.mod", "go.sum")]
    found = re.search(r"^\tk8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)$", sources[1], re.MULTILINE)
    assert found, "go.mod does not say which Kubernetes it is"
    release, major, minor = found.groups()
    stamps = {"gitVersion": release, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    linking = " ".join(
        ["-s -w", *(f"-X {_VERSION_PACKAGE}.{name}={value}" for name, value in stamps.items())]
    )

    def build(build: Build) -> None:
        require_program("go", "the Kubernetes control plane", "install Go 1.26 or newer")
        build.run(
            "go",
            "build",
            "-buildvcs=false",
            "-trimpath",
            "-ldflags",
            linking,
            "-o",
            build.folder / "kuberig",
            ".",
            cwd=_SOURCE,
            env={"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
        )

    return Recipe("kubernetes", release.removeprefix("v"), [*sources, linking], "about 5 minutes", build)


class ApiRefusedError(Exception):
    """The API server refused; the message says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


class KubectlFailedError(Exception):
    """What kubectl says when it fails."""


class ControlPlane:
    """One cluster.

    Attributes:
        kubeconfig: for clients; its user may do everything.
        url: of the API server.
        etcd: address of the API server's own etcd, in which others may keep things under another prefix.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        """Chooses ports and makes certificates; nothing runs yet.

        Args:
            program: the folder that `recipe` installs into.
            folder: for data, logs and configuration; best on a RAM disk.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.program = program / "kuberig"
        self.kubeconfig = folder / "kubeconfig"
        self._port = free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self.etcd = f"http://127.0.0.1:{free_port()}"
        self._token = secrets.token_hex(16)
        self._processes: dict[str, ServerProcess] = {}
        self._make_files()
        self._context = ssl.create_default_context(cafile=str(folder / "ca.crt"))

    def start(self, *, fake_nodes: int = 0) -> None:
        """Starts everything and waits until pods can be made.

        Args:
            fake_nodes: on which pods are ready without running; 0 for none.
        """
        self._start_etcd()
        self.start_api_server()
        client: list[str | Path] = ["--kubeconfig", self.kubeconfig]
        local: list[str | Path] = [
            "--bind-address",
            "127.0.0.1",
            "--cert-dir",
            self._folder / "run",
            "--leader-elect=false",
        ]
        trusted = [f"--{kind}-kubeconfig={self.kubeconfig}" for kind in ("authentication", "authorization")]
        self._run(
            "controller-manager",
            *client,
            *local,
            *trusted,
            f"--secure-port={free_port()}",
            f"--service-account-private-key-file={self._folder / 'sa.key'}",
            f"--root-ca-file={self._folder / 'ca.crt'}",
            "--horizontal-pod-autoscaler-sync-period=2s",
            "--concurrent-deployment-syncs=2",
        )
        self._run("scheduler", *client, *local, *trusted, f"--secure-port={free_port()}")
        if fake_nodes:
            self._start_fake_nodes(fake_nodes)
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.until(lambda: self.find(account) is not None, "the default service account")

    def start_api_server(self) -> None:
        """Starts the API server alone, again after `stop_api_server`."""
        at = self._folder
        names = {"username": "User", "group": "Group"}
        self._run(
            "apiserver",
            f"--etcd-servers={self.etcd}",
            f"--secure-port={self._port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--tls-cert-file={at / 'api.crt'}",
            f"--tls-private-key-file={at / 'api.key'}",
            f"--client-ca-file={at / 'ca.crt'}",
            f"--token-auth-file={at / 'tokens.csv'}",
            f"--service-account-key-file={at / 'sa.key'}",
            f"--service-account-signing-key-file={at / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--requestheader-client-ca-file={at / 'proxy-ca.crt'}",
            f"--proxy-client-cert-file={at / 'proxy.crt'}",
            f"--proxy-client-key-file={at / 'proxy.key'}",
            "--requestheader-allowed-names=front-proxy",
            *(f"--requestheader-{name}-headers=X-Remote-{value}" for name, value in names.items()),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            f"--cert-dir={at / 'run'}",
            "--endpoint-reconciler-type=none",
            "--enable-priority-and-fairness=false",
        )
        self.until(lambda: self._status("/readyz") == 200, "the API server")

    def stop_api_server(self) -> None:
        """Kills the API server; everything else goes on without it."""
        self._processes.pop("apiserver").kill()

    def stop(self) -> None:
        """Ends everything."""
        for process in reversed(list(self._processes.values())):
            process.kill()
        self._processes.clear()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """Calls the API.

        Raises:
            ApiRefusedError: it refused.
        """
        data = None if body is None else json.dumps(body).encode()
        return json.loads(self._send(method, path, data, content_type) or b"{}")

    def read_text(self, path: str) -> str:
        """Reads what is no object, such as ``/metrics``.

        Raises:
            ApiRefusedError: it refused.
        """
        return self._send("GET", path, None, "").decode()

    def _send(self, method: str, path: str, data: bytes | None, content_type: str) -> bytes:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type}
        request = urllib.request.Request(self.url + path, method=method, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=20) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as refused:
            raise ApiRefusedError(refused.code, refused.read().decode(errors="replace")[:600]) from None

    def find(self, path: str) -> Any:
        """Reads an object; None where it is not there."""
        try:
            return self.call("GET", path)
        except ApiRefusedError as refused:
            if refused.status == 404:
                return None
            raise

    def kubectl(self, *arguments: str | Path, input_text: str = "") -> str:
        """Runs kubectl and returns what it prints.

        Raises:
            KubectlFailedError: it failed.
        """
        done = subprocess.run(
            [self.program, "kubectl", "--kubeconfig", self.kubeconfig, *arguments],
            input=input_text,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise KubectlFailedError(f"kubectl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def until(self, what: Callable[[], bool], named: str, within: float = 60.0) -> None:
        """Waits for something to be true of the cluster.

        Raises:
            TimeoutError: it is not.
            AssertionError: a process of the cluster ended.
        """
        deadline = time.monotonic() + within
        while True:
            for name, process in self._processes.items():
                assert process.running, f"{name} ended:\n{process.log_tail()}"
            try:
                if what():
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"{named}: not after {within:g} s")
            time.sleep(0.05)

    def _status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(self.url + path, context=self._context, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            return refused.code

    def _run(self, program: str, *arguments: str | Path) -> None:
        process = ServerProcess(
            program, [self.program, program, *arguments], self._folder / f"{program}.log", cwd=self._folder
        )
        process.start()
        self._processes[program] = process

    def _start_etcd(self) -> None:
        peers = f"http://127.0.0.1:{free_port()}"
        self._run(
            "etcd",
            "--name=rig",
            f"--data-dir={self._folder / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={self.etcd}",
            f"--advertise-client-urls={self.etcd}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=rig={peers}",
            "--log-level=warn",
        )

    def _start_fake_nodes(self, number: int) -> None:
        stages = self._folder / "stages.yaml"
        stages.write_bytes(
            subprocess.run([self.program, "kwok-stages"], check=True, capture_output=True).stdout
        )
        # Without leases of their own, nodes count as gone after 40 s.
        self._run(
            "kwok",
            f"--kubeconfig={self.kubeconfig}",
            f"--config={stages}",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=40",
            f"--server-address=127.0.0.1:{free_port()}",
        )
        for i in range(number):
            self.add_node(f"node-{i}", type="kwok")

    def add_node(self, name: str, **labels: str) -> None:
        """Adds a node with plenty of everything."""
        plenty = {"cpu": "64", "memory": "256Gi", "pods": "500"}
        known = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        self.call(
            "POST",
            "/api/v1/nodes",
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": known | labels},
                "status": {"capacity": plenty, "allocatable": plenty},
            },
        )

    def _make_files(self) -> None:
        at = self._folder
        until = datetime.now(UTC) + timedelta(days=7)
        authority, proxies = trustme.CA(), trustme.CA()
        server = authority.issue_cert(
            "localhost", "kubernetes.default.svc", "127.0.0.1", "10.96.0.1", not_after=until
        )
        proxy = proxies.issue_cert("front-proxy.local", common_name="front-proxy", not_after=until)
        authority.cert_pem.write_to_path(str(at / "ca.crt"))
        proxies.cert_pem.write_to_path(str(at / "proxy-ca.crt"))
        for name, leaf in (("api", server), ("proxy", proxy)):
            leaf.cert_chain_pems[0].write_to_path(str(at / f"{name}.crt"))
            leaf.private_key_pem.write_to_path(str(at / f"{name}.key"))
        signing = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        (at / "sa.key").write_bytes(signing)
        (at / "tokens.csv").write_text(f'{self._token},admin,admin,"system:masters"\n')
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "rig",
            "clusters": [
                {"name": "rig", "cluster": {"server": self.url, "certificate-authority": str(at / "ca.crt")}}
            ],
            "users": [{"name": "admin", "user": {"token": self._token}}],
            "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": "admin"}}],
        }
        self.kubeconfig.write_text(json.dumps(config))
