"""OpenVINO Model Server's REST API for its configuration, as its documentation describes it.

``GET /v1/config`` gives the state of every model; ``POST /v1/config/reload`` reads the file of models anew first, and
answers 201 with the same, or 400 with an ``error`` where a model could not be loaded.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp import web


class FakeOvms:
    """Loads a model when its version directory has a file; one that says ``corrupt`` cannot be loaded.

    Attributes:
        readings: names of the models in the file, at each reading.
        models: what is loaded, or failed: state by name.
        silent: answers nothing while it is set.
        slow: a reading waits for it.
    """

    def __init__(self, config_file: Path) -> None:
        self.config_file = config_file
        self.readings: list[list[str]] = []
        self.models: dict[str, Any] = {}
        self.silent = False
        self.slow = asyncio.Event()
        self.slow.set()
        self.reading = asyncio.Event()
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._ending = asyncio.Event()

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.add_routes([web.get("/v1/config", self._config), web.post("/v1/config/reload", self._reload)])
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self._ending.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _config(self, _request: web.Request) -> web.Response:
        if self.silent:
            await self._ending.wait()
        return web.json_response(self.models)

    async def _reload(self, _request: web.Request) -> web.Response:
        if self.silent:
            await self._ending.wait()
        listed = json.loads(self.config_file.read_bytes())["model_config_list"]
        self.readings.append([entry["config"]["name"] for entry in listed])
        self.reading.set()
        await self.slow.wait()
        self.models = {
            entry["config"]["name"]: self._load(Path(entry["config"]["base_path"])) for entry in listed
        }
        failed = [
            name
            for name, told in self.models.items()
            if told["model_version_status"][0]["state"] != "AVAILABLE"
        ]
        if failed:
            return web.json_response({"error": f"Reloading config failed: {failed}"}, status=400)
        return web.json_response(self.models, status=201)

    @staticmethod
    def _load(base: Path) -> dict[str, Any]:
        [version] = sorted(entry.name for entry in base.iterdir())
        files = [file for file in (base / version).resolve().iterdir() if file.is_file()]
        broken = any(b"corrupt" in file.read_bytes() for file in files)
        status = {
            "error_code": "UNKNOWN" if broken else "OK",
            "error_message": "cannot parse" if broken else "OK",
        }
        state = "LOADING" if broken else "AVAILABLE"
        return {"model_version_status": [{"version": version, "state": state, "status": status}]}
