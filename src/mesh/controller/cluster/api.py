"""Calls of the Kubernetes API with objects as they are on the wire."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.exceptions import ApiException

from mesh.controller.cluster.kinds import Kind

#: By which the API server knows who owns which field.
FIELD_MANAGER = "modelmesh-controller"
#: Deadline of a call that is not a watch, seconds; as in KServe ModelMesh.
DEADLINE_S = 10.0
#: After which the server ends a watch, which is then begun again where it was; seconds.
_WATCH_S = 290
#: Objects of a page of a listing.
_PAGE = 500

Object = dict[str, Any]


class ClusterError(Exception):
    """The Kubernetes API did not do it.

    Attributes:
        status: of HTTP; 0 where the server was not reached.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def missing(self) -> bool:
        """Whether the object, or its kind, is not there."""
        return self.status == 404

    @property
    def conflicts(self) -> bool:
        """Whether the object was changed by somebody else meanwhile, or is there already."""
        return self.status == 409

    @property
    def too_old(self) -> bool:
        """Whether a watch cannot go on from where it was."""
        return self.status == 410

    @property
    def busy(self) -> bool:
        """Whether the server could not do it just now, as for a kind that has been defined a moment ago."""
        return self.status == 429

    @property
    def forbidden(self) -> bool:
        """Whether the controller may not do this."""
        return self.status in {401, 403}


class Cluster:
    """A Kubernetes API server.

    Args:
        client: with the address and the credentials.
    """

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Reads an object.

        Raises:
            ClusterError: it is not there, or the server did not answer.
        """
        return await self._call("GET", kind.path(namespace, name))

    async def list(self, kind: Kind, namespace: str = "", selector: str = "") -> tuple[list[Object], str]:
        """Reads all objects of a kind, page by page.

        Returns:
            The objects, and the version of the listing, from which a watch goes on.

        Raises:
            ClusterError: the server did not answer.
        """
        items: list[Object] = []
        query = {"limit": str(_PAGE)} | ({"labelSelector": selector} if selector else {})
        while True:
            page = await self._call("GET", kind.path(namespace), query)
            items += page.get("items") or ()
            metadata = page["metadata"]
            if not metadata.get("continue"):
                return items, metadata["resourceVersion"]
            query["continue"] = metadata["continue"]

    async def watch(
        self, kind: Kind, version: str, namespace: str = "", selector: str = ""
    ) -> AsyncIterator[tuple[str, Object]]:
        """Changes of a kind since a version: ``ADDED``, ``MODIFIED``, ``DELETED`` or ``BOOKMARK``, and the object.

        Ends when the server ends it.

        Raises:
            ClusterError: the version is too old, or the server did not answer.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_S),
        } | ({"labelSelector": selector} if selector else {})
        response = await self._send("GET", kind.path(namespace), query, None, {}, _WATCH_S + 2 * DEADLINE_S)
        try:
            async for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ClusterError(status.get("code", 0), status.get("message", "the watch failed"))
                yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError) as problem:
            raise _unreachable(problem) from problem
        finally:
            response.close()

    async def apply(self, kind: Kind, wanted: Mapping[str, Any]) -> Object:
        """Makes an object what it is to be; fields that others set and ``wanted`` does not name stay.

        Raises:
            ClusterError: the server refused or did not answer.
        """
        metadata = wanted["metadata"]
        return await self._call(
            "PATCH",
            kind.path(metadata.get("namespace", ""), metadata["name"]),
            {"fieldManager": FIELD_MANAGER, "force": "true"},
            wanted,
            {"Content-Type": "application/apply-patch+yaml"},
        )

    async def create(self, kind: Kind, wanted: Mapping[str, Any]) -> Object:
        """Makes an object that must not be there.

        Raises:
            ClusterError: it is there, or the server refused or did not answer.
        """
        path = kind.path(wanted["metadata"].get("namespace", ""))
        return await self._call("POST", path, {"fieldManager": FIELD_MANAGER}, wanted)

    async def patch(
        self, kind: Kind, namespace: str, name: str, operations: Sequence[Mapping[str, Any]]
    ) -> Object:
        """Changes single members of an object, by operations of JSON Patch.

        Raises:
            ClusterError: the server refused or did not answer.
        """
        path = kind.path(namespace, name)
        headers = {"Content-Type": "application/json-patch+json"}
        return await self._call("PATCH", path, {"fieldManager": FIELD_MANAGER}, list(operations), headers)

    async def replace(self, kind: Kind, changed: Mapping[str, Any]) -> Object:
        """Writes an object whole that has not changed since it was read.

        Raises:
            ClusterError: it was changed meanwhile, or the server refused or did not answer.
        """
        metadata = changed["metadata"]
        path = kind.path(metadata.get("namespace", ""), metadata["name"])
        return await self._call("PUT", path, {"fieldManager": FIELD_MANAGER}, changed)

    async def replace_status(self, kind: Kind, changed: Mapping[str, Any]) -> Object:
        """Writes the status of an object that has not changed since it was read.

        Raises:
            ClusterError: it was changed meanwhile, or the server refused or did not answer.
        """
        metadata = changed["metadata"]
        path = kind.path(metadata.get("namespace", ""), metadata["name"], "status")
        return await self._call("PUT", path, {"fieldManager": FIELD_MANAGER}, changed)

    async def delete(self, kind: Kind, namespace: str, name: str) -> bool:
        """Deletes an object, in the background what it owns.

        Returns:
            Whether it was there.

        Raises:
            ClusterError: the server refused or did not answer.
        """
        try:
            await self._call("DELETE", kind.path(namespace, name), {"propagationPolicy": "Background"})
        except ClusterError as problem:
            if problem.missing:
                return False
            raise
        return True

    async def has(self, kind: Kind, namespace: str = "") -> bool:
        """Whether objects of a kind can be listed: the kind exists, and the controller may.

        Raises:
            ClusterError: the server did not answer.
        """
        try:
            await self._call("GET", kind.path(namespace), {"limit": "1"})
        except ClusterError as problem:
            if problem.missing or problem.forbidden:
                return False
            if not problem.busy:
                raise
        return True

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Object:
        response = await self._send(method, path, query or {}, body, headers or {}, DEADLINE_S)
        try:
            found: Object = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError) as problem:
            raise _unreachable(problem) from problem
        return found

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any,
        headers: Mapping[str, str],
        deadline_s: float,
    ) -> aiohttp.ClientResponse:
        try:
            request = await self._client.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params={"Accept": "application/json", "Content-Type": "application/json", **headers},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._client.call_api(*request, _request_timeout=deadline_s)
        except ApiException as problem:
            raise ClusterError(problem.status or 0, str(problem.reason)) from problem
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            raise _unreachable(problem) from problem
        response: aiohttp.ClientResponse = answer.response
        if response.status < 300:
            return response
        try:
            told = (await response.json(content_type=None)).get("message", "")
        except (aiohttp.ClientError, TimeoutError, ValueError, AttributeError):
            told = ""
        raise ClusterError(response.status, f"{method} {path}: {response.status} {told or response.reason}")


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    # An object may be larger than the longest line that the library's own reader takes.
    pending = b""
    async for chunk in response.content.iter_any():
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line


def _unreachable(problem: BaseException) -> ClusterError:
    return ClusterError(0, f"the Kubernetes API cannot be reached: {problem or type(problem).__name__}")
