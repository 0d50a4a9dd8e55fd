"""Whatever happens to store and mirror, the mirror is the store in the end, and its updates hold."""

import asyncio
from collections import Counter
from functools import partial

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.registry import TEXT, MemoryCluster, Mirror, OutcomeUnknown, Put, StoreUnavailable
from mesh.registry.replica import Replica
from tests.registry.test_mirror import PREFIX, Heard, append
from tests.registry.worlds import eventually

ids = st.sampled_from(["a", "b", "c", "d"])
steps = st.one_of(
    st.tuples(st.just("put"), ids),
    st.tuples(st.just("delete"), ids),
    st.tuples(st.just("put both"), ids),
    st.tuples(st.just("append"), ids),
    st.tuples(st.just("fetch"), ids),
    st.tuples(st.sampled_from(["stop", "start", "compact", "lose answer", "let run"]), st.none()),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=40), st.sampled_from([0.002, 600.0]))
def test_the_mirror_is_the_store_in_the_end(
    script: list[tuple[str, str | None]], relist_every: float
) -> None:
    asyncio.run(follow(script, relist_every))


async def follow(script: list[tuple[str, str | None]], relist_every: float) -> None:
    cluster = MemoryCluster(history=6)
    rival, store = cluster.client(), cluster.client()
    mirror = Mirror(store, PREFIX, TEXT, relist_every=relist_every)
    heard = Heard()
    mirror.subscribe(heard)
    mirror.start()
    for number, (step, record_id) in enumerate(script):
        try:
            match step:
                case "put":
                    await rival.put(f"{PREFIX}{record_id}", f"{number} ".encode())
                case "delete":
                    await rival.delete(f"{PREFIX}{record_id}")
                case "put both":
                    await rival.transact({}, [Put(f"{PREFIX}{record_id}", b"x "), Put(f"{PREFIX}z", b"x ")])
                case "append":
                    after = await mirror.update(str(record_id), partial(append, f"{number} "))
                    assert after is not None
                    assert Counter(after.split())[str(number)] == 1, "an update was applied twice"
                    assert mirror[str(record_id)] == after
                case "fetch":
                    now = await mirror.fetch(str(record_id))
                    assert now == text(cluster, f"{PREFIX}{record_id}")
                case "stop":
                    cluster.stop()
                case "start":
                    cluster.start()
                case "compact":
                    cluster.compact(cluster.revision)
                case "lose answer":
                    cluster.lose_answers(1)
                case _:
                    await asyncio.sleep(0.001)
        except (StoreUnavailable, OutcomeUnknown):
            pass
    cluster.start()
    cluster.lose_answers(0)
    expected = {
        entry.key.removeprefix(PREFIX): entry.value.decode()
        for entry in cluster.page(PREFIX, None, 0, 100).entries
    }
    await eventually(lambda: dict(mirror) == expected, 5)
    assert heard.state == expected
    assert mirror._replica.position <= cluster.revision
    await mirror.close()


def text(cluster: MemoryCluster, key: str) -> str | None:
    entry = cluster.read(key)
    return None if entry is None else entry.value.decode()


@given(
    st.lists(st.booleans(), min_size=1, max_size=8),
    st.lists(st.integers(0, 7), max_size=30),
    st.integers(0, 8),
)
def test_facts_in_any_order_leave_the_newest(history: list[bool], order: list[int], listed_at: int) -> None:
    """One id is put (true) or deleted (false) at revisions 1, 2, ...; facts of it arrive in any order."""

    def state(revision: int) -> int:
        last = min(revision, len(history))
        return last if last and history[last - 1] else 0

    replica: Replica[int] = Replica()
    taken = 0

    def learn(modified: int, at: int) -> None:
        nonlocal taken
        if not replica.is_news("a", modified, at):
            return
        assert at >= taken, "knowledge went back"
        taken = at
        if modified:
            replica.set("a", modified, modified)
        else:
            replica.remove("a", at)

    for step in order:
        at = min(step + 1, len(history))
        learn(state(at), at)
    listed_at = min(max(listed_at, replica.position), len(history))
    learn(state(listed_at), listed_at)
    for record_id in replica.missing(["a"] if state(listed_at) else [], listed_at):
        replica.remove(record_id, listed_at)
    replica.advance(listed_at)
    for at in range(1, len(history) + 1):
        if at > replica.position:
            learn(state(at), at)
            replica.advance(at)
    held = replica.held.get("a")
    assert (held.record if held else 0) == state(len(history))
    assert not replica._deleted
