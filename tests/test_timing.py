import time

import pytest

from fcnseg.device import Clock, Timing, peak_memory, time_each


def test_timings_are_per_frame():
    timing = Timing(laps=(0.2, 0.4, 0.9), total=3.0, frames=2)
    assert timing.seconds == pytest.approx(0.2)
    assert timing.core_seconds == pytest.approx(0.5)
    assert timing.percentiles()["p50"] == pytest.approx(400)
    longer = timing.and_then(Timing((0.4,), 1.0, 2))
    assert longer.laps == (0.2, 0.4, 0.9, 0.4)
    assert longer.core_seconds == pytest.approx(0.5)


def test_waiting_costs_the_clock_but_no_core():
    timing = time_each(lambda _: time.sleep(0.05), range(3), 1)
    assert len(timing.laps) == 3
    assert timing.seconds >= 0.05
    assert timing.core_seconds < 0.04


def test_working_costs_both():
    clock = Clock()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    clock.lap()
    timing = clock.timing(1)
    assert timing.seconds >= 0.09
    assert timing.core_seconds >= 0.09


def test_side_by_side_is_faster_by_the_workers():
    timing = time_each(lambda _: time.sleep(0.05), range(6), 1, num_parallel=3)
    assert len(timing.laps) == 6
    assert timing.percentiles()["p50"] >= 50
    assert timing.seconds == pytest.approx(timing.percentiles()["p50"] / 3000)


def test_what_the_machine_has():
    assert all(size > 10**7 for size in peak_memory("cpu").values())
