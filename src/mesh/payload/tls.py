"""How processors trust the servers that they send to."""

import ssl

from mesh.payload.processor import InvalidProcessor, Options


def client_tls(
    options: Options, uri: str, *, ca_file: str = "", verify: bool = True
) -> ssl.SSLContext | None:
    """How to connect to an address.

    Args:
        options: of the processor.
        uri: of the server; other than ``https:`` need no TLS.
        ca_file: certificates in PEM that alone are trusted; before those of the options, and those of the system.
        verify: whether the server must prove who it is.

    Returns: None where no TLS is needed.

    Raises:
        InvalidProcessor: the file cannot be read as certificates.
    """
    if not uri.lower().startswith("https:"):
        return None
    return tls_context(options, ca_file=ca_file, verify=verify)


def tls_context(options: Options, *, ca_file: str = "", verify: bool = True) -> ssl.SSLContext:
    """As `client_tls`, for servers that are no web servers."""
    path = ca_file or options.ca_file
    try:
        context = ssl.create_default_context(cafile=path or None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidProcessor(
            f"payload processor {options.name!r}: {path} cannot be read as certificates in PEM: {error}"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
