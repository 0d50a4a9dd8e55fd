"""The places of storage that the puller knows, by the ``type`` of a storage configuration."""

from collections.abc import Mapping
from typing import Any

from mesh.puller.azure import open_azure
from mesh.puller.failure import Code, PullFailure
from mesh.puller.gcs import open_gcs
from mesh.puller.local import LocalProvider
from mesh.puller.provider import Provider, ProviderFactory, Workshop
from mesh.puller.pvc import PvcProvider
from mesh.puller.s3 import open_s3

PROVIDERS: Mapping[str, ProviderFactory] = {
    "azure": open_azure,
    "gcs": open_gcs,
    "local": LocalProvider,
    "pvc": PvcProvider,
    "s3": open_s3,
}


def open_provider(kind: str, config: Mapping[str, Any], workshop: Workshop) -> Provider:
    """Makes the provider of a type.

    Raises:
        PullFailure: INVALID_ARGUMENT, no such type or malformed fields.
    """
    factory = PROVIDERS.get(kind)
    if factory is None:
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            f"could not process pull command: no provider registered for repositories of type '{kind}'; "
            f"known types: {', '.join(sorted(PROVIDERS))}",
        )
    return factory(config, workshop)
