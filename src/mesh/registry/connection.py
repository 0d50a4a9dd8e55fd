"""What ``KV_STORE`` says: which store, and how to reach it."""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from mesh.registry.errors import InvalidConnection

log = logging.getLogger(__name__)

DEFAULT_PORT = 2379
"""Of etcd, where an endpoint names none."""

TlsMode = Literal["TLS", "PLAINTEXT", "AUTO"]

_ENDPOINT = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?/?"
)
_ROOT_PREFIX = "rootPrefix="
_FORMS = "'etcd:HOST:PORT,HOST:PORT;rootPrefix=PREFIX', 'etcd:PATH_OF_A_JSON_FILE' or 'memory:'"


@dataclass(frozen=True, slots=True)
class MemoryConnection:
    """An embedded store of this process's own."""


@dataclass(frozen=True, slots=True)
class EtcdConnection:
    """How to reach an etcd.

    Attributes:
        endpoints: ``host:port`` of its members.
        root_prefix: goes in front of every key, verbatim.
        user: whose password is given; None where the server asks for none.
        password: of the user.
        tls: whether connections are encrypted.
        certificate: PEM of the authorities to trust; None for those of the operating system.
        client_key: PEM of this client's private key, for servers that ask for a certificate.
        client_certificate: PEM that goes with it.
        override_authority: name to expect in the server's certificate in place of the endpoint's host.
    """

    endpoints: tuple[str, ...]
    root_prefix: str = ""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    certificate: bytes | None = field(default=None, repr=False)
    client_key: bytes | None = field(default=None, repr=False)
    client_certificate: bytes | None = field(default=None, repr=False)
    override_authority: str | None = None


class _File(msgspec.Struct):
    endpoints: str = ""
    userid: str | None = None
    password: str | None = None
    root_prefix: str | None = None
    certificate: str | None = None
    certificate_file: str | None = None
    client_key: str | None = None
    client_key_file: str | None = None
    client_certificate: str | None = None
    client_certificate_file: str | None = None
    override_authority: str | None = None
    tls_mode: TlsMode | None = None


_NAMES = [field.name for field in msgspec.structs.fields(_File)]


def parse_connection(text: str) -> EtcdConnection | MemoryConnection:
    """Reads the setting ``KV_STORE``, and the file it may name.

    Raises:
        InvalidConnection: it is faulty; the text names the part, its value and the remedy.
    """
    kind, colon, rest = text.strip().partition(":")
    if kind == "zookeeper":
        raise InvalidConnection(
            f"KV_STORE is {text!r}: ZooKeeper is not supported; move the registry to etcd and give {_FORMS}"
        )
    if kind == "memory" and colon and not rest:
        return MemoryConnection()
    if kind != "etcd" or not rest:
        raise InvalidConnection(f"KV_STORE is {text!r}: give {_FORMS}")
    path = Path(rest)
    if path.is_file():
        return _from_file(path)
    endpoints, semicolon, option = rest.partition(";")
    if semicolon and not option.startswith(_ROOT_PREFIX):
        raise InvalidConnection(
            f"KV_STORE is {text!r}: after the semicolon it has {option!r}; only 'rootPrefix=PREFIX' may follow"
        )
    if not all(_ENDPOINT.fullmatch(endpoint.strip()) for endpoint in endpoints.split(",")):
        raise InvalidConnection(
            f"KV_STORE is {text!r}: there is no file {rest!r}, and it is no list of endpoints either; give"
            f" {_FORMS}"
        )
    hosts, encrypted = _read_endpoints("KV_STORE", endpoints)
    return EtcdConnection(hosts, root_prefix=option.removeprefix(_ROOT_PREFIX), tls=encrypted is True)


def _from_file(path: Path) -> EtcdConnection:
    where = f"the etcd connection file {path}"
    try:
        text = path.read_bytes()
        content = msgspec.json.decode(text, type=_File)
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except OSError as error:
        raise InvalidConnection(f"{where} cannot be read: {error}") from error
    except msgspec.MsgspecError as error:
        raise InvalidConnection(f"{where}: {error}; it is a JSON object with {', '.join(_NAMES)}") from error
    for name in members.keys() - set(_NAMES):
        log.warning("%s: %r is not known and has no effect; known are %s", where, name, ", ".join(_NAMES))
    if not content.endpoints.strip():
        raise InvalidConnection(f"{where}: 'endpoints' is missing; give HOST:PORT,HOST:PORT")
    endpoints, encrypted = _read_endpoints(f"{where}: 'endpoints'", content.endpoints)
    if (content.userid is None) != (content.password is None):
        missing = "password" if content.password is None else "userid"
        raise InvalidConnection(
            f"{where}: {missing!r} is missing; give both 'userid' and 'password' or neither"
        )
    certificate = _pem(where, path.parent, "certificate", content.certificate, content.certificate_file)
    client_key = _pem(where, path.parent, "client_key", content.client_key, content.client_key_file)
    client_certificate = _pem(
        where,
        path.parent,
        "client_certificate",
        content.client_certificate,
        content.client_certificate_file,
    )
    if (client_key is None) != (client_certificate is None):
        missing = "client_certificate" if client_certificate is None else "client_key"
        raise InvalidConnection(
            f"{where}: {missing!r} is missing; give both a client key and a client certificate or neither"
        )
    return EtcdConnection(
        endpoints,
        root_prefix=content.root_prefix or "",
        user=content.userid,
        password=content.password,
        tls=_wants_tls(where, content.tls_mode, encrypted, certificate is not None),
        certificate=certificate,
        client_key=client_key,
        client_certificate=client_certificate,
        override_authority=content.override_authority,
    )


def _wants_tls(where: str, mode: TlsMode | None, encrypted: bool | None, has_certificate: bool) -> bool:
    """Decides as KServe ModelMesh's etcd client does: by the endpoints' scheme, else by the certificate."""
    if mode == "TLS":
        return True
    if mode == "PLAINTEXT":
        if encrypted:
            raise InvalidConnection(
                f"{where}: 'tls_mode' is 'PLAINTEXT' and 'endpoints' say https; change one of them"
            )
        return False
    return has_certificate if encrypted is None else encrypted


def _read_endpoints(where: str, text: str) -> tuple[tuple[str, ...], bool | None]:
    """Returns host:port of each endpoint, and whether their scheme asks for TLS, None where they have none."""
    endpoints: list[str] = []
    schemes: set[str | None] = set()
    for part in text.split(","):
        match = _ENDPOINT.fullmatch(part.strip())
        if match is None:
            raise InvalidConnection(
                f"{where} has {part!r}: give HOST:PORT, with http:// or https:// before it"
            )
        port = int(match["port"] or DEFAULT_PORT)
        if not 0 < port < 65_536:
            raise InvalidConnection(f"{where} has {part!r}: its port must be between 1 and 65535")
        endpoints.append(f"{match['host']}:{port}")
        schemes.add(match["scheme"])
    if len(schemes) > 1:
        raise InvalidConnection(f"{where} has {text!r}: give all endpoints the same scheme, http or https")
    scheme = schemes.pop()
    return tuple(dict.fromkeys(endpoints)), None if scheme is None else scheme == "https"


def _pem(where: str, folder: Path, name: str, text: str | None, file: str | None) -> bytes | None:
    """Returns what a file or, where there is none, the text itself holds; the file goes first."""
    source, pem = name, None if text is None else text.encode()
    if file is not None:
        try:
            source, pem = f"{name}_file", (folder / file).read_bytes()
        except OSError as error:
            if text is None:
                raise InvalidConnection(
                    f"{where}: '{name}_file' is {file!r}, which cannot be read ({error}); a relative path"
                    " starts at the connection file's folder"
                ) from error
            log.warning("%s: '%s_file' cannot be read (%s); %r is used", where, name, error, name)
    if pem is not None and b"-----BEGIN " not in pem:
        raise InvalidConnection(f"{where}: {source!r} holds no PEM; it must start with '-----BEGIN ...'")
    return pem
