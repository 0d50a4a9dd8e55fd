"""How quantities are written for people."""

from mesh.protos import admin_pb2, peer_pb2

MIB = 1 << 20

_STATES = {
    peer_pb2.COPY_STATE_ABSENT: "absent",
    peer_pb2.COPY_STATE_QUEUED: "queued",
    peer_pb2.COPY_STATE_WAITING: "waiting for memory",
    peer_pb2.COPY_STATE_LOADING: "loading",
    peer_pb2.COPY_STATE_SIZING: "loaded, being measured",
    peer_pb2.COPY_STATE_LOADED: "loaded",
    peer_pb2.COPY_STATE_FAILED: "failed",
    peer_pb2.COPY_STATE_UNLOADING: "unloading",
}


def size(size_bytes: int) -> str:
    """Bytes as MiB: one decimal below 100, none above; ``< 0.1 MiB`` for what would read as nothing."""
    if size_bytes == 0:
        return "0 MiB"
    mib = size_bytes / MIB
    if mib < 0.05:
        return "< 0.1 MiB"
    return f"{mib:.1f} MiB" if mib < 99.95 else f"{mib:,.0f} MiB"


def duration(milliseconds: float) -> str:
    """A span of time in its two largest units at most: ``3 s``, ``4 min``, ``2 h 5 min``, ``3 d 1 h``."""
    seconds = max(0, int(milliseconds / 1_000))
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60, seconds // 3_600, seconds // 86_400
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} d {hours % 24} h" if hours % 24 else f"{days} d"


def ago(then_ms: int, now_ms: int) -> str:
    """Epoch milliseconds as an age: ``3 s ago``; ``never`` for 0, ``now`` for less than a second."""
    if then_ms == 0:
        return "never"
    if now_ms - then_ms < 1_000:
        return "now"
    return f"{duration(now_ms - then_ms)} ago"


def latency(seconds: float) -> str:
    """A measured time: ``850 µs``, ``3.2 ms``, ``1.4 s``."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def state(copy_state: "peer_pb2.CopyState.ValueType") -> str:
    """The state of a copy in words."""
    return _STATES.get(copy_state, f"state {copy_state}")


def count(number: int, noun: str) -> str:
    """``1 model``, ``2 models``, ``0 copies``."""
    if number == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {plural}"


def percent(share: float) -> str:
    """A share in percent, with as many digits as it takes to be told from 0: ``5%``, ``0.02%``, ``33.3%``."""
    value = share * 100
    return f"{value:.1f}".removesuffix(".0") + "%" if value >= 1 or value == 0 else f"{value:.2g}%"


def policy(told: admin_pb2.Policy) -> str:
    """What is asked for of a model's copies; empty where nothing is."""
    parts = []
    if told.min_copies and told.min_copies == told.max_copies:
        parts.append(f"{told.min_copies} {'copy' if told.min_copies == 1 else 'copies'}")
    else:
        parts += [f"at least {told.min_copies}"] if told.min_copies else []
        parts += [f"at most {told.max_copies}"] if told.max_copies else []
        if parts:
            parts = [" and ".join(parts) + " copies"]
    if told.pinned:
        parts.append("pinned")
    if told.priority:
        parts.append(f"priority {told.priority}")
    if told.idle_ttl_ms:
        parts.append(f"unloaded when idle for {told.idle_ttl_ms / 1_000:g} s")
    if told.declared_size_bytes:
        parts.append(f"{size(told.declared_size_bytes)} a copy")
    return ", ".join(parts)
