"""The numbered properties of the tracker on random streams, against slow, obvious references.

1 plain, 2 constant embedding, 3 true identities, 4 order of detections, 5 gallery, 6 proposals, 9 online. The filter
(7) and the assignment (8) have theirs in motion/ and association/, the measures (10) in eval/.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.oracles.plain_tracker import PlainTracker, iou_of, tracks_of
from tests.oracles.runs import OFF, PLAIN, SHORT, config_of, run, run_settled, same, text
from tests.oracles.streams import (
    Stream,
    lone_walker,
    one,
    scene_stream,
    shuffled,
    wild_stream,
    with_constant_embeddings,
    with_identity_embeddings,
)
from tests.oracles.switches import id_switches
from tests.synthetic.mot import make_scene
from tracker.engine import Engine
from tracker.finalise import merged
from tracker.motion import kalman
from tracker.stages.select import select
from tracker.types import Detections, Source

# ---------------------------------------------------------------------- 1: without the metric, a plain tracker


def plain_outputs(stream, config):
    """(at once, settled) of the slow tracker."""
    tracker = PlainTracker(config, stream.frame(0).width)
    at_once, settled = [], []
    for t in range(len(stream)):
        seen = stream.detections[t]
        at_once.append(tracker.step(t, stream.times[t], seen.boxes, seen.scores))
        hidden = np.isin(at_once[-1].id, tracker.hidden)
        at_once[-1] = replace(at_once[-1], source=np.where(hidden, Source.OCCLUDED, Source.DETECTED).astype(np.uint8))
        settled.append(at_once[-1])
        for index, identity, box, score in tracker.late:
            settled[index] = merged(settled[index], tracks_of([(identity, box, score)]))
    return at_once, settled


@pytest.mark.parametrize("seed", range(10))
def test_1_all_uses_off_equals_a_kalman_and_iou_tracker(seed):
    rng = np.random.default_rng(seed)
    stream = wild_stream(rng, n_people=int(rng.integers(1, 9)), n_frames=50, irregular=seed % 2 == 0, chaos=seed % 3)
    settings = {
        **PLAIN,
        "lifecycle.birth_score": float(rng.choice([0.3, 0.7])),
        "lifecycle.confirm_hits": int(rng.integers(1, 5)),
        "lifecycle.coast_s": float(rng.choice([0.0, 0.2, 1.0])),
        "detection.nms_iou": float(rng.choice([0.5, 0.7])),
        "motion.score_noise": float(rng.choice([0.0, 1.0, 3.0])),
        "occlusion.enabled": False,
    }
    at_once, settled = plain_outputs(stream, config_of(settings))
    assert text(at_once)
    assert text(run(stream, settings)) == text(at_once)
    assert text(run_settled(stream, settings)) == text(settled)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_1_with_occluded_tracks_equals_the_slow_tracker(seed):
    rng = np.random.default_rng(seed)
    stream = wild_stream(rng, n_people=9, n_frames=100, irregular=seed % 2 == 0, chaos=1.2)
    settings = {
        **PLAIN,
        "occlusion.enabled": True,
        "occlusion.complete": float(rng.choice([0.0, 0.5, 1.0])),
        "occlusion.min_cover": float(rng.choice([0.05, 0.3])),
        "occlusion.max_s": float(rng.choice([0.3, 2.0])),
        "lifecycle.coast_s": float(rng.choice([0.4, 1.0])),
    }
    at_once, settled = plain_outputs(stream, config_of(settings))
    outputs = run(stream, settings)
    assert any(tracks.occluded.any() for tracks in outputs)
    assert text(outputs) == text(at_once)
    assert [tracks.occluded.tolist() for tracks in outputs] == [tracks.occluded.tolist() for tracks in at_once]
    assert text(run_settled(stream, settings)) == text(settled)
    without = {**settings, "occlusion.enabled": False}
    assert text(run(stream, without)) == text(plain_outputs(stream, config_of(without))[0]) != text(outputs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("occlusion", [False, True])
def test_1_generated_scenes_equal_the_slow_tracker(seed, occlusion):
    stream = scene_stream(make_scene(seed, n_people=10, n_frames=80))
    settings = {**PLAIN, "occlusion.enabled": occlusion}
    at_once, settled = plain_outputs(stream, config_of(settings))
    assert text(run(stream, settings)) == text(at_once)
    assert text(run_settled(stream, settings)) == text(settled)


@pytest.mark.parametrize("seed", range(4))
def test_1_all_uses_off_embeddings_change_nothing(seed):
    stream = wild_stream(np.random.default_rng(seed))
    embeddings = with_identity_embeddings(stream)
    assert same(run(embeddings, PLAIN), run(stream, PLAIN))


def test_1_without_embeddings_the_uses_change_nothing(rng):
    stream = wild_stream(rng)
    assert same(run(stream), run(stream, PLAIN))


# ---------------------------------------------------------------------------------- 2: a constant embedding


def constant_vector(rng, dim: int = 128) -> np.ndarray:
    vector = rng.normal(size=dim)  # not a unit axis: its products are rounded
    return vector / np.linalg.norm(vector)


CALIBRATED = 200  # frames after which the scene knows that distances say nothing


def three_people(n_frames: int, hidden=()) -> Stream:
    """Person 0 walks and is not detected in the frames `hidden`; 1 and 2 stand far away."""
    stream = lone_walker(n_frames, hidden=hidden, speed=(8.0, 0.0))
    standing = np.array([[500.0, 60, 540, 160], [560.0, 250, 610, 390]])
    detections, people = [], []
    for seen in stream.detections:
        detections.append(one(np.concatenate([seen.boxes, standing])))
        people.append(np.array([0] * len(seen) + [1, 2]))
    truth = [np.concatenate([boxes, standing]) for boxes in stream.truth]
    return replace(stream, detections=detections, people=people, truth=truth)


@pytest.mark.parametrize("seed", range(3))
def test_2_constant_embedding_vetoes_and_exchanges_nothing(seed):
    """As if there were no embedding: zeros, of which nothing is known."""
    rng = np.random.default_rng(seed)
    calm, wild = three_people(CALIBRATED), wild_stream(rng, n_people=7, irregular=False)
    wild = replace(wild, times=[time_s + calm.times[-1] + 5 for time_s in wild.times])
    stream = Stream(*(getattr(calm, name) + getattr(wild, name) for name in ("times", "detections", "people", "truth")))
    settings = {"association.reassociate": False}
    alike = run(with_constant_embeddings(stream, constant_vector(rng)), settings)
    without = run(with_constant_embeddings(stream, np.zeros(4)), settings)
    assert same(alike, without)


def test_2_constant_embedding_reassociates_no_person_far_from_the_prediction(rng):
    """Appearance does not help; a return close to the prediction may be believed by motion alone."""
    last = CALIBRATED + 12
    stream = three_people(last + 4, hidden=range(CALIBRATED, last))
    aside = np.array([100.0, 0, 100, 0])
    for t in range(last, last + 4):
        boxes = stream.detections[t].boxes.copy()
        boxes[0] += aside
        stream.detections[t] = replace(stream.detections[t], boxes=boxes)
    constant = with_constant_embeddings(stream, constant_vector(rng))
    assert run(constant)[-1].id.max() == 4
    assert run(with_identity_embeddings(stream))[-1].id.max() == 3


class Constant:
    """An encoder that gives every box the same embedding."""

    name = "constant"

    def __init__(self, vector):
        self.vector = vector.astype(np.float32)
        self.n = 0

    def embed(self, image, boxes):
        self.n += len(boxes)
        return np.tile(self.vector, (len(boxes), 1))


@pytest.mark.parametrize("seed", range(3))
def test_2_constant_encoder_soon_proposes_nothing(seed):
    """From some frames on: the scene learns that different people are as near as the same person."""
    rng = np.random.default_rng(seed)
    stream = wild_stream(rng, n_people=7)
    images = [np.zeros((480, 640, 3), np.uint8)] * len(stream)
    encoder = Constant(constant_vector(rng))
    outputs = run(stream, engine=Engine(config_of(), encoder), images=images)
    assert not any(tracks.proposed.any() for tracks in outputs[10:])
    without = Constant(encoder.vector)
    run(stream, engine=Engine(config_of({"proposals.verify": "off"}), without), images=images)
    assert encoder.n > without.n  # it did search


# ------------------------------------------------------------------------------- 3: embeddings of the true identity


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_3_true_embeddings_add_no_identity_switch(seed):
    if seed < 4:
        stream = scene_stream(make_scene(seed, n_people=10, n_frames=150))
    else:
        stream = wild_stream(np.random.default_rng(seed), n_people=8, n_frames=120, irregular=False)
    knowing = with_identity_embeddings(stream)
    switches = {
        name: id_switches(stream.truth, run(knowing, settings))
        for name, settings in {
            "plain": PLAIN, "off": OFF, "A": {"association.reassociate": False},
            "B": {"association.veto": False}, "A+B": {},
        }.items()
    }  # fmt: skip
    assert switches["A+B"] <= min(switches["plain"], switches["off"]), switches
    assert switches["B"] <= switches["off"], switches
    assert switches["A"] <= switches["off"], switches


@pytest.mark.slow
@pytest.mark.parametrize("hidden_s", [0.2, 1.0, 1.6, 2.9])
@pytest.mark.parametrize("company", [False, True])
def test_3_b_keeps_the_identity_after_a_gap(hidden_s, company):
    """Straight on, and also aside; with others in view and alone, once ten seconds have shown who appears there."""
    n_before, n_hidden = 250, round(hidden_s * 25)
    for aside in (0.0, 25.0):
        stream = lone_walker(n_before + n_hidden + 20, hidden=range(n_before, n_before + n_hidden), speed=(10.0, 0.0))
        truth = [
            boxes + (np.array([0, aside, 0, aside]) if t >= n_before else 0) for t, boxes in enumerate(stream.truth)
        ]
        other = np.array([[500.0, 100, 540, 200]])
        detections = []
        for t, boxes in enumerate(truth):
            seen = boxes if t < n_before or t >= n_before + n_hidden else boxes[:0]
            people = np.concatenate([seen, other]) if company else seen
            embeddings = np.eye(2, dtype=np.float32)[[0] * len(seen) + [1] * company]
            n = len(people)
            detections.append(Detections(people, np.full(n, 0.9), np.zeros(n, np.int64), embeddings))
        outputs = run_settled(replace(stream, detections=detections), SHORT)
        ids = {int(tracks.id[np.argmax(tracks.xyxy[:, 3])]) for tracks in outputs if len(tracks) == 1 + company}
        assert len(ids) == 1, (aside, ids)
        without = run_settled(replace(stream, detections=detections), {**SHORT, "association.reassociate": False})
        if hidden_s > 1.0:  # beyond coasting, motion alone has no track left
            assert len({int(i) for tracks in without for i in tracks.id}) == 2 + company


def test_3_b_refuses_return_after_lost_s():
    stream = with_identity_embeddings(lone_walker(150, hidden=range(30, 30 + 80), speed=(5.0, 0.0)))
    assert {int(i) for tracks in run(stream) for i in tracks.id} == {1, 2}


def test_3_b_refuses_place_outside_the_motion_gate():
    stream = lone_walker(60, hidden=range(30, 40), speed=(10.0, 0.0))
    aside = np.array([400.0, 0, 400, 0])
    far = [d if t < 40 else replace(d, boxes=d.boxes + aside) for t, d in enumerate(stream.detections)]
    outputs = run(with_identity_embeddings(replace(stream, detections=far)))
    assert outputs[-1].id.tolist() == [2]


def test_3_a_prevents_the_swap_of_two_people_turning_back():
    """They approach, hide each other for a moment and go back: motion alone takes them for passing through."""
    detections, truth, people = [], [], []
    for t in range(80):
        gap = 100 - 4 * t if t < 22 else 12 if t < 27 else 12 + 4 * (t - 27)
        a, b = 300 - gap, 300 + gap
        boxes = np.array([[a - 50.0, 100, a + 50, 300], [b - 50.0, 100, b + 50, 300]])
        hidden = 20 <= t < 29
        truth.append(boxes)
        people.append(np.arange(0 if hidden else 2))
        embeddings = np.eye(2, dtype=np.float32)[people[-1]]
        n = len(people[-1])
        detections.append(Detections(boxes[:n], np.full(n, 0.9), np.zeros(n, np.int64), embeddings))
    stream = replace(lone_walker(80), detections=detections, truth=truth, people=people)
    assert id_switches(truth, run(stream, {**PLAIN})) == 2
    for settings in ({}, {"association.reassociate": False}):
        outputs = run(stream, settings)
        assert id_switches(truth, outputs) == 0
        assert {int(i) for tracks in outputs for i in tracks.id} == {1, 2}


def test_3_b_restarts_the_filter_with_the_mean_velocity():
    stream = with_identity_embeddings(lone_walker(66, hidden=range(30, 65), speed=(20.0, 0.0)))
    aside = np.array([0.0, 36, 0, 36])
    shifted = [d if t < 65 else replace(d, boxes=d.boxes + aside) for t, d in enumerate(stream.detections)]
    engine = Engine(config_of({**SHORT, "association.least_posterior": 0.5}))
    outputs = run(replace(stream, detections=shifted), engine=engine)
    assert outputs[-1].id.tolist() == [1]
    np.testing.assert_allclose(engine.bank.mean[0, 4:6], [20, 25], atol=1e-6)  # 36 px down in 36 frames of 0.04 s
    np.testing.assert_allclose(outputs[-1].xyxy, shifted[-1].boxes)


# -------------------------------------------------------------------------------------- 4: order of detections


@pytest.mark.parametrize("seed", range(4))
def test_4_order_of_detections_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    stream = with_identity_embeddings(wild_stream(rng))
    other, orders = shuffled(stream, rng)
    for t, (a, b) in enumerate(zip(run(stream), run(other), strict=True)):
        assert np.array_equal(a.xyxy, b.xyxy)
        assert np.array_equal(a.id, b.id)
        assert np.array_equal(a.score, b.score)
        assert np.array_equal(a.det_index < 0, b.det_index < 0)
        detected = b.det_index >= 0
        assert np.array_equal(orders[t][b.det_index[detected]], a.det_index[detected])


@pytest.mark.parametrize("seed", range(3))
def test_4_det_index_is_the_row_of_the_callers_detection(seed):
    stream = wild_stream(np.random.default_rng(seed))
    for t, tracks in enumerate(run(stream)):
        assert (tracks.det_index[tracks.occluded] == -1).all()
        tracks = tracks[~tracks.occluded]
        assert len(set(tracks.det_index)) == len(tracks)
        for row in tracks:
            detected = stream.detections[t]
            assert row.score == detected.scores[row.det_index]
            assert iou_of(row.xyxy, detected.boxes[row.det_index]) > 0.3


# ----------------------------------------------------------------------------------------------- 5: the gallery


def spy_on_writes(engine: Engine) -> list:
    """Everything written to the gallery, as one array of embeddings a call."""
    written, write = [], engine.appearance.gallery.write

    def spying(slots, embeddings):
        assert len(set(slots.tolist())) == len(slots)
        written.append(embeddings.copy())
        write(slots, embeddings)

    engine.appearance.gallery.write = spying
    return written


@pytest.mark.parametrize("seed", range(4))
def test_5_gallery_stores_only_high_score_detections_inside_the_image(seed):
    """Each detection's embedding names it, so that what is written tells which detection it was."""
    rng = np.random.default_rng(seed)
    stream = wild_stream(rng, n_people=8, n_frames=60)
    engine = Engine(config_of({"appearance.gallery_size": 5, "lifecycle.birth_score": 0.5, **OFF}))
    written = spy_on_writes(engine)
    n_written = n_left = 0
    for t in range(len(stream)):
        seen = stream.detections[t]
        angle = 1e-3 * np.arange(len(seen))  # alike enough never to be strange
        embeddings = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
        before = len(written)
        tracks = engine.step(stream.frame(t), seen.with_features(embeddings))
        rows = {int(np.abs(embeddings - each).sum(axis=1).argmin()) for call in written[before:] for each in call}
        kept = select(seen, np.zeros((0, 4)), engine.config.detection, engine.classes)[0].row
        for row in range(len(seen)):
            box = seen.boxes[row]
            clean = row in kept and seen.scores[row] >= 0.5
            clean = clean and box[0] >= 0 and box[1] >= 0 and box[2] <= 640 and box[3] <= 480
            # A detection on top of another one may have no track that could keep its embedding.
            if row in rows or all(iou_of(box, seen.boxes[other]) <= 0.3 for other in kept if other != row):
                assert (row in rows) == clean, (t, row)
            n_written += clean
            n_left += not clean
        assert (engine.appearance.gallery.counts(engine.bank.slot) <= 5).all()
        for slot in engine.bank.slot:
            np.testing.assert_allclose(
                np.linalg.norm(engine.appearance.gallery.entries(int(slot)), axis=1), 1, atol=1e-6
            )
        assert np.count_nonzero(~tracks.occluded) <= len(seen)
    assert n_written > 50
    assert n_left > 50


def test_5_outlier_embedding_is_not_stored():
    stream = lone_walker(20)
    embeddings = np.eye(2, dtype=np.float32)
    strange = [d.with_features(embeddings[[int(t == 10)]]) for t, d in enumerate(stream.detections)]
    engine = Engine(config_of(OFF))
    written = spy_on_writes(engine)
    run(replace(stream, detections=strange), engine=engine)
    assert sum(len(call) for call in written) == 19
    assert not any(call[:, 1].any() for call in written)


def test_5_zero_embedding_is_not_stored():
    """Networks give zeros where there is nothing to see."""
    stream = lone_walker(10)
    embeddings = [d.with_features(np.full((1, 4), 0.5 * (t % 2), np.float32)) for t, d in enumerate(stream.detections)]
    engine = Engine(config_of(OFF))
    run(replace(stream, detections=embeddings), engine=engine)
    entries = engine.appearance.gallery.entries(int(engine.bank.slot[0]))
    assert len(entries) == 5
    np.testing.assert_allclose(np.linalg.norm(entries, axis=1), 1)


# --------------------------------------------------------------------------------------------- 6: the proposals


class Painter:
    """People as rectangles of their own colour, and an encoder that reads the colours back: a true oracle.

    The blue channel of the image holds the person of each pixel (0: background). An embedding has the square root of
    the share of each person in the crop, so that a half-filled crop is half as similar.
    """

    name = "painter"

    def __init__(self, stream):
        self.stream = stream
        self.dim = 1 + max(len(boxes) for boxes in stream.truth)
        self.calls: list[np.ndarray] = []

    def image(self, t: int) -> np.ndarray:
        width, height = self.stream.size
        picture = np.zeros((height, width, 3), np.uint8)
        for person, box in enumerate(self.stream.truth[t]):
            x1, y1, x2, y2 = np.rint(box).astype(int).clip(0)
            picture[y1:y2, x1:x2, 0] = person + 1
        return picture

    def images(self):
        return [self.image(t) for t in range(len(self.stream))]

    def embed(self, image, boxes):
        self.calls.append(boxes.copy())
        out = np.zeros((len(boxes), self.dim), np.float32)
        for row, box in enumerate(boxes):
            x1, y1, x2, y2 = np.rint(box).astype(int).clip(0)
            crop = image[y1:y2, x1:x2, 0]
            if crop.size:
                share = np.bincount(crop.ravel(), minlength=self.dim)[: self.dim] / crop.size
                out[row] = np.sqrt(share)
        return out


def test_6_missed_person_is_proposed_at_the_true_place():
    stream = lone_walker(60, hidden=range(30, 40), speed=(60.0, 0.0))
    painter = Painter(stream)
    engine = Engine(config_of(), painter)
    outputs = run(stream, engine=engine, images=painter.images())
    for t in range(30, 40):
        assert outputs[t].id.tolist() == [1], t
        assert outputs[t].source.tolist() == [Source.PROPOSED]
        assert outputs[t].proposed.all()
        assert outputs[t].det_index.tolist() == [-1]
        assert 0 <= outputs[t].score[0] <= 1
        assert iou_of(outputs[t].xyxy[0], stream.truth[t][0]) > 0.5
    assert all(tracks.source.tolist() == [Source.DETECTED] for tracks in outputs[2:30] + outputs[40:])
    assert not any(len(t) for t in run(stream, {"proposals.verify": "off"})[30:40])


@pytest.mark.parametrize("max_s", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("fps", [10.0, 30.0])
def test_6_proposals_end_with_the_time_since_the_last_detection(max_s, fps):
    stream = lone_walker(90, hidden=range(30, 90), speed=(20.0, 0.0), fps=fps)
    painter = Painter(stream)
    outputs = run(stream, engine=Engine(config_of({"proposals.max_s": max_s}), painter), images=painter.images())
    proposed = [t for t, tracks in enumerate(outputs) if tracks.proposed.any()]
    assert proposed == list(range(30, 30 + round(max_s * fps)))


def test_6_proposals_are_no_hits_and_never_stored():
    stream = lone_walker(60, hidden=range(30, 36))
    painter = Painter(stream)
    engine = Engine(config_of(), painter)
    written = spy_on_writes(engine)
    run(stream, engine=engine, images=painter.images())
    assert sum(len(call) for call in written) == 54
    assert engine.bank.hits.tolist() == [54]


def test_6_proposal_is_a_measurement():
    """The covariance after it is the textbook's, whatever place was chosen, and whatever the belief."""
    stream = lone_walker(31, hidden=[30])
    painter = Painter(stream)
    engine = Engine(config_of(), painter)
    run(stream.only(range(30)), engine=engine, images=painter.images()[:30])
    mean, cov = kalman.predict(engine.bank.mean, engine.bank.cov, 1 / 25, engine.config.motion)
    wanted = kalman.correct(mean, cov, mean[:, :4], engine.config.motion)[1]
    assert engine.step(stream.frame(30, painter.image(30)), stream.detections[30]).proposed.all()
    np.testing.assert_allclose(engine.bank.cov, wanted, rtol=1e-9)


def test_6_tentative_track_gets_no_proposal():
    for missed in (1, 2):
        stream = lone_walker(10, hidden=range(missed, 10))
        painter = Painter(stream)
        engine = Engine(config_of(), painter)
        outputs = run(stream, engine=engine, images=painter.images())
        assert not any(len(tracks) for tracks in outputs)
        assert engine.appearance.n_crops == missed  # detections only


def painted_streams(seed: int):
    rng = np.random.default_rng(seed)
    stream = wild_stream(rng, n_people=9, n_frames=100, irregular=False, chaos=1.2)
    return stream, Painter(stream)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_6_proposals_obey_all_rules_on_random_streams(seed):
    stream, painter = painted_streams(seed)
    max_s = 0.5
    settings = {
        "proposals.max_s": max_s, "occlusion.enabled": False, "detection.strong_score": 0.5,
    }  # fmt: skip
    engine = Engine(config_of(settings, association__reassociate=False), painter)
    seen_s: dict[int, float] = {}
    n_proposed = 0
    for t in range(len(stream)):
        seen = stream.detections[t]
        painter.calls.clear()
        before, n_known = engine.appearance.n_crops, int(engine.bank.confirmed.sum())
        tracks = engine.step(stream.frame(t, painter.image(t)), seen)
        n_strong = int((seen.scores >= 0.5).sum())  # one crop for each of them, and for each track
        assert engine.appearance.n_crops - before == sum(len(call) for call in painter.calls) <= n_known + n_strong
        assert len(set(tracks.id)) == len(tracks)
        assert (tracks.det_index[tracks.proposed] == -1).all()
        assert (tracks.det_index[~tracks.proposed] >= 0).all()
        for row in tracks[tracks.proposed]:
            n_proposed += 1
            assert stream.times[t] - seen_s[row.id] <= max_s + 1e-6
        seen_s.update({int(identity): stream.times[t] for identity in tracks.id[~tracks.proposed]})
    assert n_proposed > 10


@pytest.mark.parametrize("seed", range(3))
def test_6_perfect_detector_c_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    stream = wild_stream(rng, n_people=5, n_frames=40, irregular=False, chaos=0.0)
    painter = Painter(stream)
    # The random people may hide each other from NMS and use A: without both every track is always detected.
    on = {"detection.nms_iou": 1.0, "association.veto": False}
    off = {**on, "proposals.verify": "off"}
    images = painter.images()
    with_c = run(stream, engine=Engine(config_of(on), painter), images=images)
    assert text(with_c) == text(run(stream, engine=Engine(config_of(off), painter), images=images))
    assert same(with_c, run(stream, engine=Engine(config_of(off), painter), images=images))


# ------------------------------------------------------------------------------------------------- 9: online


@pytest.mark.parametrize("seed", range(4))
def test_9_later_frames_change_nothing_before_them(seed):
    rng = np.random.default_rng(seed)
    stream = with_identity_embeddings(wild_stream(rng, n_frames=50))
    cut = 30
    edited = [
        d if t < cut else replace(d, boxes=d.boxes + rng.normal(0, 30, 2)[[0, 1, 0, 1]]).take(rng.random(len(d)) < 0.5)
        for t, d in enumerate(stream.detections)
    ]
    whole, other = run(stream), run(replace(stream, detections=edited))
    assert same(whole[:cut], other[:cut])
    assert not same(whole, other)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("confirm_hits", [1, 3, 5])
def test_9_settled_frames_gain_only_rows_of_tracks_confirmed_soon_after(seed, confirm_hits):
    """Final output may add to what was known at once, never take away, and only within confirm_hits - 1 frames."""
    rng = np.random.default_rng(seed)
    stream = with_identity_embeddings(wild_stream(rng, n_frames=50))
    settings = {"lifecycle.confirm_hits": confirm_hits}
    at_once, settled = run(stream, settings), run_settled(stream, settings)
    for now, final in zip(at_once, settled, strict=True):
        known = np.isin(final.id, now.id)
        assert same([final[known]], [now])
        assert len(set(final.id)) == len(final)
        assert (np.diff(final.id) > 0).all()
    cut = 30
    edited = [d if t < cut else Detections.empty() for t, d in enumerate(stream.detections)]
    other = run_settled(replace(stream, detections=edited), settings)
    assert same(settled[: cut - confirm_hits + 1], other[: cut - confirm_hits + 1])
    # In between, the edited future can only lack rows.
    for a, b in zip(settled[:cut], other[:cut], strict=True):
        assert same([a[np.isin(a.id, b.id)]], [b])
