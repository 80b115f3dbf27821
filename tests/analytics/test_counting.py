"""Lines and zones against slow geometry: exact fractions for lines, a walk in tiny steps for zones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tracker.analytics.counting import FORGET_S, LineCounter, ZoneCounter, feet
from tracker.errors import ConfigError, DetectionError
from tracker.types import Source, Tracks

HEIGHT = 20.0  # default height of a box: a margin of 2 pixels


def tracks_at(places, ids=None, height=HEIGHT, sources=None) -> Tracks:
    """People whose feet are at these places."""
    n = len(places)
    x, y = np.array(places, float).reshape(n, 2).T
    heights = np.broadcast_to(height, n)
    ids = range(1, n + 1) if ids is None else ids
    return Tracks(
        np.stack([x - 5, y - heights, x + 5, y], axis=1), np.array(list(ids), np.int64), np.ones(n),
        np.zeros(n, np.int64), np.arange(n), np.array(sources or [Source.DETECTED] * n, np.uint8),
    )  # fmt: skip


def walk(counter, path, times=None, heights=None):
    """One person along a path; gives all events."""
    events = []
    for k, place in enumerate(path):
        time_s = k if times is None else times[k]
        height = HEIGHT if heights is None else heights[k]
        events += counter.update(tracks_at([place], height=height), time_s)
    return events


def counts(line: LineCounter) -> tuple[int, int]:
    return line.n_in, line.n_out


def split(path, parts: int):
    """The same path in more steps."""
    out = [path[0]]
    for (ax, ay), (bx, by) in pairwise(path):
        out += [(ax + (bx - ax) * k / parts, ay + (by - ay) * k / parts) for k in range(1, parts + 1)]
    return out


# ------------------------------------------------------------------------------------------------------------ lines


def exact_line_counts(path, start, end, margin: Fraction) -> tuple[int, int]:
    """In and out, every time, in exact arithmetic: the sides where the person settled, and the passes in between."""
    (ax, ay), (bx, by) = start, end

    def side(p):
        return (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax)

    def settled(p):
        far = side(p) ** 2 > margin**2 * ((bx - ax) ** 2 + (by - ay) ** 2)
        return 0 if not far else (1 if side(p) > 0 else -1)

    def passed(p, q):
        # p + t (q - p) = start + u (end - start), solved by Cramer's rule.
        det = (q[0] - p[0]) * (ay - by) - (ax - bx) * (q[1] - p[1])
        if det == 0:
            return 0
        t = Fraction((ax - p[0]) * (ay - by) - (ax - bx) * (ay - p[1]), det)
        u = Fraction((q[0] - p[0]) * (ay - p[1]) - (ax - p[0]) * (q[1] - p[1]), det)
        return (1 if side(q) > 0 else -1) if 0 <= t <= 1 and 0 <= u <= 1 else 0

    n_in = n_out = 0
    places = [k for k, p in enumerate(path) if settled(p)]
    for i, j in pairwise(places):
        if settled(path[i]) == settled(path[j]):
            continue
        net = sum(passed(path[k], path[k + 1]) for k in range(i, j))
        n_in += net > 0 and settled(path[j]) > 0
        n_out += net < 0 and settled(path[j]) < 0
    return n_in, n_out


points = st.tuples(st.integers(0, 40), st.integers(0, 40))
paths = st.lists(points, min_size=1, max_size=12)
lines = st.tuples(points, points).filter(lambda ends: ends[0] != ends[1])


@settings(max_examples=300, deadline=None)
@given(paths, lines)
def test_line_counts_equal_exact_geometry(path, ends):
    (ax, ay), (bx, by) = ends
    # A foot exactly on the line belongs to one side by convention, see below.
    assume(all((bx - ax) * (y - ay) != (by - ay) * (x - ax) for x, y in path))
    line = LineCounter(*ends, once=False)
    walk(line, path)
    assert counts(line) == exact_line_counts(path, *ends, Fraction(2))


@settings(max_examples=200, deadline=None)
@given(paths, lines, st.booleans())
def test_line_reversed_path_swaps_in_and_out(path, ends, once):
    forth, back, turned = (LineCounter(*e, once=once) for e in (ends, ends, ends[::-1]))
    walk(forth, path)
    walk(back, path[::-1])
    walk(turned, path)
    assert counts(back) == counts(forth)[::-1]
    if once:
        assert max(counts(forth)) <= 1


@settings(max_examples=200, deadline=None)
@given(paths, lines, st.sampled_from([2, 4, 8]))
def test_line_counts_do_not_depend_on_number_of_steps(path, ends, parts):
    few, many = LineCounter(*ends), LineCounter(*ends)
    directions = [event.direction for event in walk(few, path)]
    assert [event.direction for event in walk(many, split(path, parts))] == directions


DOWN = [(50, 30), (50, 45), (50, 55), (50, 70)]

# path, what is counted of the line from (0, 50) to (100, 50)
ROUTES = [
    (DOWN, ["in"]),
    (DOWN[::-1], ["out"]),
    ([(50, 30), (50, 70)], ["in"]),  # an occlusion, a slow camera
    ([*DOWN, *DOWN[::-1], *DOWN, *DOWN[::-1]], ["in", "out"]),  # to and fro
    ([(50, 30), (50, 49), (50, 51), (50, 49), (50, 51), (50, 49), (50, 30)], []),  # trembling on the line
    ([(50, 30), (50, 49), (50, 51), (50, 49), (50, 51), (50, 70)], ["in"]),
    ([(50, 49), (50, 51), (50, 70)], []),  # began on the line: the direction is unknown
    ([(50, 30), (50, 51)], []),  # ended on it
    ([(150, 30), (150, 70)], []),  # past its end
    ([(50, 30), (150, 30), (150, 70), (50, 70)], []),  # around its end
    ([(50, 30), (50, 70), (150, 70), (150, 30), (50, 30)], ["in"]),  # through it and back around it
    ([(50, 30), (50, 50), (50, 70)], ["in"]),  # a foot exactly on it
    ([(50, 70), (50, 50), (50, 30)], ["out"]),
    ([(100, 30), (100, 50), (100, 70)], ["in"]),  # exactly over its end
    ([(50, 30), (50, 50), (50, 30)], []),
    ([(50, 30)], []),
]


@pytest.mark.parametrize(("path", "directions"), ROUTES)
def test_line_counts_of_example_paths(path, directions):
    line = LineCounter((0, 50), (100, 50), name="door")
    events = walk(line, path)
    assert [event.direction for event in events] == directions
    assert counts(line) == (directions.count("in"), directions.count("out"))
    assert all((event.kind, event.name, event.id, event.stay_s) == ("line", "door", 1, None) for event in events)


def test_line_event_is_of_first_frame_beyond_margin():
    line = LineCounter((0, 50), (100, 50))
    (event,) = walk(line, DOWN, times=[0.0, 0.1, 0.2, 0.35])
    assert (event.time_s, event.frame) == (0.2, 2)
    line = LineCounter((0, 50), (100, 50))
    line.update(tracks_at([(5, 30)]), 0.0, 100)
    assert [event.frame for event in line.update(tracks_at([(5, 70)]), 0.1, 110)] == [110]


def test_line_margin_scales_with_box_height():
    near, far = LineCounter((0, 50), (100, 50)), LineCounter((0, 50), (100, 50))
    walk(far, [(50, 30), (50, 55)], heights=[20, 20])
    walk(near, [(50, 30), (50, 55)], heights=[100, 100])
    assert (counts(far), counts(near)) == ((1, 0), (0, 0))


def test_line_counts_each_identity_and_across_gaps():
    """Three people who are seen in some frames only, each with a predicted box that is wrong in between."""
    rng = np.random.default_rng(0)
    line = LineCounter((0, 50), (100, 50))
    speeds = {1: 4.0, 2: -4.0, 3: 0.0}
    y = {1: 20.0, 2: 80.0, 3: 70.0}
    for k in range(20):
        ids = [i for i in y if k in (0, 19) or rng.random() < 0.5]
        hidden = [i for i in y if i not in ids]
        places = [(50, y[i]) for i in ids] + [(50, 100 - y[i]) for i in hidden]
        sources = [Source.DETECTED] * len(ids) + [Source.OCCLUDED] * len(hidden)
        line.update(tracks_at(places, [*ids, *hidden], sources=sources), k)
        y = {i: value + speeds[i] for i, value in y.items()}
    assert counts(line) == (1, 1)


@dataclass
class Boxes:
    """The attributes of supervision.Detections."""

    xyxy: np.ndarray
    tracker_id: np.ndarray | None


def test_boxes_of_other_libraries_are_counted():
    line = LineCounter((0, 50), (100, 50))
    line.update(Boxes(np.zeros((0, 4), np.float32), None), 0.0)
    for k, y in enumerate((30, 70)):
        boxes = np.array([[40, y - 20, 60, y], [70, y - 20, 80, y]], np.float32)
        line.update(Boxes(boxes, np.array([8, -1])), k)
    assert counts(line) == (1, 0)
    with pytest.raises(DetectionError, match="2 boxes, but 1 identities"):
        line.update(Boxes(np.zeros((2, 4)), np.array([1])), 3.0)
    with pytest.raises(DetectionError, match=r"must be \(N, 4\)"):
        line.update(Boxes(np.zeros((4, 5)), np.arange(4)), 3.0)


def test_boxes_that_are_not_finite_are_skipped():
    tracks = tracks_at([(1, 2), (math.nan, 3), (4, 5)], sources=[Source.DETECTED, Source.DETECTED, Source.PREDICTED])
    assert [(identity, spot.x, spot.y) for identity, spot in feet(tracks)] == [(1, 1.0, 2.0)]


def test_counters_drop_old_identities_of_endless_stream():
    line = LineCounter((0, 50), (100, 50))
    zone = ZoneCounter([(0, 0), (100, 0), (100, 100)])
    for k in range(200):
        for counter in (line, zone):
            counter.update(tracks_at([(50, 30)], [k]), k * FORGET_S / 10)
    assert len(line._states) <= 11
    assert len(zone._visitors) <= 11


# ------------------------------------------------------------------------------------------------------------ zones

SQUARE = [(20, 20), (60, 20), (60, 60), (20, 60)]
L_SHAPE = [(10, 10), (70, 10), (70, 30), (30, 30), (30, 70), (10, 70)]


def plain_distance(p, a, b) -> float:
    """From a point to a segment."""
    length = math.dist(a, b)
    along = ((p[0] - a[0]) * (b[0] - a[0]) + (p[1] - a[1]) * (b[1] - a[1])) / length
    if along <= 0:
        return math.dist(p, a)
    if along >= length:
        return math.dist(p, b)
    return abs((b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])) / length


def plain_inside(p, corners) -> bool:
    """By the angle under which the edges are seen: a whole turn inside, none outside."""
    turn = 0.0
    for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
        one, other = math.atan2(a[1] - p[1], a[0] - p[0]), math.atan2(b[1] - p[1], b[0] - p[0])
        turn += (other - one + math.pi) % (2 * math.pi) - math.pi
    return abs(turn) > math.pi


def tiny_steps(path, times, heights, corners, share, n=150):
    """(directions, seconds inside) of a walk in n steps between two sightings."""
    state, directions, stay_s = None, [], 0.0
    for k in range(max(1, len(path) - 1)):
        j = min(k + 1, len(path) - 1)
        for i in range(n):
            f = i / n
            p = [(1 - f) * a + f * b for a, b in zip(path[k], path[j], strict=True)]
            margin = share * ((1 - f) * heights[k] + f * heights[j])
            distance = min(plain_distance(p, a, b) for a, b in zip(corners, [*corners[1:], corners[0]], strict=True))
            if distance > margin and (inside := plain_inside(p, corners)) != state:
                if inside:
                    directions.append("appeared" if state is None else "entered")
                elif state:
                    directions.append("left")
                state = inside
            if state:
                stay_s += (times[j] - times[k]) / n
    return directions, stay_s


@pytest.mark.parametrize("corners", [SQUARE, L_SHAPE, [(5, 40), (75, 10), (40, 75)]])
@pytest.mark.parametrize("seed", range(6))
def test_zone_counts_equal_walk_in_tiny_steps(corners, seed):
    rng = np.random.default_rng(seed)
    n = 7
    path = [tuple(p) for p in rng.uniform(0, 80, (n, 2))]
    heights = rng.uniform(10, 60, n)
    times = np.cumsum(rng.uniform(0.1, 2.0, n))
    zone = ZoneCounter(corners, once=False)
    directions = [event.direction for event in walk(zone, path, times, heights)]
    expected = [tiny_steps(path, times, heights, corners, share) for share in (0.095, 0.1, 0.105)]
    # Where a little more or less margin changes the answer, tiny steps are not tiny enough.
    if expected[0][0] == expected[1][0] == expected[2][0]:
        assert directions == expected[1][0]
        assert sum(zone.stay_s.values()) == pytest.approx(expected[1][1], abs=0.01 * (times[-1] - times[0]))


places = st.tuples(st.integers(0, 80), st.integers(0, 80))


@settings(max_examples=150, deadline=None)
@given(st.lists(places, min_size=1, max_size=10), st.sampled_from([SQUARE, L_SHAPE]), st.booleans())
def test_zone_reversed_path_swaps_entered_and_left(path, corners, once):
    forth, back = ZoneCounter(corners, once=once), ZoneCounter(corners, once=once)
    walk(forth, path)
    walk(back, path[::-1])
    assert (back.n_entered, back.n_left) == (forth.n_left, forth.n_entered)


@settings(max_examples=150, deadline=None)
@given(st.lists(places, min_size=1, max_size=10), st.sampled_from([SQUARE, L_SHAPE]), st.sampled_from([2, 4]))
def test_zone_counts_do_not_depend_on_number_of_steps(path, corners, parts):
    few, many = ZoneCounter(corners), ZoneCounter(corners)
    directions = [event.direction for event in walk(few, path)]
    finer = split(path, parts)
    assert [event.direction for event in walk(many, finer, [k / parts for k in range(len(finer))])] == directions
    assert many.stay_s == pytest.approx(few.stay_s, abs=1e-9)


# path, a second between its places; what is counted of SQUARE; seconds inside
VISITS = [
    ([(0, 40), (40, 40), (80, 40)], ["entered", "left"], 1.0),
    ([(0, 40), (80, 40)], ["entered", "left"], 0.5),  # crossed between two sightings
    ([(40, 40), (40, 40), (80, 40)], ["appeared", "left"], 1.55),
    ([(0, 40), (40, 40), (40, 45), (40, 40)], ["entered"], 2.45),
    ([(0, 40), (19, 40), (21, 40), (19, 40), (21, 40)], [], 0.0),  # trembling on the edge
    ([(0, 10), (80, 10)], [], 0.0),
    ([(0, 40), (40, 40), (0, 40), (40, 40), (0, 40)], ["entered", "left"], None),  # to and fro
]


@pytest.mark.parametrize(("path", "directions", "stay_s"), VISITS)
def test_zone_counts_of_example_visits(path, directions, stay_s):
    zone = ZoneCounter(SQUARE, name="shop")
    events = walk(zone, path)
    assert [event.direction for event in events] == directions
    assert all((event.kind, event.name, event.id) == ("zone", "shop", 1) for event in events)
    if stay_s is not None:
        assert sum(zone.stay_s.values()) == pytest.approx(stay_s)
    for event in events:
        assert (event.stay_s is not None) == (event.direction == "left")


def test_zone_inside_lists_current_identities():
    zone = ZoneCounter(SQUARE, patience_s=3.0)
    zone.update(tracks_at([(40, 40), (30, 30), (0, 0)]), 0.0)
    assert zone.inside == {1, 2}
    zone.update(tracks_at([(40, 40)], [1]), 2.0)  # 2 is occluded
    assert zone.inside == {1, 2}
    events = zone.update(tracks_at([(40, 40)], [1]), 3.5)
    assert [(event.id, event.direction, event.stay_s) for event in events] == [(2, "ended", 0.0)]
    assert zone.inside == {1}
    zone.update(tracks_at([(40, 40), (30, 30)]), 10.0)  # where 1 and 2 were for so long is unknown
    assert zone.inside == {1, 2}
    assert zone.stay_s == {1: 3.5, 2: 0.0}
    zone.update(tracks_at([(40, 40), (30, 30)]), 11.0)
    assert [(event.id, event.direction, event.stay_s) for event in zone.finish()] == [(1, "ended", 4.5)]


# ------------------------------------------------------------------------------------------------------- what is wrong

WRONG = [
    (lambda: LineCounter((1, 2), (1, 2), name="door"), r"door: both ends of the line are at \(1.0, 2.0\)"),
    (lambda: LineCounter((1, math.nan), (1, 2)), "finite"),
    (lambda: LineCounter((1, 2, 3), (1, 2)), "pairs x, y"),
    (lambda: LineCounter((1, 2), (3, 2), margin=-1), "margin"),
    (lambda: ZoneCounter([(1, 2), (3, 4)], name="shop"), "shop: a zone needs three corners or more, got 2"),
    (lambda: ZoneCounter([(1, 2), (3, 4), (1, 2)]), "three corners or more, got 2"),
    (lambda: ZoneCounter([(0, 0), (9, 9), (9, 0), (0, 9)]), "cross or touch"),
    (lambda: ZoneCounter([(0, 0), (9, 0), (4, 0)]), "cross or touch"),
    (lambda: ZoneCounter([(0, 0), (9, 0), (9, 9), (5, 0)]), "cross or touch"),
    (lambda: ZoneCounter([(0, 0), (5, 5), (9, 0), (9, 9), (5, 5), (0, 9)]), "comes twice"),
    (lambda: ZoneCounter(SQUARE, patience_s=0), "patience"),
    (lambda: ZoneCounter("abc"), "pairs x, y"),
]


@pytest.mark.parametrize(("make", "said"), WRONG)
def test_invalid_lines_and_zones_are_refused(make, said):
    with pytest.raises(ConfigError, match=said) as raised:
        make()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "corners", [SQUARE, SQUARE[::-1], L_SHAPE, [*SQUARE, SQUARE[0]], [(0, 0), (5, 0), (9, 0), (9, 9)]]
)
def test_unusual_valid_zones_are_accepted(corners):
    assert len(ZoneCounter(corners).polygon.corners) >= 3


@settings(max_examples=200, deadline=None)
@given(st.lists(places, min_size=3, max_size=6, unique=True))
def test_polygon_is_refused_if_and_only_if_edges_meet(corners):
    """Two edges meet if some pair of points on them coincides; neighbours share their corner and nothing else."""

    def on(p, a, b):
        cross = (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])
        return cross == 0 and all(min(a[i], b[i]) <= p[i] <= max(a[i], b[i]) for i in (0, 1))

    def proper(a, b, c, d):
        def left(p, q, r):
            return np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

        return left(a, b, c) * left(a, b, d) < 0 and left(c, d, a) * left(c, d, b) < 0

    edges = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    bad = any(proper(*one, *other) for one in edges for other in edges if one != other)
    # A corner on an edge that it does not end.
    bad |= any(on(p, a, b) for p in corners for a, b in edges if p not in (a, b))
    try:
        ZoneCounter(corners)
    except ConfigError:
        assert bad
    else:
        assert not bad
