"""The debug record of a step: it changes no output, is absent while off, and agrees with what happened."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles.plain_tracker import iou_of
from tests.oracles.runs import config_of, run, same
from tests.oracles.streams import lone_walker, wild_stream, with_identity_embeddings
from tracker import boxes as bx
from tracker.engine import Engine
from tracker.motion import kalman
from tracker.pipeline import Pipeline
from tracker.sources.base import FrameSource
from tracker.types import Frame, Source

STILL = {"motion.camera": False}  # so that the prediction comes from the filter only


def streams():
    wild = wild_stream(np.random.default_rng(3), n_people=7, n_frames=60)
    return {"motion": wild, "appearance": with_identity_embeddings(wild)}


def traced(stream, settings=()):
    """Tracks and trace of every frame, and the bank before it."""
    engine = Engine(config_of({**STILL, **dict(settings)}))
    engine.trace_steps(True)
    for t in range(len(stream)):
        bank, now_s = engine.bank, engine.clock.now_s
        tracks = engine.step(stream.frame(t), stream.detections[t])
        yield t, tracks, engine.trace, bank, 0.0 if now_s is None else stream.times[t] - now_s


@pytest.mark.parametrize("kind", ["motion", "appearance"])
def test_tracing_changes_no_bit(kind):
    stream = streams()[kind]
    assert same([tracks for _, tracks, *_ in traced(stream)], run(stream, STILL))


def test_trace_off_records_nothing():
    engine = Engine(config_of())
    stream = streams()["appearance"]
    run(stream, engine=engine)
    assert engine.trace is None
    engine.trace_steps(True)
    engine.step(Frame(99, stream.times[-1] + 1, None, 640, 480), stream.detections[0])
    assert engine.trace is not None
    engine.trace_steps(False)
    engine.step(Frame(100, stream.times[-1] + 2, None, 640, 480), stream.detections[0])
    assert engine.trace is None


def test_trace_predictions_and_gates_equal_the_filter():
    """The filter of textbook matrices, one track at a time."""
    n = 0
    for *_, trace, bank, dt_s in traced(streams()["motion"]):
        assert trace.id.tolist() == bank.id.tolist()
        config = config_of().motion
        _, cov = kalman.predict(bank.mean, bank.cov, dt_s, config)
        for row in range(len(bank)):
            cx, cy = bank.mean[row, :2] + dt_s * bank.mean[row, 4:6]
            box = trace.predicted[row]
            np.testing.assert_allclose([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], [cx, cy], rtol=1e-9)
            height = box[3] - box[1]
            variance = np.diag(kalman.dense(cov[row : row + 1])[0])[:2] + (config.position_std * height) ** 2
            edge = cx + trace.gate_px[row, 0], cy  # a point on the ellipse is just let through
            assert (edge[0] - cx) ** 2 / variance[0] == pytest.approx(9.4877, rel=1e-6)
            assert (trace.gate_px[row] > 0).all()
            n += 1
    assert n > 100


@pytest.mark.parametrize("kind", ["motion", "appearance"])
@pytest.mark.parametrize("veto", [False, True])
def test_trace_has_the_costs_of_matched_pairs(kind, veto):
    """Overlap again from boxes alone: the total without appearance; with it, the odds are for every matched pair."""
    with_appearance = 0
    stream = streams()[kind]
    for t, tracks, trace, *_ in traced(stream, {"association.veto": veto}):
        boxes = stream.detections[t].boxes.tolist()
        for identity, box, (total, dist, motion) in zip(trace.pair_id, trace.pair_boxes, trace.pair_cost, strict=True):
            assert box.tolist() in boxes
            rows = np.flatnonzero(trace.id == identity)
            overlaps = [iou_of(trace.predicted[row], box) for row in rows]
            assert min(abs(1 - motion - overlap) for overlap in overlaps) < 1e-9
            score = stream.detections[t].scores[boxes.index(box.tolist())]
            if kind == "appearance" and veto and score >= 0.5:
                assert total < 0
            else:
                assert np.isnan(dist)
                assert total == pytest.approx(motion)
            if not np.isnan(dist):
                with_appearance += 1
                assert -1e-6 <= dist <= 1
        # Confirmed tracks with a detection of the two associations are among the pairs.
        known = set(trace.id[trace.id > 0].tolist())
        matched = {row.id for row in tracks if row.source == Source.DETECTED and row.id in known}
        again = matched - set(trace.pair_id.tolist())
        assert len(again) <= 2  # found by use B
    assert (with_appearance > 50) == (kind == "appearance" and veto)


class Sharp:
    """Embeds a crop by how much of it is white."""

    name = "sharp"

    def embed(self, image, boxes):
        rows = []
        for box in bx.clip(boxes, image.shape[1], image.shape[0]).astype(int):
            crop = image[box[1] : max(box[3], box[1] + 1), box[0] : max(box[2], box[0] + 1)]
            share = float(crop.mean()) / 255
            rows.append([np.sqrt(share), np.sqrt(1 - share)])
        return np.array(rows, np.float32).reshape(-1, 2)


def test_trace_has_tried_and_accepted_places():
    stream = lone_walker(40, hidden=range(30, 34), speed=(60.0, 0.0))
    images = []
    for boxes in stream.truth:
        picture = np.zeros((480, 640, 3), np.uint8)
        x1, y1, x2, y2 = np.rint(boxes[0]).astype(int)
        picture[y1:y2, x1:x2] = 255
        images.append(picture)
    engine = Engine(config_of(STILL), Sharp())
    engine.trace_steps(True)
    for t in range(len(stream)):
        tracks = engine.step(stream.frame(t, images[t]), stream.detections[t])
        trace = engine.trace
        if t in range(30, 34):
            assert tracks.source.tolist() == [Source.PROPOSED]
            assert trace.tried.shape == (1, 4)  # the predicted box
            assert trace.accepted.shape == (1, 4)
            assert trace.accepted[0].tolist() in trace.tried.tolist()
            assert iou_of(trace.accepted[0], stream.truth[t][0]) > 0.5
        else:
            assert trace.tried.shape == trace.accepted.shape == (0, 4)


@pytest.mark.parametrize("live", [False, True])
def test_pipeline_gives_each_frame_its_own_trace(live):
    """Frames of files are held back; their traces wait with them."""
    stream = wild_stream(np.random.default_rng(5), n_frames=30)

    class Reel(FrameSource):
        name, fps, width, height, n_frames = "reel", 25.0, 640, 480, None

        def __iter__(self):
            return (stream.frame(t) for t in range(len(stream)))

    class Replay:
        name = "replay"

        def detect(self, frame):
            return stream.detections[frame.index]

    Reel.live = live
    wanted = [trace.predicted for _, _, trace, *_ in traced(stream)]
    pipeline = Pipeline(Reel(), Replay(), Engine(config_of(STILL)))
    assert not pipeline.tracing
    pipeline.trace_steps(True)
    for frame, _ in pipeline:
        assert np.array_equal(pipeline.trace.predicted, wanted[frame.index])
    assert pipeline._traces == {}
    pipeline.close()
