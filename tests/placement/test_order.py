"""Entries in an order that their uses change."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.placement.entries import Entry
from mesh.placement.order import Order


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "touch", "remove", "walk"]), st.integers(0, 9), st.integers(0, 1_000)
        ),
        max_size=300,
    )
)
def test_the_oldest_is_always_the_oldest(steps: list[tuple[str, int, int]]) -> None:
    order = Order(lambda entry: entry.last_used_ms)
    entries: dict[int, Entry] = {}
    for action, name, used_ms in steps:
        match action:
            case "add" if name not in entries:
                entries[name] = Entry(str(name), 0, used_ms, 0, False, "")
                order.add(entries[name])
            case "touch" if name in entries:
                entries[name].touch(used_ms)
            case "remove" if name in entries:
                order.discard(entries.pop(name))
            case "walk":
                walked = []
                while (entry := order.pop()) is not None:
                    walked.append(entry)
                order.add_all(walked)
                assert [entry.last_used_ms for entry in walked] == sorted(
                    entry.last_used_ms for entry in entries.values()
                )
        oldest = order.first()
        assert (oldest.last_used_ms if oldest else None) == min(
            (entry.last_used_ms for entry in entries.values()), default=None
        )


def test_entries_that_are_gone_take_no_room() -> None:
    order = Order(lambda entry: entry.last_used_ms)
    eternal = Entry("eternal", 0, 0, 0, False, "")
    order.add(eternal)
    for number in range(10_000):
        entry = Entry(str(number), 0, number, 0, False, "")
        order.add(entry)
        order.discard(entry)
    assert order.first() is eternal
    assert len(order._heap) < 100
