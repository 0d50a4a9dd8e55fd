"""A real browser without a screen: Debian's Chromium, driven by its DevTools protocol."""

import asyncio
import base64
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.servers.cache import Build, Recipe, ServerUnavailableError, require_program
from tests.servers.process import ServerProcess

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_REMEDY = "install it, on Debian with `apt-get install chromium` as root"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
#: How long a question to the browser may take, seconds.
_TIMEOUT_S = 20.0


def _found() -> Path | None:
    return next((Path(path) for name in _NAMES if (path := shutil.which(name))), None)


class _OfTheMachine(Recipe):
    """A program that is installed for the whole machine, since it is made of a hundred packages."""

    def is_installed(self) -> bool:
        return _found() is not None


def _build(build: Build) -> None:
    apt_get = require_program("apt-get", "Chromium", _REMEDY)
    if os.geteuid() != 0:
        raise ServerUnavailableError(f"Chromium is not installed: {_REMEDY}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    build.run(apt_get, "-q", "update", env=quiet)
    build.run(
        apt_get,
        "-q",
        "install",
        "--yes",
        "--no-install-recommends",
        "chromium",
        "fonts-dejavu-core",
        env=quiet,
    )


def recipe() -> Recipe:
    """What this machine has, or Debian's."""
    return _OfTheMachine("chromium", "debian", [], "40 seconds, 400 MB", _build)


def program() -> Path:
    """Where it is.

    Raises:
        ServerUnavailableError: it is not installed.
    """
    found = _found()
    if found is None:
        raise ServerUnavailableError(f"Chromium is not installed: {_REMEDY}")
    return found


@dataclass
class Tab:
    """A page that is open.

    Attributes:
        complaints: what the console said that is no mere note, and exceptions that nobody caught.
    """

    _socket: aiohttp.ClientWebSocketResponse
    complaints: list[str] = field(default_factory=list)
    _answers: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _number: int = 0

    async def listen(self) -> None:
        """Takes in what the browser says, until it ends."""
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                answer = self._answers.pop(said["id"])
                if not answer.done():
                    answer.set_result(said)
            else:
                self._note(said["method"], said["params"])

    def _note(self, method: str, told: Any) -> None:
        match method:
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in {"error", "warning", "assert"}:
                self.complaints.append(json.dumps(told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in {"error", "warning"}:
                self.complaints.append(json.dumps(told["entry"]))
            case "Page.javascriptDialogOpening":
                self.complaints.append(f"a dialog opened: {told['message']}")

    async def command(self, method: str, **parameters: Any) -> Any:
        """Has the browser do something; see the DevTools protocol."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        said = await asyncio.wait_for(answer, _TIMEOUT_S)
        assert "error" not in said, f"{method}: {said['error']}"
        return said["result"]

    async def run(self, expression: str) -> Any:
        """The value of an expression in the page, awaited."""
        said = await self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in said, f"{expression}: {said['exceptionDetails']}"
        return said["result"].get("value")

    async def until(self, expression: str, within_s: float = _TIMEOUT_S) -> Any:
        """Waits until an expression in the page is true, and returns its value."""
        try:
            async with asyncio.timeout(within_s):
                # An element is nothing outside the page, and its being there is what one waits for.
                while not (value := await self.run(f"({expression}) instanceof Node || ({expression})")):
                    await asyncio.sleep(0.05)
                return value
        except TimeoutError:
            shown = await self.run("document.body.innerText")
            raise AssertionError(
                f"not true in time: {expression}; complaints {self.complaints}; the page:\n{shown}"
            ) from None

    async def press(self, key: str) -> None:
        """Presses and lets go a key, by its name or character."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = {
            "Enter": 13,
            "Escape": 27,
            "Tab": 9,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
        }
        number = {"windowsVirtualKeyCode": code[key]} if key in code else {}
        await self.command("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **number)
        await self.command("Input.dispatchKeyEvent", type="keyUp", key=key, **number)

    async def type(self, text: str) -> None:
        """Types into what has the focus."""
        await self.command("Input.insertText", text=text)

    async def look(self, *, dark: bool = False, width: int = 1280, height: int = 800) -> None:
        """Sets the reader's taste and the size of the window, in pixels."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        calm = {"name": "prefers-reduced-motion", "value": "reduce"}
        await self.command("Emulation.setEmulatedMedia", features=[scheme, calm])
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def photograph(self, file: Path) -> None:
        """Writes what is in the window as a PNG."""
        shot = await self.command("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def open_tab(folder: Path, url: str) -> AsyncIterator[Tab]:
    """Starts a browser of its own that shows a page.

    Args:
        folder: for its profile and log.
        url: of the page.
    """
    profile = folder / "profile"
    profile.mkdir()
    process = ServerProcess(
        "chromium", [program(), *_FLAGS, f"--user-data-dir={profile}", "about:blank"], folder / "chromium.log"
    )
    process.start()
    listening: asyncio.Task[None] | None = None
    try:
        told = profile / "DevToolsActivePort"
        await asyncio.to_thread(
            process.wait_until, lambda: told.exists() and told.read_text().count("\n") > 0
        )
        endpoint = f"http://127.0.0.1:{told.read_text().split()[0]}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{endpoint}/json/list") as answer:
                address = next(one for one in await answer.json() if one["type"] == "page")
            async with session.ws_connect(address["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                listening = asyncio.create_task(tab.listen())
                for domain in ("Runtime", "Log", "Page"):
                    await tab.command(f"{domain}.enable")
                await tab.look()
                await tab.command("Page.navigate", url=url)
                yield tab
    finally:
        if listening is not None:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
        await asyncio.to_thread(process.kill)
