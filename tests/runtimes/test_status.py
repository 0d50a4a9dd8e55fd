import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.protos import model_runtime_pb2 as pb
from mesh.runtimes import RuntimeFailure
from mesh.runtimes.status import MAX_BYTES, UNIT_BYTES, minimum_capacity_bytes, read_load, read_parameters
from tests.runtimes.scripted import ready


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("maxLoadingConcurrency", 0, "is below the minimum of 1"),
        ("modelLoadingTimeoutMs", 99, "is below the minimum of 100"),
        ("defaultModelSizeInBytes", 8191, "is below the minimum of 8192"),
        ("capacityInBytes", 0, "is below the minimum of 10485760"),
        ("capacityInBytes", (1 << 64) - 268435456, "looks like a negative number"),
        ("maxLoadingConcurrency", (1 << 32) - 1, "looks like a negative number"),
        ("defaultModelSizeInBytes", (1 << 64) - 1, "looks like a negative number"),
    ],
)
def test_an_impossible_value_is_refused_by_name(field: str, value: int, problem: str) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        read_parameters(ready(**{field: value}))
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"{field}={value}, which {problem}" in caught.value.message


def test_the_minimum_capacity_is_that_of_modelmesh() -> None:
    mib = 1 << 20
    assert minimum_capacity_bytes(50 * mib) == 500 * mib
    assert minimum_capacity_bytes(100 * mib) == 512 * mib
    assert minimum_capacity_bytes(400 * mib) == 800 * mib


@given(
    default=st.integers(0, (1 << 64) - 1),
    capacity=st.integers(0, (1 << 64) - 1),
    loads=st.integers(0, (1 << 32) - 1),
    timeout=st.integers(0, (1 << 32) - 1),
)
def test_what_is_accepted_can_be_worked_with(default: int, capacity: int, loads: int, timeout: int) -> None:
    answer = ready(
        defaultModelSizeInBytes=default,
        capacityInBytes=capacity,
        maxLoadingConcurrency=loads,
        modelLoadingTimeoutMs=timeout,
    )
    try:
        parameters = read_parameters(answer)
    except RuntimeFailure:
        return
    assert parameters.default_model_size_bytes >= UNIT_BYTES
    assert 2 * parameters.default_model_size_bytes <= parameters.capacity_bytes <= MAX_BYTES
    assert parameters.max_loading_concurrency >= 1
    assert parameters.loading_timeout_ms >= 100


def test_methods_are_read_with_the_path_of_their_id() -> None:
    info = pb.RuntimeStatusResponse.MethodInfo
    answer = ready(methodInfos={"/a.B/C": info(idInjectionPath=[1, 2]), "a.B/D": info()}, allowAnyMethod=True)
    parameters = read_parameters(answer)
    assert parameters.methods == {"a.B/C": (1, 2), "a.B/D": ()}
    assert parameters.allow_any_method


def test_a_path_that_cannot_be_is_refused() -> None:
    info = pb.RuntimeStatusResponse.MethodInfo
    with pytest.raises(RuntimeFailure, match=r"methodInfos\['a.B/C'\].*0 is no protobuf field number"):
        read_parameters(ready(methodInfos={"a.B/C": info(idInjectionPath=[0])}))


@pytest.mark.parametrize(
    ("told", "limited", "taken", "warned"),
    [
        (4, True, 4, False),
        (0, True, 1, True),
        ((1 << 32) - 1, True, 1, True),
        (0, False, 0, False),
        (4, False, 0, True),
    ],
)
def test_concurrency_counts_only_where_it_was_announced(
    told: int, limited: bool, taken: int, warned: bool
) -> None:
    loaded, warnings = read_load(1, told, limited=limited)
    assert loaded.max_concurrency == taken
    assert bool(warnings) == warned


def test_an_impossible_size_counts_as_unknown() -> None:
    loaded, warnings = read_load((1 << 64) - 1, 0, limited=False)
    assert loaded.size_bytes == 0
    assert "sizeInBytes=18446744073709551615" in warnings[0]
