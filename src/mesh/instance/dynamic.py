"""Settings that operators change while the mesh runs: keys below ``config/`` in the registry.

Names and meanings are those of KServe ModelMesh. A key that is absent, or whose value cannot be used, leaves the
instance at what its environment says.
"""

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mesh.registry import Mirror

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Key:
    parse: Callable[[str], Any]
    apply: Callable[[Any], None]


class DynamicSettings:
    """Applies the keys of one mirror as they change.

    Args:
        config: values by name.
    """

    def __init__(self, config: Mirror[str]) -> None:
        self._config = config
        self._keys: dict[str, _Key] = {}
        self._left_out: tuple[str, ...] = ()

    def on(self, name: str, parse: Callable[[str], T], apply: Callable[[T | None], None]) -> None:
        """Names what follows a key; to be called before `start`.

        Args:
            name: of the key.
            parse: reads its text; raises ``ValueError`` or ``TypeError`` for one that cannot be used.
            apply: called at the start if the key is there, and whenever it changes, with None where it is absent
                or cannot be used; must be quick.
        """
        self._keys[name] = _Key(parse, apply)

    def leave_out(self, prefix: str) -> None:
        """Leaves the keys that begin so to someone else who follows them; to be called before `start`."""
        self._left_out = (*self._left_out, prefix)

    def start(self) -> None:
        """Applies what is there, and follows every change."""
        self._config.subscribe(self._changed, replay=True)

    def values(self) -> dict[str, str]:
        """What is set now, as it is written in the registry."""
        return dict(self._config)

    def _changed(self, name: str, _: str | None, text: str | None) -> None:
        if name.startswith(self._left_out):
            return
        key = self._keys.get(name)
        if key is None:
            if text is not None and name not in _AT_START:
                near = difflib.get_close_matches(name, (*self._keys, *_AT_START), n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                log.warning("config key %s=%r is not known and has no effect%s", name, text, hint)
            return
        # Applied first, since what is applied may be how much is logged.
        if text is None:
            key.apply(None)
            log.info("config key %s is gone; the instance's own setting holds again", name)
            return
        try:
            value = key.parse(text.strip())
        except (ValueError, TypeError) as error:
            key.apply(None)
            log.error(
                "config key %s=%r cannot be used, and the instance's own setting holds: %s", name, text, error
            )
            return
        key.apply(value)
        log.info("config key %s is %r now", name, text)


#: Keys that are looked at when an instance starts.
_AT_START = frozenset({"disable"})


def is_disabled(config: Mirror[str]) -> bool:
    """Whether operators let no instance start: ``disable`` is there and not ``false``, as KServe ModelMesh has it."""
    value = config.get("disable")
    return value is not None and value.strip().lower() != "false"
