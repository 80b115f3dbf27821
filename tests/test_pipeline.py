"""From a source to final tracks: order, backfilling, and failures in the middle."""

from __future__ import annotations

import threading
from contextlib import closing
from copy import deepcopy

import numpy as np
import pytest

from tests.oracles.runs import config_of, run_settled, same
from tests.oracles.streams import one, wild_stream
from tracker.engine import Engine
from tracker.errors import DetectionError, SourceError
from tracker.pipeline import Pipeline
from tracker.runtime import checkpoint
from tracker.sources.base import FrameSource, Recorded
from tracker.sources.span import WHOLE
from tracker.types import Detections, Frame, Mask


class Reel(FrameSource):
    """A source of n frames without pictures that breaks after `breaks_after`."""

    name, fps, width, height, n_frames = "reel", 25.0, 640, 480, None

    def __init__(self, times, breaks_after=None, error=None, live=False):
        self.times, self.breaks_after, self.live = times, breaks_after, live
        self.error = error or SourceError("reel: breaks off")
        self.closed = False

    def __iter__(self):
        for t, time_s in enumerate(self.times):
            if t == self.breaks_after:
                raise self.error
            yield Frame(t, time_s, None, self.width, self.height)

    def close(self):
        self.closed = True


class Replay:
    name = "replay"

    def __init__(self, detections):
        self.detections = detections

    def detect(self, frame):
        found = self.detections[frame.index]
        if isinstance(found, Exception):
            raise found
        return found


def pipeline_of(stream, **how) -> Pipeline:
    return Pipeline(Reel(stream.times, **how), Replay(stream.detections), Engine(config_of()))


@pytest.mark.parametrize("seed", range(3))
def test_pipeline_equals_engine_and_buffer_in_a_loop(seed):
    stream = wild_stream(np.random.default_rng(seed))
    pipeline = pipeline_of(stream)
    found = list(pipeline)
    assert [frame.index for frame, _ in found] == list(range(len(stream)))
    assert same([tracks for _, tracks in found], run_settled(stream))
    assert pipeline.n_frames == len(stream)
    assert {"read", "detect", "update"} <= pipeline.stage_s.keys()
    assert "reel (640x480)" in pipeline.description
    pipeline.close()
    assert pipeline.source.closed


@pytest.mark.parametrize("breaks_after", [0, 1, 3, 20])
def test_failing_source_yields_its_frames_first(breaks_after):
    stream = wild_stream(np.random.default_rng(1))
    pipeline = pipeline_of(stream, breaks_after=breaks_after)
    found = []
    with pytest.raises(SourceError, match="breaks off"):
        found.extend(iter_into(pipeline, found))
    assert [frame.index for frame, _ in found] == list(range(breaks_after))
    wanted = run_settled(stream.only(range(breaks_after)))
    assert same([tracks for _, tracks in found], wanted)


def iter_into(pipeline, found):
    for each in pipeline:
        found.append(each)
    return []


def test_failing_detector_yields_frames_before_it():
    stream = wild_stream(np.random.default_rng(1), n_frames=20)
    stream.detections[9] = SourceError("detector gave up")
    found = []
    with pytest.raises(SourceError, match="gave up"):
        iter_into(pipeline_of(stream), found)
    assert [frame.index for frame, _ in found] == list(range(9))


@pytest.mark.parametrize("stop_at", [0, 4, 19])
def test_stop_ends_as_if_the_source_ended_there(stop_at):
    """Each frame is output at once, because every track is confirmed; later frames are not read."""
    times = [t / 25 for t in range(20)]
    engine = Engine(config_of({"lifecycle.confirm_hits": 1}))
    pipeline = Pipeline(Reel(times), Replay([one([0, 0, 10, 20])] * 20), engine)
    seen = []
    for frame, _ in pipeline:
        seen.append(frame.index)
        if frame.index == stop_at:
            pipeline.stop()
    pipeline.close()
    assert seen == list(range(stop_at + 1))


def test_stop_flushes_the_frames_that_are_held():
    times = [t / 25 for t in range(20)]
    pipeline = Pipeline(Reel(times), Replay([one([0, 0, 10, 20])] * 20), Engine(config_of()))
    detect = pipeline._detector.detect

    def stopping(frame):
        if frame.index == 1:
            pipeline.stop()
        return detect(frame)

    pipeline._detector.detect = stopping
    assert [(frame.index, len(tracks)) for frame, tracks in pipeline] == [(0, 0), (1, 0)]


def test_live_frames_are_not_held():
    """A window must not lag; frames of live sources are not backfilled."""
    times = [t / 25 for t in range(6)]
    pipeline = Pipeline(Reel(times, live=True), Replay([one([0, 0, 10, 20])] * 6), Engine(config_of()))
    assert [tracks.id.tolist() for _, tracks in pipeline] == [[], [], [1], [1], [1], [1]]


def test_no_frames_at_all():
    assert list(Pipeline(Reel([]), Replay([]), Engine(config_of()))) == []


def test_frames_without_people():
    found = list(Pipeline(Reel([0.0, 0.1]), Replay([Detections.empty()] * 2), Engine(config_of())))
    assert [len(tracks) for _, tracks in found] == [0, 0]


class ParallelReplay(Replay):
    """A detector that may search several frames at once, and notes the frames it was asked about."""

    def __init__(self, detections, n_at_once):
        super().__init__(detections)
        self.n_at_once = n_at_once
        self.asked: list[int] = []
        self.threads: set[threading.Thread] = set()

    def detect(self, frame):
        self.asked.append(frame.index)
        self.threads.add(threading.current_thread())
        return super().detect(frame)


@pytest.mark.parametrize("n_at_once", [1, 2, 4])
@pytest.mark.parametrize("every", [1, 3])
def test_detecting_ahead_changes_nothing(n_at_once, every):
    stream = wild_stream(np.random.default_rng(4))
    config = config_of({"detection.every": every})
    alone = list(Pipeline(Reel(stream.times), Replay(stream.detections), Engine(config)))
    detector = ParallelReplay(stream.detections, n_at_once)
    pipeline = Pipeline(Reel(stream.times), detector, Engine(config))
    found = list(pipeline)
    assert [frame.index for frame, _ in found] == list(range(len(stream)))
    assert same([tracks for _, tracks in found], [tracks for _, tracks in alone])
    assert sorted(detector.asked) == list(range(0, len(stream), every))
    assert threading.current_thread() not in detector.threads
    assert not [thread for thread in detector.threads if thread.is_alive()]
    assert "wait" in pipeline.stage_s
    assert {"decode", "detect"} == pipeline.beside_s.keys()


@pytest.mark.parametrize(("n_at_once", "live"), [(0, False), (2, True)])
def test_live_source_detects_in_the_tracking_thread(n_at_once, live):
    stream = wild_stream(np.random.default_rng(4), n_frames=10)
    detector = ParallelReplay(stream.detections, n_at_once)
    list(Pipeline(Reel(stream.times, live=live), detector, Engine(config_of())))
    assert detector.threads == {threading.current_thread()}


@pytest.mark.parametrize("failing", ["source", "detector"])
def test_error_ahead_is_raised_after_earlier_frames(failing):
    stream = wild_stream(np.random.default_rng(1), n_frames=30)
    if failing == "detector":
        stream.detections[9] = SourceError("breaks off")
    reel = Reel(stream.times, breaks_after=9 if failing == "source" else None)
    found = []
    with pytest.raises(SourceError, match="breaks off"):
        iter_into(Pipeline(reel, ParallelReplay(stream.detections, 3), Engine(config_of())), found)
    assert [frame.index for frame, _ in found] == list(range(9))


@pytest.mark.parametrize("cut", [1, 7, 20])
def test_resumed_run_detects_only_new_frames(cut):
    stream = wild_stream(np.random.default_rng(8), n_frames=40)
    times = dict(enumerate(stream.times))
    whole = list(Pipeline(Video(times), Replay(stream.detections), Engine(config_of())))
    first = Pipeline(Video(times), Replay(stream.detections), Engine(config_of()))
    states = []
    given = list(first.frames(lambda last: states.append((first.n_frames, deepcopy(first.state())))))
    n_tracked, state = states[cut]
    detector = ParallelReplay(stream.detections, 2)
    again = Pipeline(Video(times), detector, Engine(config_of()))
    again.restore(state)
    rest = list(again)
    again.close()
    assert sorted(detector.asked) == list(range(n_tracked, len(stream)))
    together = given[: len(whole) - len(rest)] + rest
    assert [frame.index for frame, _ in together] == [frame.index for frame, _ in whole]
    assert same([tracks for _, tracks in together], [tracks for _, tracks in whole])


class Video(Recorded):
    """A source that can go on in the middle: index -> time."""

    fps, width, height, files = 25.0, 640, 480, ()

    def __init__(self, times):
        super().__init__(WHOLE)
        self.name, self.times, self.n_frames = "video", times, len(times)

    def __iter__(self):
        for t, time_s in self.times.items():
            if t > self._done:
                yield Frame(t, time_s, None, self.width, self.height)


def test_closing_in_the_middle_ends_all_threads():
    stream = wild_stream(np.random.default_rng(1), n_frames=40)
    before = set(threading.enumerate())
    with closing(Pipeline(Reel(stream.times), ParallelReplay(stream.detections, 3), Engine(config_of()))) as pipeline:
        next(iter(pipeline))
    assert set(threading.enumerate()) <= before


def test_stop_ends_a_wait_for_a_source_that_hangs():
    taken, asked, never = threading.Event(), threading.Event(), threading.Event()

    class Hanging(Reel):
        def __iter__(self):
            yield from super().__iter__()
            asked.set()
            never.wait(60)

    pipeline = Pipeline(Hanging(np.arange(5) / 25), Replay([Detections.empty()] * 5), Engine(config_of()))
    threading.Thread(target=lambda: taken.wait(60) and asked.wait(60) and pipeline.stop()).start()
    found = []
    for frame, _ in pipeline:
        found.append(frame.index)
        if len(found) == 5:
            taken.set()
    assert found == list(range(5))
    never.set()
    pipeline.close()


def with_extras(detections: Detections, number: int) -> Detections:
    """Keypoints and masks that name the frame and the row of each detection."""
    rows = np.arange(len(detections))
    points = np.stack([np.full(len(rows), number), rows, np.ones(len(rows))], axis=1)[:, None] * np.ones((1, 2, 1))
    masks = np.full(len(rows), None, object)
    for row in rows:
        masks[row] = Mask(number, int(row), np.ones((2, 3), bool))
    return Detections(detections.boxes, detections.scores, detections.classes, None, points, masks)


def assert_joined(found) -> int:
    """Each row has the keypoints and the mask of its detection, others have none; returns how many have."""
    n = 0
    for frame, tracks in found:
        for row in range(len(tracks)):
            wanted, index = tracks.det_index[row] >= 0, tracks.det_index[row]
            assert np.isfinite(tracks.keypoints[row]).all() == wanted
            assert (tracks.masks[row] is not None) == wanted
            if wanted:
                assert tracks.keypoints[row, 1].tolist() == [frame.index, index, 1]
                assert (tracks.masks[row].x, tracks.masks[row].y) == (frame.index, index)
                n += 1
    return n


@pytest.mark.parametrize("live", [False, True])
def test_keypoints_and_masks_stay_with_their_tracks(live):
    """Also in the first frames of a track, which are known only when it is confirmed."""
    stream = wild_stream(np.random.default_rng(4))
    plain = list(pipeline_of(stream, live=live))
    extras = [with_extras(each, number) for number, each in enumerate(stream.detections)]
    found = list(Pipeline(Reel(stream.times, live=live), Replay(extras), Engine(config_of())))
    assert assert_joined(found) > 20
    for (_, tracks), (_, wanted) in zip(found, plain, strict=True):
        np.testing.assert_array_equal(tracks.xyxy, wanted.xyxy)
        assert (wanted.keypoints, wanted.masks) == (None, None)


def test_detections_given_with_too_few_keypoints_are_refused():
    stream = wild_stream(np.random.default_rng(4))
    number, some = next((n, each) for n, each in enumerate(stream.detections) if len(each))
    wrong = Detections(some.boxes, some.scores, some.classes, None, np.zeros((len(some) + 1, 2, 3)))
    detections = [*stream.detections[:number], wrong, *stream.detections[number + 1 :]]
    with pytest.raises(
        DetectionError, match=f"keypoints have {len(some) + 1} rows; expected {len(some)}, one for each"
    ):
        list(Pipeline(Reel(stream.times), Replay(detections), Engine(config_of())))


@pytest.mark.parametrize("cut", [1, 7, 20])
def test_resumed_run_keeps_keypoints_and_masks_of_held_frames(cut, tmp_path):
    stream = wild_stream(np.random.default_rng(8), n_frames=40)
    times = dict(enumerate(stream.times))
    extras = Replay([with_extras(each, number) for number, each in enumerate(stream.detections)])
    whole = list(Pipeline(Video(times), extras, Engine(config_of())))
    first, states = Pipeline(Video(times), extras, Engine(config_of())), []
    given = list(first.frames(lambda last: states.append(deepcopy(first.state()))))
    checkpoint.save(tmp_path / "x.resume", states[cut])
    again = Pipeline(Video(times), extras, Engine(config_of()))
    again.restore(checkpoint.load(tmp_path / "x.resume"))
    rest = list(again)
    assert assert_joined(given[: len(whole) - len(rest)] + rest) == assert_joined(whole)
