"""A real Kafka broker that is its own controller (KRaft)."""

import shutil
import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.servers.cache import Build, Recipe, ServerUnavailableError, require_program
from tests.servers.process import ServerProcess, free_port, port_open
from tests.servers.tls import Certificates

_VERSION = "4.1.0"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{_VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""
_CLUSTER = "MkU3OEVBNTcwNTJENDM2Qk"
_JARS = "jars"
_FORMATTED = "formatted"


def recipe() -> Recipe:
    """Kafka and what it needs, by Maven; it runs on the machine's Java."""

    def build(build: Build) -> None:
        needed_by = "the Kafka broker of the tests"
        require_program("mvn", needed_by, "install maven")
        java = require_program("java", needed_by, "install a Java runtime of 17 or newer")
        said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
        version = said.partition('version "')[2].partition('"')[0]
        if not version.split(".")[0].isdecimal() or int(version.split(".")[0]) < 17:
            raise ServerUnavailableError(
                f"{needed_by} needs Java 17 or newer, and this is {version or said!r}"
            )
        (build.folder / "pom.xml").write_text(_POM)
        build.run(
            "mvn",
            "--batch-mode",
            "--quiet",
            "dependency:copy-dependencies",
            f"-DoutputDirectory={_JARS}",
            cwd=build.folder,
        )
        # What a broker begins with says nothing of its ports, so that it has to be made only once.
        settings = build.folder / "format.properties"
        _write(settings, build.folder / _FORMATTED, "127.0.0.1:1", "127.0.0.1:2")
        build.run(*_java(build.folder), "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", settings)

    return Recipe("kafka", _VERSION, [_POM, "static voters"], "about a minute", build)


class KafkaBroker:
    """One broker that makes topics, with one partition each, as they are first written to.

    Attributes:
        address: for everybody.
        safe_address: by TLS, for who proves by SASL PLAIN to be :attr:`user`.
    """

    user, password = "mesh", "mesh-secret"

    def __init__(self, program: Path, folder: Path, certificates: Certificates) -> None:
        """Prepares the broker; nothing runs yet.

        Args:
            program: The folder that :func:`recipe` installs into.
            folder: For records and log.
            certificates: Of the safe address.
        """
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self.safe_address = f"127.0.0.1:{free_port()}"
        settings = folder / "server.properties"
        shutil.copytree(program / _FORMATTED, folder / "records")
        self._controller = f"127.0.0.1:{free_port()}"
        _write(settings, folder / "records", self.address, self._controller)
        with settings.open("a") as file:
            file.write(self._safe(_keystore(folder, certificates)))
        self.process = ServerProcess(
            "kafka", [*_java(program), "kafka.Kafka", settings], folder / "kafka.log", cwd=folder
        )

    def _safe(self, keystore: Path) -> str:
        login = (
            "org.apache.kafka.common.security.plain.PlainLoginModule required "
            f'username="{self.user}" password="{self.password}" user_{self.user}="{self.password}";'
        )
        listeners = f"PLAINTEXT://{self.address},SASL_SSL://{self.safe_address}"
        return (
            f"listeners={listeners},CONTROLLER://{self._controller}\n"
            f"advertised.listeners={listeners}\n"
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT\n"
            "ssl.keystore.type=PEM\n"
            f"ssl.keystore.location={keystore}\n"
            "sasl.enabled.mechanisms=PLAIN\n"
            f"listener.name.sasl_ssl.plain.sasl.jaas.config={login}\n"
        )

    def start(self) -> None:
        """Starts the broker and waits until it takes connections."""
        self.process.start()
        self.process.wait_until(lambda: port_open(self._port), within=60)


def _keystore(folder: Path, certificates: Certificates) -> Path:
    key = load_pem_private_key(certificates.server_key.read_bytes(), None)
    path = folder / "keystore.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificates.server_cert.read_bytes()
    )
    return path


def _java(program: Path) -> list[str]:
    # It starts once and serves few requests.
    options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    return [
        "java",
        *options,
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        f"{program / _JARS}/*",
    ]


def _write(path: Path, records: Path, address: str, controller: str) -> None:
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"PLAINTEXT://{address},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{address}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(records),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
    }
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
