"""Models in S3 and what speaks its protocol; type ``s3``."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import S3Store

from mesh.puller.failure import Code, PullFailure
from mesh.puller.object_errors import Errors
from mesh.puller.objects import ObjectProvider
from mesh.puller.provider import PullerSettings, Workshop, optional, required

if TYPE_CHECKING:
    from obstore.store import BackoffConfig, S3Credential

_DEFAULT_REGION = "us-east-1"
_NO_OVERALL_TIMEOUT = timedelta(days=365)
"""A large object may take as long as it wants while bytes come: a stall counts, and the caller's patience."""
_RETRY_FOR = timedelta(minutes=3)


def open_s3(config: Mapping[str, Any], workshop: Workshop) -> ObjectProvider:
    """Opens a bucket with static keys.

    Args:
        config: ``bucket``, ``access_key_id`` and ``secret_access_key``; optional are ``endpoint_url`` (empty:
            that of AWS), ``region`` (empty: us-east-1) and ``certificate``, authorities to trust besides the
            system's, as PEM.
        workshop: of the puller.

    Raises:
        PullFailure: INVALID_ARGUMENT, naming the field.
    """
    bucket = required(config, "s3", "bucket")
    if "/" in bucket:
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            f"storage of type 's3' has bucket '{bucket}'; give the bucket alone and put the rest into the path",
        )
    access_key_id = required(config, "s3", "access_key_id")
    secret_access_key = required(config, "s3", "secret_access_key")
    endpoint = _endpoint(optional(config, "endpoint_url"))
    settings = workshop.settings
    certificate = optional(config, "certificate")
    place = f"bucket '{bucket}'" + (f" at {endpoint}" if endpoint else "")

    # Unlike plain fields, a provider is not mixed with a session token from the environment.
    def credentials() -> "S3Credential":
        return {
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
            "expires_at": None,
        }

    try:
        store = S3Store(
            bucket,
            config={"endpoint": endpoint} if endpoint else {},
            region=optional(config, "region") or _DEFAULT_REGION,
            virtual_hosted_style_request=False,
            skip_signature=False,
            credential_provider=credentials,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "timeout": _NO_OVERALL_TIMEOUT,
                "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
                "read_timeout": timedelta(seconds=settings.stall_timeout_s),
                **({"root_certificate": certificate} if certificate else {}),
            },
            retry_config={
                "max_retries": settings.attempts - 1,
                "retry_timeout": _RETRY_FOR,
                "backoff": _backoff(settings),
            },
        )
    except (BaseError, ValueError) as error:
        what = "'certificate' is no PEM" if certificate and "ert" in str(error) else "a field is malformed"
        raise PullFailure(
            Code.INVALID_ARGUMENT, f"cannot open {place}: {what}; correct the storage config"
        ) from None
    return ObjectProvider(store, Errors(place, (secret_access_key, access_key_id)), workshop)


def _endpoint(url: str) -> str:
    if not url:
        return ""
    if "://" not in url:
        url = f"https://{url}"
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound or "@" in parts.netloc:
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            "storage of type 's3' has an 'endpoint_url' that is none; it looks like https://minio.example:9000",
        )
    return url.rstrip("/")


def _backoff(settings: PullerSettings) -> "BackoffConfig":
    return {
        "init_backoff": timedelta(seconds=settings.retry_delay_s),
        "max_backoff": timedelta(seconds=settings.max_retry_delay_s),
        "base": 2,
    }
