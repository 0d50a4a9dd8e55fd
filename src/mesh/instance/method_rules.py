"""Tells the data plane which methods clients may call, and where in their messages the model's id is."""

from collections.abc import Mapping
from typing import Any

from mesh.dataplane import DataPlane
from mesh.instance.mounted import MountedFile
from mesh.instance.settings import Settings
from mesh.instance.settings.methods import dataplane_config


class MethodRules:
    """The rules of ``MM_DATAPLANE_CONFIG``, or of the file that ``MM_DATAPLANE_CONFIG_PATH`` names.

    Without either every method may be called, and ids are in metadata.
    """

    def __init__(self, settings: Settings) -> None:
        self._config = settings.dataplane_config
        self._file = (
            MountedFile("MM_DATAPLANE_CONFIG_PATH", settings.dataplane_config_path, dataplane_config)
            if settings.dataplane_config_path
            else None
        )

    async def read(self) -> None:
        """Reads the file, where there is one.

        Raises:
            MountedFileError: it is not there or cannot be used.
        """
        if self._file is not None:
            self._config = await self._file.first()

    def apply(self, dataplane: DataPlane) -> None:
        """Makes the rules those of the data plane."""
        if self._config is not None:
            _apply(self._config, dataplane)

    async def follow(self, dataplane: DataPlane) -> None:
        """Applies the file whenever it changes, until cancelled; at once done where there is none."""
        if self._file is not None:
            await self._file.follow(lambda config: _apply(config, dataplane))

    @property
    def trouble(self) -> str:
        """Why the file as it is now is not in effect; empty where it is."""
        return "" if self._file is None else self._file.trouble


def _apply(config: Mapping[str, Any], dataplane: DataPlane) -> None:
    dataplane.set_rpcs(
        {
            method: (tuple(rpc.get("idExtractionPath") or ()), bool(rpc.get("vModelId", False)))
            for method, rpc in config.get("rpcConfigs", {}).items()
        },
        allow_other=bool(config.get("allowOtherRpcs", False)),
    )
