"""Uses A and B by log odds, over whole streams: decisions, invariances, exact resumption, finite numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.oracles.runs import OFF, PLAIN, SHORT, config_of, run, same
from tests.oracles.streams import SIZE, Stream, lone_walker, one, wild_stream, with_identity_embeddings
from tests.oracles.switches import id_switches
from tracker.engine import Engine
from tracker.types import Detections, Frame

UNIT = np.eye(8, dtype=np.float32)
STANDING = np.array([[500.0, 60, 540, 160], [560.0, 250, 610, 390]])


def frames_of(boxes: list, people: list) -> Stream:
    """A stream with these boxes (n, 4) and the true identities (n,) of each frame as embeddings."""
    detections = [one(b, features=UNIT[np.asarray(p, int)]) for b, p in zip(boxes, people, strict=True)]
    return Stream([t / 25 for t in range(len(boxes))], detections, [np.asarray(p) for p in people], [])


def ids_of(outputs) -> set[int]:
    return {int(identity) for tracks in outputs for identity in tracks.id}


# -------------------------------------------------------------------------------------------------------- use A


def noisy(rng, person: np.ndarray, dim: int = 32) -> np.ndarray:
    """Embeddings of people (n,): unit rows, distances of one person about 0.2."""
    rows = np.eye(dim)[person] + rng.normal(0, 0.5 / np.sqrt(dim), (len(person), dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def passing(rng, turns: bool) -> Stream:
    """Two people walk to each other, vanish behind each other for 8 frames, and pass or turn back."""
    detections, people, truth = [], [], []
    for t in range(80):
        gap = 100.0 - 4 * t if t < 24 or not turns else 4.0 + 4 * max(t - 26, 0)
        boxes = np.array([[250.0 - gap, 100, 350 - gap, 300], [250.0 + gap, 100, 350 + gap, 300]])
        seen = np.arange(0 if 21 <= t < 29 else 2)
        truth.append(boxes)
        people.append(seen)
        detections.append(one(boxes[: len(seen)], features=noisy(rng, seen)))
    return Stream([t / 25 for t in range(80)], detections, people, truth)


@pytest.mark.parametrize("turns", [False, True])
def test_people_who_meet_keep_their_identities_with_a(rng, turns):
    """Motion alone takes people who turn back for people who pass."""
    stream = passing(rng, turns)
    assert id_switches(stream.truth, run(stream, PLAIN)) == (2 if turns else 0)
    for settings in ({}, {**OFF, "association.veto": True}):
        outputs = run(stream, settings)
        assert id_switches(stream.truth, outputs) == 0
        assert ids_of(outputs) == {1, 2}


def test_match_against_the_odds_is_vetoed():
    """Someone else appears in the place of a person: same box, other embedding."""
    boxes = [np.concatenate([[[100.0, 100, 140, 200]], STANDING])] * 60
    stream = frames_of(boxes, [[0, 1, 2] if t < 40 else [3, 1, 2] for t in range(60)])
    assert ids_of(run(stream, OFF)) == {1, 2, 3}
    outputs = run(stream, {**OFF, "association.veto": True})
    assert sorted(outputs[-1].id) == [2, 3, 4]


def test_one_spoilt_embedding_deletes_no_track():
    boxes = [np.concatenate([[[100.0, 100, 140, 200]], STANDING])] * 60
    stream = frames_of(boxes, [[0, 1, 2] if t != 40 else [3, 1, 2] for t in range(60)])
    assert ids_of(run(stream)) == {1, 2, 3}


def test_zero_embedding_has_no_say():
    """A crop that was empty; the network gives zeros."""
    stream = lone_walker(60)
    blank = [d.with_features(UNIT[[0]] * (t < 30)) for t, d in enumerate(stream.detections)]
    outputs = run(replace(stream, detections=blank))
    assert [tracks.id.tolist() for tracks in outputs[2:]] == [[1]] * 58


# -------------------------------------------------------------------------------------------------------- use B


def after_gap(*lost: tuple[float, int], back: float, person: int, n_hidden: int = 12, n_before: int = 40) -> Stream:
    """Standing people `lost` (x, embedding) vanish in frame n_before; then one detection at x = back.

    Two others stay, so that the scene knows distances of different people.
    """

    def box(x: float) -> list[float]:
        return [x, 200, x + 40, 300]

    before = [*(box(x) for x, _ in lost), *STANDING]
    frames = [before] * n_before + [STANDING] * n_hidden + [[box(back), *STANDING]] * 5
    people = [[*(p for _, p in lost), 6, 7]] * n_before + [[6, 7]] * n_hidden + [[person, 6, 7]] * 5
    return frames_of([np.array(each) for each in frames], people)


def test_lost_person_is_found_near_its_place():
    assert ids_of(run(after_gap((100.0, 0), back=130, person=0), SHORT)) == {1, 2, 3}


def test_stranger_near_a_lost_person_gets_a_new_identity():
    assert ids_of(run(after_gap((100.0, 0), back=145, person=1), SHORT)) == {1, 2, 3, 4}


def test_equal_twins_are_not_reassociated():
    """Two lost people of one appearance, equally far from the detection: no one can tell which it is."""
    twins = after_gap((100.0, 0), (200.0, 0), back=150, person=0)
    assert ids_of(run(twins, SHORT)) == {1, 2, 3, 4, 5}
    assert ids_of(run(after_gap((100.0, 0), (200.0, 1), back=150, person=0), SHORT)) == {1, 2, 3, 4}
    assert ids_of(run(after_gap((100.0, 0), (300.0, 0), back=120, person=0), SHORT)) == {1, 2, 3, 4}


def test_return_far_from_the_prediction_needs_a_longer_absence():
    """The prediction becomes less certain with time; a jump within half a second is another person."""
    assert ids_of(run(after_gap((100.0, 0), back=400, person=0, n_hidden=6), SHORT)) == {1, 2, 3, 4}
    assert ids_of(run(after_gap((100.0, 0), back=400, person=0, n_hidden=45), SHORT)) == {1, 2, 3}


def test_reassociation_off_gives_a_new_identity():
    stream = after_gap((100.0, 0), back=150, person=0, n_hidden=30)
    assert ids_of(run(stream, {**SHORT, "association.reassociate": False})) == {1, 2, 3, 4}


# ------------------------------------------------------------------------------------------------ the scene


@pytest.mark.parametrize("scene", [True, False])
def test_scene_off_leaves_the_calibration(rng, scene):
    stream = with_identity_embeddings(wild_stream(rng))
    engine = Engine(config_of({"appearance.scene": scene}))
    asked = np.linspace(0, 1, 50)
    before = engine.appearance.scene.log_ratio(asked)
    run(stream, engine=engine)
    assert np.array_equal(engine.appearance.scene.log_ratio(asked), before) == (not scene)


def test_scene_learns_distances_of_alone_people_only(rng):
    """Overlapping detections may show each other: nothing is learned of them."""
    together = [np.array([[100.0, 100, 160, 220], [130.0, 100, 190, 220]])] * 30
    engine = Engine(config_of())
    asked = np.linspace(0, 1, 50)
    before = engine.appearance.scene.log_ratio(asked)
    run(frames_of(together, [[0, 1]] * 30), engine=engine)
    assert len(engine.bank) == 2
    assert np.array_equal(engine.appearance.scene.log_ratio(asked), before)


def squeezed(stream: Stream, share: float) -> Stream:
    """Embeddings of a network whose distances are `share` of the true ones: all people have a part in common."""
    detections = []
    for d in stream.detections:
        common = np.full((len(d), 1), np.sqrt(1 - share))
        detections.append(d.with_features(np.hstack([common, np.sqrt(share) * d.features]).astype(np.float32)))
    return replace(stream, detections=detections)


def test_foreign_network_is_calibrated_by_the_stream():
    """All its distances are below tau_same: by the calibration a stranger is the lost person, by the scene not."""
    stranger = squeezed(after_gap((100.0, 0), back=130, person=1, n_before=120), 0.2)
    settings = {**SHORT, "association.least_posterior": 0.6}
    assert ids_of(run(stranger, {**settings, "appearance.scene": False})) == {1, 2, 3}
    assert ids_of(run(stranger, settings)) == {1, 2, 3, 4}
    returned = squeezed(after_gap((100.0, 0), back=130, person=0, n_before=120), 0.2)
    assert ids_of(run(returned, settings)) == {1, 2, 3}


# ------------------------------------------------------------------------------------------- invariances, resumption


def mapped(stream: Stream, of_boxes, size) -> Stream:
    detections = [replace(d, boxes=of_boxes(d.boxes)) for d in stream.detections]
    return replace(stream, detections=detections, truth=[of_boxes(b) for b in stream.truth], size=size)


STILL = {"motion.camera": False}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_decisions_do_not_depend_on_the_resolution(seed, scale):
    stream = with_identity_embeddings(wild_stream(np.random.default_rng(seed), n_people=7))
    larger = mapped(stream, lambda boxes: boxes * scale, tuple(int(side * scale) for side in SIZE))
    for a, b in zip(run(stream, STILL), run(larger, STILL), strict=True):
        assert a.id.tolist() == b.id.tolist()
        assert a.det_index.tolist() == b.det_index.tolist()
        np.testing.assert_allclose(b.xyxy, a.xyxy * scale, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_decisions_do_not_change_in_a_mirror(seed):
    stream = with_identity_embeddings(wild_stream(np.random.default_rng(seed), n_people=7))
    width = SIZE[0]

    def mirror(boxes):
        return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)

    for a, b in zip(run(stream, STILL), run(mapped(stream, mirror, SIZE), STILL), strict=True):
        assert a.id.tolist() == b.id.tolist()
        np.testing.assert_allclose(mirror(b.xyxy), a.xyxy, atol=1e-6)


@pytest.mark.parametrize("cut", [0, 1, 17, 40])
def test_restored_engine_continues_to_the_last_bit(rng, cut):
    """With what the scene has learned: without it the odds would differ."""
    stream = squeezed(with_identity_embeddings(wild_stream(rng, n_people=8, n_frames=80)), 0.3)
    whole, first, second = Engine(config_of()), Engine(config_of()), Engine(config_of())
    wanted = run(stream, engine=whole)
    run(stream.only(range(cut)), engine=first)
    second.restore(first.state())
    rest = [second.step(stream.frame(t), stream.detections[t]) for t in range(cut, 80)]
    assert same(rest, wanted[cut:])
    asked = np.linspace(0, 1, 50)
    assert np.array_equal(whole.appearance.scene.log_ratio(asked), second.appearance.scene.log_ratio(asked))


# ------------------------------------------------------------------------------------------------------ extremes


@pytest.mark.parametrize("n_people", [0, 1, 300])
@pytest.mark.parametrize("size", [(0, 0), (1920, 1080)])
def test_any_number_of_people_gives_finite_numbers(rng, n_people, size):
    """Also where frames say no size, in which people come and go and shake."""
    corner = rng.uniform((0, 0), (1800, 900), (n_people, 2))
    boxes = np.concatenate([corner, corner + rng.uniform((20, 60), (60, 160), (n_people, 2))], axis=1)
    emb = rng.normal(size=(n_people, 16))
    emb = (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32)
    engine = Engine(config_of({"detection.nms_iou": 1.0}))
    with np.errstate(all="raise", under="ignore"):
        for t in range(8):
            seen = rng.random(n_people) < 0.9
            shaken = boxes[seen] + rng.normal(0, 2, (int(seen.sum()), 1))
            detections = Detections(shaken, np.full(len(shaken), 0.9), np.zeros(len(shaken), np.int64), emb[seen])
            tracks = engine.step(Frame(t, t / 25, None, *size), detections)
            assert np.isfinite(tracks.xyxy).all()
        engine.step(Frame(8, 1.0, None, *size), Detections.empty())
    assert np.isfinite(engine.appearance.scene.log_ratio(np.linspace(0, 2, 20))).all()
    assert np.isfinite(engine.bank.mean).all()
    assert len(tracks) >= 0.5 * n_people
