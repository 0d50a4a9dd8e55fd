"""Models in Google Cloud Storage; type ``gcs``."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError
from obstore.store import GCSStore

from mesh.puller.clients import address, client_options, retry_config, switch, unopened, whole_name
from mesh.puller.failure import Code, PullFailure
from mesh.puller.object_errors import Errors
from mesh.puller.objects import ObjectProvider
from mesh.puller.provider import Workshop, optional, required

if TYPE_CHECKING:
    from obstore.store import GCSConfig

_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address


def open_gcs(config: Mapping[str, Any], workshop: Workshop) -> ObjectProvider:
    """Opens a bucket.

    With ``private_key`` and ``client_email`` of a service account these are used; without, and unless
    ``default_credentials`` asks for those of the surroundings (a credentials file, workload identity), nothing is
    signed, as KServe ModelMesh has it.

    Args:
        config: ``bucket``; optional are the above, ``token_uri``, ``endpoint_url`` (empty: that of Google) and
            ``certificate``, authorities to trust besides the system's, as PEM.
        workshop: of the puller.

    Raises:
        PullFailure: INVALID_ARGUMENT, naming the field.
    """
    bucket = whole_name("gcs", "bucket", required(config, "gcs", "bucket"))
    endpoint = address(config, "gcs", "endpoint_url", "https://storage.example:4443")
    certificate = optional(config, "certificate")
    place = f"bucket '{bucket}'" + (f" at {endpoint}" if endpoint else "")
    account = _service_account(config)
    fields: GCSConfig = {}
    if endpoint:
        fields["base_url"] = endpoint
    if account is not None:
        fields["service_account_key"] = json.dumps(account)
    elif not switch(config, "gcs", "default_credentials", default=False):
        fields["skip_signature"] = True
    try:
        store = GCSStore(
            bucket,
            config=fields,
            client_options=client_options(
                workshop.settings, allow_http=endpoint.startswith("http://"), certificate=certificate
            ),
            retry_config=retry_config(workshop.settings),
        )
    except (BaseError, ValueError) as error:
        raise unopened(place, error, certificate) from None
    return ObjectProvider(store, Errors(place, (account["private_key"],) if account else ()), workshop)


def _service_account(config: Mapping[str, Any]) -> dict[str, str] | None:
    private_key, email = optional(config, "private_key"), optional(config, "client_email")
    if not private_key and not email:
        return None
    if not private_key or not email:
        missing = "client_email" if private_key else "private_key"
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            f"storage of type 'gcs' has a service account without '{missing}'; give both or neither",
        )
    return {
        "type": "service_account",
        "private_key": private_key,
        "private_key_id": optional(config, "private_key_id"),
        "client_email": email,
        "token_uri": optional(config, "token_uri") or _TOKEN_URI,
    }
