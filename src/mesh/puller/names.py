"""Names that are safe as files, whoever chose them."""

import hashlib
import re
from collections.abc import Sequence
from urllib.parse import quote

from mesh.puller.failure import Code, PullFailure

MAX_NAME_BYTES = 255
"""The longest file name that Linux file systems take."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_PLAIN_CHARACTERS = "._-"
_MAX_ESCAPED = 200


def directory_name(model_id: str) -> str:
    """Gives the name of the directory of a model, one to one.

    Plain ids keep their name, as ``<root>/<model id>`` is what runtimes of KServe ModelMesh expect. Others
    are percent-encoded, and very long ones hashed. A name never begins with ``_`` or ``.``: those are of
    adapters and of the puller itself.

    Raises:
        PullFailure: INVALID_ARGUMENT, the id is empty or no Unicode text.
    """
    if not model_id:
        raise PullFailure(Code.INVALID_ARGUMENT, "model id is empty; give the model a name")
    if _PLAIN.fullmatch(model_id):
        return model_id
    encoded = _encode(model_id, "model id")
    # quote() leaves "._-~" as they are, so that a name such as ".." would pass.
    name = quote(encoded, safe=_PLAIN_CHARACTERS).replace("~", "%7E")
    if name[0] in _PLAIN_CHARACTERS:
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > _MAX_ESCAPED or "%" not in name:
        # "%s" begins no percent-encoding, so that no id has this as its encoded name.
        return f"%sha256-{hashlib.sha256(encoded).hexdigest()}"
    return name


def check_name(name: str, what: str) -> str:
    """Returns ``name`` where it can be that of one file.

    Args:
        name: one segment of a path.
        what: names the field in the error.

    Raises:
        PullFailure: INVALID_ARGUMENT.
    """
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise PullFailure(Code.INVALID_ARGUMENT, f"{what} {name!r} cannot be the name of a file; rename it")
    if len(_encode(name, what)) > MAX_NAME_BYTES:
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            f"{what} '{name[:40]}...' is longer than {MAX_NAME_BYTES} bytes; shorten it",
        )
    return name


def split_path(path: str, what: str) -> Sequence[str]:
    """Splits a storage path into segments; none is empty, ``.`` or ``..``.

    Leading, trailing and doubled slashes, and ``.``, say nothing and are dropped.

    Raises:
        PullFailure: INVALID_ARGUMENT, a segment is ``..`` or can be no file name.
    """
    segments = [segment for segment in path.split("/") if segment not in {"", "."}]
    if ".." in segments:
        raise PullFailure(Code.INVALID_ARGUMENT, f"{what} '{path}' contains '..'; give the path without it")
    return [check_name(segment, what) for segment in segments]


def _encode(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise PullFailure(
            Code.INVALID_ARGUMENT, f"{what} {text!r} holds a lone surrogate; it must be valid Unicode"
        ) from None
