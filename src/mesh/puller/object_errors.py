"""What an object store's client raises, in the puller's terms."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from obstore.exceptions import (
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from mesh.puller.failure import Code, PullFailure

_BAD_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidSecurity",
        "InvalidToken",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "XAdminUserNotFound",  # of versitygw
    }
)
_MAX_REASON = 300
_SHORTEST_SECRET = 4
_UNTRUSTED = "InvalidCertificate("
_PHRASES = {
    _UNTRUSTED: "its certificate is not trusted",
    "Connection refused": "connection refused",
    "dns error": "its name cannot be resolved",
    "TimedOut": "timed out",
}
_STATUS = re.compile(r"status code: (\d{3})")
_S3_CODE = re.compile(r"<Code>([^<]{1,100})</Code>")
_S3_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")


@dataclass(frozen=True, slots=True)
class Errors:
    """Words failures of one bucket.

    Attributes:
        place: for messages, such as ``bucket 'models' at http://minio:9000``.
        secrets: texts that must not appear in a message, wherever the store repeats them.
    """

    place: str
    secrets: Sequence[str]

    def nothing_at(self, key: str) -> str:
        """Words that nothing was found."""
        if not key:
            return f"{self.place} is empty"
        return f"there is no object '{key}' and none below '{key}/' in {self.place}"

    def changed(self, key: str) -> PullFailure:
        """The object is not the one that was listed; looking again may help."""
        return PullFailure(
            Code.ABORTED,
            f"'{key}' in {self.place} changed while it was fetched; load the model again once it is complete",
        )

    def cut_short(self, key: str, got: int, wanted: int) -> PullFailure:
        """The body ended early, without the client noticing."""
        return PullFailure(
            Code.UNAVAILABLE, f"'{key}' in {self.place} ended after {got} of {wanted} bytes, in every attempt"
        )

    def corrupt(self, key: str, md5: str, wanted: str) -> PullFailure:
        """The content is not what its tag says."""
        return PullFailure(
            Code.UNAVAILABLE,
            f"'{key}' in {self.place} arrived damaged in every attempt, last with MD5 {md5} and not {wanted}; "
            "look after the network and the store",
        )

    def of(self, error: Exception, doing: str) -> PullFailure:
        """Finds the kind of a failure and words it.

        The error itself must not become the cause of what is raised: its text repeats the store's answer, which
        may repeat what was signed, and would reach the log with a traceback.

        Args:
            error: as the client raised it; its text holds the store's answer.
            doing: such as ``fetch 'a/b'``.
        """
        text = str(error)
        code, remedy = _judge(error, text)
        reason = self._without_secrets(_reason(text))
        return PullFailure(code, f"cannot {doing} in {self.place}: {reason}{remedy}")

    def _without_secrets(self, text: str) -> str:
        for secret in self.secrets:
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return text


def _judge(error: Exception, text: str) -> tuple[Code, str]:
    status = int(found.group(1)) if (found := _STATUS.search(text)) else 0
    s3_code = found.group(1) if (found := _S3_CODE.search(text)) else ""
    if s3_code in _BAD_CREDENTIALS or status == 401 or isinstance(error, UnauthenticatedError):
        return Code.UNAUTHENTICATED, "; check the credentials of the storage config"
    if status == 403 or isinstance(error, PermissionDeniedError):
        return Code.PERMISSION_DENIED, "; let the credentials of the storage config list and read it"
    if status == 404 or isinstance(error, FileNotFoundError):
        return Code.NOT_FOUND, ""
    if status == 412 or isinstance(error, PreconditionError):
        return Code.ABORTED, "; it changed while it was fetched"
    if isinstance(error, InvalidPathError):
        return Code.INVALID_ARGUMENT, "; rename the object"
    if isinstance(error, OSError):
        return Code.UNAVAILABLE, ""
    if "Received redirect without LOCATION" in text or s3_code == "AuthorizationHeaderMalformed":
        return Code.INVALID_ARGUMENT, "; check 'region' and 'endpoint_url' of the storage config"
    if _UNTRUSTED in text:
        return Code.UNAVAILABLE, "; give the authority of its certificate as 'certificate'"
    if isinstance(error, ValueError) or (400 <= status < 500 and status not in {408, 429}):
        return Code.INVALID_ARGUMENT, ""
    if status == 0 and "TimedOut" in text:
        return Code.DEADLINE_EXCEEDED, "; the store sends nothing"
    return Code.UNAVAILABLE, ""


def _reason(text: str) -> str:
    # The store's own code and message say it best. The rest of its answer may repeat what was signed.
    if found := _S3_CODE.search(text):
        message = _S3_MESSAGE.search(text)
        return f"{found.group(1)}: {message.group(1)}" if message else found.group(1)
    for phrase, words in _PHRASES.items():
        if phrase in text:
            return words
    first = text.partition("\n")[0].strip()
    return first if len(first) <= _MAX_REASON else f"{first[:_MAX_REASON]}..."
