"""One instance of the mesh: joining, serving, leaving."""

import asyncio
import logging
from pathlib import Path

from mesh.instance.assembly import Parts, assemble, now_ms
from mesh.instance.background import Background
from mesh.instance.departure import HandOver, clean_records
from mesh.instance.dump import State, cache_state, data_plane_state, registry_state, settings_state
from mesh.instance.health import Health
from mesh.instance.joining import look_at_the_others, start_registry_and_runtime
from mesh.instance.loader import Loader
from mesh.instance.method_rules import MethodRules
from mesh.instance.metrics import Publication
from mesh.instance.page import Page
from mesh.instance.periodic import repeat
from mesh.instance.prestop import Prestop
from mesh.instance.probes import Probes
from mesh.instance.resumption import resume
from mesh.instance.settings import Settings
from mesh.instance.static_models import register_static
from mesh.instance.type_rules import TypeRules
from mesh.registry import Keys, Registry, RegistryError, Store
from mesh.runtimes import (
    ModelRuntime,
    OpenChannel,
    RuntimeFailure,
    RuntimeLost,
    RuntimeReturned,
)

log = logging.getLogger(__name__)

#: A new instance writes its first snapshot of the registry after so long, seconds.
SNAPSHOT_FIRST_AFTER_S = 5.0
#: Part of the shutdown budget kept for what follows the handing over, seconds; as KServe ModelMesh has it.
AFTER_HAND_OVER_S = 5.0
#: Between two watches of a model server, where the first broke off, seconds.
WATCH_AGAIN_S = 1.0
#: Between leaving the registry and refusing connections, seconds: peers and load balancers take notice in it.
LEAVE_PAUSE_S = 2.0


class Instance:
    """A mesh instance: started once, then drained or not, then closed.

    Args:
        settings: of the instance.
        store: of the registry; stays the caller's to close.
        runtime: the model server beside it, or None for a pure router; stays the caller's to close.
        open_channel: to other instances.

    Attributes:
        address: ``host:port`` for requests and the management API, once started.
        peer_address: ``host:port`` for other instances, once started.
        registry: as this instance mirrors it.
        health: whether clients should be sent here, and why not.
        page: that shows the mesh in a browser; None where it is off.
    """

    def __init__(
        self, settings: Settings, store: Store, runtime: ModelRuntime | None, open_channel: OpenChannel
    ) -> None:
        self.settings = settings
        self._open_channel = open_channel
        self.address = ""
        self.peer_address = ""
        self._runtime = runtime
        snapshot = settings.lifecycle.snapshot
        self.registry = Registry(
            store,
            Keys(settings.service_name, settings.kv_prefix),
            settings.instance_id,
            snapshot=Path(snapshot) if snapshot else None,
        )
        self._parts: Parts | None = None
        self.health = Health(settings.instance_id)
        self.rules = MethodRules(settings)
        self._type_rules = TypeRules(settings.placement)
        self._prestop: Prestop | None = None
        self._background = Background(self._broke_off)
        self._endpoints: list[Publication | Probes] = []
        self.page: Page | None = None

    @property
    def parts(self) -> Parts:
        """What the instance is made of, once it has been started; for tests and tools.

        Raises:
            RuntimeError: it has not.
        """
        if self._parts is None:
            raise RuntimeError("the instance has not been started")
        return self._parts

    async def start(self) -> None:
        """Joins the mesh; the instance serves when this returns.

        Raises:
            TimeoutError: the registry could not be read in time.
            InstanceIdTaken: another instance has this id and answers.
            MeshDisabled: the registry's config key ``disable`` is set.
            MountedFileError: a configuration file is not there or cannot be used.
            StaticModelRefused: a model that the settings list cannot be registered or loaded.
            RuntimeFailure: the model server failed or told impossible values.
            OSError: a port cannot be bound.
        """
        settings = self.settings
        if settings.probe_port is not None:
            self._endpoints.append(Probes(settings.host, settings.probe_port, lambda: self.health.reasons))
        if settings.lifecycle.prestop_port is not None:
            self._prestop = Prestop(settings.host, settings.lifecycle.prestop_port, 2 * self._budget_s)
        await self.rules.read()
        await self._type_rules.read()
        parameters = await start_registry_and_runtime(settings, self.registry, self._runtime)
        self.health.follow(self.registry.instances)
        await look_at_the_others(settings, self.registry, self._open_channel)
        parts = self._parts = assemble(
            settings,
            self.registry,
            self._runtime,
            parameters,
            lambda: self.peer_address,
            self._open_channel,
            self.health,
            self._state,
        )
        self.rules.apply(parts.dataplane)
        self._type_rules.apply(parts.candidates, parts.self_view)
        # Peers ask for loads as soon as they see this instance: by then it must know them and what it has.
        parts.routes.start()
        parts.vmodels.start()
        parts.candidates.start()
        parts.inbox.start()
        if parts.reconciliation is not None:
            parts.reconciliation.start()
        parts.copies.start()
        parts.dynamic.start()
        await parts.payloads.start()
        await parts.control.start(parts.dataplane)
        bound = parts.dataplane.listen(f"{settings.host}:{settings.peer_port}", peers=True)
        self.peer_address = f"{settings.address}:{bound.rpartition(':')[2]}"
        if self.registry.joined:
            await parts.publisher.publish()
        self._start_upkeep(parts)
        publication = Publication(settings, parts.collector)
        self._endpoints.append(publication)
        if (loop := publication.loop()) is not None:
            self._background.run("metrics", loop)
        if settings.page_port is not None:
            self.page = Page(settings.service_name, parts.admin)
            await self.page.start(settings.host, settings.page_port)
        await self._register_static_models(parts)
        self.address = parts.dataplane.listen(f"{settings.host}:{settings.port}", peers=False)
        self.health.serve()
        await parts.control.set_ready(self.health.ready)
        self._background.run("health service", self.health.keep_telling(parts.control))
        log.info("serving", extra={"address": self.address, "peer_address": self.peer_address})

    def _start_upkeep(self, parts: Parts) -> None:
        """Starts what goes on beside requests, for as long as the instance is there."""
        settings = self.settings
        run = self._background.run
        run("publisher", parts.publisher.run())
        if self._runtime is not None and parts.loader is not None:
            run("usage", parts.loader.keep_reading_usage())
            run("watch of the model server", self._keep_watching(self._runtime, parts, parts.loader))
            if not self.registry.joined:
                own_id = settings.instance_id
                run("resumption", resume(own_id, self.registry, parts.loader, parts.registration))
        if (snapshot := self.registry.snapshot) is not None:
            every_s = settings.lifecycle.snapshot_every_ms / 1_000
            first_s = min(SNAPSHOT_FIRST_AFTER_S, every_s)
            run("snapshot", repeat("the snapshot", every_s, snapshot.write, first_after_s=first_s))
        run("payload processors' file", parts.payloads.follow_file())
        run("request log", parts.request_log.run())
        if parts.recorder is not None:
            run("recorder", parts.recorder.run())
        if parts.tracing is not None:
            run("tracing", parts.tracing.run())
        run("method rules", self.rules.follow(parts.dataplane))
        run("type rules", self._type_rules.follow(parts.candidates, parts.self_view))
        for name, loop in parts.upkeep.loops():
            run(name, loop)
        for name, every_s, look in (*parts.copies.loops, *parts.vmodels.loops()):
            run(name, repeat(name, every_s, look))
        run("candidacy", self._stand_for_election())

    async def _register_static_models(self, parts: Parts) -> None:
        models = self.settings.registrations.models
        if not models:
            return
        if self.settings.lifecycle.read_only:
            log.info("static models are not registered in read-only mode")
        elif self.registry.joined:
            await register_static(models, parts.management)
        else:
            self._background.run("static models", self._register_once_joined(parts))

    async def _register_once_joined(self, parts: Parts) -> None:
        await self.registry.wait_joined()
        await register_static(self.settings.registrations.models, parts.management)

    async def _stand_for_election(self) -> None:
        try:
            await self.registry.election.stand()
        except RegistryError as error:
            # The registry remembers the candidacy and writes it as soon as it can.
            log.warning("not a candidate for leadership yet: %s", error)

    def _broke_off(self, task: str, error: BaseException) -> None:
        self.health.fail(task, f"background task {task} broke off: {error!r}; restart the instance")

    def _state(self) -> State:
        parts = self.parts
        suspects = set(parts.routes.suspects())
        return {
            "time_ms": now_ms(),
            "instance_id": self.settings.instance_id,
            "address": self.address,
            "peer_address": self.peer_address,
            "not_ready": self.health.reasons,
            "registry": registry_state(self.registry),
            "unwritten_records": parts.registration.unwritten,
            "cache": cache_state(parts.loader),
            "data_plane": data_plane_state(parts.dataplane),
            "peers": {
                peer.instance_id: {
                    "address": peer.address,
                    "suspect": peer.instance_id in suspects,
                }
                for peer in parts.peers
            },
            "background": self._background.states(),
            "files_not_in_effect": list(filter(None, (self.rules.trouble, self._type_rules.trouble))),
            "settings": settings_state(self.settings),
        }

    # What changes

    async def _watch_runtime(self, runtime: ModelRuntime, parts: Parts, loader: Loader) -> None:
        async for event in runtime.watch():
            match event:
                case RuntimeLost(reason=reason):
                    log.error("model server lost: %s", reason)
                    parts.self_view.runtime_up = False
                    loader.set_available(False)
                    loader.lost_all()
                case RuntimeReturned(parameters=now):
                    log.info(
                        "model server is back",
                        extra={"capacity_bytes": now.capacity_bytes, "version": now.version},
                    )
                    if parts.restarts is not None:
                        parts.restarts.returned(now)
                    parts.self_view.runtime_up = True
                    loader.set_available(True)
            parts.publisher.changed()

    async def _keep_watching(self, runtime: ModelRuntime, parts: Parts, loader: Loader) -> None:
        while True:
            try:
                await self._watch_runtime(runtime, parts, loader)
            except RuntimeFailure as failure:
                # It came back broken; it may be started once more.
                log.error("model server cannot be used: %s", failure)
            await asyncio.sleep(WATCH_AGAIN_S)

    # Leaving

    async def drain(self) -> None:
        """Leaves the mesh without failing a request: hands models over, then lets requests under way end.

        Takes at most ``shutdown_timeout_ms``, and a moment more for peers to take notice.
        """
        parts = self.parts
        log.info("leaving")
        parts.self_view.leaving = True
        if parts.loader is not None:
            parts.loader.stop_loading()
        await parts.publisher.publish()
        if parts.loader is not None and self._others_can_load():
            await self._hand_over(parts, parts.loader)
        self.health.leave()
        await parts.control.set_ready(False)
        if parts.loader is not None:
            await clean_records(parts.loader, parts.registration)
        await parts.publisher.withdraw()
        if self._others_can_load():
            await asyncio.sleep(LEAVE_PAUSE_S)
        parts.dataplane.start_drain()

    async def _hand_over(self, parts: Parts, loader: Loader) -> None:
        hand_over = HandOver(self.registry, loader, parts.placer, parts.registration, now_ms)
        try:
            async with asyncio.timeout(max(2.0, self._budget_s - AFTER_HAND_OVER_S)):
                await hand_over.run()
        except TimeoutError:
            log.warning("not all models were handed over in time")
        except Exception:
            # What is left to be done for the others must be done all the same.
            log.exception("handing over broke off")
        log.info("handed over", extra={"models": len(hand_over.handed_over)})

    @property
    def _budget_s(self) -> float:
        """For leaving, seconds; as KServe ModelMesh has it."""
        return self.settings.lifecycle.shutdown_timeout_ms / 1_000 + 1

    def _others_can_load(self) -> bool:
        return any(
            record.capacity and not record.shutting_down
            for instance_id, record in self.registry.instances.items()
            if instance_id != self.settings.instance_id
        )

    async def close(self) -> None:
        """Ends everything that `start` began; requests under way get a few seconds."""
        self.health.leave()
        if self._parts is not None:
            grace_ms = int(AFTER_HAND_OVER_S * 1_000)
            if not await asyncio.to_thread(self._parts.dataplane.close, grace_ms):
                log.warning("requests were cut off after %d ms", grace_ms)
            await self._parts.payloads.close()
        await self._background.close()
        if self.page is not None:
            await self.page.close()
        if self._parts is not None:
            await _close_parts(self._parts)
        for endpoint in self._endpoints:
            endpoint.close()
        await self.registry.close()
        if self._prestop is not None:
            await asyncio.to_thread(self._prestop.close)


async def _close_parts(parts: Parts) -> None:
    await parts.inbox.close()
    await parts.vmodels.close()
    await parts.copies.close()
    await parts.upkeep.close()
    await parts.catalog.close()
    await parts.placer.close()
    if parts.loader is not None:
        await parts.loader.close()
    await parts.registration.close()
    parts.routes.close()
    await parts.peers.close()
    await parts.control.close(0.5)
    if parts.tracing is not None:
        await parts.tracing.close()
