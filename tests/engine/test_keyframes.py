"""Frames that the detector skips: not the same as frames in which it finds nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.engine.test_properties import Painter
from tests.oracles.plain_tracker import iou_of
from tests.oracles.runs import config_of, run, run_settled, same
from tests.oracles.streams import Stream, lone_walker, one, wild_stream, with_identity_embeddings
from tests.test_pipeline import Reel, Replay
from tracker.engine import Engine
from tracker.errors import ConfigError
from tracker.pipeline import Pipeline
from tracker.sources.frame_queue import LATE_S, FrameQueue
from tracker.types import Detections, Frame, Source

IMAGE = np.zeros((480, 640, 3), np.uint8)


def every(stream: Stream, n: int) -> Stream:
    """The detector runs at every n-th frame."""
    return replace(stream, detections=[d if t % n == 0 else None for t, d in enumerate(stream.detections)])


def known(engine: Engine) -> tuple:
    """All that only a run of the detector may change."""
    bank = engine.bank
    columns = [bank.key, bank.id, bank.hits, bank.seen_s, bank.class_id, bank.slot]
    columns += [engine.appearance.gallery.counts(bank.slot)]
    columns += [np.array([engine.identities.n_ids, engine.identities._n_keys])]
    return tuple(column.copy() for column in columns)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_skipped_frames_walker_keeps_one_identity(n):
    """Confirmed by the third detection, output in between, and backfilled from the first frame on."""
    stream = every(lone_walker(20 * n), n)
    outputs, final = run(stream), run_settled(stream)
    assert [tracks.id.tolist() for tracks in outputs] == [[]] * (2 * n) + [[1]] * (18 * n)
    assert [tracks.id.tolist() for tracks in final] == [[1]] * (20 * n)
    for t, tracks in enumerate(final):
        assert tracks.source.tolist() == [Source.PREDICTED if t % n else Source.DETECTED]
        assert tracks.predicted.tolist() == [t % n != 0]
        assert tracks.det_index.tolist() == [-1 if t % n else 0]
        assert iou_of(tracks.xyxy[0], stream.truth[t][0]) > (0.4 if t < 3 * n else 0.7)


def test_skipped_frame_keeps_tentative_track_empty_frame_deletes_it():
    seen, nothing = one([100, 100, 140, 200]), Detections.empty()
    for between, ids in ((None, [1]), (nothing, [])):
        engine = Engine(config_of())
        for t, detections in enumerate([seen, between, seen, between, seen]):
            tracks = engine.step(Frame(t, t / 25, None, 640, 480), detections)
        assert tracks.id.tolist() == ids


@pytest.mark.parametrize("seed", range(4))
def test_skipped_frames_change_no_track_state(seed):
    """At skipped frames no track is created, aged, confirmed or deleted, and no gallery changes."""
    rng = np.random.default_rng(seed)
    stream = with_identity_embeddings(wild_stream(rng, n_people=8, n_frames=120, irregular=False))
    engine = Engine(config_of())
    for t in range(len(stream)):
        detector_runs = rng.random() < 0.4
        before = known(engine)
        tracks = engine.step(stream.frame(t), stream.detections[t] if detector_runs else None)
        assert len(set(tracks.id)) == len(tracks)
        if not detector_runs:
            for old, new in zip(before, known(engine), strict=True):
                np.testing.assert_array_equal(old, new)
            assert set(tracks.source) <= {Source.PREDICTED}
            assert engine.backfilled == []


def test_ages_do_not_grow_at_skipped_frames():
    """A track missed by the detector is deleted after coast_s; skipped frames delete none."""
    settings = {"lifecycle.coast_s": 0.5, "lifecycle.lost_s": 0.5}
    engine = Engine(config_of(settings))
    for t in range(3):
        engine.step(Frame(t, t / 25, None, 640, 480), one([100, 100, 140, 200]))
    for t in range(3, 100):
        assert engine.step(Frame(t, t / 25, None, 640, 480), None).id.tolist() == [1]
    assert engine.step(Frame(100, 4.0, None, 640, 480), Detections.empty()).id.tolist() == []
    assert len(engine.bank) == 0


def test_track_missed_at_last_detection_is_not_output_at_skipped_frames():
    stream = lone_walker(30, hidden=[12])
    outputs = run(every(stream, 3))
    assert [len(outputs[t]) for t in range(9, 18)] == [1, 1, 1, 0, 0, 0, 1, 1, 1]


def test_track_leaving_the_image_at_skipped_frames_is_not_output():
    stream = every(lone_walker(90, start=(540.0, 240.0)), 10)
    stream = replace(stream, detections=stream.detections[:31] + [None] * 59)
    outputs = run(stream)
    assert all(tracks.xyxy[0, 0] < 640 for tracks in outputs if len(tracks))
    assert (len(outputs[31]), len(outputs[89])) == (1, 0)


class Windows:
    """A detector asked about windows; counts."""

    def __init__(self):
        self.asked = []

    def detect(self, frame):
        self.asked.append(frame.index)
        return Detections.empty()


def test_skipped_frames_propose_nothing():
    """The person is there to be found, by a detector in windows or by appearance; neither is asked."""
    stream = every(lone_walker(40, hidden=[20]), 4)
    for windows in (Windows(), None):
        painter = Painter(stream)
        engine = Engine(config_of({"motion.camera": False}), painter, detector=windows)
        outputs = run(stream, engine=engine, images=painter.images())
        assert windows is None or windows.asked == [20]
        skipped = [tracks for t, tracks in enumerate(outputs) if t % 4 and 8 < t < 20]
        assert all(tracks.source.tolist() == [Source.PREDICTED] for tracks in skipped)


def test_skipped_frames_still_compensate_camera_motion():
    engine = Engine(config_of())
    seen = []
    step = engine.camera._by_image.step
    engine.camera._by_image.step = lambda image, boxes: seen.append(image is not None) or step(image, boxes)
    for t in range(6):
        engine.step(Frame(t, t / 25, IMAGE, 640, 480), None if t % 3 else one([100, 100, 140, 200]))
    assert seen == [True] * 6


@pytest.mark.parametrize("seed", range(3))
def test_long_stream_does_not_grow_and_repeats_no_identity(seed):
    stream = wild_stream(np.random.default_rng(seed), n_people=9, n_frames=200, irregular=False, chaos=1.5)
    engine = Engine(config_of())
    for tracks in run_settled(every(stream, 4), engine=engine):
        assert len(set(tracks.id)) == len(tracks)
        assert (np.diff(tracks.id) > 0).all()
    assert engine.identities.n_undecided_frames <= 3 * 4


# ------------------------------------------------------------------------------------------------- the pipeline


class Counted(Replay):
    def __init__(self, detections):
        super().__init__(detections)
        self.asked = []

    def detect(self, frame):
        self.asked.append(frame.index)
        return super().detect(frame)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("live", [False, True])
def test_pipeline_detects_every_nth_frame(n, live):
    stream = wild_stream(np.random.default_rng(2), n_frames=30)
    detector = Counted(stream.detections)
    pipeline = Pipeline(Reel(stream.times, live=live), detector, Engine(config_of({"detection.every": n})))
    found = [tracks for _, tracks in pipeline]
    assert detector.asked == list(range(0, 30, n))
    assert ("one frame in" in pipeline.description) == (n > 1)
    expected = every(stream, n)
    assert same(found, run(expected) if live else run_settled(expected))


class LiveReel(Reel):
    """A camera in virtual time: a frame every `period_s`; only the detector and the tracker let time pass."""

    def __init__(self, n_frames, period_s, late_s):
        super().__init__([t * period_s for t in range(n_frames)], live=True)
        self.queue, self.now_s, self.dropped = FrameQueue(late_s), 0.0, 0

    def __iter__(self):
        coming = list(super().__iter__())
        while coming or self.queue:
            while coming and (coming[0].time_s <= self.now_s or not self.queue):
                self.now_s = max(self.now_s, coming[0].time_s)
                self.dropped += self.queue.put(coming[0].time_s, coming.pop(0))
            _, frame, late = self.queue.take()
            yield replace(frame, late=late)


class SlowDetector(Counted):
    """Takes `cost_s` of the reel's time for a frame."""

    def __init__(self, detections, reel, cost_s):
        super().__init__(detections)
        self.reel, self.cost_s = reel, cost_s

    def detect(self, frame):
        self.reel.now_s += self.cost_s
        return super().detect(frame)


def tracked_live(cost_s, step_s=0.004, late_s=LATE_S, every=None, n_frames=300, period_s=0.04):
    """(frames, tracks, age of each result in s, frames that were detected, frames dropped) of a camera at 25 fps."""
    stream = wild_stream(np.random.default_rng(6), n_frames=n_frames)
    reel = LiveReel(n_frames, period_s, late_s)
    detector = SlowDetector(stream.detections, reel, cost_s)
    frames, outputs, ages = [], [], []
    for frame, tracks in Pipeline(reel, detector, Engine(config_of({"detection.every": every}))):
        reel.now_s += step_s
        frames.append(frame)
        outputs.append(tracks)
        ages.append(reel.now_s - frame.time_s)
    stepped = replace(stream, times=reel.times).only([frame.index for frame in frames])
    found = [d if frame.index in detector.asked else None for frame, d in zip(frames, stepped.detections, strict=True)]
    assert same(outputs, run(replace(stepped, detections=found)))
    return frames, ages, detector.asked, reel.dropped


def test_auto_fast_machine_detects_every_frame():
    frames, ages, asked, dropped = tracked_live(cost_s=0.03)
    assert asked == [frame.index for frame in frames] == list(range(300))
    assert dropped == 0
    assert max(ages) < 0.04


@pytest.mark.parametrize("cost_s", [0.045, 0.1, 0.25, 0.45])
def test_auto_slow_detector_keeps_pace_and_gives_every_frame(cost_s):
    frames, ages, asked, dropped = tracked_live(cost_s)
    assert [frame.index for frame in frames] == list(range(300))
    assert dropped == 0
    # The detector starts on the newest frame, so that none is older; only at the end that frame may be an old one.
    assert max(ages[:-1]) < cost_s + 0.04 + 2 * 0.004
    # The detector runs whenever tracking leaves it time: 12 s less 4 ms for each frame.
    assert len(asked) == pytest.approx((12 - 300 * 0.004) / cost_s, rel=0.1)
    gaps = np.diff(asked)[:-1]
    assert np.ptp(gaps) <= 1  # no oscillation


@pytest.mark.parametrize("cost_s", [0.6, 1.3])
def test_auto_predicts_no_longer_than_the_bound(cost_s):
    """Beyond it frames are dropped, and the newest is detected."""
    frames, ages, asked, dropped = tracked_live(cost_s)
    assert dropped == 300 - len(frames) > 0
    since_s = [frame.time_s - max(t for t in asked if t <= frame.index) * 0.04 for frame in frames]
    assert max(since_s) == pytest.approx(LATE_S, abs=0.04)
    assert max(since_s) <= LATE_S
    assert max(ages[:-1]) < cost_s + 0.04 + 2 * 0.004
    assert len(asked) >= 12 / (cost_s + LATE_S * 0.004 / 0.04 + 0.04)


@pytest.mark.parametrize("step_s", [0.039, 0.05, 0.2])
def test_auto_tracking_slower_than_the_camera_never_falls_behind(step_s):
    """Even frames without detection leave no time: some are dropped, and no result is old."""
    _, ages, asked, dropped = tracked_live(0.1, step_s)
    assert dropped > 0
    n_late = LATE_S / 0.04  # at most between two detections
    assert max(ages) <= 0.1 + n_late * step_s + 0.04
    assert len(asked) >= 12 / (0.1 + (n_late + 2) * step_s)


def test_number_of_frames_on_a_camera_drops_frames():
    """The source gives no late frame where N is said."""
    frames, _, asked, dropped = tracked_live(0.1, late_s=0.0, every=2)
    assert asked == [frame.index for frame in frames][::2]
    assert dropped == 300 - len(frames) >= 100
    assert not any(frame.late for frame in frames)


def test_auto_on_a_file_detects_every_frame():
    stream = wild_stream(np.random.default_rng(2), n_frames=30)
    detector = Counted(stream.detections)
    found = [tracks for _, tracks in Pipeline(Reel(stream.times), detector, Engine(config_of()))]
    assert config_of().detection.every is None
    assert detector.asked == list(range(30))
    assert same(found, run_settled(stream))


@pytest.mark.parametrize("n", [0, -1, 101, "often"])
def test_invalid_settings_are_refused(n):
    with pytest.raises(ConfigError, match=r"detection\.every"):
        config_of({"detection.every": n})
