"""What becomes of a request whose copy did not serve it."""

import pytest

from mesh.placement import (
    AwaitLoad,
    CopySeen,
    FailRequest,
    GiveHeldAnswer,
    GiveUp,
    PlaceLoad,
    RequestView,
    Step,
    Trouble,
    Usable,
    UseCopies,
    next_step,
    usable_copies,
)

NOW = 1_800_000_000_000
NONE = Usable((), (), None)
TWO = Usable(("a", "b"), (), None)


def test_copies_count_as_loaded_once_loads_of_their_type_are_done() -> None:
    copies = [
        CopySeen("old", NOW - 10_000),
        CopySeen("young", NOW - 9_999),
        CopySeen("told", NOW, confirmed=True),
    ]
    assert usable_copies(copies, 10_000, NOW) == Usable(("old", "told"), ("young",), NOW + 1)


def test_doubtful_copies_are_the_last_choice() -> None:
    leaving = CopySeen("leaving", 0, doubtful=True)
    assert usable_copies([leaving, CopySeen("a", 0)], 1_000, NOW).loaded == ("a",)
    assert usable_copies([leaving], 1_000, NOW).loaded == ("leaving",)


def test_where_all_are_loading_requests_wait_at_the_first() -> None:
    usable = usable_copies([CopySeen("b", NOW - 5), CopySeen("a", NOW - 9)], 1_000, NOW)
    assert next_step(RequestView("m"), usable, (), NOW) == AwaitLoad("a")
    assert next_step(RequestView("m", tried=frozenset("a")), usable, (), NOW) == AwaitLoad("b")


@pytest.mark.parametrize(
    ("request_", "usable", "step"),
    [
        (RequestView("m"), NONE, PlaceLoad()),
        (RequestView("m"), TWO, UseCopies(("a", "b"))),
        (RequestView("m", tried=frozenset("a"), attempts=1), TWO, UseCopies(("b",))),
        (RequestView("m", tried=frozenset("ab"), attempts=2), TWO, PlaceLoad()),
        # Other copies may serve it, but no new copy is made for a model server that is in trouble.
        (RequestView("m", Trouble.UNAVAILABLE, 1, 0, frozenset("a")), TWO, UseCopies(("b",))),
        (RequestView("m", Trouble.UNAVAILABLE, 2, 0, frozenset("ab")), TWO, GiveHeldAnswer()),
        (RequestView("m", Trouble.UNAVAILABLE, 8, 0, frozenset("a")), TWO, GiveHeldAnswer()),
        (RequestView("m", Trouble.EXHAUSTED, 1, 1, frozenset("a")), TWO, UseCopies(("b",))),
        (RequestView("m", Trouble.EXHAUSTED, 2, 2, frozenset("a")), TWO, GiveHeldAnswer()),
        (RequestView("m", Trouble.EXHAUSTED, 1, 1, frozenset("a")), NONE, GiveHeldAnswer()),
    ],
)
def test_next_step(request_: RequestView, usable: Usable, step: Step) -> None:
    assert next_step(request_, usable, (), NOW) == step


def test_a_request_is_not_tried_without_end() -> None:
    step = next_step(RequestView("m", attempts=8), TWO, (), NOW)
    assert step == FailRequest(GiveUp.ATTEMPTS, "No copy of model m served the request in 8 attempts")
    step = next_step(RequestView("m", loads=5), NONE, (), NOW)
    assert step == FailRequest(GiveUp.LOADS, "Model m could not be loaded on any of 5 instances")


def test_a_model_that_failed_to_load_again_and_again_is_not_tried_for_a_while() -> None:
    failures = [(NOW - 1_000, "first"), (NOW - 500, "newest"), (NOW - 449_999, "oldest")]
    step = next_step(RequestView("m"), NONE, failures, NOW)
    assert step == FailRequest(GiveUp.LOAD_FAILED, "newest")
    assert next_step(RequestView("m"), NONE, failures, NOW + 1) == PlaceLoad()
    assert next_step(RequestView("m"), TWO, failures, NOW) == UseCopies(("a", "b"))
