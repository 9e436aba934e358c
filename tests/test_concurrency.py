"""Stages: order, bounds, and errors that surface where they are used."""

import threading
import time

import pytest

from fcnseg.concurrency import BackgroundWriter, Batches, Prefetcher, groups, map_ordered


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_prefetcher_keeps_order_and_ends():
    with Prefetcher(range(50), depth=3) as items:
        assert list(items) == list(range(50))


def test_prefetcher_is_bounded():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    with Prefetcher(items(), depth=3) as ahead:
        assert next(iter(ahead)) == 0
        wait_for(lambda: len(made) >= 4)
        time.sleep(0.1)
        assert len(made) <= 6


def test_prefetcher_is_bounded_by_size_too(monkeypatch):
    monkeypatch.setattr("fcnseg.concurrency.MOST_BYTES", 100)
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    for weight, most in [(40, 4), (1000, 3)]:  # one item is let through, however heavy
        made.clear()
        with Prefetcher(items(), depth=50, weigh=lambda item, weight=weight: weight) as ahead:
            next(iter(ahead))
            wait_for(lambda: len(made) >= 2)
            time.sleep(0.1)
            assert len(made) <= most


def test_groups():
    assert list(groups(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(groups([], 2)) == []


def test_an_error_ahead_is_raised_after_what_came_before_it():
    def items():
        yield 1
        raise ValueError("broken")

    seen = []
    with pytest.raises(ValueError, match="broken"), Prefetcher(items()) as ahead:
        seen += ahead
    assert not [thread for thread in threading.enumerate() if thread.name == "fcnseg-ahead"]


def test_prefetcher_can_be_left_while_its_items_wait():
    leave = threading.Event()

    def items():
        yield 1
        leave.wait()

    with Prefetcher(items(), stop=leave.set) as ahead:
        assert next(iter(ahead)) == 1


def test_background_writer_works_in_order_and_waits_at_the_end():
    done = []

    def work(item):
        time.sleep(0.005)
        done.append(item)

    with BackgroundWriter(work, depth=2) as behind:
        for number in range(20):
            behind.put(number)
    assert done == list(range(20))


def test_an_error_behind_is_raised_by_a_later_put_and_the_rest_is_dropped():
    done = []

    def work(item):
        if item == 3:
            raise OSError("disk full")
        done.append(item)

    def use():
        with BackgroundWriter(work, depth=1) as behind:
            for number in range(100):
                behind.put(number)

    with pytest.raises(OSError, match="disk full"):
        use()
    assert done == [0, 1, 2]


def test_an_error_behind_is_raised_by_the_end_at_the_latest():
    def work(item):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), BackgroundWriter(work, depth=8) as behind:
        behind.put(1)


def test_the_first_error_is_the_one_heard_of():
    def work(item):
        raise OSError("later")

    def use():
        with BackgroundWriter(work) as behind:
            behind.put(1)
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        use()


@pytest.mark.parametrize("num_parallel", [1, 2, 5])
def test_map_ordered_keeps_order(num_parallel):
    def work(number):
        time.sleep(0.01 * (number % 3))
        return number * number

    assert list(map_ordered(work, range(20), num_parallel)) == [(n, n * n) for n in range(20)]


def test_map_ordered_works_on_several_at_a_time():
    together = threading.Barrier(3, timeout=10)
    assert len(list(map_ordered(lambda _: together.wait(), range(6), 3))) == 6


def test_map_ordered_takes_no_more_than_it_needs():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ordered(lambda number: number, items(), 3)
    assert next(results) == (0, 0)
    assert len(taken) == 5
    results.close()


def test_map_ordered_is_bounded_by_size_too(monkeypatch):
    monkeypatch.setattr("fcnseg.concurrency.MOST_BYTES", 100)
    working, most = [], []

    def work(number):
        working.append(number)
        most.append(len(working))
        time.sleep(0.01)
        working.remove(number)

    heavy = [number for number, _ in map_ordered(work, range(6), 3, weigh=lambda _: 60)]
    assert (heavy, max(most)) == (list(range(6)), 1)
    most.clear()
    list(map_ordered(work, range(6), 3, weigh=lambda _: 40))
    assert max(most) == 2


def test_an_error_comes_in_its_turn_and_ends_map_ordered():
    begun = []

    def work(number):
        begun.append(number)
        if number == 4:
            raise ValueError("five")
        return number

    results = map_ordered(work, range(100), 2)
    assert [next(results)[0] for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert len(begun) <= 8
    assert not any(thread.name.startswith("fcnseg-lane") for thread in threading.enumerate())


@pytest.mark.parametrize(("batch", "num_parallel"), [(1, 1), (1, 3), (4, 1), (4, 3)])
def test_a_result_does_not_wait_for_items_that_may_never_come(batch, num_parallel):
    go_on = threading.Semaphore(0)

    def items():
        for number in range(6):
            yield number
            assert go_on.acquire(timeout=20)  # the next one comes when this one is answered

    answered = []
    with Prefetcher(items(), 8) as ahead:
        for group, answer in map_ordered(sum, Batches(ahead, batch), num_parallel):
            answered.append((group, answer))
            go_on.release()
    assert answered == [([number], number) for number in range(6)]


def test_batches_of_what_is_there_are_full():
    with Prefetcher(range(10), 8) as ahead:
        assert list(Batches(ahead, 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_what_is_read_is_given_after_a_request_to_finish_and_a_reader_that_hangs_is_left(
    monkeypatch,
):
    monkeypatch.setattr("fcnseg.concurrency._GRACE", 0.05)
    hang = threading.Event()

    def items():
        yield from range(3)
        hang.wait(30)

    with Prefetcher(items(), 8, stop=hang.set) as ahead:
        wait_for(lambda: not ahead._queue._is_full(0) and len(ahead._queue._items) == 3)
        ahead.finish()
        assert list(Batches(ahead, 1)) == [[0], [1], [2]]
