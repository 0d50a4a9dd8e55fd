"""Entries in the order of their last use."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.placement.entries import Entry, LruOrder


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
    order = LruOrder()
    entries: dict[int, Entry] = {}
    for action, name, used_ms in steps:
        match action:
            case "add" if name not in entries:
                entries[name] = Entry(str(name), 0, used_ms, 0, False, "")
                order.add(entries[name])
            case "touch" if name in entries:
                entries[name].touch(used_ms)
            case "remove" if name in entries:
                order.remove(entries.pop(name))
            case "walk":
                walked = []
                while (entry := order.pop_oldest()) is not None:
                    walked.append(entry)
                order.put_back(walked)
                assert [entry.last_used_ms for entry in walked] == sorted(
                    entry.last_used_ms for entry in entries.values()
                )
        oldest = order.oldest()
        assert (oldest.last_used_ms if oldest else None) == min(
            (entry.last_used_ms for entry in entries.values()), default=None
        )


def test_entries_that_are_gone_take_no_room() -> None:
    order = LruOrder()
    eternal = Entry("eternal", 0, 0, 0, False, "")
    order.add(eternal)
    for number in range(10_000):
        entry = Entry(str(number), 0, number, 0, False, "")
        order.add(entry)
        order.remove(entry)
    assert order.oldest() is eternal
    assert len(order._heap) < 100
