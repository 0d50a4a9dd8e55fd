"""The places of storage that the puller knows, by the ``type`` of a storage configuration."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from mesh.puller.azure import open_azure
from mesh.puller.failure import Code, PullFailure
from mesh.puller.gcs import open_gcs
from mesh.puller.http import HttpProvider
from mesh.puller.hub import HubProvider
from mesh.puller.local import LocalProvider
from mesh.puller.oci import OciProvider
from mesh.puller.provider import Provider, ProviderFactory, Workshop
from mesh.puller.pvc import PvcProvider
from mesh.puller.s3 import open_s3

PROVIDERS: Mapping[str, ProviderFactory] = {
    "azure": open_azure,
    "gcs": open_gcs,
    "hf": HubProvider,
    "http": HttpProvider,
    "local": LocalProvider,
    "oci": OciProvider,
    "pvc": PvcProvider,
    "s3": open_s3,
}


ENTRY_POINTS = "mesh.storage"
"""Group of entry points by which installed packages add types; a name that is known here cannot be replaced."""


def open_provider(kind: str, config: Mapping[str, Any], workshop: Workshop) -> Provider:
    """Makes the provider of a type.

    Raises:
        PullFailure: INVALID_ARGUMENT, no such type or malformed fields; INTERNAL, an added one cannot be imported.
    """
    factory = PROVIDERS.get(kind) or _added(kind)
    if factory is None:
        known = sorted({*PROVIDERS, *(point.name for point in entry_points(group=ENTRY_POINTS))})
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            f"could not process pull command: no provider registered for repositories of type '{kind}'; "
            f"known types: {', '.join(known)}",
        )
    return factory(config, workshop)


@cache
def _added(kind: str) -> ProviderFactory | None:
    for point in entry_points(group=ENTRY_POINTS, name=kind):
        try:
            factory: ProviderFactory = point.load()
        except Exception as error:  # whatever a stranger's module does when it is imported
            raise PullFailure(
                Code.INTERNAL,
                f"the provider for type '{kind}', {point.value}, cannot be imported: {error!r}; mend its package",
            ) from error
        return factory
    return None
