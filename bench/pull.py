"""What it costs to pull models from an S3 server: mesh's puller beside boto3, without and with the AWS Common Runtime.

    python -m bench.pull [--rounds 3] [--large-mib 1024]

Each pull runs in a process of its own, subjects in turn, and another one first in each round. Wall time, CPU (user and
system) and the largest resident memory are those of that process; the server's are not counted.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
from tests.servers.s3 import S3Server
from tests.servers.s3 import recipe as s3_recipe

from bench.report import machine_lines, table
from bench.rig import describe_machine

BUCKET = "models"
SMALL_FILES, SMALL_BYTES = 2_000, 16 << 10
MODELS, MODEL_FILES, MODEL_FILE_BYTES = 20, 8, 4 << 20


@dataclass(frozen=True)
class Scenario:
    """What is pulled: paths in the bucket, all at once."""

    name: str
    paths: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True)
class Cost:
    """Of one pull."""

    wall_s: float
    cpu_s: float
    rss_mib: float


# What runs in the processes


def pull_by_mesh(server: dict[str, str], paths: Sequence[str], target: Path) -> None:
    """Through `mesh.puller.Puller`, all models at once."""
    import asyncio

    import uvloop

    from mesh.puller import Puller, PullerSettings

    async def run() -> None:
        puller = Puller(PullerSettings(root=target))
        await puller.purge()
        key = json.dumps({"storage_params": {**server, "bucket": BUCKET}})
        await asyncio.gather(*(puller.pull(path.replace("/", "-"), path, key) for path in paths))
        await puller.close()

    uvloop.run(run())


def _client(server: dict[str, str]) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=server["endpoint_url"],
        region_name=server["region"],
        aws_access_key_id=server["access_key_id"],
        aws_secret_access_key=server["secret_access_key"],
    )


def _listed(client: Any, paths: Sequence[str], target: Path) -> Iterator[tuple[str, Path]]:
    """The objects below the paths, and where each goes."""
    for path in paths:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=path):
            for found in page.get("Contents", ()):
                file = target / found["Key"]
                file.parent.mkdir(parents=True, exist_ok=True)
                yield found["Key"], file


def pull_by_boto3(server: dict[str, str], paths: Sequence[str], target: Path) -> None:
    """Through boto3's transfer manager with its defaults: ten threads, parts of 8 MiB; one manager for all files."""
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    client = _client(server)
    with create_transfer_manager(client, TransferConfig(preferred_transfer_client="classic")) as manager:
        futures = [manager.download(BUCKET, key, str(file)) for key, file in _listed(client, paths, target)]
        for future in futures:
            future.result()


def pull_by_crt(server: dict[str, str], paths: Sequence[str], target: Path) -> None:
    """Through the transfer manager that AWS writes in C, one for all files."""
    import awscrt.io
    from awscrt.auth import AwsCredentialsProvider
    from botocore.session import get_session
    from s3transfer.crt import BotocoreCRTRequestSerializer, CRTTransferManager, create_s3_crt_client

    session = get_session()
    session.set_credentials(server["access_key_id"], server["secret_access_key"])
    serializer = BotocoreCRTRequestSerializer(
        session, {"endpoint_url": server["endpoint_url"], "region_name": server["region"]}
    )
    provider = AwsCredentialsProvider.new_static(server["access_key_id"], server["secret_access_key"])
    awscrt.io.init_logging(awscrt.io.LogLevel.NoLogs, "stderr")
    client = create_s3_crt_client(server["region"], crt_credentials_provider=provider, use_ssl=False)
    with CRTTransferManager(client, serializer) as manager:
        files = _listed(_client(server), paths, target)
        futures = [manager.download(BUCKET, key, str(file)) for key, file in files]
        for future in futures:
            future.result()


SUBJECTS: dict[str, Callable[[dict[str, str], Sequence[str], Path], None]] = {
    "mesh": pull_by_mesh,
    "boto3": pull_by_boto3,
    "boto3 with CRT": pull_by_crt,
}


def one_pull(subject: str, told: str) -> None:
    """In a process of its own: pulls, checks, and prints what it cost."""
    task = json.loads(told)
    target = Path(task["target"])
    began = time.monotonic()
    SUBJECTS[subject](task["server"], task["paths"], target)
    wall_s = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    got = sum(file.stat().st_size for file in target.rglob("*") if file.is_file() and not _own(file))
    if got != task["size_bytes"]:
        raise SystemExit(f"{subject} brought {got} bytes instead of {task['size_bytes']}")
    print(json.dumps([wall_s, used.ru_utime + used.ru_stime, _peak_resident_mib()]))


def _peak_resident_mib() -> float:
    """Of this program alone; what getrusage tells is that of the parent before it became this program, where larger."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _own(file: Path) -> bool:
    """What the puller writes besides the models: markers, and its links to contents."""
    return any(part.startswith(".mesh") for part in file.parts)


# The run


def fill(server: S3Server, large_mib: int) -> list[Scenario]:
    """Uploads what is pulled."""
    small = {f"small/{number:05}": os.urandom(SMALL_BYTES) for number in range(SMALL_FILES)}
    models = {
        f"model-{model:02}/{file}": os.urandom(MODEL_FILE_BYTES)
        for model in range(MODELS)
        for file in range(MODEL_FILES)
    }
    server.put(BUCKET, small | models)
    store = server.store(BUCKET)
    block = os.urandom(1 << 20)
    obstore.put(store, "large/weights", (block for _ in range(large_mib)), chunk_size=16 << 20)
    names = tuple(f"model-{model:02}" for model in range(MODELS))
    return [
        Scenario(f"one object of {large_mib:,} MiB", ("large",), large_mib << 20),
        Scenario(f"{SMALL_FILES:,} objects of 16 KiB", ("small",), SMALL_FILES * SMALL_BYTES),
        Scenario(f"{MODELS} models of 8 x 4 MiB at once", names, MODELS * MODEL_FILES * MODEL_FILE_BYTES),
    ]


def measure(subject: str, scenario: Scenario, server: S3Server, folder: Path) -> Cost:
    """Pulls once."""
    target = folder / "target"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    # Whoever comes next would else wait for the disk to take what others have written.
    os.sync()
    told = json.dumps(
        {
            "server": server.storage_config(),
            "paths": scenario.paths,
            "target": str(target),
            "size_bytes": scenario.size_bytes,
        }
    )
    done = subprocess.run(
        [sys.executable, "-m", "bench.pull", "--subject", subject, "--task", told],
        stdout=subprocess.PIPE,
        check=True,
    )
    shutil.rmtree(target)
    return Cost(*json.loads(done.stdout))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large-mib", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="for objects and pulled files; default: the system's")
    parser.add_argument("--subject", choices=SUBJECTS, help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    settings = parser.parse_args(arguments)
    if settings.subject:
        one_pull(settings.subject, settings.task)
        return
    with tempfile.TemporaryDirectory(dir=settings.folder) as name:
        folder = Path(name)
        server = S3Server(s3_recipe().provision(print), folder / "s3")
        server.start()
        try:
            scenarios = fill(server, settings.large_mib)
            costs: dict[tuple[str, str], list[Cost]] = {}
            subjects = list(SUBJECTS)
            for round_number in range(settings.rounds):
                first = round_number % len(subjects)
                for scenario in scenarios:
                    for subject in subjects[first:] + subjects[:first]:
                        cost = measure(subject, scenario, server, folder)
                        costs.setdefault((scenario.name, subject), []).append(cost)
        finally:
            server.stop()
    print(machine_lines(describe_machine()), "\n")
    for scenario in scenarios:
        print(f"#### {scenario.name}\n\n{_table(scenario, costs)}\n")


def _table(scenario: Scenario, costs: dict[tuple[str, str], list[Cost]]) -> str:
    rows = []
    boto3_s = _median(costs[scenario.name, "boto3"], "wall_s")
    for subject in SUBJECTS:
        of_subject = costs[scenario.name, subject]
        wall_s = _median(of_subject, "wall_s")
        rows.append(
            [
                subject,
                f"{wall_s:.2f}",
                f"{scenario.size_bytes / wall_s / (1 << 20):,.0f}",
                f"{boto3_s / wall_s:.2f}",
                f"{_median(of_subject, 'cpu_s'):.2f}",
                f"{_median(of_subject, 'rss_mib'):,.0f}",
            ]
        )
    return table(["", "s", "MiB/s", "times as fast as boto3", "CPU s", "RSS MiB"], rows)


def _median(costs: Sequence[Cost], field: str) -> float:
    return statistics.median(float(getattr(cost, field)) for cost in costs)


if __name__ == "__main__":
    main()
