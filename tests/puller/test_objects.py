"""Which local files listed objects become: none leads out, none is lost, none is two things."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mesh.puller import Code, PullFailure
from mesh.puller.objects import without_markers
from mesh.puller.transfers import RemoteFile

SEGMENTS = st.sampled_from(["a", "b", "..", ".", "", "a b", "x" * 256, "\0", "ü", "%2e%2e"]) | st.text(
    max_size=5
)
KEYS = st.lists(SEGMENTS, max_size=4).map("/".join)


def listed(keys: dict[str, int]) -> list[RemoteFile]:
    return [RemoteFile(f"m/{key}", tuple(key.split("/")), size, "") for key, size in keys.items()]


@given(st.dictionaries(KEYS, st.integers(0, 2), max_size=6))
def test_every_file_is_below_the_target_and_in_nobodys_way(keys: dict[str, int]) -> None:
    refused = None
    try:
        files = without_markers(listed(keys))
    except PullFailure as failure:
        refused = failure.code
    if refused is not None:
        assert refused is Code.INVALID_ARGUMENT
        return
    target = Path("/models/.mesh-puller/pull-1/m")
    places = [target.joinpath(*file.name) for file in files]
    for place in places:
        assert place.is_relative_to(target)
        assert ".." not in place.parts
        assert place != target
    assert len(set(places)) == len(places)
    assert not {parent for place in places for parent in place.parents} & set(places)
    kept = {file.key for file in files}
    assert all(f"m/{key}" in kept for key, size in keys.items() if size)


@given(st.sets(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join), min_size=1))
def test_empty_files_are_kept_unless_they_stand_for_a_directory(keys: set[str]) -> None:
    kept = {file.key.removeprefix("m/") for file in without_markers(listed(dict.fromkeys(keys, 0)))}
    assert kept == {key for key in keys if not any(other.startswith(f"{key}/") for other in keys)}
