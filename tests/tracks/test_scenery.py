"""What hides people besides people: what teaches it, where it then hides, and when it is forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles.banks import bank_of
from tests.oracles.streams import lone_walker, one
from tests.synthetic.moving_camera import after, middle_of, noisy, texture, view
from tracker.config import OcclusionConfig, TrackerConfig
from tracker.engine import Engine
from tracker.tracks import scenery as module
from tracker.tracks.bank import TrackBank
from tracker.tracks.scenery import Scenery
from tracker.types import Detections, Frame, Source

SIZE = (640, 480)
STEP_S = 0.04
WIDE, TALL, FEET_Y = 48.0, 120.0, 300.0
POLE = (310.0, 350.0)  # left and right, pixels: whose centre is there is not seen
NOBODY = np.zeros((0, 4))


def fresh(size=SIZE, **settings) -> Scenery:
    scenery = Scenery(OcclusionConfig(**settings))
    scenery.fit(*size)
    return scenery


def person_at(x: float, y: float = FEET_Y) -> np.ndarray:
    """(1, 4) somebody of the usual size with the middle at x."""
    return np.array([[x - WIDE / 2, y - TALL, x + WIDE / 2, y]])


def behind_the_pole(x: float) -> bool:
    return POLE[0] <= x <= POLE[1]


class Passer:
    """A confirmed track told to a map frame by frame, as the engine tells it."""

    def __init__(self, scenery: Scenery, key: int, start_s: float = 0.0):
        self.scenery, self.key, self.now_s = scenery, key, start_s
        self.seen: tuple[float, np.ndarray] | None = None

    def step(self, box: np.ndarray, found: bool, covered: bool = False) -> None:
        self.now_s += STEP_S
        if self.seen is None:
            self.seen = (self.now_s - STEP_S, box)
        seen_s, last = self.seen
        centre = (last[:, :2] + last[:, 2:]) / 2
        mean = np.array([[0, 0, WIDE / TALL, TALL, 0, 0, 0, 0]])
        track = bank_of(1, key=[self.key], id=[1 + self.key], seen_s=[seen_s], seen_xy=centre, mean=mean)
        rows = np.flatnonzero([found])
        self.scenery.learn(track, rows, box[rows], self.now_s, STEP_S)
        missed = np.flatnonzero([not found])
        self.scenery.miss(track.key[missed], np.array([covered])[missed], self.now_s, STEP_S)
        if found:
            self.seen = (self.now_s, box)

    def walk(self, xs, hidden=behind_the_pole, *, y: float = FEET_Y, covered: bool = False) -> Passer:
        for x in xs:
            self.step(person_at(x, y), not hidden(x), covered)
        return self


ACROSS = np.arange(200.0, 460.0, 4.0)  # 100 pixels a second, 11 frames behind the pole


def learned(n_people: int = 2, **settings) -> Scenery:
    """The map after so many people walked past the pole."""
    scenery = fresh(**settings)
    for key in range(n_people):
        Passer(scenery, key, 100.0 * key).walk(ACROSS)
    return scenery


def knows_nothing(scenery: Scenery) -> bool:
    return not scenery.hidden_s.any() and not scenery.cases.any()


# -------------------------------------------------------------------------------------------------------- the grid


@pytest.mark.parametrize("size", [(640, 480), (333, 1000), (7, 5)])
def test_the_reach_of_a_box_agrees_with_one_cell_at_a_time(rng, size):
    scenery = fresh(size)
    cell = max(size) / module.N_CELLS
    corner = rng.uniform(-0.3, 1.1, (20, 2)) * size
    boxes = np.concatenate([corner, corner + rng.uniform(0, 0.5, (20, 2)) * size], axis=1)  # inside and outside
    down, across = scenery._reach(boxes)
    n_rows, n_columns = scenery.hidden_s.shape
    assert (n_rows, n_columns) == (np.ceil(size[1] / cell), np.ceil(size[0] / cell))
    left, top, right, bottom = module.SPINE
    for t, (x1, y1, x2, y2) in enumerate(boxes):
        spine_x, spine_y = (
            (x1 + left * (x2 - x1), x1 + right * (x2 - x1)),
            (y1 + top * (y2 - y1), y1 + bottom * (y2 - y1)),
        )
        for row in range(n_rows):
            common = min(spine_y[1], (row + 1) * cell) - max(spine_y[0], row * cell)
            assert down[t, row] == pytest.approx(max(common, 0.0) / cell, abs=1e-9)
        for column in range(n_columns):
            common = min(spine_x[1], (column + 1) * cell) - max(spine_x[0], column * cell)
            assert across[t, column] == pytest.approx(max(common, 0.0) / cell, abs=1e-9)


def test_seconds_are_counted_where_people_are_and_where_they_must_have_been():
    """One who passes the pole, against a loop over frames and cells; nothing fades."""
    scenery = fresh(scenery_memory_s=1e9)
    Passer(scenery, 0).walk(ACROSS)
    seen = [x for x in ACROSS if not behind_the_pole(x)]
    last, back = max(x for x in seen if x < POLE[0]), min(x for x in seen if x > POLE[1])
    n_missed = len(ACROSS) - len(seen)
    between = [last + (back - last) * (k + 1) / (n_missed + 1) for k in range(n_missed)]
    for grid, places in ((scenery.visible_s, seen), (scenery.hidden_s, between)):
        expected = np.zeros_like(grid)
        for x in places:
            down, across = scenery._reach(person_at(x))
            for row in range(grid.shape[0]):
                for column in range(grid.shape[1]):
                    expected[row, column] += STEP_S * down[0, row] * across[0, column]
        np.testing.assert_allclose(grid, expected, rtol=1e-6, atol=1e-12)


# ---------------------------------------------------------------------------------------------- what teaches a place


@pytest.mark.parametrize(("n_people", "hides"), [(0, False), (1, False), (2, True), (5, True)])
def test_a_pole_is_known_after_two_people(n_people, hides):
    assert learned(n_people).hides(person_at(330)).tolist() == [hides]


@pytest.mark.parametrize("needed", [1, 3])
def test_how_many_it_takes_is_a_setting(needed):
    assert not learned(needed - 1, scenery_cases=needed).hides(person_at(330))[0]
    assert learned(needed, scenery_cases=needed).hides(person_at(330))[0]


def test_the_pole_hides_at_the_pole_and_nowhere_else():
    scenery = learned(3)
    places = [(120, False), (250, False), (325, True), (335, True), (400, False), (600, False)]
    boxes = np.concatenate([person_at(x) for x, _ in places])
    assert scenery.hides(boxes).tolist() == [hides for _, hides in places]
    assert not scenery.hides(person_at(330, 160))[0]  # above all who passed
    assert not scenery.hides(person_at(330, 470))[0]  # below
    assert scenery.hides(NOBODY).shape == (0,)


def test_one_who_passes_again_and_again_is_one_case():
    scenery = fresh()
    passer = Passer(scenery, 0)
    for _ in range(5):
        passer.walk(ACROSS).walk(ACROSS[::-1])
    assert scenery.hidden_s.any()
    assert scenery.cases.max() <= 1
    assert not scenery.hides(person_at(330))[0]


def test_where_most_are_seen_nobody_is_hidden():
    """Two were missed there, forty were not: an accident of the detector, not a pole."""
    scenery = learned(2)
    for key in range(40):
        Passer(scenery, 10 + key, 1000.0 + 10 * key).walk(ACROSS, hidden=lambda x: False)
    assert not scenery.hides(person_at(330))[0]


def at_times(*missed: int):
    """Hidden in these frames of a walk of ACROSS."""
    places = {float(ACROSS[k]) for k in missed}
    return lambda x: float(x) in places


def never_back(x: float) -> bool:
    return x >= POLE[0]


# what happens to each of four people, and why it says nothing about the place
TEACHES_NOTHING = {
    "one who stands there and flickers": lambda p: (
        p.walk([330.0] * 8, hidden=lambda x: False)
        .walk([330.0] * 8, hidden=lambda x: True)
        .walk([330.0] * 8, hidden=lambda x: False)
    ),
    "one who sways by less than half a width": lambda p: (
        p.walk([330.0], hidden=lambda x: False)
        .walk([335.0] * 8, hidden=lambda x: True)
        .walk([350.0], hidden=lambda x: False)
    ),
    "somebody in front": lambda p: p.walk(ACROSS, covered=True),
    "a frame that the detector missed": lambda p: p.walk(ACROSS[::4], at_times(12, 20, 28, 36)),  # who is in a hurry
    "one who is always seen": lambda p: p.walk(ACROSS, hidden=lambda x: False),
    "one who never comes back": lambda p: p.walk(ACROSS, never_back),
    "one who comes back too late": lambda p: p.walk(ACROSS, at_times(*range(20, 20 + 26))),
}


@pytest.mark.parametrize("case", TEACHES_NOTHING)
def test_what_teaches_nothing(case):
    scenery = fresh()
    for key in range(4):
        TEACHES_NOTHING[case](Passer(scenery, key, 100.0 * key))
    assert knows_nothing(scenery)
    assert scenery.visible_s.any()
    assert not scenery.hides(np.concatenate([person_at(x) for x in ACROSS])).any()


def test_somebody_in_front_for_one_frame_spoils_the_gap():
    scenery = fresh()
    for key in range(4):
        passer = Passer(scenery, key, 100.0 * key)
        for x in ACROSS:
            passer.step(person_at(x), not behind_the_pole(x), covered=bool(x == 328.0))
    assert knows_nothing(scenery)


def test_what_happens_to_others_meanwhile_says_nothing_about_a_gap():
    """Each time, somebody far away stands behind somebody for as long."""
    scenery = fresh()
    for key in range(2):
        passer, other = Passer(scenery, key, 100.0 * key), Passer(scenery, 10 + key, 100.0 * key)
        for x in ACROSS:
            passer.step(person_at(x), not behind_the_pole(x))
            other.step(person_at(600), not behind_the_pole(x), covered=True)
    assert scenery.hides(np.concatenate([person_at(330), person_at(600)])).tolist() == [True, False]


def test_two_who_are_hidden_at_once_are_two_cases():
    """Their frames without a detection are told apart by the track, and come in one call."""
    scenery = fresh()
    y = np.array([FEET_Y, FEET_Y + 4])  # side by side
    seen_s, seen_x = 0.0, ACROSS[0]
    for k, x in enumerate(ACROSS):
        now_s = (k + 1) * STEP_S
        boxes = np.concatenate([person_at(x, each) for each in y])
        mean = np.tile([0, 0, WIDE / TALL, TALL, 0, 0, 0, 0], (2, 1))
        bank = bank_of(
            2, id=[1, 2], mean=mean, seen_s=[seen_s] * 2, seen_xy=np.stack([np.full(2, seen_x), y - TALL / 2], axis=1)
        )
        found = np.arange(2) if not behind_the_pole(x) else np.zeros(0, int)
        missed = np.setdiff1d(np.arange(2), found)
        scenery.learn(bank, found, boxes[found], now_s, STEP_S)
        scenery.miss(bank.key[missed], np.zeros(len(missed), bool), now_s, STEP_S)
        if len(found):
            seen_s, seen_x = now_s, x
    assert scenery.hides(person_at(330))[0]


# ------------------------------------------------------------------------------------------------- when it is forgotten


def test_another_image_size_is_another_view():
    scenery = learned(2)
    scenery.fit(*SIZE)
    assert scenery.hides(person_at(330))[0]
    scenery.fit(320, 480)
    assert not scenery.hides(person_at(330))[0]
    scenery.fit(*SIZE)
    assert knows_nothing(scenery)
    assert not scenery.visible_s.any()


def test_what_was_missed_before_forgetting_teaches_nothing_after():
    """The camera moves as somebody comes out from behind the pole: the frames without them are of the old view."""
    scenery = fresh()
    for key in range(3):
        passer = Passer(scenery, key, 100.0 * key).walk(ACROSS[:38])
        scenery.forget()
        passer.walk(ACROSS[38:])
    assert knows_nothing(scenery)


def idle(scenery: Scenery, now_s: float, seconds: float, step_s: float = STEP_S) -> None:
    for k in range(round(seconds / step_s)):
        scenery.learn(TrackBank.empty(), np.zeros(0, np.int64), NOBODY, now_s + k * step_s, step_s)
        scenery.miss(np.zeros(0, np.int64), np.zeros(0, bool), now_s + k * step_s, step_s)


@pytest.mark.parametrize("step_s", [STEP_S, 1.0])
@pytest.mark.parametrize(("seconds", "hides"), [(2.0, True), (30.0, False)])
def test_what_nobody_confirms_fades_with_seconds_not_frames(step_s, seconds, hides):
    scenery = learned(2, scenery_memory_s=20.0)
    # Two passes 100 s apart have faded already: learn at once, one right after the other.
    scenery.forget()
    for key in range(2):
        Passer(scenery, key, 3.0 * key).walk(ACROSS)
    before = scenery.hidden_s.sum()
    idle(scenery, 10.0, seconds, step_s)
    assert scenery.hidden_s.sum() == pytest.approx(before * np.exp(-seconds / 20.0))
    assert scenery.hides(person_at(330)).tolist() == [hides]


def test_an_image_of_unknown_size_has_no_places():
    scenery = Scenery(OcclusionConfig())
    for size in ((0, 0), (0, 0)):
        scenery.fit(*size)
        for key in range(3):
            Passer(scenery, key, 100.0 * key).walk(ACROSS)
        assert knows_nothing(scenery)
        assert scenery.hides(np.concatenate([person_at(x) for x in (330, -500, 1e6)])).tolist() == [False] * 3
        assert scenery.hides(NOBODY).shape == (0,)


def test_boxes_outside_of_the_image_or_without_area_are_not_hidden():
    boxes = np.array([[-500.0, 0, -400, 200], [700.0, 0, 800, 200], [330.0, 200, 330, 300], [0.0, 900, 640, 1500]])
    assert not learned(3).hides(boxes).any()


def test_memory_does_not_grow_with_time():
    """Thousands of frames with three people who flicker."""
    scenery = fresh()
    shape, longest = scenery.hidden_s.shape, 0
    keys = np.arange(3)
    for t in range(3000):
        scenery.learn(TrackBank.empty(), np.zeros(0, np.int64), NOBODY, t * STEP_S, STEP_S)
        scenery.miss(3 * t + keys, np.zeros(3, bool), t * STEP_S, STEP_S)
        longest = max(longest, len(scenery._missed_key))
        assert len(scenery._missed_key) == len(scenery._missed_at) == len(scenery._covered)
    assert longest <= 3 * (module.MAX_GAP_S / STEP_S + 2)
    assert all(grid.shape == shape for grid in (scenery.hidden_s, scenery.visible_s, scenery.cases))


def test_the_same_walks_give_the_same_map_to_the_last_bit():
    a, b = learned(3), learned(3)
    assert np.array_equal(a.hidden_s, b.hidden_s)
    assert np.array_equal(a.visible_s, b.visible_s)


# ------------------------------------------------------------------------------------------------ inside the engine


class Street:
    """People who walk past the pole of a street one after the other, through an engine."""

    def __init__(self, size=SIZE, **settings):
        self.engine = Engine(TrackerConfig().override({f"occlusion.{k}": v for k, v in settings.items()}))
        self.size, self.index, self.time_s = size, 0, 0.0

    def step(self, seen: Detections, image=None, after_s: float = STEP_S):
        self.time_s += after_s
        self.index += 1
        return self.engine.step(Frame(self.index, self.time_s, image, *self.size), seen)

    def pass_by(self) -> list[list[tuple[int, int]]]:
        """(identity, source) of all tracks in each frame in which the next one is behind the pole."""
        walker = lone_walker(90, start=(150.0, 240.0), speed=(100.0, 0.0), height=TALL)
        shown = []
        for seen in walker.detections:
            hidden = behind_the_pole(seen.boxes[0, [0, 2]].mean())
            tracks = self.step(Detections.empty() if hidden else seen)
            if hidden:
                shown.append([(row.id, row.source) for row in tracks])
        self.step(Detections.empty(), after_s=5.0)  # everybody is forgotten
        return shown


def test_the_third_who_walks_behind_a_pole_is_put_out_as_hidden():
    street = Street()
    assert not any(street.pass_by())
    assert not any(street.pass_by())
    third = street.pass_by()
    assert [(3, Source.OCCLUDED)] in third
    assert all(shown in ([], [(3, Source.OCCLUDED)]) for shown in third)
    assert street.engine.register.n_ids == 3


@pytest.mark.parametrize("settings", [{"scenery": False}, {"enabled": False}])
def test_switched_off_it_hides_nobody(settings):
    street = Street(**settings)
    assert not any(shown for _ in range(4) for shown in street.pass_by())


def test_without_a_known_size_it_hides_nobody():
    street = Street(size=(0, 0))
    assert not any(shown for _ in range(4) for shown in street.pass_by())


def test_a_camera_that_moves_makes_the_engine_forget(rng):
    world = texture(rng, 2 * SIZE[0], 2 * SIZE[1])
    middle = middle_of(world, SIZE)
    pan = np.array([[1.0, 0, 12], [0, 1, 0]])
    still, panned = (noisy(rng, view(world, place, SIZE)) for place in (middle, after(pan, middle)))
    street = Street()
    for _ in range(3):
        street.pass_by()
    for image in (still, still):
        street.step(Detections.empty(), image)
    assert street.engine.scenery.hides(person_at(330)).any()
    street.step(Detections.empty(), panned)
    assert knows_nothing(street.engine.scenery)


def test_one_who_stands_and_flickers_is_not_taken_for_a_pole():
    street = Street()
    for t in range(300):
        street.step(one(person_at(330)) if t % 15 < 9 else Detections.empty())
    assert knows_nothing(street.engine.scenery)
