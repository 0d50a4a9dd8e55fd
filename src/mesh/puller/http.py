"""Models on web servers, one file or archive each; type ``http``."""

import ssl
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yarl import URL

from mesh.puller.archives import Allowance, is_archive, unpack
from mesh.puller.clients import address, switch
from mesh.puller.contents import identity_of
from mesh.puller.disk import check_space
from mesh.puller.failure import Code, PullFailure
from mesh.puller.names import split_path
from mesh.puller.provider import Advance, Workshop, optional
from mesh.puller.web import Web, WebFile

_EXAMPLE = "https://models.example/store"


class HttpProvider:
    """A base address; a path is added to it, and its query is kept.

    An archive is unpacked unless ``unpack`` is false: its name must then end in .zip, .tar, .tgz or .tar and .gz, .bz2
    or .xz.
    """

    def __init__(self, config: Mapping[str, Any], workshop: Workshop) -> None:
        """Reads the configuration.

        Args:
            config: ``url``; optional are ``headers`` (an object of texts or lists of texts), ``certificate``
                (authorities to trust besides the system's), ``client_certificate`` and ``client_key``, all as PEM,
                and ``unpack``.
            workshop: of the puller.

        Raises:
            PullFailure: INVALID_ARGUMENT, naming the field.
        """
        text = address(config, "http", "url", _EXAMPLE)
        if not text:
            raise PullFailure(
                Code.INVALID_ARGUMENT,
                f"storage of type 'http' needs 'url'; set it in the storage config or the parameters ({_EXAMPLE})",
            )
        self._base = URL(text)
        self._unpack = switch(config, "http", "unpack", default=True)
        headers = _headers(config.get("headers"))
        self._workshop = workshop
        self._web = Web(
            workshop,
            str(self._base.with_query(None)),
            self._base,
            headers=headers,
            trust=trust_of(config, "http"),
            secrets=[value for values in headers.values() for value in values]
            + list(self._base.query.values()),
        )

    async def find(self, path: str) -> "HttpSource":
        """Asks the server about a file."""
        segments = split_path(path, "model path")
        url = self._base.joinpath(*segments).with_query(self._base.query) if segments else self._base
        name = url.name
        async with self._web.session() as session:
            file = await session.describe(url, f"fetch '{path}'")
        return HttpSource(self._web, file, path, name if self._unpack and is_archive(name) else "")


class HttpSource:
    """A file that a server has."""

    copied = True

    def __init__(self, web: Web, file: WebFile, path: str, archive_name: str) -> None:
        """Takes what was found.

        Args:
            web: where.
            file: what.
            path: as it was asked for.
            archive_name: tells the format of what is to be unpacked; empty for a plain file.
        """
        self._web = web
        self._file = file
        self._path = path
        self._archive_name = archive_name
        self._size = max(0, file.size)

    @property
    def identity(self) -> str:
        """By address and tag; empty where the server tells no tag, or one that says little."""
        tag = self._file.e_tag
        if not tag or tag.startswith("W/"):
            return ""
        return identity_of(str(self._file.url), self._file.size, tag, self._archive_name)

    @property
    def size_bytes(self) -> int:
        """As the server tells, 0 where it does not; once fetched, of the files that are here."""
        return self._size

    async def fetch(self, target: Path, advance: Advance) -> None:
        """Fetches the file and unpacks it where it is an archive."""
        workshop = self._web.workshop
        what = f"fetch '{self._path}'"
        async with workshop.downloads, self._web.session() as session:
            if not self._archive_name:
                self._size = await session.fetch(self._file, target, what, advance)
                return
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".archive-") as folder:
                archive = Path(folder, "archive")
                await session.fetch(self._file, archive, what, advance)
                allowance = allowance_for(workshop, target.parent)
                await workshop.run(unpack, archive, self._archive_name, target, allowance)
                self._size = allowance.bytes


def allowance_for(workshop: Workshop, directory: Path) -> Allowance:
    """What an archive may unpack to, on the disk of a directory."""
    settings = workshop.settings
    return Allowance(
        settings.max_unpacked_bytes,
        settings.max_objects,
        lambda count: check_space(directory, count, 0, settings.reserved_bytes),
    )


def _headers(value: object) -> Mapping[str, Sequence[str]]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        headers = {name: [text] if isinstance(text, str) else text for name, text in value.items()}
        if all(isinstance(texts, list) and all(_sound(text) for text in texts) for texts in headers.values()):
            return headers
    raise PullFailure(
        Code.INVALID_ARGUMENT,
        "storage of type 'http' has 'headers' that are none; they are an object of texts, or lists of texts, without "
        "line breaks",
    )


def _sound(text: object) -> bool:
    return isinstance(text, str) and not set(text) & {"\r", "\n", "\0"}


def trust_of(config: Mapping[str, Any], kind: str) -> ssl.SSLContext | None:
    """Whom to trust and how to prove who asks; None for the system's authorities and nothing.

    Raises:
        PullFailure: INVALID_ARGUMENT, naming the field.
    """
    authority = optional(config, "certificate")
    certificate, key = optional(config, "client_certificate"), optional(config, "client_key")
    if bool(certificate) != bool(key):
        missing = "client_key" if certificate else "client_certificate"
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            f"storage of type '{kind}' has no '{missing}'; give certificate and key, or neither",
        )
    if not authority and not certificate:
        return None
    context = ssl.create_default_context()
    try:
        if authority:
            context.load_verify_locations(cadata=authority)
    except (ssl.SSLError, ValueError, TypeError):  # the last for what is not ASCII
        raise _no_pem(kind, "certificate") from None
    if certificate:
        # The library reads keys from files only.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as pem:
            pem.write(f"{certificate}\n{key}\n")
            pem.flush()
            try:
                # A key with a password would ask for it on the terminal.
                context.load_cert_chain(pem.name, password=lambda: b"")
            except (ssl.SSLError, ValueError, OSError):
                raise _no_pem(kind, "client_certificate' and 'client_key") from None
    return context


def _no_pem(kind: str, field: str) -> PullFailure:
    return PullFailure(
        Code.INVALID_ARGUMENT,
        f"storage of type '{kind}' has '{field}' that cannot be used; give it as PEM, unencrypted",
    )
