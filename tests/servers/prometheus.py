"""A real Prometheus and its promtool, from the Debian package, unpacked without installing it."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.cache import Build, Recipe, require_program
from tests.servers.process import ServerProcess, free_port, http_ok

_REMEDY = "run these tests on Debian or Ubuntu"


def _build(build: Build) -> None:
    apt_get = require_program("apt-get", "Prometheus", _REMEDY)
    dpkg_deb = require_program("dpkg-deb", "Prometheus", _REMEDY)
    download = build.folder / "download"
    # Lists of one's own: those of the machine are root's, and a fresh one has none.
    own = ["-o", f"Dir::State::Lists={download / 'lists'}", "-o", f"Dir::Cache={download / 'cache'}"]
    for folder in ("lists/partial", "cache/archives/partial"):
        (download / folder).mkdir(parents=True)
    build.run(apt_get, "-q", *own, "update", cwd=download)
    build.run(apt_get, "-q", *own, "download", "prometheus", cwd=download)
    [package] = download.glob("prometheus_*.deb")
    build.run(dpkg_deb, "-x", package, download / "unpacked")
    for program in ("prometheus", "promtool"):
        (download / "unpacked/usr/bin" / program).rename(build.folder / program)
    build.run("rm", "-r", download)


def recipe() -> Recipe:
    """The release that this machine's Debian or Ubuntu has."""
    return Recipe("prometheus", "debian", [], "15 seconds, 33 MB", _build)


@dataclass(frozen=True)
class Target:
    """Something to be scraped.

    Attributes:
        address: ``host:port``; its path is ``/metrics``.
        labels: of all its series that do not have them already.
        job: that it belongs to.
    """

    address: str
    labels: Mapping[str, str]
    job: str = "mesh"


class QueryRefusedError(Exception):
    """Prometheus cannot make sense of a query; the message has the query and the reason."""


def configure(folder: Path, targets: Sequence[Target], rules: Sequence[Path] = ()) -> Path:
    """Writes a configuration that scrapes every half second and evaluates rules every second.

    Args:
        folder: That it goes to.
        targets: What is scraped.
        rules: Files of recording and alert rules.

    Returns:
        The file.
    """
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
        "rule_files": [str(file) for file in rules],
        "scrape_configs": [
            {
                "job_name": job,
                # As those have it who scrape what tells of other things than itself.
                "honor_labels": True,
                "static_configs": [
                    {"targets": [target.address], "labels": dict(target.labels)}
                    for target in targets
                    if target.job == job
                ],
            }
            for job in sorted({target.job for target in targets})
        ],
    }
    file = folder / "prometheus.yml"
    # YAML has JSON in it.
    file.write_text(json.dumps(config))
    return file


class PrometheusServer:
    """One Prometheus. Its methods block."""

    def __init__(self, program: Path, folder: Path, configuration: Path) -> None:
        """Prepares the server; nothing runs yet.

        Args:
            program: The folder that :func:`recipe` installs into.
            folder: For its data and log.
            configuration: The file.
        """
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        self.process = ServerProcess(
            "prometheus",
            [
                program / "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={folder / 'prometheus-data'}",
                "--enable-feature=exemplar-storage",
                f"--web.listen-address={self.endpoint.removeprefix('http://')}",
            ],
            folder / "prometheus.log",
        )

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self.process.start()
        self.process.wait_until(lambda: http_ok(f"{self.endpoint}/-/ready"))

    def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """The series of an instant query: labels and value of each.

        Raises:
            QueryRefusedError: The expression is none.
        """
        data = self._get("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    def exemplars(self, selector: str) -> list[Mapping[str, str]]:
        """The labels of exemplars of the last hour that the series have."""
        end = time.time()
        found = self._get("query_exemplars", query=selector, start=str(end - 3_600), end=str(end))
        return [exemplar["labels"] for series in found for exemplar in series["exemplars"]]

    def rules(self) -> list[Mapping[str, Any]]:
        """Recording and alert rules with their ``name``, ``query``, ``health`` and ``lastError``."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"{self.endpoint}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            reason = json.load(error).get("error", error.reason)
            raise QueryRefusedError(f"{parameters}: {reason}") from None


def promtool(program: Path, *arguments: str | Path, cwd: Path | None = None) -> str:
    """What promtool printed.

    Raises:
        AssertionError: It found something wrong; the message says what.
    """
    done = subprocess.run(
        [str(program / "promtool"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
