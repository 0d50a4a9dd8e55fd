"""One candidate leads, and another when it goes."""

import asyncio

import pytest

from mesh.registry import TEXT, Election, InstanceRecord, Keys, Mirror, Registry, Session, Store
from tests.registry.worlds import World, eventually

KEYS = Keys("mm")


class Instance:
    """A candidate with a session of its own."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self.session = Session(store, ttl=3, keep_alive_every=0.1)
        self.election = Election(store, self.session, KEYS, name)
        self.heard: list[bool] = []
        self.election.subscribe(self.heard.append)

    async def start(self) -> None:
        self.session.start()
        self.election.start()
        await self.election.stand()

    async def close(self) -> None:
        await self.election.close()
        await self.session.close()


async def instances(world: World, count: int) -> list[Instance]:
    made = [Instance(world.client(), f"i{number}") for number in range(count)]
    for instance in made:
        await instance.start()
    return made


async def test_the_first_candidate_leads_and_the_next_follows(world: World, store: Store) -> None:
    first, second, third = await instances(world, 3)
    await first.election.wait(True, 10)
    assert not second.election.leading
    [entry, *_] = (await store.list(KEYS.candidates)).entries
    assert (entry.key, entry.value) == ("/tas-runtime/mm/leaderLatch/_i0", b"_i0")
    await eventually(lambda: third.election.leader == "i0")
    await first.close()
    await second.election.wait(True, 10)
    await eventually(lambda: third.election.leader == "i1")
    assert (first.heard, second.heard, third.heard) == ([True, False], [True], [])
    await second.close()
    await third.close()


async def test_leadership_goes_with_the_lease_and_does_not_come_back_by_itself(world: World) -> None:
    first, second = await instances(world, 2)
    await first.election.wait(True, 10)
    await world.expire(first.session.lease)
    await second.election.wait(True, 10)
    await eventually(lambda: first.heard == [True, False])
    await first.session.wait_live(10)
    await eventually(lambda: second.election.leader == "i1" and len(second.election._candidates) == 2)
    assert (first.election.leading, second.election.leading) == (False, True)
    await second.close()
    await first.election.wait(True, 10)
    await first.close()


async def test_a_leader_that_cannot_reach_the_store_steps_down_in_time(world: World) -> None:
    [only] = await instances(world, 1)
    await only.election.wait(True, 10)
    world.stop()
    await only.election.wait(False, 20)
    world.start()
    await only.election.wait(True, 20)
    assert only.heard == [True, False, True]
    await only.close()


async def test_nobody_leads_by_a_list_half_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = Instance(world.client(), "i1"), Instance(slow := world.client(), "i0")
    await leader.start()
    await leader.election.wait(True, 10)
    page = slow.page

    async def small_page(*args: object, **kwargs: object) -> object:
        await asyncio.sleep(0.05)
        return await page(*args, **{**kwargs, "limit": 1})  # type: ignore[arg-type]

    monkeypatch.setattr(slow, "page", small_page)
    follower.session.start()
    await follower.election.stand()
    follower.election.start()
    await eventually(lambda: follower.election.leader == "i1")
    assert follower.heard == []
    await leader.close()
    await follower.election.wait(True, 10)
    await follower.close()


async def test_a_candidacy_that_somebody_deleted_is_renewed(world: World, store: Store) -> None:
    first, second = await instances(world, 2)
    await first.election.wait(True, 10)
    await store.delete(KEYS.candidates + "_i0")
    await second.election.wait(True, 10)
    await eventually(lambda: first.heard == [True, False])
    await eventually(lambda: len(second.election._candidates) == 2)
    assert second.election.leader == "i1"
    await first.close()
    await second.close()


async def test_never_two_leaders_while_sessions_come_and_go(world: World) -> None:
    made = await instances(world, 3)
    leaders_at_once = 0

    def count(_: bool) -> None:
        nonlocal leaders_at_once
        leaders_at_once = max(leaders_at_once, sum(instance.election.leading for instance in made))

    for instance in made:
        instance.election.subscribe(count)
    for _ in range(6):
        await eventually(lambda: any(instance.election.leading for instance in made))
        [leader] = [instance for instance in made if instance.election.leading]
        await leader.close()
        made.remove(leader)
        successor = Instance(world.client(), leader.name)
        successor.election.subscribe(count)
        made.append(successor)
        await successor.start()
    assert leaders_at_once <= 1
    for instance in made:
        await instance.close()


async def test_a_registry_is_all_that_an_instance_needs(world: World, store: Store) -> None:
    first, second = (Registry(world.client(), KEYS, name, keep_alive_every=0.1) for name in ("i1", "i2"))
    await store.put(KEYS.config + "logger_level", b"DEBUG")
    for registry in (first, second):
        await registry.start(20)
    assert first.config["logger_level"] == "DEBUG"
    await first.publish(InstanceRecord(location="a", actionable=True))
    await first.election.stand()
    await first.election.wait(True, 10)
    await eventually(lambda: second.instances.get("i1") == InstanceRecord(location="a", actionable=True))
    presence: list[bool] = []
    second.instances.subscribe(lambda name, _, after: presence.append(after is not None))
    await store.delete(KEYS.instances + "i1")
    await eventually(lambda: presence == [False, True])
    await world.expire(first.session.lease)
    await eventually(lambda: presence == [False, True, False, True] and second.election.leader == "i1")
    await first.election.wait(True, 10)
    await first.withdraw()
    await eventually(lambda: "i1" not in second.instances)
    await second.publish(InstanceRecord(location="b"))
    await second.close()
    await eventually(lambda: not first.instances)
    await first.close()
    candidates = Mirror(store, KEYS.candidates, TEXT)
    candidates.start()
    await candidates.wait_ready(10)
    assert not candidates
    await candidates.close()
