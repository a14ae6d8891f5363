"""Presentation times only grow."""

import pytest

from fhrt.video.clock import Clock


def test_a_files_times_are_its_own() -> None:
    clock = Clock(live=False)
    assert [clock(seconds, 0.0) for seconds in (1.5, 1.54, 99.0)] == [1.5, 1.54, 99.0]
    assert clock.jumps == 0


def test_a_file_that_jumps_backwards_goes_on() -> None:
    clock = Clock(live=False)
    times = [clock(seconds, 0.0) for seconds in (5.0, 5.5, 0.0, 0.5)]
    assert times == pytest.approx([5.0, 5.5, 6.0, 6.5])
    assert clock.jumps == 1


def test_a_camera_starts_at_zero_and_survives_jumps() -> None:
    clock = Clock(live=True)
    given = [(100.0, 7.00), (100.04, 7.04), (3.0, 7.08), (3.04, 7.12), (9000.0, 7.16), (9000.04, 7.20)]
    assert [clock(*one) for one in given] == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16, 0.20])
    assert clock.jumps == 2


def test_a_burst_after_a_stall_is_no_jump() -> None:
    clock = Clock(live=True)
    given = [(0.0, 0.0), (0.04, 0.04), (0.08, 4.0), (0.12, 4.001)]
    assert [clock(*one) for one in given] == pytest.approx([0.0, 0.04, 0.08, 0.12])
    assert clock.jumps == 0


def test_a_reconnection_continues_by_the_time_that_passed() -> None:
    clock = Clock(live=True)
    clock(50.0, 10.0)
    clock.restart()
    assert clock(0.0, 13.0) == pytest.approx(3.0)
    assert clock(None, 13.5) == pytest.approx(3.5)
    assert clock.jumps == 0


def test_first_frames_without_times_come_before_those_with() -> None:
    clock = Clock(live=True)
    assert [clock(*one) for one in [(None, 5.0), (0.04, 5.001), (0.08, 5.002)]] == pytest.approx([0.0, 0.04, 0.08])
    assert clock.jumps == 0


def test_a_camera_without_times_has_those_of_arrival() -> None:
    clock = Clock(live=True)
    assert [clock(None, arrival) for arrival in (5.0, 5.1, 5.3)] == pytest.approx([0.0, 0.1, 0.3])
