"""From when on a copy is taken to be loaded."""

from statistics import mean, stdev

import pytest

from mesh.placement import LoadTimes


def test_before_there_are_samples_a_third_of_the_timeout_is_assumed() -> None:
    assert LoadTimes(90_000).assume_loaded_ms("onnx") == 30_000
    assert LoadTimes(6_000).assume_loaded_ms("onnx") == 3_000


def test_the_first_samples_move_it_a_third_of_the_way() -> None:
    times = LoadTimes(90_000)
    times.add("onnx", 300.0)
    assert times.assume_loaded_ms("onnx") == pytest.approx((2 * 30_000 + 300) / 3)
    assert times.assume_loaded_ms("sklearn") == 30_000


def test_many_samples_decide_by_their_spread() -> None:
    times = LoadTimes(90_000)
    samples = [float(100 + 7 * (number % 11)) for number in range(40)]
    for number, sample in enumerate(samples, 1):
        times.add("onnx", sample)
        if number in {20, 40}:
            deviations = 5 if number == 20 else 3
            seen = samples[:number]
            assert times.assume_loaded_ms("onnx") == pytest.approx(mean(seen) + deviations * stdev(seen))
