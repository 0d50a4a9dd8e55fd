"""Promises to who looks at the mesh in a browser."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.instance.overview import History
from mesh.instance.page.answers import shown_path
from mesh.protos import admin_pb2, peer_pb2
from tests.instance.meshes import Mesh, eventually
from tests.servers.chromium import Tab, open_tab

HOSTILE = [
    "<img src=x onerror=window.harmed=1>",
    "\"'><script>window.harmed=1</script>",
    "javascript:window.harmed=1",
    "${window.harmed=1}&amp;&lt;b&gt;",
    "https://evil.example/?q=#model=other",
]


async def with_page(mesh: Mesh, instances: int = 3) -> str:
    for _ in range(instances):
        await mesh.add(page_port=0)
    await mesh.settle()
    page = mesh.instances[0].page
    assert page is not None
    return f"http://127.0.0.1:{page.port}/"


@asynccontextmanager
async def reading(mesh: Mesh, folder: Path, instances: int = 3) -> AsyncIterator[Tab]:
    async with open_tab(folder, await with_page(mesh, instances)) as tab:
        await tab.until(f"document.querySelectorAll('.card').length === {instances}")
        yield tab


def tile(model: str) -> str:
    return f"document.querySelector('.tile[data-model={model}]')"


def text_of(name: str) -> str:
    return f"document.getElementById('{name}').innerText"


async def test_the_page_shows_where_models_are_and_what_loads_and_fails(
    mesh: Mesh, tmp_path: Path, chromium_program: None
) -> None:
    async with reading(mesh, tmp_path) as tab:
        client = mesh.clients[0]
        for model in ("alpha", "beta"):
            await client.register(model, load=True, sync=True)
        await asyncio.gather(*(client.infer("alpha") for _ in range(50)))
        await tab.until(f"{tile('alpha')} && {tile('beta')}")
        await tab.until(f"{tile('alpha')}.title.includes('50 requests/min')", 30)
        heat = "Number(getComputedStyle(%s).getPropertyValue('--heat'))"
        assert await tab.run(heat % tile("alpha")) > await tab.run(heat % tile("beta")) == 0

        for runtime in mesh.runtimes:
            runtime.load_delay_s = 4
        await client.register("slow", load=True)
        await tab.until(f"{text_of('loads')}.includes('slow on test-')")
        await tab.until(f"{tile('slow')}.classList.contains('loading')")
        await tab.until(f"{text_of('loads')} === 'None.'")
        await tab.until(f"!{tile('slow')}.classList.contains('loading')")

        for runtime in mesh.runtimes:
            runtime.load_delay_s = 0
            runtime.refuse["broken"] = (grpc.StatusCode.INVALID_ARGUMENT, "it has no weights")
        await client.register("broken", load=True, sync=True)
        await tab.until(f"{text_of('failures')}.includes('it has no weights')")
        assert await tab.run(f"{text_of('facts')}.includes('models that fail\\n1')")

        decisions = await tab.run(text_of("decisions"))
        assert "alpha" in decisions
        await tab.run("kinds.value = 'what fails'; kinds.dispatchEvent(new Event('change', {bubbles: true}))")
        assert "alpha" not in await tab.run(text_of("decisions"))
        assert "it has no weights" in await tab.run(text_of("decisions"))
        assert tab.complaints == []

        page = mesh.instances[0].page
        assert page is not None
        await page.close()
        await tab.until(f"{text_of('pulse')}.startsWith('no answer for')", 30)
        assert await tab.run(f"{tile('alpha')} !== null")


async def test_a_model_is_found_and_explained_with_the_keyboard_alone(
    mesh: Mesh, tmp_path: Path, chromium_program: None
) -> None:
    async with reading(mesh, tmp_path) as tab:
        client = mesh.clients[0]
        for number in range(40):
            await client.register(f"model-{number}")
        policy = admin_pb2.Policy(max_copies=1, priority=7)
        await client.admin.SetPolicy(admin_pb2.SetPolicyRequest(model_id="model-17", policy=policy))
        await client.infer("model-17")

        await tab.press("/")
        await tab.type("EL-1")
        await tab.until("document.querySelectorAll('#found [role=option]').length === 11")
        await tab.run("search.select()")
        await tab.type("nothing like it")
        await tab.until(f"{text_of('found')}.startsWith('No model')")
        await tab.run("search.select()")
        await tab.type("model-17")
        await tab.until("document.querySelectorAll('#found [role=option]').length === 1")
        await tab.press("ArrowDown")
        await tab.press("Enter")
        details = await tab.until(f"{text_of('details')}.includes('at most 1 copy') && {text_of('details')}")
        assert "priority 7" in details
        assert "3 candidates" in details
        on = (await client.describe("model-17")).copies[0].instance_id
        assert on in details
        await tab.run("document.querySelector('#details summary').click()")
        assert "chosen" in await tab.run("document.querySelector('#details details').innerHTML")
        # It is drawn anew while one reads, and stays as one had it.
        await client.infer("model-17")
        await tab.until(f"{text_of('details')}.includes('\\t2\\t')", 30)
        assert await tab.run("document.querySelector('#details details').open")
        await tab.press("Escape")
        assert not await tab.run("details.open")

        await client.ensure_loaded("model-3")
        await tab.until(tile("model-3"))
        await tab.run(f"{tile('model-3')}.focus()")
        await tab.press("Enter")
        await tab.until(f"{text_of('details-title')} === 'model-3'")
        await tab.press("Escape")
        assert await tab.run(f"document.activeElement === {tile('model-3')}")
        assert tab.complaints == []


async def test_names_of_models_are_text_and_nothing_else(
    mesh: Mesh, tmp_path: Path, chromium_program: None
) -> None:
    async with reading(mesh, tmp_path, 1) as tab:
        count = "document.querySelectorAll('img, script, b, a, iframe').length"
        client = mesh.clients[0]
        mesh.runtimes[0].refuse[HOSTILE[0]] = (grpc.StatusCode.INTERNAL, HOSTILE[1])
        for name in HOSTILE:
            await client.register(name, model_type=name, path=name, load=True, sync=True)
        await tab.until(f"document.querySelectorAll('.tile').length === {len(HOSTILE) - 1}")
        await tab.until(f"{text_of('failures')}.includes('onerror')")
        # Each tile has its name in one <b>; nothing else came.
        assert await tab.run(count) == 2 + 1 + len(HOSTILE) - 1
        for name in HOSTILE:
            await tab.run(f"location.hash = 'model=' + encodeURIComponent({name!r})")
            await tab.until(
                f"details.innerText.includes('Why it is') && {text_of('details-title')} === {name!r}"
            )
        await tab.run("location.hash = ''")
        await tab.press("/")
        await tab.type("harmed")
        await tab.until("document.querySelectorAll('#found [role=option]').length === 4")
        assert await tab.run(count) == 2 + 1 + len(HOSTILE) - 1
        assert await tab.run("window.harmed === undefined")
        assert tab.complaints == []


async def test_areas_are_memory_and_progress_is_shown(
    mesh: Mesh, tmp_path: Path, chromium_program: None
) -> None:
    async with reading(mesh, tmp_path, 1) as tab:
        wrong = await tab.run("""
            import('/treemap.js').then(({treemap}) => {
              const wrong = [];
              for (let round = 0; round < 200; round += 1) {
                const areas = Array.from({length: 1 + round}, () => 1 + Math.random() ** 4 * 1e9).sort((a, b) => b - a);
                const sum = areas.reduce((a, b) => a + b);
                const places = treemap(areas, 300, 200);
                places.forEach((one, i) => {
                  if (Math.abs(one.width * one.height / 60000 - areas[i] / sum) > 1e-9) wrong.push('area');
                  if (one.x < -1e-6 || one.y < -1e-6 || one.x + one.width > 300.001 || one.y + one.height > 200.001)
                    wrong.push('outside');
                  for (const other of places.slice(0, i))
                    if (Math.min(one.x + one.width, other.x + other.width) - Math.max(one.x, other.x) > 1e-6 &&
                        Math.min(one.y + one.height, other.y + other.height) - Math.max(one.y, other.y) > 1e-6)
                      wrong.push('overlap');
                });
              }
              return wrong;
            })""")
        assert wrong == []
        shown = await tab.run("""
            import('/lists.js').then(({drawLoads}) => {
              const copy = {model: 'm', state: 'loading', since_ms: 1000, pulled: 1048576, to_pull: 4194304};
              drawLoads({time_ms: 6000, instances: [{id: 'i', copies: [copy]}]});
              return [loads.innerText, loads.querySelector('progress').value];
            })""")
        assert shown == ["m on i\nloading, for 5 s, 25% of 4.0 MiB pulled", 0.25]


async def test_the_page_can_only_be_read_and_only_under_its_own_name(mesh: Mesh) -> None:
    url = await with_page(mesh, 1)
    await mesh.clients[0].register("signed", path="https://user:pass@models.example/a?signature=secret")
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as page:
            assert page.status == 200
            assert "script-src 'self'" in page.headers["Content-Security-Policy"]
            assert "unsafe" not in page.headers["Content-Security-Policy"]
            again = await session.get(url, headers={"If-None-Match": page.headers["ETag"]})
            assert again.status == 304
        for path, expected in (("api/nothing", 404), ("../x", 404), ("api/model?id=absent", 404)):
            async with session.get(url + path) as answer:
                assert answer.status == expected
                assert "Content-Security-Policy" in answer.headers
        for method in ("POST", "PUT", "DELETE"):
            async with session.request(method, url + "api/overview") as answer:
                assert answer.status == 405
        async with session.get(url, headers={"Host": "evil.example"}) as answer:
            assert answer.status == 403
        async with session.get(url + "api/model?id=signed") as answer:
            told = await answer.text()
            assert "https://models.example/a?..." in told
            assert "secret" not in told
            assert "pass" not in told


async def test_there_is_no_page_where_nobody_asked_for_one(mesh: Mesh) -> None:
    await mesh.add()
    assert mesh.instances[0].page is None


async def test_an_overview_has_the_hottest_copies_and_counts_the_others(mesh: Mesh) -> None:
    for _ in range(2):
        await mesh.add()
    await mesh.settle()
    client = mesh.clients[0]
    for number in range(6):
        await client.register(f"model-{number}", load=True, sync=True)
    for _ in range(5):
        await client.infer("model-4")
    [holder] = [
        one
        for one in mesh.instances
        if one.settings.instance_id == (await client.describe("model-4")).copies[0].instance_id
    ]
    peer = next(
        (one for one in mesh.instances[0].parts.peers if one.instance_id == holder.settings.instance_id), None
    )
    assert holder.parts.loader is not None
    here = len(list(holder.parts.loader.cache.copies()))
    if peer is not None:
        told = await peer.models(most=1)
        assert [copy.model_id for copy in told.copies] == ["model-4"]
        assert told.others == here - 1
        assert (told.others_bytes > 0) == (here > 1)

    async def overview() -> admin_pb2.OverviewReply:
        return await client.admin.Overview(admin_pb2.OverviewRequest(), timeout=20)

    async def complete() -> bool:
        reply = await overview()
        copies = sorted(copy.model_id for instance in reply.copies for copy in instance.copies)
        return copies == [f"model-{number}" for number in range(6)] and len(reply.decisions) >= 12

    await eventually(complete)
    first, second = await asyncio.gather(overview(), overview())
    assert first == second
    assert [one.reachable for one in first.instances.instances] == [True, True]
    assert first.models_loaded == first.instances.models_registered == 6


decisions = st.builds(
    peer_pb2.Decision,
    instance_id=st.sampled_from(["a", "b", "c"]),
    time_ms=st.integers(1, 30),
    model_id=st.sampled_from(["m", "n"]),
    kind=st.sampled_from(["load", "eviction"]),
)


@given(st.lists(st.lists(decisions, max_size=8), max_size=6), st.integers(1, 12))
def test_a_history_is_as_if_everything_were_asked_every_time(
    rounds: list[list[peer_pb2.Decision]], most: int
) -> None:
    history, all_made = History(most), list[peer_pb2.Decision]()
    latest = 0
    for made in rounds:
        # Time goes on: what is decided now is not older than what was told.
        for one in sorted(made, key=lambda one: one.time_ms):
            latest = one.time_ms = max(one.time_ms, latest)
            all_made.append(one)
        for instance in ("a", "b", "c"):
            since_ms = history.told_until_ms(instance)
            mine = [one for one in reversed(all_made) if one.instance_id == instance]
            history.add(one for one in mine[:most] if one.time_ms >= since_ms)
    distinct = {one.SerializeToString(deterministic=True): one for one in all_made}
    times = sorted((one.time_ms for one in distinct.values()), reverse=True)
    shown = [one.time_ms for one in history.newest]
    assert shown == sorted(shown, reverse=True)
    assert len(shown) <= most
    assert shown[:1] == times[:1]
    assert {one.SerializeToString(deterministic=True) for one in history.newest} <= distinct.keys()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("models/a b", "models/a b"),
        ("/models/a?b", "/models/a?b"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("https://u:p@host:1/a?sig=1#x", "https://host:1/a?..."),
        ("http://[broken/a?sig=1", "(not shown: it is no address)"),
    ],
)
def test_paths_are_shown_without_what_lets_one_in(path: str, shown: str) -> None:
    assert shown_path(path) == shown
