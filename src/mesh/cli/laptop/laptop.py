"""The mesh of ``mesh up``: started, watched over, ended, with nothing left behind."""

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TextIO

import grpc

from mesh.cli import words
from mesh.cli.client import Mesh, connect, failure_message
from mesh.cli.examples import EXAMPLES, Trained, missing_libraries
from mesh.cli.laptop import monitoring
from mesh.cli.laptop.catalog import CatalogModel, read_catalog
from mesh.cli.laptop.children import Child
from mesh.cli.laptop.plan import InstancePlan, Plan
from mesh.cli.laptop.progress import Progress
from mesh.cli.laptop.summary import reachable, summary
from mesh.cli.laptop.training import train_examples
from mesh.instance import Channels, EvictionSettings, Instance, LifecycleSettings, MetricsSettings, Settings
from mesh.instance.logs import configure
from mesh.protos import model_mesh_pb2
from mesh.registry import MemoryCluster, RegistryError, Store, open_store
from mesh.runtimes import RuntimeEndpoints, SpiRuntime

#: What the instances call their mesh.
SERVICE_NAME = "laptop"
#: How long handing models over to other meshes of the same registry may take, seconds.
DRAIN_GRACE_S = 5.0
#: How long etcd may take to answer at the start, seconds; an instance alone would wait for minutes.
ETCD_TIMEOUT_S = 10.0
#: How long a model server may take to end before it is killed, seconds.
CHILD_GRACE_S = 5.0
#: Registrations at once.
_REGISTRATIONS = 16
_REGISTER_TIMEOUT_S = 30.0


class LaptopError(Exception):
    """The mesh could not be started. The message tells why, with the remedy where there is one."""


@dataclass(frozen=True, slots=True)
class _Member:
    """An instance, and what has to be closed with it, itself included."""

    instance: Instance
    belongings: AsyncExitStack


@dataclass(slots=True)
class Laptop:
    """One mesh, from start to end. `run` does it all."""

    plan: Plan
    progress: Progress
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    _children: list[Child] = field(default_factory=list, init=False)
    _members: list[_Member] = field(default_factory=list, init=False)
    _keepers: list[asyncio.Task[None]] = field(default_factory=list, init=False)
    _stop: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def run(self) -> None:
        """Starts the mesh, and returns when SIGINT or SIGTERM has ended it; a second signal ends it at once.

        Raises:
            LaptopError: it could not be started. Nothing is left running.
            TrainingError: the example models could not be trained.
            CatalogError: the directory of models cannot be used.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        try:
            self.plan.temporary.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LaptopError(f"--state {self.plan.options.state} cannot be written: {error}") from None
        with self.plan.log.open("a", encoding="utf-8") as log:
            try:
                await self._until_stopped(log)
            finally:
                await self._end()

    async def _until_stopped(self, log: TextIO) -> None:
        stopped = asyncio.create_task(self._stop.wait())
        starting = asyncio.create_task(self._start(log))
        try:
            with self.progress.showing():
                await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                self.progress.show(summary(self.plan, starting.result()))
                await stopped
        finally:
            for task in (starting, stopped):
                task.cancel()
            await asyncio.gather(starting, stopped, return_exceptions=True)

    async def _start(self, log: TextIO) -> list[CatalogModel]:
        configure("INFO", log)
        if self.plan.options.etcd is not None:
            self.progress.under_way("etcd", "looking for etcd")
            await _check_etcd(self.plan.options.etcd)
            self.progress.done("etcd", f"registry in {self.plan.options.etcd}")
        cluster = MemoryCluster()
        total = len(self.plan.instances)
        ready = 0

        async def start_one(one: InstancePlan) -> None:
            nonlocal ready
            await self._start_instance(one, cluster)
            ready += 1
            self.progress.under_way("instances", f"instances {ready}/{total}")

        self.progress.under_way("instances", f"instances 0/{total}")
        try:
            async with asyncio.TaskGroup() as group:
                catalog = group.create_task(self._catalog())
                for one in self.plan.instances:
                    group.create_task(start_one(one))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        self.progress.done("instances", f"{words.count(total, 'instance')} with a model server each")
        models = catalog.result()
        await self._register(models)
        self._write_prometheus_config()
        return models

    def _write_prometheus_config(self) -> None:
        options = self.plan.options
        if options.prometheus_config is None:
            return
        try:
            monitoring.write(
                options.prometheus_config,
                monitoring.configuration(self.plan.instances, reachable(options.host)),
            )
        except OSError as error:
            raise LaptopError(
                f"--prometheus-config {options.prometheus_config} cannot be written: {error.strerror}"
            ) from None

    async def _catalog(self) -> list[CatalogModel]:
        if self.plan.options.models is not None:
            return read_catalog(self.plan.options.models)
        missing = missing_libraries()
        total = sum(example.model_type not in missing for example in EXAMPLES)
        trained = 0

        def tell(one: Trained) -> None:
            nonlocal trained
            trained += 1
            self.progress.under_way("examples", f"training example models {trained}/{total}: {one.model_id}")

        self.progress.under_way("examples", "looking for example models")
        await train_examples(self.plan.examples, self.environment, tell)
        models = read_catalog(self.plan.examples)
        how = "trained" if trained else "from an earlier run"
        self.progress.done("examples", f"{words.count(len(models), 'example model')}, {how}")
        for model_type, library in sorted(missing.items()):
            self.progress.tell(
                f"  none of type {model_type}: {library} is not installed "
                "(pip install 'model-mesh[examples]')",
                "yellow",
            )
        return models

    async def _start_instance(self, one: InstancePlan, cluster: MemoryCluster) -> None:
        child = Child(one.server)
        self._children.append(child)
        await child.start()
        member = await self._make_member(one, cluster)
        starting = asyncio.create_task(member.instance.start())
        ended = asyncio.create_task(child.ended())
        try:
            await asyncio.wait({starting, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                raise LaptopError(
                    f"the {one.server.name} ended before it was ready ({ended.result()}). "
                    f"The end of its log, {one.server.log}:\n{child.log_tail()}"
                )
            starting.result()
        finally:
            for task in (starting, ended):
                task.cancel()
            await asyncio.gather(starting, ended, return_exceptions=True)
        self._keepers.append(
            asyncio.create_task(child.keep_alive(lambda text: self.progress.tell(text, "yellow")))
        )

    async def _make_member(self, one: InstancePlan, cluster: MemoryCluster) -> _Member:
        async with AsyncExitStack() as stack:
            etcd = self.plan.options.etcd
            channels = await stack.enter_async_context(Channels())
            store: Store
            if etcd is None:
                store = cluster.client()
                stack.push_async_callback(store.close)
            else:
                store = await stack.enter_async_context(open_store(etcd, channels.open))
            endpoints = RuntimeEndpoints(management=(one.runtime_address,))
            runtime = SpiRuntime(endpoints, opener=channels.open)
            stack.push_async_callback(runtime.close)
            instance = Instance(self._settings(one), store, runtime, channels.open)
            stack.push_async_callback(instance.close)
            member = _Member(instance, stack.pop_all())
        self._members.append(member)
        return member

    def _settings(self, one: InstancePlan) -> Settings:
        return Settings(
            instance_id=one.instance_id,
            service_name=SERVICE_NAME,
            kv_store=self.plan.kv_store,
            address="127.0.0.1",
            location="127.0.0.1",
            host=self.plan.options.host,
            port=one.port,
            peer_port=0,
            probe_port=None,
            page_port=one.page_port,
            lifecycle=LifecycleSettings(prestop_port=None),
            # There are few models, and a person wants to see each.
            metrics=MetricsSettings(port=one.metrics_port, per_model=True),
            # A person who tries one model after the other is no churn to be guarded against.
            eviction=EvictionSettings(min_churn_age_ms=0),
            run_dir=str(self.plan.run),
            tracing=self.plan.tracing,
        )

    async def _register(self, models: list[CatalogModel]) -> None:
        limit = asyncio.Semaphore(_REGISTRATIONS)
        registered = 0
        address = self._members[0].instance.address

        async def register(mesh: Mesh, model: CatalogModel) -> None:
            nonlocal registered
            info = model_mesh_pb2.ModelInfo(type=model.model_type, path=str(model.path), key=model.key)
            async with limit:
                try:
                    await mesh.register(model.model_id, info, load=False, timeout_s=_REGISTER_TIMEOUT_S)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                        raise
                    self.progress.tell(
                        f"  {model.model_id} is in the registry with other attributes, and stays so "
                        f"(`mesh unregister {model.model_id}` removes it)",
                        "yellow",
                    )
            registered += 1
            self.progress.under_way("models", f"registering models {registered}/{len(models)}")

        self.progress.under_way("models", f"registering models 0/{len(models)}")
        async with connect(address) as mesh:
            try:
                await asyncio.gather(*(register(mesh, model) for model in models))
            except grpc.aio.AioRpcError as error:
                raise LaptopError(
                    f"models could not be registered: {failure_message(address, error)}"
                ) from None
        self.progress.done("models", f"{words.count(len(models), 'model')} registered")

    def _signalled(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            return
        for child in self._children:
            child.kill()
        self._clean()
        # Whatever the first signal did not end in time must not hold up the second one.
        os._exit(130)

    async def _end(self) -> None:
        """Ends instances first, so that requests under way are answered, then model servers."""
        if self._children:
            self.progress.tell("Ending; Ctrl-C again ends at once.")
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        results = await asyncio.gather(
            *(self._end_member(member) for member in self._members), return_exceptions=True
        )
        for member, result in zip(self._members, results, strict=True):
            if isinstance(result, BaseException):
                name = member.instance.settings.instance_id
                self.progress.tell(f"{name} did not end cleanly: {result!r}", "red")
        await asyncio.gather(*(child.stop(CHILD_GRACE_S) for child in self._children))
        self._clean()

    async def _end_member(self, member: _Member) -> None:
        # With a registry of its own the whole mesh ends: there is nobody to hand models over to.
        if self.plan.options.etcd is not None and member.instance.health.ready:
            with suppress(TimeoutError):
                await asyncio.wait_for(member.instance.drain(), DRAIN_GRACE_S)
        await member.belongings.aclose()

    def _clean(self) -> None:
        shutil.rmtree(self.plan.temporary, ignore_errors=True)
        for one in self.plan.instances:
            if one.server.stale is not None:
                one.server.stale.unlink(missing_ok=True)


async def _check_etcd(etcd: str) -> None:
    """Reads from it once.

    Raises:
        LaptopError: there is no such etcd, or it did not answer within `ETCD_TIMEOUT_S`.
    """
    try:
        async with asyncio.timeout(ETCD_TIMEOUT_S), open_store(etcd) as store:
            await store.read(SERVICE_NAME)
    except RegistryError as error:
        raise LaptopError(f"--etcd {etcd}: {error}") from None
    except TimeoutError:
        raise LaptopError(
            f"--etcd {etcd} did not answer within {ETCD_TIMEOUT_S:g} s: is it running?"
        ) from None
