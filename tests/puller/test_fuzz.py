"""Whatever archives, storage configurations, keys and ids hold: nothing leaves its directory, refusals are clear."""

import asyncio
import io
import json
import os
import stat
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.puller import Code, Puller, PullerSettings, PullFailure
from mesh.puller.archives import Allowance, unpack
from mesh.puller.disk import disk_failure
from mesh.puller.names import directory_name
from mesh.puller.provider import Workshop
from mesh.puller.providers import PROVIDERS, open_provider
from tests.puller.faulty_s3 import FaultyS3
from tests.puller.test_http import tree
from tests.puller.test_puller import settled

MAX_BYTES, MAX_ENTRIES = 4096, 12

SEGMENTS = st.sampled_from(
    [
        "a",
        "b",
        "c",
        "..",
        ".",
        "",
        "a b",
        "ü",
        "\u202e",
        "x" * 256,
        "-rf",
        "C:",
        "a\\b",
        ".mesh-pulled",
        "%2e",
    ]
)
PATHS = st.tuples(st.sampled_from(["", "/", "//", "./"]), st.lists(SEGMENTS, min_size=1, max_size=4)).map(
    lambda made: made[0] + "/".join(made[1])
)
KINDS = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.REGTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.GNUTYPE_SPARSE,
        b"?",
    ]
)
ENTRIES = st.lists(
    st.tuples(PATHS, KINDS, PATHS | st.just("/etc"), st.binary(max_size=40) | st.just(b"\0" * 3000)),
    max_size=15,
)
DAMAGE = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4)
ENDINGS = st.sampled_from([".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"])


def tar_of(entries: list[tuple[str, bytes, str, bytes]], ending: str) -> bytes:
    mode = {".tgz": "gz", ".tar": ""}.get(ending, ending.rpartition(".")[2])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{mode}", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for name, kind, to, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, to, 0o7777
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(entries: list[tuple[str, bytes, str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    # Names that are there twice are part of it.
    with (
        warnings.catch_warnings(action="ignore"),
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, kind, to, content in entries:
            info = zipfile.ZipInfo(name)
            if kind == tarfile.SYMTYPE:
                # As Info-ZIP packs links: the file's content is where it leads.
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, to.encode() if kind == tarfile.SYMTYPE else content)
    return buffer.getvalue()


def damaged(archive: bytes, damage: list[tuple[int, int]], cut: int) -> bytes:
    changed = bytearray(archive)
    for at, value in damage:
        if changed:
            changed[at % len(changed)] = value
    return bytes(changed[: len(changed) - cut]) if cut else bytes(changed)


@contextmanager
def guarded() -> Iterator[Path]:
    """A directory for a target, with things around it that must stay as they are."""
    with tempfile.TemporaryDirectory() as name:
        outer = Path(name)
        (outer / "a").mkdir()
        (outer / "a" / "secret").write_text("hush")
        (outer / "work").mkdir()
        yield outer / "work"
        assert tree(str(outer / "a")) == {"secret": b"hush"}
        assert {entry.name for entry in outer.iterdir()} == {"a", "work"}


def below(directory: Path) -> list[Path]:
    """All that is in a directory; links are not followed."""
    return [
        Path(folder, name) for folder, folders, files in os.walk(directory) for name in (*folders, *files)
    ]


def check_below(target: Path) -> None:
    """Only plain files, directories and links that stay inside; nothing with special bits."""
    real = target.resolve()
    for place in below(target):
        mode = place.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
        assert Path(os.path.realpath(place)).is_relative_to(real)
        if not stat.S_ISLNK(mode):
            assert not mode & (stat.S_ISUID | stat.S_ISGID)


def unpack_or_refuse(content: bytes, ending: str) -> None:
    with guarded() as work:
        archive = work / "archive"
        archive.write_bytes(content)
        target = work / "target"
        refused = None
        allowance = Allowance(MAX_BYTES, MAX_ENTRIES, lambda _: None)
        try:
            unpack(archive, f"m{ending}", target, allowance)
        except PullFailure as failure:
            refused = failure
        except OSError as error:
            # As the puller words it: a path that is too long for the disk, for one.
            refused = disk_failure(error, "store the model")
        if refused is None:
            check_below(target)
        else:
            assert refused.code in {Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED}
            assert refused.message
        written = [status for place in below(target) if stat.S_ISREG((status := place.lstat()).st_mode)]
        assert sum(status.st_size for status in written) <= MAX_BYTES
        assert all(status.st_nlink == 1 for status in written)
        assert {entry.name for entry in work.iterdir()} <= {"archive", "target"}


@settings(max_examples=120, deadline=None)
@given(ENTRIES, ENDINGS)
def test_no_entry_of_an_archive_leaves_the_target(
    entries: list[tuple[str, bytes, str, bytes]], ending: str
) -> None:
    unpack_or_refuse(zip_of(entries) if ending == ".zip" else tar_of(entries, ending), ending)


@settings(max_examples=120, deadline=None)
@given(ENTRIES, ENDINGS, ENDINGS, DAMAGE, st.integers(0, 200))
def test_a_damaged_archive_is_refused_and_never_crashes(
    entries: list[tuple[str, bytes, str, bytes]],
    packed: str,
    called: str,
    damage: list[tuple[int, int]],
    cut: int,
) -> None:
    content = zip_of(entries) if packed == ".zip" else tar_of(entries, packed)
    unpack_or_refuse(damaged(content, damage, cut), called)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
VALUES = (
    st.sampled_from(
        [
            "",
            "true",
            "no",
            "x",
            "a/b",
            "http://h",
            "https://h:1/p",
            "http://",
            "h:p",
            "//",
            "http://u:p@h",
            "\0",
            "ü",
            "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----",
        ]
    )
    | st.text(max_size=20)
    | JSON
)
FIELDS = [
    "bucket", "container", "account_name", "connection_string", "endpoint_url", "region", "url", "headers",
    "access_key_id", "secret_access_key", "anonymous", "virtual_host", "verify_ssl", "certificate", "ca_bundle",
    "client_certificate", "client_key", "private_key", "client_email", "token_uri", "default_credentials",
    "client_id", "client_secret", "tenant_id", "token", "revision", "allow_patterns", "ignore_patterns",
    "username", "password", "docker_config", "insecure", "unpack", "name",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(PROVIDERS)),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8),
)
def test_every_storage_configuration_opens_or_is_refused_clearly(kind: str, config: dict[str, Any]) -> None:
    secret = "hush-hush-hush"
    for name in ("secret_access_key", "private_key", "client_secret", "token", "password", "client_key"):
        if name in config:
            config[name] = secret
    with ThreadPoolExecutor(1) as threads:
        workshop = Workshop(PullerSettings(), threads, asyncio.Semaphore(1))
        refused = None
        try:
            open_provider(kind, config, workshop)
        except PullFailure as failure:
            refused = failure
    if refused is not None:
        # Type "local" is off unless it is allowed.
        assert refused.code in {Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION}
        assert refused.message
        assert secret not in refused.message


IDS = st.text(min_size=1, max_size=8) | st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)


@given(IDS, IDS)
def test_the_directory_of_a_model_is_its_own_and_below_the_root(one: str, other: str) -> None:
    names = []
    for model_id in (one, other):
        with suppress(PullFailure):
            names.append(directory_name(model_id))
    for name in names:
        assert Path("/root", name).parent == Path("/root")
        assert name not in {"", ".", ".."}
        assert name[0] not in "._"
        assert len(name.encode()) <= 255
    if len(names) == 2:
        assert (names[0] == names[1]) == (one == other)


KEYS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    objects=st.dictionaries(KEYS, st.binary(max_size=20), max_size=6),
    path=st.just("m") | PATHS,
    schema=st.none() | PATHS,
    model_id=IDS,
)
def test_whatever_lies_in_a_bucket_a_pull_stays_in_the_directory_of_its_model(
    objects: dict[str, bytes], path: str, schema: str | None, model_id: str
) -> None:
    async def pull(store: FaultyS3, root: Path) -> None:
        key = {
            "storage_params": {
                "type": "s3",
                "bucket": "b",
                "endpoint_url": store.endpoint,
                "anonymous": "true",
            },
            "schema_path": schema,
        }
        puller = Puller(PullerSettings(root=root, attempts=1))
        await puller.purge()
        refused = None
        try:
            pulled = await puller.pull(model_id, path, json.dumps(key))
        except PullFailure as failure:
            refused = failure
        if refused is not None:
            # A client asks for "a/" as "a", which then is not the object that was listed.
            nowhere = {Code.ABORTED} if any(key.endswith("/") for key in objects) else set()
            assert refused.code in {Code.INVALID_ARGUMENT, Code.NOT_FOUND} | nowhere
        else:
            own = root / directory_name(model_id)
            assert Path(pulled.path).parent == own
            check_below(own)
            await puller.delete(model_id)
        assert await settled(root) == []
        await puller.close()

    with FaultyS3().running() as store, guarded() as work:
        store.objects = {f"m/{key}": content for key, content in objects.items()} | {"m/fine": b"1"}
        asyncio.run(pull(store, work / "models"))
