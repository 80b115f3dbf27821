"""Windows of a frame tiled into one image, the detections in it, and the proposals that the engine makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from tracker import boxes as bx
from tracker.classes import Classes
from tracker.config import ProposalConfig, TrackerConfig
from tracker.engine import Engine
from tracker.errors import ConfigError, DetectionError
from tracker.proposals import window
from tracker.proposals.prior import Candidates
from tracker.types import Detections, Frame, Source

CONFIG = ProposalConfig()
RED = (0, 0, 255)


class RedDetector:
    """Finds bright red rectangles in any picture; the score is given."""

    name = "red"

    def __init__(self, score=0.9):
        self.score, self.pictures = score, []

    def detect(self, frame: Frame) -> Detections:
        self.pictures.append(frame.image)
        red = ((frame.image[..., 2] > 150) & (frame.image[..., 0] < 60)).astype(np.uint8)
        import cv2

        stats = cv2.connectedComponentsWithStats(red)[2][1:]
        boxes = stats[:, :4].astype(np.float64)
        boxes[:, 2:] += boxes[:, :2]
        return Detections(boxes, np.full(len(boxes), self.score), np.zeros(len(boxes), np.int64))


class OffByTwo(RedDetector):
    """Its boxes are not quite those of the scene."""

    def detect(self, frame):
        found = super().detect(frame)
        return Detections(found.boxes + 2.0, found.scores, found.classes)


class NotNumbers:
    """What a faulty detector of a user may find."""

    name = "not numbers"

    def detect(self, frame):
        boxes = np.array([[np.nan, 0, 10, 20], [0, 0, np.inf, 20], [50, 50, 50, 80], [10, 10, 5, 5], [80, 20, 120, 90]])
        return Detections(boxes, np.array([0.9, 0.9, 0.9, 0.9, np.nan]), np.zeros(5, np.int64))


class Failing:
    name = "failing"

    def detect(self, frame):
        raise DetectionError("the detector failed")


def scene(boxes, width=640, height=480):
    image = np.full((height, width, 3), 90, np.uint8)
    for x1, y1, x2, y2 in np.asarray(boxes, int):
        image[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = RED
    return image


def look_at(boxes, image, config=CONFIG, detector=None):
    mean = bx.xyxy_to_cxcyah(np.asarray(boxes, float))
    frame = Frame(7, 0.25, image, image.shape[1], image.shape[0])
    tracks = np.arange(len(mean)) * 3 + 1
    variance = np.tile([100.0, 100.0, 0.01, 100.0], (len(mean), 1))
    groups = np.zeros(len(tracks), np.int64)
    return window.detect_in_windows(detector or RedDetector(), frame, tracks, mean, variance, groups, Classes())


# ------------------------------------------------------------------------------------------------- the windows


def test_window_is_centred_twice_as_high_as_wide_holds_the_box(rng):
    low = rng.uniform(-50, 500, (40, 2))
    boxes = np.concatenate([low, low + rng.uniform(2, 200, (40, 2))], axis=1)
    for box, wide in zip(boxes, window.around(boxes), strict=True):
        height = max(box[3] - box[1], 2 * (box[2] - box[0])) * 1.6
        assert abs((wide[3] - wide[1]) - height) <= 2
        assert abs((wide[2] - wide[0]) - height / 2) <= 2
        assert np.abs((wide[:2] + wide[2:]) / 2 - (box[:2] + box[2:]) / 2).max() <= 1
        assert (wide[:2] <= box[:2]).all()
        assert (wide[2:] >= box[2:]).all()


@pytest.mark.parametrize(("n", "cell"), [(1, (208, 416)), (2, (208, 416)), (3, (104, 208)), (8, (104, 208))])
def test_mosaic_cells_are_disjoint_and_maximal(n, cell):
    tiled = window.mosaic(scene([]), np.tile([[10, 10, 60, 110]], (n, 1)))
    assert tiled.image.shape == (window.MOSAIC_PX, window.MOSAIC_PX, 3)
    covered = np.zeros(tiled.image.shape[:2], int)
    for x1, y1, x2, y2 in tiled.cells:
        assert (x2 - x1, y2 - y1) == cell
        covered[y1:y2, x1:x2] += 1
    assert covered.max() == 1
    assert covered.sum() == n * cell[0] * cell[1]
    assert (tiled.image[covered == 1] == 90).all()
    assert (tiled.image[covered == 0] == 114).all()


def test_mosaic_cell_shows_its_window_and_grey_outside():
    """Pixel by pixel, at the nearest place of the frame: a smooth picture differs little between the two."""
    y, x = np.mgrid[0:480, 0:640]
    image = np.stack([x / 4, y / 3, np.full(x.shape, 30)], axis=2).astype(np.uint8)
    windows = np.array([[100, 100, 200, 300], [-40, -60, 60, 140], [590, 400, 690, 600]])
    tiled = window.mosaic(image, windows)
    for wide, (left, top, right, bottom) in zip(windows, tiled.cells, strict=True):
        for row in range(top + 2, bottom - 2, 7):
            for column in range(left + 2, right - 2, 7):
                fx = wide[0] + (column + 0.5 - left) / (right - left) * (wide[2] - wide[0])
                fy = wide[1] + (row + 0.5 - top) / (bottom - top) * (wide[3] - wide[1])
                if 3 < fx < 637 and 3 < fy < 477:
                    assert np.abs(tiled.image[row, column].astype(int) - image[int(fy), int(fx)]).max() <= 3
                elif not (-3 < fx < 643 and -3 < fy < 483):
                    assert tiled.image[row, column].tolist() == [114] * 3


def test_mosaic_boxes_map_back_to_the_frame(rng):
    windows = np.array([[100, 100, 200, 300], [-40, -60, 60, 140], [590, 400, 700, 620]])
    tiled = window.mosaic(scene([]), windows)
    for cell, (wide, (left, top, right, bottom)) in enumerate(zip(windows, tiled.cells, strict=True)):
        share = np.sort(rng.uniform(0, 1, (2, 2)), axis=0)
        there = np.array([left, top]) + share * [right - left, bottom - top]
        here = wide[:2] + share * (wide[2:] - wide[:2])
        back = tiled.to_frame(there.reshape(1, 4), np.array([cell]))
        np.testing.assert_allclose(back, here.reshape(1, 4), atol=1e-9)


def test_window_outside_the_frame_is_grey():
    tiled = window.mosaic(scene([]), np.array([[1000, 0, 1050, 100], [-300, -300, -200, -100]]))
    assert (tiled.image == 114).all()


# ------------------------------------------------------------------------------------- what the detector finds


PEOPLE = [[100, 100, 140, 200], [300, 50, 360, 210], [500, 300, 530, 370]]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_people_are_found_with_one_detector_run(n):
    detector = RedDetector()
    places, scores = look_at(np.array(PEOPLE[:n]) + 5.0, scene(PEOPLE), detector=detector)
    order = np.argsort(places.track)
    assert places.track[order].tolist() == [1, 4, 7][:n]
    np.testing.assert_allclose(places.boxes[order], PEOPLE[:n], atol=2)
    assert scores.tolist() == [0.9] * n
    assert len(detector.pictures) == 1


def test_prior_equals_the_motion_likelihood():
    places, _ = look_at([[105, 110, 145, 210]], scene(PEOPLE))
    mean, z = bx.xyxy_to_cxcyah(np.array([[105.0, 110, 145, 210]]))[0], bx.xyxy_to_cxcyah(places.boxes)[0]
    slow = -0.5 * sum((z[k] - mean[k]) ** 2 / (100.0, 100.0, 0.01, 100.0)[k] for k in range(4))
    assert places.log_prior == pytest.approx([slow])


@pytest.mark.parametrize("score", [0.0, 0.1, 1.0])
def test_detections_of_any_score_are_candidates(score):
    _, scores = look_at(PEOPLE[:1], scene(PEOPLE), detector=RedDetector(score))
    assert scores.tolist() == [score]


def test_detection_far_from_the_prediction_is_another_person():
    places, scores = look_at([[100, 100, 140, 200]], scene([[140, 140, 180, 240]]))
    assert len(places) == len(scores) == 0


@pytest.mark.parametrize("person", [[-10, 100, 30, 200], [600, 100, 640, 200], [300, -20, 340, 80]])
def test_people_at_the_border_of_the_frame(person):
    places, _ = look_at([person], scene([person]))
    np.testing.assert_allclose(places.boxes, bx.clip(np.array([person], float), 640, 480), atol=2)


@pytest.mark.parametrize("box", [[5, 5, 5.5, 6], [5, 5, 6, 17], [-900, -900, -890, -870], [5, 5, 3000, 9000]])
def test_tiny_huge_and_outside_windows_are_no_error(box):
    assert len(look_at([box], scene([]))[0]) == 0


def test_best_candidates_against_a_loop(rng):
    for _ in range(30):
        track = rng.choice([3, 5, 11], 12)
        prior, score = -rng.uniform(0, 3, 12), rng.uniform(0, 1, 12)
        found = window.best(Candidates(track, np.zeros((12, 4)), prior), score)
        wanted = []
        for t in sorted(set(track)):
            wanted.append(max((k for k in range(12) if track[k] == t), key=lambda k: prior[k] + np.log(score[k])))
        assert found.tolist() == wanted


# ----------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("verify", "luck"),
        ("verify", ""),
        ("least_log_ratio", 101.0),
        ("least_log_ratio", float("nan")),
    ],
)
def test_wrong_settings_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        ProposalConfig(**{name: value})


@pytest.mark.parametrize("verify", ["detector", "appearance"])
def test_verify_round_trips_through_a_file(tmp_path, verify):
    config = TrackerConfig().override({"proposals.verify": verify})
    path = tmp_path / "settings.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert TrackerConfig.load(path) == config


# --------------------------------------------------------------------------------------------------- the engine


class ByColour:
    """Embeds a crop as its share of red: a person is (1, 0), the scene (0, 1)."""

    name = "colour"

    def embed(self, image, boxes):
        rows = []
        for x1, y1, x2, y2 in bx.clip(boxes, image.shape[1], image.shape[0]).astype(int):
            crop = image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)].reshape(-1, 3)
            rows.append([(crop[:, 2] > 150).mean(), (crop[:, 2] <= 150).mean()] if len(crop) else [0.0, 1.0])
        rows = np.array(rows, np.float32).reshape(-1, 2)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


PERSON = np.array([300.0, 200, 340, 300])


def follow(detector, *, verify="detector", encoder=None, n=14, missed=range(8, 12), there=True, settings=()):
    """A person who stands still and whose detection is missing in some frames. The sources of every frame."""
    config = TrackerConfig().override({"proposals.verify": verify, "motion.camera": False, **dict(settings)})
    engine = Engine(config, encoder, detector=detector)
    seen = []
    for t in range(n):
        gone = t in missed
        image = scene([PERSON] if there or not gone else [])
        dets = Detections.empty() if gone else Detections(PERSON[None], np.array([0.9]), np.zeros(1, np.int64))
        tracks = engine.step(Frame(t, t / 30, image, 640, 480), dets)
        seen.append([int(s) for s in tracks.source])
    return seen


FOUND = [[]] * 2 + [[Source.DETECTED]] * 6 + [[Source.PROPOSED]] * 4 + [[Source.DETECTED]] * 2
MISSED = [[]] * 2 + [[Source.DETECTED]] * 6 + [[]] * 4 + [[Source.DETECTED]] * 2
# verify, detector, encoder, found?
VERIFY_CASES = [
    ("appearance", RedDetector, None, False),
    ("appearance", RedDetector, ByColour, True),
    ("detector", RedDetector, ByColour, True),
    ("detector", None, ByColour, True),  # appearance only
    ("detector", RedDetector, None, False),  # no embeddings, no proposals
]


@pytest.mark.parametrize(("verify", "detector", "encoder", "found"), VERIFY_CASES)
def test_missed_person_is_found_as_verify_says(verify, detector, encoder, found):
    sources = follow(detector and detector(), verify=verify, encoder=encoder and encoder())
    assert sources == (FOUND if found else MISSED)


@pytest.mark.parametrize("verify", ["detector", "appearance"])
def test_empty_place_gives_no_proposal(verify):
    assert follow(RedDetector(), verify=verify, encoder=ByColour(), there=False) == MISSED


def test_no_missing_track_runs_no_detector():
    detector = RedDetector()
    follow(detector, encoder=ByColour(), missed=())
    follow(detector, encoder=ByColour(), settings={"proposals.verify": "off"})
    follow(detector, encoder=ByColour(), verify="appearance")
    assert detector.pictures == []


def test_appearance_overrules_the_detector():
    """The person has the appearance of another one from the first gap on."""

    class Stranger(ByColour):
        def embed(self, image, boxes):
            features = super().embed(image, boxes)
            detected = np.array_equal(np.round(boxes), PERSON[None])
            return features if detected else features[:, ::-1]

    detector = OffByTwo()
    assert follow(detector, encoder=Stranger()) == MISSED
    assert follow(detector, encoder=ByColour()) == FOUND
    assert len(detector.pictures) == 8


def test_proposal_never_overlaps_a_detection():
    """Two people, one detection between them: the window shows the person that is detected already."""
    config = TrackerConfig().override({"motion.camera": False})
    engine = Engine(config, ByColour(), detector=RedDetector())
    left, right = PERSON, PERSON + np.array([60, 0, 60, 0])
    for t in range(12):
        people = np.array([left, right]) if t < 6 else (left + np.array([30, 0, 30, 0]))[None]
        dets = Detections(people, np.full(len(people), 0.9), np.zeros(len(people), np.int64))
        tracks = engine.step(Frame(t, t / 30, scene(people), 640, 480), dets)
        assert not tracks.proposed.any()


def test_one_mosaic_per_frame_for_the_latest_missed():
    """Ten people are missed: two since the frame before, eight in this one. There are eight windows."""
    detector = RedDetector()
    config = TrackerConfig().override({"motion.camera": False})
    engine = Engine(config, ByColour(), detector=detector)
    crowd = np.array([[60 * k + 10, 200, 60 * k + 40, 260] for k in range(10)], float)
    shown = [crowd] * 6 + [crowd[2:], crowd[:0]]
    for t, people in enumerate(shown):
        dets = Detections(people, np.full(len(people), 0.9), np.zeros(len(people), np.int64))
        tracks = engine.step(Frame(t, t / 30, scene(crowd), 640, 480), dets)
    assert len(detector.pictures) == 2
    assert sorted(tracks.xyxy[:, 0].round(-1)) == [60 * k + 10 for k in range(2, 10)]
    assert tracks.proposed.all()


@pytest.mark.parametrize("verify", ["detector", "appearance"])
def test_no_image_gives_no_proposal(verify):
    detector = RedDetector()
    engine = Engine(TrackerConfig().override({"proposals.verify": verify}), ByColour(), detector=detector)
    for t in range(10):
        dets = Detections(PERSON[None], np.array([0.9]), np.zeros(1, np.int64)) if t < 7 else Detections.empty()
        tracks = engine.step(Frame(t, t / 30, None, 640, 480), dets)
        assert not tracks.proposed.any()
    assert detector.pictures == []


@pytest.mark.parametrize("verify", ["detector", "appearance"])
def test_given_embeddings_cannot_confirm_window_detections(verify):
    engine = Engine(TrackerConfig().override({"proposals.verify": verify, "motion.camera": False}),
                    detector=RedDetector())  # fmt: skip
    for t in range(8):
        n = int(t < 7)
        dets = Detections(PERSON[None][:n], np.full(n, 0.9), np.zeros(n, np.int64), np.array([[1, 0]], np.float32)[:n])
        tracks = engine.step(Frame(t, t / 30, scene([PERSON]), 640, 480), dets)
    assert not tracks.proposed.any()


def test_no_proposals_after_max_s():
    detector = RedDetector()
    sources = follow(detector, encoder=ByColour(), n=30, missed=range(8, 30), settings={"proposals.max_s": 0.2})
    assert sources == [[]] * 2 + [[Source.DETECTED]] * 6 + [[Source.PROPOSED]] * 6 + [[]] * 16
    assert len(detector.pictures) == 6


@pytest.mark.parametrize("person", [[-12, 200, 28, 300], [620, 200, 660, 300], [300, -25, 340, 75], [2, 2, 5, 9]])
def test_people_at_the_border_and_tiny_ones_stay_tracked(person):
    """Whatever the window: no error, and boxes that are boxes."""
    engine = Engine(TrackerConfig().override({"motion.camera": False}), ByColour(), detector=RedDetector())
    there = bx.clip(np.array([person], float), 640, 480)
    for t in range(12):
        dets = Detections(there, np.array([0.9]), np.zeros(1, np.int64)) if t < 8 else Detections.empty()
        tracks = engine.step(Frame(t, t / 30, scene([person]), 640, 480), dets)
        assert bx.valid(tracks.xyxy).all()


def test_detector_error_reaches_the_caller():
    with pytest.raises(DetectionError, match="the detector failed"):
        follow(Failing(), encoder=ByColour())


def test_nan_boxes_and_scores_are_ignored():
    assert follow(NotNumbers(), encoder=ByColour()) == MISSED


def test_same_frames_give_the_same_tracks():
    runs = [follow(RedDetector(), encoder=ByColour()) for _ in range(2)]
    assert runs[0] == runs[1]
