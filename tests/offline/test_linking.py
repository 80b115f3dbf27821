"""Linking against a slow average linkage, and its rules of time."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tracker.association.tracklets import log_ratio, mean_dist
from tracker.errors import ConfigError
from tracker.offline.linking import LEAST_ODDS, Cameras, Tracklets, link_tracks

TAU = 0.65


def tracklets(people, cameras, spans=None, noise=0.0, seed=0, dim=16, length=0.9) -> Tracklets:
    rng = np.random.default_rng(seed)
    look = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    means = length * look[people] + noise * rng.normal(size=(len(people), dim))
    spans = [(10.0 * k, 10.0 * k + 5) for k in range(len(people))] if spans is None else spans
    start, end = np.array(spans, float).T
    return Tracklets(np.array(cameras), start, end, means, [f"{c}.csv {k}" for k, c in enumerate(cameras)])


def groups(person) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(person == each).tolist()) for each in np.unique(person)}


def slow_linkage(tracks: Tracklets) -> set[frozenset[int]]:
    """Average linkage by the definition: no ways between cameras, people of one camera never overlap in time."""
    n = len(tracks)

    def allowed(a, b):
        apart = tracks.end_s[a] < tracks.start_s[b] or tracks.end_s[b] < tracks.start_s[a]
        return tracks.camera[a] != tracks.camera[b] or apart

    def candidates(a, camera):
        return sum(allowed(a, b) for b in range(n) if b != a and tracks.camera[b] == camera)

    ratio = log_ratio(mean_dist(tracks.means, tracks.means), TAU)
    odds = {}
    for a, b in combinations(range(n), 2):
        most = max(candidates(a, tracks.camera[b]), candidates(b, tracks.camera[a]), 1)
        odds[a, b] = odds[b, a] = ratio[a, b] - np.log(most)
    people = [[k] for k in range(n)]
    while True:
        found = [
            (np.mean([odds[a, b] for a in x for b in y]), i, j)
            for (i, x), (j, y) in combinations(enumerate(people), 2)
            if all(allowed(a, b) for a in x for b in y)
        ]
        best = max(found, default=(-np.inf, 0, 0))
        if best[0] < LEAST_ODDS:
            return {frozenset(each) for each in people}
        people[best[1]] += people.pop(best[2])


@pytest.mark.parametrize("seed", range(6))
def test_people_are_those_of_slow_average_linkage(seed):
    rng = np.random.default_rng(seed)
    n = 24
    begin = rng.uniform(0, 100, n)
    spans = np.stack([begin, begin + rng.uniform(1, 30, n)], axis=1)
    tracks = tracklets(
        rng.integers(0, 7, n), rng.integers(0, 3, n), spans, noise=0.07, seed=seed, length=0.65
    )  # below MOST: no ties
    found = link_tracks(tracks, TAU)
    assert groups(found.person) == slow_linkage(tracks)
    assert 1 < len(groups(found.person)) < n


def test_person_is_not_twice_in_one_camera_at_once():
    tracks = tracklets([0, 0, 0], [0, 0, 1], [(0, 10), (5, 15), (20, 30)])
    found = link_tracks(tracks, TAU)
    assert found.person[0] != found.person[1]
    [link] = [link for link in found.links if link.linked]
    assert link.doubtful  # the track of the other camera could be of either
    assert link.margin == pytest.approx(0.0, abs=1e-5)


def test_ways_between_cameras_bound_the_time():
    people, cameras = [0, 0], [0, 1]
    ways = {(0, 1): (5.0, 60.0)}
    for gap_s, linked in ((1, False), (5, True), (60, True), (61, False)):
        tracks = tracklets(people, cameras, [(0, 10), (10 + gap_s, 100 + gap_s)])
        assert (len(groups(link_tracks(tracks, TAU, Cameras(ways)).person)) == 1) == linked, gap_s
    back = tracklets(people, cameras, [(50, 60), (0, 10)])
    assert len(groups(link_tracks(back, TAU, Cameras(ways)).person)) == 2  # nobody walks from 1 to 0


def test_person_passes_a_camera_on_the_way_to_the_next():
    ways = {(0, 1): (0.0, 60.0), (1, 2): (0.0, 60.0)}
    spans = [(0, 10), (40, 50), (90, 100)]
    assert len(groups(link_tracks(tracklets([0, 0, 0], [0, 1, 2], spans), TAU, Cameras(ways)).person)) == 1
    gone = tracklets([0, 0], [0, 2], [spans[0], spans[2]])
    assert len(groups(link_tracks(gone, TAU, Cameras(ways)).person)) == 2


def test_overlapping_views_show_a_person_at_once():
    tracks = tracklets([0, 0], [0, 1], [(0, 50), (20, 70)])
    assert len(groups(link_tracks(tracks, TAU, Cameras({})).person)) == 2
    both = {(0, 1): (-np.inf, np.inf), (1, 0): (-np.inf, np.inf)}
    assert len(groups(link_tracks(tracks, TAU, Cameras(both)).person)) == 1


def test_decisions_are_kept():
    tracks = tracklets([0, 0, 1], [0, 1, 2])
    assert groups(link_tracks(tracks, TAU).person) == {frozenset({0, 1}), frozenset({2})}
    found = link_tracks(tracks, TAU, same=[(0, 2)], different=[(0, 1)])
    assert groups(found.person) == {frozenset({0, 2}), frozenset({1})}
    assert [link.by_hand for link in found.links if link.linked] == [True]
    with pytest.raises(ConfigError, match="other corrections or times deny it"):
        link_tracks(tracks, TAU, same=[(0, 1), (1, 2)], different=[(0, 2)])
    twice = tracklets([0, 1], [0, 0], [(0, 10), (5, 15)])
    with pytest.raises(ConfigError, match=r"0.csv 0 and 0.csv 1 are in view at once"):
        link_tracks(twice, TAU, same=[(0, 1)])


def test_track_without_embeddings_stays_alone_unless_told():
    tracks = tracklets([0, 0, 0], [0, 1, 2])
    tracks.means[2] = np.nan
    assert groups(link_tracks(tracks, TAU).person) == {frozenset({0, 1}), frozenset({2})}
    assert groups(link_tracks(tracks, TAU, same=[(1, 2)]).person) == {frozenset({0, 1, 2})}


def test_doubtful_links_that_were_not_made_are_listed():
    """The two are as far apart as puts their odds just below the threshold."""
    tracks = tracklets([0, 0], [0, 1])
    dist = 1 - (LEAST_ODDS - 1.0 + 5.6) / 7.7 * (1 - TAU)
    tracks.means[:] = 0
    tracks.means[0, 0], tracks.means[1, 0] = 1, 1 - dist
    found = link_tracks(tracks, TAU)
    assert len(groups(found.person)) == 2
    [link] = found.links
    assert (link.linked, link.doubtful) == (False, True)
    assert link.log_odds == pytest.approx(LEAST_ODDS - 1.0, abs=1e-3)
