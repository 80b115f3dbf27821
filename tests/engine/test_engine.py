"""Creation, confirmation and deletion of tracks over whole streams, and when the engine runs its encoder."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from tests.oracles.plain_tracker import hidden_share, iou_of
from tests.oracles.runs import OFF, PLAIN, SHORT, config_of, run, run_settled, same
from tests.oracles.streams import Stream, lone_walker, one, wild_stream, with_identity_embeddings
from tests.oracles.switches import id_switches
from tests.synthetic.moving_camera import after, middle_of, noisy, similarity, texture, view
from tracker.detector.public import PublicDetections
from tracker.engine import Engine
from tracker.sources.open import open_source
from tracker.stages.embed import FALLBACK, Thresholds
from tracker.types import Detections, Frame, Source

BOX = [100.0, 100, 140, 200]


def ids_of(outputs) -> list[list[int]]:
    return [tracks.id.tolist() for tracks in outputs]


@pytest.mark.parametrize("confirm_hits", [1, 2, 3, 5])
def test_track_is_output_with_its_confirming_detection(confirm_hits):
    outputs = run(lone_walker(8), {"lifecycle.confirm_hits": confirm_hits})
    assert ids_of(outputs) == [[]] * (confirm_hits - 1) + [[1]] * (9 - confirm_hits)


@pytest.mark.parametrize("confirm_hits", [1, 2, 3, 5])
def test_confirmed_track_backfills_its_first_frames(confirm_hits):
    assert ids_of(run_settled(lone_walker(8), {"lifecycle.confirm_hits": confirm_hits})) == [[1]] * 8


def test_tentative_track_missed_once_is_deleted():
    stream = lone_walker(6, hidden=[2])
    assert ids_of(run(stream)) == [[], [], [], [], [], [1]]
    assert ids_of(run_settled(stream)) == [[], [], [], [1], [1], [1]]


def test_low_score_detections_neither_create_nor_confirm_tracks():
    stream = lone_walker(10)
    weak = [replace(d, scores=d.scores * 0.4) if t != 3 else d for t, d in enumerate(stream.detections)]
    assert ids_of(run(replace(stream, detections=weak))) == [[]] * 10


def with_scores(stream, scores):
    """The same detections with one score for each frame."""
    detections = [replace(d, scores=np.full(len(d), s)) for d, s in zip(stream.detections, scores, strict=True)]
    return replace(stream, detections=detections)


def test_high_score_below_birth_score_extends_but_creates_no_track():
    settings = {"detection.strong_score": 0.5, "lifecycle.birth_score": 0.7}
    assert ids_of(run(with_scores(lone_walker(20), [0.69] * 20), settings)) == [[]] * 20
    assert ids_of(run(with_scores(lone_walker(20), [0.7] * 20), settings))[2:] == [[1]] * 18
    # One high-score detection creates a track; lower ones confirm and keep it.
    outputs = run(with_scores(lone_walker(20), [0.7] + [0.55] * 19), settings)
    assert ids_of(outputs) == [[]] * 2 + [[1]] * 18
    # With as small an overlap as a weak detection may not have.
    stream = with_scores(lone_walker(12, speed=(0.0, 0.0)), [0.9] * 10 + [0.55] * 2)
    aside = replace(stream.detections[10], boxes=stream.detections[10].boxes + np.array([20.0, 0, 20, 0]))
    for score, shown in ((0.55, [[1]]), (0.45, [[]])):
        frames = [*stream.detections[:10], replace(aside, scores=np.array([score]))]
        assert ids_of(run(replace(stream, detections=frames).only(range(11)), settings))[10:] == shown


def test_birth_score_is_at_least_strong_score():
    settings = {"detection.strong_score": 0.5, "lifecycle.birth_score": 0.2, "lifecycle.confirm_hits": 1}
    assert ids_of(run(with_scores(lone_walker(20), [0.45] * 20), settings)) == [[]] * 20
    assert ids_of(run(with_scores(lone_walker(20), [0.5] * 20), settings)) == [[1]] * 20


def test_low_score_detections_keep_a_confirmed_track():
    stream = lone_walker(100)
    weak = [d if t < 5 else replace(d, scores=d.scores * 0.4) for t, d in enumerate(stream.detections)]
    assert ids_of(run(replace(stream, detections=weak)))[2:] == [[1]] * 98


def test_detections_below_the_weak_score_are_ignored():
    stream = lone_walker(100)
    faint = [d if t < 5 else replace(d, scores=d.scores * 0.1) for t, d in enumerate(stream.detections)]
    assert ids_of(run(replace(stream, detections=faint)))[5:] == [[]] * 95


@pytest.mark.parametrize("fps", [5.0, 10.0, 30.0, 60.0])
@pytest.mark.parametrize(("gone_s", "kept"), [(1.8, True), (2.4, False)])
def test_track_deletion_counts_seconds_not_frames(fps, gone_s, kept):
    start, n_gone = round(2 * fps), round(gone_s * fps)
    stream = lone_walker(start + n_gone + 10, hidden=range(start, start + n_gone), fps=fps, speed=(8.0, 0.0))
    assert run(stream)[-1].id.tolist() == [1 if kept else 2]


@pytest.mark.parametrize("fps", [10.0, 25.0, 29.97, 30.0])
def test_track_deletion_time_does_not_depend_on_rounding(fps):
    """Missed for exactly coast_s, a track still lives, whatever sums of 1 / fps round to."""
    n = round(fps)
    time_s, times = 0.1, []
    for _ in range(n + 10):
        times.append(time_s)
        time_s += 1 / fps
    coast_s = (n - 1) / fps
    engine = Engine(config_of({"lifecycle.coast_s": coast_s}))
    for t in range(5):
        engine.step(Frame(t, times[t], None, 0, 0), one(BOX))
    for t in range(5, 5 + n - 1):
        engine.step(Frame(t, times[t], None, 0, 0), Detections.empty())
    assert len(engine.bank) == 1
    engine.step(Frame(n + 4, times[n + 4], None, 0, 0), Detections.empty())
    assert len(engine.bank) == 0


def test_only_tracks_with_a_gallery_are_kept_beyond_coast_s():
    blind, knowing = Engine(config_of(SHORT)), Engine(config_of(SHORT))
    stream = lone_walker(60, hidden=range(10, 60))
    run(stream, engine=blind)
    run(with_identity_embeddings(stream), engine=knowing)
    assert len(blind.bank) == 0
    assert len(knowing.bank) == 1


def test_identities_count_from_one_and_are_never_reused():
    stream = wild_stream(np.random.default_rng(5), n_people=8, n_frames=150, chaos=2)
    outputs = run_settled(stream, PLAIN)
    last_seen: dict[int, int] = {}
    for t, tracks in enumerate(outputs):
        assert len(set(tracks.id)) == len(tracks)
        last_seen.update({int(identity): t for identity in tracks.id})
    assert sorted(last_seen) == list(range(1, len(last_seen) + 1))
    assert len(last_seen) > 8


def test_two_engines_share_no_state():
    a, b = (wild_stream(np.random.default_rng(seed)) for seed in (1, 2))
    alone = run(a), run(b)
    one_engine, other = Engine(config_of()), Engine(config_of())
    mixed = ([], [])
    for t in range(len(a)):
        mixed[0].append(one_engine.step(a.frame(t), a.detections[t]))
        mixed[1].append(other.step(b.frame(t), b.detections[t]))
    assert same(mixed[0], alone[0])
    assert same(mixed[1], alone[1])


def test_same_stream_gives_the_same_tracks(rng):
    stream = with_identity_embeddings(wild_stream(rng))
    assert same(run(stream), run(stream))


def test_score_and_class_are_those_of_the_detection():
    boxes = np.array([BOX, [300.0, 100, 350, 220]])
    for t in range(4):
        if t == 0:
            engine = Engine(config_of())
        seen = Detections(boxes, np.array([0.6 + t / 100, 0.9]), np.array([2, 7]))
        tracks = engine.step(Frame(t, t / 25, None, 0, 0), seen)
    assert dict(zip(tracks.class_id.tolist(), tracks.score.tolist(), strict=True)) == {2: 0.63, 7: 0.9}


def test_reassociated_tentative_track_gives_its_frames_to_the_lost_track():
    """A return after the coasting time with a bad first embedding: a new track at first, then re-associated."""
    stream = lone_walker(80, hidden=range(30, 60), speed=(10.0, 0.0))
    embeddings = np.eye(2, dtype=np.float32)
    spoilt = [d.with_features(embeddings[[int(t == 60)] * len(d)]) for t, d in enumerate(stream.detections)]
    stream = replace(stream, detections=spoilt)
    settings = {**SHORT, "association.least_posterior": 0.5, "association.veto": False}
    engine = Engine(config_of(settings))
    late = {}
    for t in range(len(stream)):
        tracks = engine.step(stream.frame(t), stream.detections[t])
        late[t] = [(each.frame_index, each.tracks.id.tolist()) for each in engine.backfilled]
        if t >= 61:
            assert tracks.id.tolist() == [1]
    assert late[61] == [(60, [1])]
    assert late[2] == [(0, [1]), (1, [1])]
    settled = run_settled(stream, settings)
    assert ids_of(settled) == [[] if 30 <= t < 60 else [1] for t in range(80)]
    assert engine.identities.n_ids == 1


def test_reassociation_backfills_no_frame_that_has_the_identity():
    """A double of a known person takes its place one frame later: that frame already has the identity."""
    embeddings = np.eye(2, dtype=np.float32)
    own = np.array([[100.0, 100, 124, 220]])
    double = own + np.array([15.0, 0, 15, 0])
    frames = [one(own, features=embeddings[[0]])] * 30
    frames.append(one(np.concatenate([own, double]), features=embeddings))
    frames += [one(double, features=embeddings[[0]])] * 3
    stream = replace(lone_walker(len(frames)), detections=frames)
    engine = Engine(config_of())
    at_once = run(stream, engine=engine)
    assert ids_of(at_once)[2:] == [[1]] * 32
    assert engine.identities.n_ids == 1
    assert ids_of(run_settled(stream)) == [[1]] * 34


def test_frames_are_held_only_while_a_track_is_undecided():
    engine = Engine(config_of())
    held = []
    for t, seen in enumerate(
        [one(BOX), one(BOX), one(BOX), one(BOX), Detections.empty(), one(BOX), Detections.empty()]
    ):
        engine.step(Frame(t, t / 25, None, 0, 0), seen)
        held.append(engine.settled_before)
    assert held == [0, 0, None, None, None, None, None]
    stranger = one([400.0, 100, 440, 200])
    held = []
    for t, seen in enumerate([stranger, Detections.empty(), stranger, stranger], start=7):
        engine.step(Frame(t, t / 25, None, 0, 0), seen)
        held.append(engine.settled_before)
    assert held == [7, None, 9, 9]


@pytest.mark.parametrize("seed", range(6))
def test_no_frame_has_an_identity_twice(seed):
    """Also where identities are found again while their tentative doubles are on record."""
    rng = np.random.default_rng(seed)
    stream = with_identity_embeddings(wild_stream(rng, n_people=9, n_frames=120, irregular=False, chaos=1.5))
    # Every fifth embedding is another person's: tracks are vetoed, lost and re-associated all the time.
    detections = []
    for d in stream.detections:
        features = d.features.copy()
        wrong = rng.random(len(d)) < 0.2
        features[wrong] = features[wrong][:, rng.permutation(features.shape[1])]
        detections.append(d.with_features(features))
    for tracks in run_settled(replace(stream, detections=detections)):
        assert len(set(tracks.id)) == len(tracks)
        assert (tracks.id >= 1).all()
        assert (np.diff(tracks.id) > 0).all()


def test_long_crowded_stream_does_not_grow_the_engine():
    engine = Engine(config_of({"appearance.gallery_size": 4}))
    sizes = []
    for seed in range(6):
        stream = with_identity_embeddings(wild_stream(np.random.default_rng(seed), n_frames=60, irregular=False))
        for t in range(len(stream)):
            seen = stream.detections[t]
            embeddings = np.zeros((len(seen), 16), np.float32)
            embeddings[np.arange(len(seen)), stream.people[t] % 16] = 1
            engine.step(replace(stream.frame(t), time_s=stream.times[t] + 100 * seed), seen.with_features(embeddings))
            assert engine.identities.n_undecided_frames <= 2
        sizes.append(len(engine.appearance.gallery._counts))
    assert max(sizes[2:]) <= 64
    assert len(engine.bank) < 60


def test_repeated_and_decreasing_times_are_accepted():
    engine = Engine(config_of())
    for t, time_s in enumerate([0.0, 0.0, 0.0, 5000.0, 5000.0, 5000.0]):
        tracks = engine.step(Frame(t, time_s, None, 0, 0), one(BOX))
        assert np.isfinite(tracks.xyxy).all()
    assert tracks.id.tolist() == [2]


@pytest.mark.parametrize("scale", [1e-2, 1e6])
def test_extreme_box_sizes_give_finite_tracks(scale):
    with np.errstate(all="raise", under="ignore"):
        outputs = run(replace(lone_walker(20), detections=[one(np.array(BOX) * scale)] * 20))
    assert ids_of(outputs)[-1] == [1]
    np.testing.assert_allclose(outputs[-1].xyxy[0], np.array(BOX) * scale, rtol=1e-3)


# ------------------------------------------------------------------------------------------------- the encoder


class Counting:
    name = "counting"

    def __init__(self):
        self.calls = []

    def embed(self, image, boxes):
        self.calls.append(len(boxes))
        return np.tile(np.array([[1, 0]], np.float32), (len(boxes), 1))


IMAGE = np.zeros((480, 640, 3), np.uint8)


def test_high_score_detections_are_embedded_in_one_call():
    encoder = Counting()
    seen = Detections(
        np.array([BOX, [300.0, 100, 350, 220], [500.0, 100, 550, 200]]), np.array([0.9, 0.3, 0.8]), np.zeros(3, int)
    )
    Engine(config_of(), encoder).step(Frame(0, 0.0, IMAGE, 640, 480), seen)
    assert encoder.calls == [2]


@pytest.mark.parametrize("settings", [PLAIN, {}])
def test_encoder_runs_only_if_a_use_needs_it(settings):
    """No use is on, there is no picture, no detection, or embeddings came along."""
    encoder = Counting()
    engine = Engine(config_of(settings), encoder)
    engine.step(Frame(0, 0.0, None, 640, 480), one(BOX))
    engine.step(Frame(1, 0.1, IMAGE, 640, 480), Detections.empty())
    engine.step(Frame(2, 0.2, IMAGE, 640, 480), one(BOX, features=np.array([[1, 0]], np.float32)))
    if settings:
        engine.step(Frame(3, 0.3, IMAGE, 640, 480), one(BOX))
    assert encoder.calls == []


def test_thresholds_settings_before_model_before_defaults():
    assert Engine(config_of()).appearance.thresholds.same == FALLBACK.same
    model = Thresholds(0.2, 0.4, 0.1)
    assert Engine(config_of(), Counting(), model).appearance.thresholds == model
    mixed = Engine(config_of({"appearance.tau_diff": 0.5}), Counting(), model).appearance.thresholds
    assert mixed == Thresholds(0.2, 0.5, 0.1)


def test_stage_times_are_recorded():
    engine = Engine(config_of(OFF))
    run(lone_walker(5), engine=engine)
    stages = "predict select camera embed associate re-associate propose occlude update"
    assert list(engine.stage_s) == stages.split()
    assert all(seconds >= 0 for seconds in engine.stage_s.values())


# ---------------------------------------------------------------------------------------------- occlusion


def crossing(n_frames: int = 60) -> Stream:
    """Person 0 walks to the right behind person 1, who is nearer and larger, walks to the left, and is always detected.
    A person covered by half or more is not detected."""
    walker = lone_walker(n_frames, start=(120.0, 240.0), speed=(120.0, 0.0), height=120.0)
    nearer = lone_walker(n_frames, start=(400.0, 220.0), speed=(-120.0, 0.0), height=220.0)
    detections, people, truth = [], [], []
    for behind, front in zip(walker.truth, nearer.truth, strict=True):
        seen = [1] if hidden_share(behind[0], front[0]) >= 0.5 else [1, 0]  # not in the order of the identities
        boxes = np.concatenate([behind, front])
        detections.append(one(boxes[seen]))
        people.append(np.array(seen))
        truth.append(boxes)
    return Stream(walker.times, detections, people, truth)


def test_person_behind_another_is_output_occluded_and_keeps_identity():
    stream = crossing()
    outputs = run(stream, {"occlusion.max_s": 0.4})
    hidden = [t for t in range(len(stream)) if len(stream.detections[t]) == 1]
    assert 4 <= len(hidden) <= 10
    identity = {person: outputs[5].id[list(outputs[5].det_index).index([1, 0].index(person))] for person in (0, 1)}
    for t in range(3, len(stream)):
        tracks = {row.id: row for row in outputs[t]}
        assert set(tracks) == {1, 2}
        assert tracks[identity[1]].source == Source.DETECTED
        behind = tracks[identity[0]]
        assert (behind.source == Source.OCCLUDED) == (t in hidden)
        assert (behind.det_index == -1) == (t in hidden)
        assert np.array_equal(outputs[t].occluded, outputs[t].source == Source.OCCLUDED)
        assert iou_of(behind.xyxy, stream.truth[t][0]) > 0.5
        assert iou_of(tracks[identity[1]].xyxy, stream.truth[t][1]) > 0.7


def test_occlusion_disabled_outputs_no_occluded_track():
    outputs = run(crossing(), {"occlusion.enabled": False})
    assert not any(tracks.occluded.any() for tracks in outputs)
    assert all((tracks.det_index >= 0).all() for tracks in outputs)
    assert min(len(tracks) for tracks in outputs[3:]) == 1


def test_occluded_track_is_output_for_limited_seconds():
    """Both people stop while one occludes the other."""
    stream = crossing()
    meet = next(t for t in range(60) if hidden_share(*stream.truth[t]) > 0.9)
    frames = [*range(meet + 1), *[meet] * 40]
    waiting = replace(stream.only(frames), times=[t / 25 for t in range(len(frames))])
    outputs = run(waiting)
    last_seen = max(t for t, d in enumerate(waiting.detections) if len(d) == 2)
    held = [t for t, tracks in enumerate(outputs) if tracks.occluded.any()]
    assert held == list(range(last_seen + 1, last_seen + 1 + round(0.2 * 25)))


def test_missed_track_without_occluder_is_not_output():
    outputs = run(lone_walker(60, hidden=range(30, 36)))
    assert ids_of(outputs)[30:36] == [[]] * 6
    assert ids_of(outputs)[36] == [1]


# -------------------------------------------------------------------------------------------- a camera that moves


def recorded(rng, stream, way) -> tuple:
    """A stream seen by a camera: the places (2, 3) of `way` take the stream's pixels to those of each frame.

    Returns the stream in pixels of the frames (upright boxes, so no turns) and the images, without the people.
    """
    world = texture(rng, 2 * stream.size[0], 2 * stream.size[1])
    middle = middle_of(world, stream.size)
    images = [noisy(rng, view(world, after(place, middle), stream.size)) for place in way]
    seen = []
    for place, d in zip(way, stream.detections, strict=True):
        corners = d.boxes.reshape(-1, 2, 2) @ place[:, :2].T + place[:, 2]
        seen.append(replace(d, boxes=corners.reshape(-1, 4)))
    return replace(stream, detections=seen), images


def shaken_way(rng, n_frames) -> list[np.ndarray]:
    """From the first frame to each: a pan of 4 pixels a frame and a shake of 15: more than people walk."""
    shifts = np.cumsum(np.full((n_frames, 2), (4.0, 0.0)), axis=0) + rng.normal(0, 15, (n_frames, 2))
    return [np.column_stack([np.eye(2), shift]) for shift in shifts]


def test_standing_person_is_found_after_a_gap_while_camera_pans(rng):
    """Not detected for 15 frames, in which the camera moves by four times the width of the person."""
    standing = lone_walker(40, hidden=range(12, 27), speed=(0.0, 0.0), height=90.0)
    way = [np.column_stack([np.eye(2), (min(max(t - 10, 0), 18) * 8.0, 0.0)]) for t in range(40)]
    stream, images = recorded(rng, standing, way)
    steady = run_settled(stream, images=images)
    assert ids_of(steady) == [[] if 12 <= t < 27 else [1] for t in range(40)]
    assert ids_of(run_settled(stream, {"motion.camera": False}, images=images))[39] == [2]


def test_shaken_video_compensated_gives_the_identities_of_a_still_one(rng):
    people = wild_stream(rng, n_people=4, n_frames=40, irregular=False, chaos=0.3)
    stream, images = recorded(rng, people, shaken_way(rng, 40))
    tripod, shaken = run_settled(people), run_settled(stream, images=images)
    assert ids_of(shaken) == ids_of(tripod)


def test_zooming_camera_keeps_tracks_far_from_the_centre(rng):
    """Zoom steps of 6 % move a box at the edge by more than its size, during a gap in the detections."""
    standing = lone_walker(30, hidden=range(10, 20), speed=(0.0, 0.0), start=(150.0, 150.0), height=60.0)
    zooms = [1.06 ** min(max(t - 10, 0), 8) for t in range(30)]
    way = [similarity(zoom, 0.0, (0.0, 0.0), (640, 480)) for zoom in zooms]
    stream, images = recorded(rng, standing, way)
    assert ids_of(run(stream, images=images))[20:] == [[1]] * 10
    assert ids_of(run(stream, {"motion.camera": False}, images=images))[29] != [1]


def test_velocity_after_reassociation_is_in_current_camera_pixels(rng):
    """Use B restarts the filter with the mean velocity since then: zero for a standing person."""
    standing = lone_walker(60, hidden=range(15, 50), speed=(0.0, 0.0), height=90.0)
    way = [np.column_stack([np.eye(2), (4.0 * t, 0.0)]) for t in range(60)]
    stream, images = recorded(rng, with_identity_embeddings(standing), way)
    engine = Engine(config_of())
    outputs = run(stream.only(range(51)), engine=engine, images=images[:51])
    assert outputs[50].id.tolist() == [1]
    assert np.abs(engine.bank.mean[0, 4:6]).max() < 5.0  # pixels per second; the camera makes 100


@pytest.mark.parametrize("chaos", [0.5, 2.0])
def test_still_camera_compensation_changes_no_bit(rng, chaos):
    stream = wild_stream(rng, n_frames=40, chaos=chaos)
    world = texture(rng, 640, 480)
    images = []
    for people in stream.truth:
        image = world.copy()
        for x1, y1, x2, y2 in people.clip(0, 640).astype(int):
            image[y1:y2, x1:x2] = 255 - image[y1:y2, x1:x2]
        images.append(noisy(rng, image))
    assert same(run(stream, images=images), run(stream, {"motion.camera": False}))


@pytest.mark.parametrize("seed", range(3))
def test_still_camera_without_images_changes_no_bit(seed):
    """People that turn back, cross and vanish are not taken for camera motion."""
    stream = wild_stream(np.random.default_rng(seed), n_people=9, n_frames=120)
    assert same(run(stream), run(stream, {"motion.camera": False}))


def handheld(rng, stream) -> Stream:
    """The stream in the pixels of a camera that is held in a hand: its pace changes at random, without a direction."""
    pace, place, shifts = np.zeros(2), np.zeros(2), []
    for _ in range(len(stream)):
        pace = 0.9 * pace + rng.normal(0, 3, 2)
        place = 0.98 * place + pace
        shifts.append(np.tile(place, 2))
    detections = [replace(d, boxes=d.boxes + shift) for d, shift in zip(stream.detections, shifts, strict=True)]
    truth = [boxes + shift for boxes, shift in zip(stream.truth, shifts, strict=True)]
    return replace(stream, detections=detections, truth=truth)


def test_shared_motion_without_images_saves_identities():
    switches = {True: 0, False: 0}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        stream = handheld(rng, wild_stream(rng, n_people=8, n_frames=120, irregular=False, chaos=0.6))
        for camera in switches:
            switches[camera] += id_switches(stream.truth, run(stream, {"motion.camera": camera}))
    assert switches[True] < switches[False]


@pytest.mark.data
def test_vtest_still_camera_compensation_changes_no_bit(data_root):
    video, found = data_root / "videos" / "vtest.avi", data_root / "mot15/train/PETS09-S2L1/det/det.txt"
    if not (video.is_file() and found.is_file()):
        pytest.skip(f"no {video} or {found}")
    detections = PublicDetections(found)
    steady, plain = Engine(config_of()), Engine(config_of({"motion.camera": False}))
    with open_source(video) as source:
        for frame in islice(source, 200):
            seen = detections.detect(frame)
            assert same([steady.step(frame, seen)], [plain.step(frame, seen)])
