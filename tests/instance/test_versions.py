"""Versions become numbers that grow."""

import pytest

from mesh.instance.versions import version_number

DAY = 86_400_000
TWENTIETH = 1_577_836_800_000


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("build-20200101-0", TWENTIETH),
        ("a-b-20200102-17", TWENTIETH + DAY + 17),
        ("20200101-0130", TWENTIETH + 90 * 60_000),
        ("20200101-0130-5", TWENTIETH + 90 * 60_000 + 5),
        ("20201301-0130", 0),
        ("build-20200132-1", 0),
        ("v0.12.0", 0),
        ("", 0),
    ],
)
def test_a_version_is_read_as_kserve_modelmesh_reads_it(version: str, number: int) -> None:
    assert version_number(version) == number
