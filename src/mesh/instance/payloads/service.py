"""What ``mesh payloads`` asks of an instance."""

from mesh.instance.calls import Rpc, service
from mesh.instance.payloads.control import Origin, Payloads
from mesh.instance.payloads.records import Processors
from mesh.payload import Named, Status, read_definition_text, without_secrets
from mesh.protos import payloads_pb2 as api

SERVICE = "mesh.admin.v1.Payloads"


class PayloadService:
    """The rpcs of ``mesh.admin.v1.Payloads``."""

    def __init__(self, instance_id: str, payloads: Payloads, processors: Processors) -> None:
        self._instance_id = instance_id
        self._payloads = payloads
        self._processors = processors

    def rpcs(self) -> dict[str, Rpc]:
        """The methods by their full names."""
        return service(
            SERVICE,
            {
                "List": Rpc(self._list, api.ListProcessorsRequest),
                "Set": Rpc(self._set, api.SetProcessorRequest),
                "Remove": Rpc(self._remove, api.RemoveProcessorRequest),
            },
        )

    async def _list(self, _: api.ListProcessorsRequest) -> api.ListProcessorsReply:
        statuses = self._payloads.statuses()
        return api.ListProcessorsReply(
            instance_id=self._instance_id,
            processors=[
                _processor(name, origin, named, statuses.get(name))
                for name, (origin, named) in sorted(self._payloads.wanted().items())
            ],
        )

    async def _set(self, request: api.SetProcessorRequest) -> api.SetProcessorReply:
        kept = await self._processors.set(request.name, request.definition)
        return api.SetProcessorReply(definition=without_secrets(read_definition_text(kept)).text())

    async def _remove(self, request: api.RemoveProcessorRequest) -> api.RemoveProcessorReply:
        await self._processors.remove(request.name)
        return api.RemoveProcessorReply()


def _processor(name: str, origin: Origin, named: Named, status: Status | None) -> api.Processor:
    processor = api.Processor(
        name=name,
        origin=origin.value,
        definition=named.text if named.definition is None else without_secrets(named.definition).text(),
        trouble=named.trouble,
    )
    if status is not None:
        processor.trouble = status.trouble
        processor.working = status.working
        processor.waiting = status.waiting
        processor.in_flight = status.in_flight
        processor.delivered = status.delivered
        processor.lost.update(status.lost)
    return processor
