"""What a pull holds in memory does not grow with what is pulled."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.servers.s3 import S3Server

_MIB = 1 << 20
_PULL = """
import asyncio, json, sys
from pathlib import Path
from mesh.puller import Puller, PullerSettings

def peak_kib():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

async def run(root, keys):
    puller = Puller(PullerSettings(root=Path(root)))
    await puller.purge()
    await puller.pull("small", "small", keys)
    before = peak_kib()
    await puller.pull("large", "large", keys)
    await puller.close()
    print(peak_kib() - before)

asyncio.run(run(*sys.argv[1:]))
"""


def test_a_large_object_takes_little_memory(tmp_path: Path, s3: S3Server) -> None:
    content = os.urandom(_MIB) * 320
    s3.put("models", {"small/a": b"x", "large/a": content})
    key = json.dumps({"storage_params": {**s3.storage_config(), "bucket": "models"}})
    root = tmp_path / "models"
    done = subprocess.run(
        [sys.executable, "-c", _PULL, str(root), key], stdout=subprocess.PIPE, check=True, timeout=120
    )
    assert (root / "large" / "large" / "a").read_bytes() == content
    # Several connections with buffers of their own, and never the object.
    assert int(done.stdout) < 96 * 1024
