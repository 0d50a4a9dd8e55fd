"""Who processes the payloads of requests."""

from dataclasses import dataclass

from mesh.instance.settings.fields import integer, setting, text
from mesh.payload import STRING_CAPACITY, STRING_CONSUMERS


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadSettings:
    """Of one instance. See `describe` for meanings."""

    processors: str = setting(
        "MM_PAYLOAD_PROCESSORS",
        text,
        "URIs of processors that get the payloads of requests, separated by spaces: "
        "scheme://where?model#package.Service/Method; docs/payloads.md tells of them",
        default="",
    )
    consumers: int = setting(
        "MM_PAYLOAD_PROCESSORS_THREADS",
        integer(1, 64),
        "batches of payloads that each processor of MM_PAYLOAD_PROCESSORS is given at the same time",
        default=STRING_CONSUMERS,
    )
    capacity: int = setting(
        "MM_PAYLOAD_PROCESSORS_CAPACITY",
        integer(2, 1_000_000),
        "payloads that wait for each processor of MM_PAYLOAD_PROCESSORS at most; more are lost, and counted",
        default=STRING_CAPACITY,
    )
    file: str = setting(
        "MESH_PAYLOAD_PROCESSORS_PATH",
        text,
        "JSON file of further processors by name, with all that can be set of them; changes take effect at once",
        default="",
    )
    ca_file: str = setting(
        "MESH_PAYLOAD_CA_PATH",
        text,
        "certificates (PEM) by which processors trust servers, where not those of the system",
        default="",
    )
    max_bytes: int = setting(
        "MESH_PAYLOAD_MAX_BYTES",
        integer(0),
        "bytes of messages kept for all processors together; payloads without room are lost, and counted",
        default=64 << 20,
    )
    flush_ms: int = setting(
        "MESH_PAYLOAD_FLUSH_MS",
        integer(0),
        "time for delivering what waits when the instance ends, ms; what is left is lost, and counted",
        default=5_000,
    )
