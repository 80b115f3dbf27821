"""Reading a file a second time with refined tracks, also when interrupted."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest

from tracker.commands.outputs import Outputs
from tracker.config import MotionConfig
from tracker.errors import SourceError
from tracker.offline import two_pass
from tracker.offline.two_pass import GRACE_S, refined_frames
from tracker.sinks.annotated_video import VIDEO, AnnotatedVideoSink
from tracker.sinks.registry import Result
from tracker.sinks.summary import SummarySink
from tracker.types import Frame, Tracks

N = 6


def frame_of(index: int) -> Frame:
    return Frame(index, index / 10, np.full((48, 64, 3), index, np.uint8), 64, 48)


def tracks_of(index: int) -> Tracks:
    box = np.array([[10.0 + index, 10, 20 + index, 30]])
    one = np.ones(1, np.int64)
    return Tracks(box, one, np.ones(1), 0 * one, 0 * one, np.zeros(1, np.uint8))


class CountedSource:
    """A source of `n` frames that records whether it was closed."""

    name, fps, width, height, n_frames, live, files = "video.avi", 10.0, 64, 48, N, False, ()

    def __init__(self, n: int = N) -> None:
        self.n, self.closed = n, False

    def __iter__(self):
        return map(frame_of, range(self.n))

    def close(self) -> None:
        self.closed = True


def refined(source, hurried):
    passed = [(frame_of(k), tracks_of(k)) for k in range(N)]
    return refined_frames(
        passed, smooth=False, fill_gaps_s=0.0, motion=MotionConfig(), reopen=lambda: source, hurried=hurried
    )


@pytest.mark.parametrize("n_shown", [0, 1, 3, N])
def test_interrupt_leaves_remaining_frames_without_images(n_shown):
    source, got = CountedSource(), []
    for frame, tracks in refined(source, lambda: len(got) >= n_shown):
        got.append((frame.index, frame.image is not None, int(tracks.id[0])))
    assert got == [(k, k < n_shown, 1) for k in range(N)]
    assert source.closed == (n_shown > 0)


def test_source_that_became_shorter_fails_after_its_frames():
    source, got = CountedSource(4), []
    with pytest.raises(SourceError, match=r"video\.avi: has no frame 5 when read once more"):
        for frame, _ in refined(source, lambda: False):
            got.append(frame.index)
    assert got == [0, 1, 2, 3]


def test_frames_without_images_skip_drawing_sinks(tmp_path):
    tally = SummarySink()
    with ExitStack() as stack:
        video = stack.enter_context(AnnotatedVideoSink(tmp_path / "video.avi", 10.0, (64, 48)))
        outputs = Outputs(tally, [(Result(VIDEO, "video.avi"), video)])
        for k in range(N):
            frame = frame_of(k) if k < 2 else Frame(k, k / 10, None, 64, 48)
            outputs.write(frame, tracks_of(k), hurried=k >= 1)
    assert (tally.n_frames, outputs.n_undrawn) == (N, N - 2)


@pytest.mark.parametrize("took_s", [0.0, 2 * GRACE_S])
def test_interrupt_returns_unrefined_tracks_after_grace_time(monkeypatch, caplog, took_s):
    clock = iter(np.arange(99) * took_s)
    monkeypatch.setattr(two_pass, "monotonic", lambda: float(next(clock)))
    passed = [(frame_of(k), tracks_of(k)) for k in (0, 1, 4, 5)]
    refined = refined_frames(passed, smooth=False, fill_gaps_s=1.0, motion=MotionConfig(), hurried=lambda: True)
    assert [len(tracks) for _, tracks in refined] == [1, 1, 1, 1]
    assert ("written as tracked" in caplog.text) == (took_s > 0)
