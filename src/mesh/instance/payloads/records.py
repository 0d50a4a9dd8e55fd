"""Processors of payloads in the registry, where all instances of the mesh follow them."""

import grpc

from mesh.instance.errors import MeshError, Reason, changing_record, invalid, read_only
from mesh.instance.payloads.control import KEYS, Payloads
from mesh.payload import InvalidProcessor, check_name, read_definition_text
from mesh.registry import Registry


class Processors:
    """Sets and removes processors of the whole mesh.

    Args:
        payloads: of this instance, which sees whether a processor can be opened.
        is_read_only: whether the registry is not to be changed.
    """

    def __init__(self, registry: Registry, payloads: Payloads, *, is_read_only: bool = False) -> None:
        self._registry = registry
        self._payloads = payloads
        self._read_only = is_read_only

    async def set(self, name: str, definition: str) -> str:
        """Has every instance use a processor, in the place of one of this name.

        Args:
            definition: a JSON object; see `mesh.payload.Definition`.

        Returns: the definition as it is kept.

        Raises:
            MeshError: INVALID_ARGUMENT, the definition cannot be used, and nothing has changed; or the registry is
                away or read-only.
        """
        try:
            check_name(name)
            wanted = read_definition_text(definition)
            await self._payloads.check(name, wanted)
        except InvalidProcessor as error:
            raise invalid(str(error)) from None
        if self._read_only:
            raise read_only()
        text = wanted.text()
        with changing_record(KEYS + name):
            await self._registry.config.update(KEYS + name, lambda _: text)
        return text

    async def remove(self, name: str) -> None:
        """Has no instance use a processor of this name any more, unless its own settings name one.

        Raises:
            MeshError: NOT_FOUND, or the registry is away or read-only.
        """
        if self._read_only:
            raise read_only()

        def removed(text: str | None) -> None:
            if text is None:
                raise self._unknown(name)

        with changing_record(KEYS + name):
            await self._registry.config.update(KEYS + name, removed)

    def _unknown(self, name: str) -> MeshError:
        found = self._payloads.wanted().get(name)
        hint = f"; that of the {found[0].value} can only be removed there" if found is not None else ""
        return MeshError(
            grpc.StatusCode.NOT_FOUND,
            Reason.PROCESSOR_NOT_FOUND,
            f"the registry has no payload processor {name!r}{hint}",
        )
