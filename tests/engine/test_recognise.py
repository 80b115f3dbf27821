"""People of earlier visits get their numbers back; never two tracks of one frame the same number."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles.runs import config_of, same
from tests.oracles.streams import Stream, lone_walker, one, wild_stream, with_identity_embeddings
from tracker.appearance.people import People
from tracker.engine import Engine
from tracker.finalise import FrameBuffer
from tracker.runtime import checkpoint
from tracker.stages.recognise import Recogniser
from tracker.types import Detections

SETTINGS = {"proposals.verify": "off", "motion.camera": False}


def engine_of(people: People | None, **more) -> Engine:
    return Engine(config_of(SETTINGS, **more), recogniser=None if people is None else Recogniser(people))


def settled(stream: Stream, engine: Engine):
    buffer, final = FrameBuffer(), []
    for t in range(len(stream)):
        frame = stream.frame(t)
        tracks = engine.step(frame, stream.detections[t])
        final += buffer.push(frame, tracks, engine.backfilled, engine.settled_before, engine.renumbered)
    buffer.renumber(engine.finish())
    return [tracks for _, tracks in final + buffer.flush()]


def walker(person: int, n_frames: int = 60) -> Stream:
    """One person of four, whose embedding is the same in every frame."""
    stream = lone_walker(n_frames)
    look = np.eye(4, dtype=np.float32)[[person]]
    detections = [Detections(d.boxes, d.scores, d.classes, look) for d in stream.detections]
    return Stream(stream.times, detections, stream.people, stream.truth, stream.size)


def numbers(tracks) -> set[int]:
    return {number for frame in tracks for number in frame.id.tolist()}


def test_person_of_an_earlier_run_keeps_the_number_from_the_first_frame_on():
    people = People()
    assert numbers(settled(walker(0), engine_of(people))) == {1}
    assert numbers(settled(walker(1), engine_of(people))) == {2}
    for person, number in ((0, 1), (1, 2), (0, 1)):
        found = settled(walker(person), engine_of(people))
        assert numbers(found) == {number}
        assert all(len(frame) == 1 for frame in found)
    assert people.id.tolist() == [1, 2]
    assert people.n_visits.tolist() == [3, 2]


def test_short_visit_enters_no_gallery_and_its_number_is_not_used_again():
    people = People()
    assert numbers(settled(walker(0, n_frames=3), engine_of(people, lifecycle__confirm_hits=2))) == {1}
    assert people.id.tolist() == [1]
    stream = walker(1, n_frames=3)
    for detections in stream.detections[2:]:
        object.__setattr__(detections, "scores", np.full(1, 0.3))  # too low to be embedded
    found = numbers(settled(stream, engine_of(people, lifecycle__confirm_hits=2)))
    assert found == {2}
    assert people.id.tolist() == [1]


def test_person_in_view_is_no_candidate():
    """Twins: the second one comes while the first one is in view."""
    look = np.eye(4, dtype=np.float32)[[0, 0]]
    left, right = lone_walker(80), lone_walker(80, start=(400.0, 240.0))
    detections = []
    for t, (a, b) in enumerate(zip(left.truth, right.truth, strict=True)):
        boxes = a if t < 30 else np.concatenate([a, b])
        detections.append(one(boxes, features=look[: len(boxes)]))
    stream = Stream(left.times, detections, left.people, left.truth)
    people = People()
    found = settled(stream, engine_of(people))
    assert numbers(found) == {1, 2}
    assert [len(set(frame.id.tolist())) == len(frame) for frame in found].count(False) == 0


@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_unique_in_each_frame_and_whole_tracks_are_renumbered(seed):
    """Against the same engine without a gallery: the same boxes, and each of its tracks has one number."""
    stream = with_identity_embeddings(wild_stream(np.random.default_rng(seed), n_people=5, n_frames=150, chaos=2.0))
    short = {"lifecycle__lost_s": 0.3, "lifecycle__coast_s": 0.3}  # so that people are lost, and come back
    plain, people = settled(stream, engine_of(None, **short)), People()
    once, twice = settled(stream, engine_of(people, **short)), None
    assert len(numbers(once)) < len(numbers(plain))
    twice = settled(stream, engine_of(people, **short))
    for found in (once, twice):
        number_of: dict[int, int] = {}
        for frame, reference in zip(found, plain, strict=True):
            assert len(set(frame.id.tolist())) == len(frame)
            assert frame.id.tolist() == sorted(frame.id.tolist())
            box_of = {tuple(row.xyxy): row.id for row in frame}
            assert box_of.keys() == {tuple(row.xyxy) for row in reference}
            for row in reference:
                assert number_of.setdefault(row.id, box_of[tuple(row.xyxy)]) == box_of[tuple(row.xyxy)]


def test_state_continues_in_another_engine(tmp_path):
    stream = with_identity_embeddings(wild_stream(np.random.default_rng(7), n_frames=90))
    whole, halves = People(), People()
    before = [engine_of(people) for people in (whole, halves)]
    expected = [before[0].step(stream.frame(t), stream.detections[t]) for t in range(90)]
    found = [before[1].step(stream.frame(t), stream.detections[t]) for t in range(45)]
    checkpoint.save(tmp_path / "state", before[1].state())
    later = engine_of(People())
    later.restore(checkpoint.load(tmp_path / "state"))
    found += [later.step(stream.frame(t), stream.detections[t]) for t in range(45, 90)]
    assert same(found, expected)
    assert before[0].finish() == later.finish()
    np.testing.assert_array_equal(later.recogniser.people.mean, whole.mean)
