"""Keeps the data plane's aliases in step with the vmodels of the registry."""

from collections import defaultdict
from collections.abc import Iterable

from mesh.dataplane import DataPlane
from mesh.instance.peers import Peers
from mesh.instance.registration import Registration
from mesh.instance.routes import Routes
from mesh.instance.vmodels.records import vmodel_of
from mesh.placement.vmodels import VModel, ready, shares
from mesh.registry import Registry, VModelRecord


class Aliases:
    """Decides where requests for vmodels go, and sets it in the data plane.

    A canary answers requests, and a shadow gets copies of them, while it has a loaded copy: the requests of a vmodel
    are not to wait for the load of a model that is on trial. Instances would take a copy elsewhere to be loaded after
    the time that loads take; so whoever has loaded one of a model on trial says so in its record.
    """

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        dataplane: DataPlane,
        routes: Routes,
        peers: Peers,
        registration: Registration,
    ) -> None:
        self._instance_id = instance_id
        self._registration = registration
        self._registry = registry
        self._dataplane = dataplane
        self._routes = routes
        self._peers = peers
        self._on_trial: defaultdict[str, set[str]] = defaultdict(set)
        self._shared: dict[str, VModel] = {}
        #: Models on trial of which a copy is loaded here, and said to be.
        self._confirmed: set[str] = set()

    def start(self) -> None:
        """Makes aliases for what is there, and follows every change; routes must be followed before."""
        self._routes.on_refreshed(self._refreshed)
        self._registry.vmodels.subscribe(self._changed, replay=True)

    def _changed(self, vmodel_id: str, old: VModelRecord | None, new: VModelRecord | None) -> None:
        for model_id in _on_trial(old):
            self._on_trial[model_id].discard(vmodel_id)
            if not self._on_trial[model_id]:
                del self._on_trial[model_id]
                self._confirmed.discard(model_id)
        self._shared.pop(vmodel_id, None)
        if new is None or not new.active:
            self._dataplane.remove_alias(vmodel_id)
            return
        for model_id in _on_trial(new):
            self._on_trial[model_id].add(vmodel_id)
            self._confirm_copy_here(model_id)
        if old is not None and old.active != new.active == old.target:
            # It moved when its target was loaded: all of its copies take over, not the one that was loaded first.
            self._confirm_copies(new.active)
        self._set(vmodel_id, vmodel_of(new))

    def _confirm_copies(self, model_id: str) -> None:
        record = self._registry.models.get(model_id)
        for instance_id in () if record is None else record.copies:
            if (peer := self._peers.get(instance_id)) is not None:
                self._routes.note_loaded(model_id, peer)

    def _confirm_copy_here(self, model_id: str) -> None:
        if self._instance_id not in self._routes.usable(model_id).loaded:
            self._confirmed.discard(model_id)
        elif model_id not in self._confirmed:
            self._confirmed.add(model_id)
            self._registration.confirm_copy(model_id)

    def _refreshed(self, model_id: str) -> None:
        vmodels = self._on_trial.get(model_id)
        if vmodels is None:
            return
        self._confirm_copy_here(model_id)
        for vmodel_id in vmodels:
            if (record := self._registry.vmodels.get(vmodel_id)) is not None:
                self._set(vmodel_id, vmodel_of(record))

    def _set(self, vmodel_id: str, vmodel: VModel) -> None:
        shared = ready(vmodel, self._is_loaded)
        # To set it anew would start the turns of a split anew.
        if self._shared.get(vmodel_id) != shared:
            self._dataplane.set_alias(vmodel_id, *shares(shared))
        if vmodel.canary is not None or vmodel.shadow is not None:
            self._shared[vmodel_id] = shared

    def _is_loaded(self, model_id: str) -> bool:
        return bool(self._routes.usable(model_id).loaded)


def _on_trial(record: VModelRecord | None) -> Iterable[str]:
    if record is None or not (record.canary or record.shadow):
        return ()
    vmodel = vmodel_of(record)
    return {portion.model for portion in (vmodel.canary, vmodel.shadow) if portion is not None}
