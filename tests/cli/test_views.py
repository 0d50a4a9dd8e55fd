from io import StringIO

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import RenderableType

from mesh.cli import views
from mesh.cli.screen import console
from mesh.protos import admin_pb2, peer_pb2
from tests.cli.messages import (
    MIB,
    NOW,
    copy,
    eviction,
    failed_model,
    idle_model,
    instances,
    loaded_model,
    overview,
    placement,
)


def text(renderable: RenderableType, width: int = 160) -> str:
    screen = console()
    screen.file = StringIO()
    screen.width = width
    screen.print(renderable)
    return screen.file.getvalue()


def line_of(rendered: str, start: str) -> str:
    return next(line for line in rendered.splitlines() if line.strip().startswith(start))


def test_models_are_listed_with_state_place_size_and_age() -> None:
    rendered = text(views.models_table([loaded_model(), idle_model(), failed_model()], NOW))
    digits = line_of(rendered, "digits")
    assert "loaded" in digits
    assert "laptop-1" in digits
    assert "9.0 MiB" in digits
    assert "3 s ago" in digits
    assert "not loaded" in line_of(rendered, "wine")
    assert "never" in line_of(rendered, "wine")
    assert "failed" in line_of(rendered, "broken")


def test_a_cut_list_says_so() -> None:
    cut = text(views.models_table([loaded_model()], NOW, more=True, registered=20))
    assert "1 shown, there are more; 20 models in all" in cut
    assert text(views.models_table([], NOW)) == "No models.\n"
    assert text(views.models_table([], NOW, registered=20)) == "None of 20 models.\n"


def test_the_state_of_a_model_is_that_of_its_best_copy() -> None:
    model = admin_pb2.Model(
        copies=[copy("a", peer_pb2.COPY_STATE_FAILED), copy("b", peer_pb2.COPY_STATE_LOADING)]
    )
    assert views.model_state(model).plain == "loading"
    model.copies.append(copy("c"))
    assert views.model_state(model).plain == "loaded"


def test_ids_that_look_like_markup_are_shown_as_they_are() -> None:
    for model_id in ("[red]hot[/red]", ":tada:", "[/]"):
        assert model_id in text(views.models_table([loaded_model(model_id)], NOW))
        assert model_id in text(views.model_status(loaded_model(model_id), NOW))
        assert model_id in text(
            views.explanation(model_id, loaded_model(model_id), [placement(model_id)], NOW)
        )


def test_failures_are_shown_newest_first_with_their_messages() -> None:
    rendered = text(views.model_status(failed_model(), NOW))
    assert "laptop-1, 5 s ago: no such file: /models/broken" in rendered
    assert rendered.index("no such file") < rendered.index("older trouble")


def test_one_model_in_full() -> None:
    rendered = text(views.model_status(loaded_model(in_flight=4, requests_per_minute=120), NOW))
    assert "/models/digits" in rendered
    row = line_of(rendered, "laptop-1")
    assert row.split() == ["laptop-1", "loaded", "12", "s", "ago", "9.0", "MiB", "4", "120", "3", "s", "ago"]


def test_the_mesh_in_numbers() -> None:
    rendered = text(views.mesh_status(instances(), NOW))
    assert "25.0 MiB used of 40.0 MiB" in rendered
    assert "3 registered, 3 loaded copies" in rendered
    assert rendered.index("laptop-1 ") < rendered.rindex("laptop-2 ")
    assert "leader" in line_of(rendered[rendered.index("INSTANCE") :], "laptop-2")
    assert "unreachable" in line_of(rendered[rendered.index("INSTANCE") :], "laptop-2")
    assert "shutting down" in line_of(rendered[rendered.index("INSTANCE") :], "laptop-1")
    assert "routes only" in line_of(rendered, "router-1")


def test_instances_that_go_by_other_type_constraints_stand_out() -> None:
    reply = instances()
    for instance in reply.instances:
        instance.type_rules = "" if instance.instance_id == "laptop-1" else "0a1b2c3d"
    rendered = text(views.mesh_status(reply, NOW))
    told = "type constraints differ from those of most"
    assert told in line_of(rendered[rendered.index("INSTANCE") :], "laptop-1")
    assert rendered.count(told) == 1


def test_a_mesh_without_a_leader_says_so() -> None:
    assert "none elected" in text(views.mesh_status(admin_pb2.ListInstancesReply(), NOW))


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(1, 100))
def test_a_memory_bar_is_as_full_as_the_memory(used: int, capacity: int, width: int) -> None:
    bar = views.memory_bar(used, capacity, width).plain
    assert len(bar) == width
    share = min(1.0, used / capacity) if capacity else 0.0
    assert abs(bar.count("█") - share * width) <= 0.5


def test_an_explanation_tells_why_a_copy_is_where_it_is() -> None:
    rendered = text(views.explanation("digits", loaded_model(), [placement()], NOW))
    assert "on laptop-1: loaded for 12 s, 9.0 MiB, last used 3 s ago" in rendered
    assert "because has most free memory" in rendered
    best, second, refused = (
        rendered.index(words)
        for words in ("chosen: 11.0 MiB free", "full, oldest entry 4 s", "refused: shutting down")
    )
    assert best < second < refused


def test_an_explanation_tells_what_a_model_was_evicted_for() -> None:
    rendered = text(views.explanation("wine", idle_model(), [eviction()], NOW))
    assert "not loaded because evicted after 40 s without use" in rendered
    assert "(for digits)" in rendered


def test_what_took_a_copy_away_explains_more_than_the_unload_that_it_led_to() -> None:
    idle, unload = (
        peer_pb2.Decision(
            instance_id="laptop-1", time_ms=time_ms, kind=kind, model_id="wine", summary=summary
        )
        for kind, time_ms, summary in (
            ("scale_down", NOW - 1_000, "leaves: not used for 61 s"),
            ("unload", NOW - 1_001, "leaves: removed"),
        )
    )
    rendered = text(views.explanation("wine", idle_model(), [idle, unload], NOW))
    assert "not loaded because leaves: not used for 61 s" in rendered


def test_an_eviction_explains_more_than_the_unload_that_follows_it() -> None:
    unload = peer_pb2.Decision(
        instance_id="laptop-1", time_ms=NOW - 10_900, kind="unload", model_id="wine", summary="leaves"
    )
    assert "not loaded because evicted" in text(
        views.explanation("wine", idle_model(), [unload, eviction()], NOW)
    )
    later = peer_pb2.Decision(
        instance_id="laptop-1", time_ms=NOW, kind="unload", model_id="wine", summary="idle"
    )
    assert "not loaded because idle" in text(
        views.explanation("wine", idle_model(), [later, eviction()], NOW)
    )


def test_an_unknown_model_is_explained_by_what_is_remembered() -> None:
    assert "gone is not registered" in text(views.explanation("gone", None, [eviction("gone")], NOW))


def test_decisions_about_all_models_name_the_model() -> None:
    rendered = text(views.explanation("", None, [placement(), eviction()], NOW))
    assert [("digits" in line, "wine" in line) for line in rendered.splitlines()] == [
        (True, False),
        (True, True),
    ]


def snapshot(models: tuple[admin_pb2.Model, ...], decisions: int = 2) -> views.Snapshot:
    return views.Snapshot("127.0.0.1:8033", overview(models, [placement(), eviction()] * decisions), NOW)


def test_the_hottest_models_come_first() -> None:
    cold, hot, busy = (
        loaded_model("cold"),
        loaded_model("hot", requests_per_minute=900),
        loaded_model("busy", in_flight=3),
    )
    rendered = text(views.top_frame(snapshot((cold, hot, busy))))
    assert rendered.index("busy") < rendered.index("hot ") < rendered.index("cold")
    assert "3 instances, 3 models, 3 loaded, 42 requests/min" in rendered


def test_loads_in_flight_are_shown() -> None:
    loading = admin_pb2.Model(model_id="slow", copies=[copy("laptop-2", peer_pb2.COPY_STATE_LOADING)])
    assert "slow on laptop-2: loading for 12 s" in text(views.top_frame(snapshot((loading,))))
    loading.copies[0].MergeFrom(admin_pb2.Copy(pulled_bytes=MIB, to_pull_bytes=4 * MIB))
    assert "loading for 12 s, 25% of 4.0 MiB pulled" in text(views.top_frame(snapshot((loading,))))
    assert "No loads in flight" in text(views.top_frame(snapshot(())))


def test_failed_loads_are_shown_with_their_reason() -> None:
    rendered = text(views.top_frame(snapshot((failed_model(),))))
    assert "1 cannot be loaded" in rendered
    assert "broken on laptop-1 5 s ago: no such file: /models/broken" in rendered
    assert "Failed loads" not in text(views.top_frame(snapshot((loaded_model(),))))


@settings(max_examples=25)
@given(st.integers(24, 100), st.integers(0, 80), st.integers(0, 40), st.booleans())
def test_a_frame_fits_the_screen(height: int, models: int, decisions: int, failing: bool) -> None:
    many = tuple(
        admin_pb2.Model(
            model_id=f"model-{number}",
            copies=[
                copy("laptop-1", peer_pb2.COPY_STATE_LOADING if number % 3 else peer_pb2.COPY_STATE_LOADED)
            ],
        )
        for number in range(models)
    )
    if failing:
        many += (failed_model(),)
    rendered = text(views.top_frame(snapshot(many, decisions), height))
    assert len(rendered.splitlines()) <= height


def test_a_size_is_that_of_the_largest_copy() -> None:
    model = admin_pb2.Model(
        model_id="m", copies=[copy("a", size_bytes=3 * MIB), copy("b", size_bytes=5 * MIB)]
    )
    assert "5.0 MiB" in text(views.models_table([model], NOW))
