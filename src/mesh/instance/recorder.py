"""Writes down what was asked of the copies of one instance, for `mesh simulate`."""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path

from mesh.dataplane import Usage
from mesh.placement import UNIT_BYTES, CopyView
from mesh.runtimes import ModelInfo

log = logging.getLogger(__name__)

#: What was collected is written so often, seconds.
WRITE_EVERY_S = 5.0


class Recorder:
    """Collects usage and writes it to a file, a line for each batch of a model's requests.

    The first line is a JSON object with the format's name, its version and the instance. A model's object, with its
    type, size in bytes and the milliseconds that its load took, comes before its first use and again when one of them
    has changed. A use is a list: epoch milliseconds of the newest request, the model, how many requests, and the mean
    milliseconds that the model server took for each.

    Args:
        path: of the file; what is there is continued.
        copy_of: what is known of the copy of a model here.
    """

    def __init__(self, path: Path, instance_id: str, copy_of: Callable[[str], CopyView | None]) -> None:
        self._path = path
        self._copy_of = copy_of
        self._loads: dict[str, tuple[str, float]] = {}
        self._told: dict[str, dict[str, object]] = {}
        self._lines = [_line({"format": "mesh-usage", "version": 1, "instance": instance_id})]

    def loaded(self, model: ModelInfo, elapsed_ms: float) -> None:
        """A load took so many milliseconds."""
        self._loads[model.model_id] = (model.model_type, elapsed_ms)

    def note(self, usage: Usage) -> None:
        """Takes in what was asked of one copy."""
        if not usage.requests:
            return
        model_type, load_ms = self._loads.get(usage.model_id, ("", 0.0))
        copy = self._copy_of(usage.model_id)
        size_bytes = copy.units * UNIT_BYTES if copy is not None else 0
        told: dict[str, object] = {
            "model": usage.model_id,
            "type": model_type,
            "size_bytes": size_bytes,
            "load_ms": round(load_ms, 1),
        }
        if size_bytes and self._told.get(usage.model_id) != told:
            self._told[usage.model_id] = told
            self._lines.append(_line(told))
        mean_ms = usage.service_ms / usage.answers if usage.answers else 0.0
        self._lines.append(_line([usage.last_used_ms, usage.model_id, usage.requests, round(mean_ms, 3)]))

    async def run(self) -> None:
        """Writes until cancelled."""
        try:
            while True:
                await asyncio.sleep(WRITE_EVERY_S)
                await asyncio.to_thread(self.write)
        finally:
            self.write()

    def write(self) -> None:
        """Writes what was collected; what cannot be written is given up."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            log.warning("what was asked of copies is not recorded: %s", error)


def _line(value: object) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"
