"""The queue of a camera's frames: which of them are kept, and which of those are late."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tracker.sources.frame_queue import FrameQueue

IMAGE = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize("seed", range(20))
def test_queue_keeps_the_newest_frame_and_those_late_by_little(seed):
    """Beside it a list of all that came and was not taken, from which the rule chooses at each turn."""
    rng = np.random.default_rng(seed)
    late_s = rng.choice([0.0, 0.1, 0.3, 1e9])
    queue, came, current_s, now_s, n_dropped, n_lost = FrameQueue(late_s), [], -math.inf, 0.0, 0, 0
    for _ in range(300):
        now_s += rng.exponential(0.03)
        if rng.random() < 0.6:
            n_dropped += queue.put(now_s, IMAGE)
            came.append(now_s)
            kept = [t for t in came if t <= current_s + late_s or t == came[-1]]
            n_lost += len(came) - len(kept)
            came = kept
        elif came:
            late = len(came) > 1
            assert queue.take()[::2] == (came[0], late)
            current_s = current_s if late else came[0]
            came = came[1:]
        assert (len(queue), n_dropped) == (len(came), n_lost)


def test_queue_without_lateness_holds_one_frame():
    queue = FrameQueue(0.0)
    assert [queue.put(t / 30, np.full((2, 2, 3), t, np.uint8)) for t in range(4)] == [False, True, True, True]
    assert int(queue.newest[0, 0, 0]) == 3
    assert queue.take()[::2] == (3 / 30, False)
    assert not queue
