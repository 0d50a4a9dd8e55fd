"""The mesh's data plane without the mesh around it: fixed routes, no registry; asks are answered at once."""

import argparse
import asyncio
from collections.abc import Sequence

import uvloop

from mesh.dataplane import DataPlane, EndpointKind

NOT_FOUND = 5


async def serve(settings: argparse.Namespace) -> None:
    """Serves until the process is ended."""
    plane = DataPlane(per_model_metrics=settings.per_model_metrics)
    kind: EndpointKind = "peer" if settings.to_peer else "runtime"
    endpoint = plane.add_endpoint(settings.backend, kind, "backend")
    plane.set_routes([(f"{settings.model}{number}", [endpoint]) for number in range(settings.models)])
    plane.listen(settings.listen, peers=False)
    if settings.listen_peers:
        plane.listen(settings.listen_peers, peers=True)

    def decide() -> None:
        for ask in plane.take_events():
            if settings.resolve and ask.reason == "no_route":
                plane.set_route(ask.model_id, [endpoint])
                plane.answer_route(ask.token)
            else:
                plane.answer_status(ask.token, NOT_FOUND, f"{ask.reason}: {ask.model_id} {ask.message}")

    asyncio.get_running_loop().add_reader(plane.event_fd, decide)
    if settings.trace is None:
        await asyncio.Event().wait()
    plane.set_tracing(share=settings.trace, follow_parents=True)
    while True:
        await asyncio.sleep(0.5)
        plane.take_traces()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--listen-peers")
    parser.add_argument("--backend", required=True)
    parser.add_argument("--to-peer", action="store_true", help="the backend is another data plane")
    parser.add_argument("--model", default="m", help="prefix of the models' ids")
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--resolve", action="store_true", help="give models without a route one when asked")
    parser.add_argument("--per-model-metrics", action="store_true")
    parser.add_argument(
        "--trace", type=float, help="share of requests that are traced; nothing takes the traces further"
    )
    uvloop.run(serve(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
