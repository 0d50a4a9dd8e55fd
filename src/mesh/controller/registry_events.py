"""Hears from a mesh's registry which predictors to look at: vmodels that changed, models that came."""

import base64
import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from mesh.controller.namespaces.etcd_secret import CONNECTION
from mesh.controller.predictors import Source
from mesh.registry import MODELS, VMODELS, Keys, Mirror, ModelRecord, Store, VModelRecord, open_store

_log = logging.getLogger(__name__)
#: ``MM_KVSTORE_PREFIX`` of meshes that the controller runs.
_PREFIX = "mm"
_MODEL_ID = re.compile(r"(?P<name>.+)__(?P<source>[a-z]+)-[0-9a-z]{10}")

#: Told of a predictor: the kind of its resource, and its name.
Hearer = Callable[[Source, str], None]


def predictor_of(model_id: str) -> tuple[Source, str] | None:
    """The predictor that a model's id belongs to; None for models that were registered otherwise."""
    found = _MODEL_ID.fullmatch(model_id)
    if found is None or found["source"] not in set(Source):
        return None
    return Source(found["source"]), found["name"]


class RegistryEvents:
    """Follows the registry of one namespace's mesh.

    Nothing depends on it but how soon users read of a change: resources that are on their way are looked at anyway.

    Args:
        secret: data of the namespace's Secret with the connection, in base64.
        service: name of the mesh.
        hear: is told of predictors.

    Raises:
        InvalidConnection: the Secret cannot be used.
    """

    def __init__(self, secret: Mapping[str, str], service: str, hear: Hearer) -> None:
        self._hear = hear
        # The connection may refer to other members of the Secret as files beside it.
        self._directory = tempfile.TemporaryDirectory(prefix="mesh-etcd-")
        for name, value in secret.items():
            file = Path(self._directory.name, name)
            file.touch(mode=0o600)
            file.write_bytes(base64.b64decode(value))
        self._store: Store = open_store(f"etcd:{Path(self._directory.name, CONNECTION)}")
        keys = Keys(service, _PREFIX)
        self._vmodels: Mirror[VModelRecord] = Mirror(self._store, keys.vmodels, VMODELS)
        self._models: Mirror[ModelRecord] = Mirror(self._store, keys.models, MODELS)

    def start(self) -> None:
        """Begins to follow."""
        self._vmodels.subscribe(self._vmodel_changed)
        self._models.subscribe(self._model_changed)
        self._vmodels.start()
        self._models.start()

    def tell_all(self) -> None:
        """Tells of all vmodels once more, so that those go whose resource went while no pod could be asked."""
        for vmodel_id, record in list(self._vmodels.items()):
            self._vmodel_changed(vmodel_id, None, record)

    async def close(self) -> None:
        """Ends it."""
        await self._vmodels.close()
        await self._models.close()
        await self._store.close()
        self._directory.cleanup()

    def _vmodel_changed(
        self, vmodel_id: str, before: VModelRecord | None, after: VModelRecord | None
    ) -> None:
        record = after or before
        owner = (record.owner if record else "") or Source.PREDICTOR
        if owner in set(Source):
            self._hear(Source(owner), vmodel_id)

    def _model_changed(self, model_id: str, before: ModelRecord | None, after: ModelRecord | None) -> None:
        if after is not None and (predictor := predictor_of(model_id)):
            self._hear(*predictor)
