"""Ordered prefetching: the same results in the same order for any number of threads, bounded, and ended."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from tests.oracles.swallower import Swallower
from tracker.runtime.read_ahead import OrderedPrefetch
from tracker.runtime.signals import command

NAME = "made ahead"


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def shaky(item: int) -> int:
    """Takes a time that does not depend on the order."""
    time.sleep(0.003 * np.random.default_rng(item).uniform() ** 4)
    return item * item


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("depth", [1, 2, 8])
@pytest.mark.parametrize("n", [0, 1, 2, 60])
def test_results_come_in_order(n, depth, n_threads):
    assert list(OrderedPrefetch(range(n), shaky, depth, NAME, n_threads)) == [item * item for item in range(n)]
    assert not running()


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("breaks_at", [0, 1, 7])
@pytest.mark.parametrize("where", ["items", "work"])
def test_error_comes_after_the_results_before_it(where, breaks_at, n_threads):
    error = ValueError("broke")

    def items():
        for item in range(20):
            if where == "items" and item == breaks_at:
                raise error
            yield item

    def work(item):
        if where == "work" and item >= breaks_at:
            raise error if item == breaks_at else KeyError(item)
        return shaky(item)

    seen = []
    with pytest.raises(ValueError, match="broke") as caught:
        for result in OrderedPrefetch(items(), work, 4, NAME, n_threads):
            seen.append(result)
    assert caught.value is error
    assert seen == [item * item for item in range(breaks_at)]
    assert not running()


@pytest.mark.parametrize("n_threads", [1, 2, 4])
@pytest.mark.parametrize("depth", [1, 3])
def test_work_starts_no_further_ahead_than_the_depth(depth, n_threads):
    taken, farthest = 0, 0

    def items():
        nonlocal farthest
        for item in range(200):
            farthest = max(farthest, item + 1 - taken)
            yield item

    for _ in OrderedPrefetch(items(), lambda item: item, depth, NAME, n_threads):
        taken += 1
    assert 1 <= farthest <= depth + 1  # the consumer holds one that is not counted yet


def test_threads_work_at_the_same_time():
    """Three results need three threads at the same moment."""
    together = threading.Barrier(3, timeout=60)

    def work(item):
        together.wait()
        return item

    assert list(OrderedPrefetch(range(6), work, 3, NAME, 3)) == list(range(6))


@pytest.mark.parametrize("n_threads", [1, 3])
def test_leaving_early_ends_the_threads(n_threads):
    made = OrderedPrefetch(iter(int, 1), shaky, 4, NAME, n_threads)  # without end
    for place, _ in enumerate(made):
        if place == 3:
            break
    made.close()
    assert not running()
    made.close()


def test_busy_times_of_reading_and_work_are_separate():
    ahead = OrderedPrefetch((time.sleep(0.01) for _ in range(3)), lambda item: time.sleep(0.005), 2, NAME, 2)
    list(ahead)
    assert ahead.worked_s >= 3 * 0.005
    assert ahead.busy_s - ahead.worked_s >= 3 * 0.01


def test_iterating_twice_is_an_error():
    ahead = OrderedPrefetch([1], shaky, 1, NAME)
    assert list(ahead) == [1]
    with pytest.raises(RuntimeError, match="read once"):
        list(ahead)


@pytest.mark.parametrize(("depth", "n_threads"), [(0, 1), (1, 0), (-1, 2)])
def test_depth_and_threads_must_be_positive(depth, n_threads):
    with pytest.raises(ValueError, match="must be >= 1"):
        OrderedPrefetch([], shaky, depth, NAME, n_threads)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_stop_ends_the_wait_for_a_hanging_source(n_threads):
    taken, asked, never = threading.Event(), threading.Event(), threading.Event()

    def items():
        yield 1
        asked.set()
        never.wait(60)

    ahead = OrderedPrefetch(items(), lambda item: item, 4, "made never", n_threads)
    threading.Thread(target=lambda: taken.wait(60) and asked.wait(60) and ahead.stop()).start()
    seen = []
    for item in ahead:
        seen.append(item)
        taken.set()
    assert seen == [1]
    never.set()


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_iteration_raises_a_lost_interruption():
    seen = []

    def run(interruption):
        for item in OrderedPrefetch(range(9), shaky, 4, NAME):
            seen.append(item)
            if item == 4:
                Swallower()
        return 0

    assert command("track", run) == 130
    assert seen == [0, 1, 4]
    assert not running()


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_ctrl_c_while_waiting_raises_keyboard_interrupt():
    asked, never = threading.Event(), threading.Event()

    def items():
        asked.set()
        never.wait(60)
        yield 1

    threading.Thread(target=lambda: asked.wait(60) and os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        list(OrderedPrefetch(items(), shaky, 1, "made never"))
    assert caught.value.__context__ is None
    never.set()
