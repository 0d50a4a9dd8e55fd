"""When clients are sent to an instance."""

import pytest

from mesh.placement import Readiness


def _told(readiness: Readiness) -> list[str]:
    assert readiness.ready == (not readiness.reasons)
    return list(readiness.reasons)


def test_an_instance_is_ready_once_it_serves() -> None:
    readiness = Readiness()
    assert _told(readiness) == ["the instance is starting"]
    readiness.serve()
    assert _told(readiness) == []


def test_it_waits_until_nobody_leaves_and_then_never_again() -> None:
    readiness = Readiness()
    readiness.see_leaving({"b", "a"})
    readiness.serve()
    assert _told(readiness) == ["waiting until a, b has left the mesh"]
    readiness.see_leaving({"b"})
    assert _told(readiness) == ["waiting until b has left the mesh"]
    readiness.see_leaving(())
    assert _told(readiness) == []
    readiness.see_leaving({"c"})
    assert _told(readiness) == [], "an instance that takes requests goes on while others leave"


def test_that_nobody_leaves_counts_only_once_it_could_serve() -> None:
    readiness = Readiness()
    readiness.see_leaving(())
    readiness.see_leaving({"a"})
    readiness.serve()
    assert not readiness.ready


@pytest.mark.parametrize("serving", [False, True])
def test_what_is_broken_stays_broken(serving: bool) -> None:
    readiness = Readiness()
    readiness.fail("publisher", "first")
    readiness.fail("publisher", "second")
    if serving:
        readiness.serve()
    assert readiness.reasons[0] == "first"
    assert "second" not in readiness.reasons
    assert not readiness.ready


def test_an_instance_that_left_is_not_ready() -> None:
    readiness = Readiness()
    readiness.serve()
    readiness.leave()
    assert readiness.reasons == ("the instance is leaving the mesh",)
