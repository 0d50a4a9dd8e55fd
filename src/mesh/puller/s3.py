"""Models in S3 and what speaks its protocol; type ``s3``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError
from obstore.store import S3Store

from mesh.puller.clients import address, client_options, retry_config, switch, unopened, whole_name
from mesh.puller.failure import Code, PullFailure
from mesh.puller.object_errors import Errors
from mesh.puller.objects import ObjectProvider
from mesh.puller.provider import Workshop, optional, required

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Credential

_DEFAULT_REGION = "us-east-1"


def open_s3(config: Mapping[str, Any], workshop: Workshop) -> ObjectProvider:
    """Opens a bucket.

    With ``access_key_id`` and ``secret_access_key`` these are used; with ``anonymous`` nothing is signed; with
    neither, the credentials of the surroundings are: environment variables, a web identity token (IAM roles for
    service accounts), the container's or the machine's role.

    Args:
        config: ``bucket``; optional are the above, ``endpoint_url`` (empty: that of AWS), ``region`` (empty:
            us-east-1), ``virtual_host`` (the bucket is part of the host name), ``certificate`` or ``ca_bundle``
            (authorities to trust besides the system's, as PEM) and ``verify_ssl``.
        workshop: of the puller.

    Raises:
        PullFailure: INVALID_ARGUMENT, naming the field.
    """
    bucket = whole_name("s3", "bucket", required(config, "s3", "bucket"))
    endpoint = address(config, "s3", "endpoint_url", "https://minio.example:9000")
    certificate = optional(config, "certificate") or optional(config, "ca_bundle")
    place = f"bucket '{bucket}'" + (f" at {endpoint}" if endpoint else "")
    anonymous = switch(config, "s3", "anonymous", default=False)
    keys = _static_keys(config, anonymous=anonymous)
    fields: S3Config = {"skip_signature": anonymous}
    virtual_host = switch(config, "s3", "virtual_host", default=False)
    if endpoint:
        # The client takes the address as it is, and so without the bucket.
        scheme, _, rest = endpoint.partition("://")
        fields["endpoint"] = f"{scheme}://{bucket}.{rest}" if virtual_host else endpoint
    try:
        store = S3Store(
            bucket,
            config=fields,
            region=optional(config, "region") or _DEFAULT_REGION,
            virtual_hosted_style_request=virtual_host,
            # Unlike plain fields, a provider is not mixed with a session token from the environment.
            credential_provider=(lambda: keys) if keys is not None else None,
            client_options=client_options(
                workshop.settings,
                allow_http=endpoint.startswith("http://"),
                certificate=certificate,
                verify=switch(config, "s3", "verify_ssl", default=True),
            ),
            retry_config=retry_config(workshop.settings),
        )
    except (BaseError, ValueError) as error:
        raise unopened(place, error, certificate) from None
    secrets = (keys["secret_access_key"], keys["access_key_id"]) if keys is not None else ()
    return ObjectProvider(store, Errors(place, secrets), workshop)


def _static_keys(config: Mapping[str, Any], *, anonymous: bool) -> "S3Credential | None":
    access_key_id, secret_access_key = (
        optional(config, "access_key_id"),
        optional(config, "secret_access_key"),
    )
    if not access_key_id and not secret_access_key:
        return None
    if anonymous:
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            "storage of type 's3' is 'anonymous' and has keys; remove one of them from the storage config",
        )
    return {
        "access_key_id": required(config, "s3", "access_key_id"),
        "secret_access_key": required(config, "s3", "secret_access_key"),
        "expires_at": None,
    }
