"""What the clients of all object stores have in common: time limits, retries, trust and sound addresses."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mesh.puller.failure import Code, PullFailure
from mesh.puller.provider import PullerSettings, optional

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_NO_OVERALL_TIMEOUT = timedelta(days=365)
"""A large object may take as long as it wants while bytes come: a stall counts, and the caller's patience."""
_RETRY_FOR = timedelta(minutes=3)
_YES = frozenset({"1", "true", "yes"})
_NO = frozenset({"0", "false", "no"})


def client_options(
    settings: PullerSettings, *, allow_http: bool, certificate: str = "", verify: bool = True
) -> "ClientConfig":
    """How a client connects.

    Args:
        settings: of the puller.
        allow_http: connections need no TLS.
        certificate: authorities to trust besides the system's, as PEM.
        verify: whether the server must prove who it is.
    """
    options: ClientConfig = {
        "allow_http": allow_http,
        "timeout": _NO_OVERALL_TIMEOUT,
        "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
        "read_timeout": timedelta(seconds=settings.stall_timeout_s),
    }
    if certificate:
        options["root_certificate"] = certificate
    if not verify:
        options["allow_invalid_certificates"] = True
    return options


def retry_config(settings: PullerSettings) -> "RetryConfig":
    """How often a client tries a request that failed before a body came."""
    return {
        "max_retries": settings.attempts - 1,
        "retry_timeout": _RETRY_FOR,
        "backoff": {
            "init_backoff": timedelta(seconds=settings.retry_delay_s),
            "max_backoff": timedelta(seconds=settings.max_retry_delay_s),
            "base": 2,
        },
    }


def address(config: Mapping[str, Any], kind: str, name: str, example: str) -> str:
    """Takes an address from a storage configuration; ``https`` where it names no scheme, empty where it is not set.

    Raises:
        PullFailure: INVALID_ARGUMENT, it is none, or holds a user.
    """
    url = optional(config, name)
    if not url:
        return ""
    if "://" not in url:
        url = f"https://{url}"
    try:
        parts = urlsplit(url)
        # Names that cannot be looked up at all are a UnicodeError.
        sound = (
            parts.scheme in {"http", "https"} and (parts.hostname or "").encode("idna") and parts.port != 0
        )
    except ValueError:
        sound = False
    if not sound or "@" in parts.netloc:
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            f"storage of type '{kind}' has an '{name}' that is none; it looks like {example}",
        )
    return url.rstrip("/")


def switch(config: Mapping[str, Any], kind: str, name: str, *, default: bool) -> bool:
    """Takes a yes or no from a storage configuration, where all values are texts.

    Raises:
        PullFailure: INVALID_ARGUMENT, it is neither.
    """
    text = optional(config, name).lower()
    if not text:
        return default
    if text not in _YES | _NO:
        raise PullFailure(
            Code.INVALID_ARGUMENT, f"storage of type '{kind}' has '{name}' {text!r}; give true or false"
        )
    return text in _YES


def whole_name(kind: str, field: str, name: str) -> str:
    """Checks the name of a bucket or container.

    Raises:
        PullFailure: INVALID_ARGUMENT, it goes on with a path.
    """
    if "/" in name:
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            f"storage of type '{kind}' has '{field}' {name!r}; give the {field} alone and put the rest into the "
            "path",
        )
    return name


def unopened(place: str, error: Exception, certificate: str) -> PullFailure:
    """Words that a client could not be made; the error's own text may hold credentials."""
    what = "'certificate' is no PEM" if certificate and "ert" in str(error) else "a field is malformed"
    return PullFailure(Code.INVALID_ARGUMENT, f"cannot open {place}: {what}; correct the storage config")
