"""Models in Azure Blob Storage; type ``azure``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError
from obstore.store import AzureStore

from mesh.puller.clients import address, client_options, retry_config, switch, unopened, whole_name
from mesh.puller.failure import Code, PullFailure
from mesh.puller.object_errors import Errors
from mesh.puller.objects import ObjectProvider
from mesh.puller.provider import Workshop, optional, required

if TYPE_CHECKING:
    from obstore.store import AzureConfig

_PRINCIPAL = ("client_id", "client_secret", "tenant_id")


def open_azure(config: Mapping[str, Any], workshop: Workshop) -> ObjectProvider:
    """Opens a container.

    A ``connection_string`` goes before a service principal (``client_id``, ``client_secret``, ``tenant_id``);
    without either, and unless ``default_credentials`` asks for those of the surroundings (workload identity, managed
    identity), nothing is signed, as KServe ModelMesh has it.

    Args:
        config: ``container`` and, unless the connection string names it, ``account_name``; optional are the above,
            ``endpoint_url`` (empty: that of Azure), ``authority_host`` (who gives a service principal its tokens, in
            clouds of their own) and ``certificate``, authorities to trust besides the system's, as PEM.
        workshop: of the puller.

    Raises:
        PullFailure: INVALID_ARGUMENT, naming the field.
    """
    container = whole_name("azure", "container", required(config, "azure", "container"))
    connection = _connection(optional(config, "connection_string"))
    endpoint = address(connection or config, "azure", "endpoint_url", "https://blobs.example:10000/account")
    account = connection.get("account_name", "") or required(config, "azure", "account_name")
    certificate = optional(config, "certificate")
    place = f"container '{container}' of account '{account}'" + (f" at {endpoint}" if endpoint else "")
    fields: AzureConfig = {"account_name": account}
    if endpoint:
        fields["endpoint"] = endpoint
    secrets: tuple[str, ...] = ()
    if key := connection.get("account_key"):
        fields["account_key"], secrets = key, (key,)
    elif token := connection.get("sas_key"):
        fields["sas_key"], secrets = token, (token,)
    elif any(optional(config, name) for name in _PRINCIPAL):
        client_id, secret, tenant = (required(config, "azure", name) for name in _PRINCIPAL)
        fields["client_id"], fields["client_secret"], fields["tenant_id"] = client_id, secret, tenant
        secrets = (secret,)
        if authority := address(config, "azure", "authority_host", "https://login.chinacloudapi.cn"):
            fields["authority_host"] = authority
    elif not switch(config, "azure", "default_credentials", default=False):
        fields["skip_signature"] = True
    try:
        store = AzureStore(
            container,
            config=fields,
            client_options=client_options(
                workshop.settings, allow_http=endpoint.startswith("http://"), certificate=certificate
            ),
            retry_config=retry_config(workshop.settings),
        )
    except (BaseError, ValueError) as error:
        raise unopened(place, error, certificate) from None
    return ObjectProvider(store, Errors(place, secrets), workshop)


def _connection(text: str) -> dict[str, str]:
    """Takes a connection string apart: ``Name=value`` pairs with semicolons between them.

    Raises:
        PullFailure: INVALID_ARGUMENT, it holds no account or no way to prove who asks.
    """
    if not text:
        return {}
    parts = dict(pair.strip().partition("=")[::2] for pair in text.split(";") if "=" in pair)
    found = {
        "account_name": parts.get("AccountName", ""),
        "account_key": parts.get("AccountKey", ""),
        "sas_key": parts.get("SharedAccessSignature", ""),
        "endpoint_url": parts.get("BlobEndpoint", ""),
    }
    if not found["endpoint_url"] and found["account_name"] and (suffix := parts.get("EndpointSuffix")):
        protocol = parts.get("DefaultEndpointsProtocol", "https")
        found["endpoint_url"] = f"{protocol}://{found['account_name']}.blob.{suffix}"
    if not (found["account_key"] or found["sas_key"]) or not (found["account_name"] or found["endpoint_url"]):
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            "storage of type 'azure' has a 'connection_string' that is none; it looks like "
            "AccountName=...;AccountKey=...;EndpointSuffix=core.windows.net",
        )
    return {name: value for name, value in found.items() if value}
