"""Link the tracks of several videos to people: by appearance, by time, and by the ways between cameras.

Tracks are joined to people step by step, the most probable pair of people first (average linkage), as long as one
person can have been where the tracks are: in one camera only once at a time, and from camera to camera in the time that
it takes. Decisions of a person are kept: tracks that are the same, and tracks that are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tracker.association.tracklets import log_ratio, mean_dist
from tracker.errors import ConfigError
from tracker.runtime.signals import check
from tracker.types import BoolArray, FeatureArray, FloatArray, IntArray

# Log odds from which tracks are linked: of -3 .. 2 the least with which 98 % of the pairs are right, with both bundled
# networks, on the 75 people of Market-1501's training part that were held out (docs/identities.md).
LEAST_ODDS = 0.0
DOUBT = 2.2  # log odds; a link is doubtful within 9 : 1 of the threshold, or of a link that excludes it
TOUCH_S = 1e-6  # time stamps are rounded

Pair = tuple[int, int]  # rows of tracks


@dataclass(frozen=True, slots=True)
class Tracklets:
    """N tracks of several cameras."""

    camera: IntArray  # (N,) number of the camera
    start_s: FloatArray  # (N,) first and last box, seconds; of different cameras comparable only with `Cameras.ways`
    end_s: FloatArray  # (N,)
    means: FloatArray  # (N, D) mean of the embeddings, see `association.tracklets`; NaN where there is none
    names: Sequence[str] = ()  # for messages

    def __len__(self) -> int:
        return len(self.camera)


@dataclass(frozen=True, slots=True)
class Cameras:
    """The ways between cameras. Without any, times say nothing about different cameras."""

    # (from, to) -> least and most seconds from the end of one track to the start of the other; a least of -inf: the
    # views overlap. None: every camera can follow every other one at any time.
    ways: Mapping[tuple[int, int], tuple[float, float]] | None = None

    def follows(self, tracks: Tracklets) -> BoolArray:
        """(N, N) whether track j may be the next one of the person of track i; never both ways but for overlaps."""
        gap_s = tracks.start_s[None] - tracks.end_s[:, None]
        same = tracks.camera[:, None] == tracks.camera
        later = gap_s > TOUCH_S
        if self.ways is None:
            return np.where(same, later, True)
        allowed = same & later
        for (a, b), (least_s, most_s) in self.ways.items():
            pair = (tracks.camera[:, None] == a) & (tracks.camera == b)
            within = (gap_s >= least_s - TOUCH_S) & (gap_s <= most_s + TOUCH_S)
            allowed = np.where(pair, within & (later | (a != b)), allowed)
        return np.asarray(allowed)

    def excluded(self, tracks: Tracklets, follows: BoolArray) -> BoolArray:
        """(N, N) pairs that can never be one person: at the same time in views that do not overlap."""
        if self.ways is None:
            return ~(follows | follows.T)
        apart = (tracks.start_s[None] > tracks.end_s[:, None]) | (tracks.start_s[:, None] > tracks.end_s[None])
        return np.asarray(~(follows | follows.T | apart))


@dataclass(frozen=True, slots=True)
class Link:
    """Two people that were joined to one, or that might be one."""

    a: int  # the two tracks, one of each, that are most alike
    b: int
    dist: float  # mean cosine distance of these two
    log_odds: float  # mean over the pairs of tracks
    margin: float  # log odds above the best link that this one excludes; inf: there is none
    linked: bool
    by_hand: bool = False

    @property
    def doubtful(self) -> bool:
        """Whether a person should look at it."""
        return not self.by_hand and (abs(self.log_odds - LEAST_ODDS) < DOUBT or self.margin < DOUBT)


@dataclass(frozen=True, slots=True)
class Linked:
    """The people, and why."""

    person: IntArray  # (N,) 0, 1, ... in the order of the first track of each
    links: list[Link] = field(default_factory=list)  # joined ones in the order of joining, then possible ones


def link_tracks(
    tracks: Tracklets,
    tau_same: float,
    cameras: Cameras | None = None,
    same: Sequence[Pair] = (),
    different: Sequence[Pair] = (),
    least_odds: float = LEAST_ODDS,
) -> Linked:
    """The people of the tracks. Memory: about 40 N^2 bytes.

    tau_same: of the re-ID network. same, different: pairs of tracks that someone has decided; `same` holds even where
    the ways between cameras exclude it. Raises ConfigError where decisions contradict each other, or ask for one person
    twice at a time in one camera.
    """
    cameras = cameras or Cameras()
    follows = cameras.follows(tracks)
    cannot = cameras.excluded(tracks, follows)
    for a, b in same:
        if tracks.camera[a] == tracks.camera[b] and cannot[a, b]:
            raise ConfigError(f"{tracks.names[a]} and {tracks.names[b]} are in view at once: they are not one person")
        follows[a, b], cannot[a, b], cannot[b, a] = True, False, False
    for a, b in different:
        cannot[a, b] = cannot[b, a] = True
    dist = mean_dist(tracks.means, tracks.means)
    odds = (log_ratio(dist, tau_same) - _log_candidates(tracks.camera, follows | follows.T)).astype(np.float32)
    people = _People(odds, cannot, follows)
    links = []
    for a, b in same:
        one, other = people.row_of[a], people.row_of[b]
        if cannot[np.ix_(people.members[one], people.members[other])].any():
            raise ConfigError(
                f"{tracks.names[a]} and {tracks.names[b]} are said to be one person; other corrections or times deny it"
            )
        links.append(Link(a, b, float(dist[a, b]), float(odds[a, b]), math.inf, linked=True, by_hand=True))
        if one != other:
            people.join(int(one), int(other))
    while (pair := people.best(least_odds)) is not None:
        check()
        if people.possible(*pair):
            links.append(people.link(*pair, dist, linked=True))
            people.join(*pair)
        else:
            people.forbid(*pair)
    while (pair := people.best(least_odds - DOUBT)) is not None:
        if people.possible(*pair):
            links.append(people.link(*pair, dist, linked=False))
        people.forbid(*pair)
    return Linked(people.numbers(), links)


def _log_candidates(camera: IntArray, may_follow: BoolArray) -> FloatArray:
    """(N, N) log of how many tracks of the other camera may be the person of either track, the larger number.

    Any of them, or none, is the person: the more there are, the more often two people are alike.
    """
    places = np.unique(camera, return_inverse=True)[1]
    counts = np.stack(
        [may_follow[:, places == place].sum(axis=1) for place in range(places.max(initial=0) + 1)], axis=1
    )
    here = counts[:, places]
    return np.asarray(np.log(np.maximum(np.maximum(here, here.T), 1.0)))


class _People:
    """People while tracks are joined; each has the row of its first track.

    The mean log odds of the pairs of tracks of two people is kept for all people, and of each the largest one, so that
    a step takes O(N). It is -inf where two people cannot be one, or not as they are now.
    """

    def __init__(self, odds: FeatureArray, cannot: BoolArray, follows: BoolArray) -> None:
        """odds (N, N) float32: NaN where a track has no embedding."""
        n = len(odds)
        self.members = [[row] for row in range(n)]
        self.row_of = np.arange(n)
        self._odds, self._cannot, self._follows = odds, cannot, follows
        self._never = cannot.copy()
        np.fill_diagonal(self._never, True)
        known = np.isfinite(odds)
        self._total, self._pairs = np.where(known, odds, 0.0).astype(np.float32), known.astype(np.float32)
        self._mean = np.where(self._never | ~known, -np.inf, odds)
        self._best = self._mean.argmax(axis=1)
        self._most = self._mean[np.arange(n), self._best]

    def best(self, least: float) -> Pair | None:
        """The two people to join next, if their mean log odds are at least that."""
        row = int(self._most.argmax())
        return (row, int(self._best[row])) if self._most[row] >= least else None

    def possible(self, a: int, b: int) -> bool:
        """Whether one person can have been at all places of both: all tracks but the first follow another one."""
        rows = np.array([*self.members[a], *self.members[b]])
        follows = self._follows[np.ix_(rows, rows)] & ~np.eye(len(rows), dtype=bool)
        return self._apart(a, b) and bool(np.count_nonzero(~follows.any(axis=0)) <= 1)

    def _apart(self, a: int, b: int) -> bool:
        """Whether no pair of tracks excludes that they are one person."""
        return not self._cannot[np.ix_(self.members[a], self.members[b])].any()

    def join(self, a: int, b: int) -> None:
        a, b = sorted((a, b))
        self.members[a] += self.members[b]
        self.row_of[self.members[b]] = a
        self.members[b] = []
        self._never[a] |= self._never[b]
        self._never[:, a] = self._never[a]
        for table in (self._total, self._pairs):
            table[a] += table[b]
            table[:, a] = table[a]
        known = ~self._never[a] & (self._pairs[a] > 0)
        self._mean[a] = np.where(known, self._total[a] / np.maximum(self._pairs[a], 1.0), -np.inf)
        self._mean[:, a] = self._mean[a]
        self._never[b] = self._never[:, b] = True
        self._mean[b] = self._mean[:, b] = -np.inf
        self._refresh(a, b)

    def forbid(self, a: int, b: int) -> None:
        """Not to be joined as they are now."""
        self._mean[a, b] = self._mean[b, a] = -np.inf
        self._refresh(a, b)

    def _refresh(self, a: int, b: int) -> None:
        """The best of the rows that may have changed with these two."""
        better = self._mean[:, a] > self._most
        self._best[better], self._most[better] = a, self._mean[better, a]
        stale = np.isin(self._best, (a, b)) & ~better
        stale[[a, b]] = True
        rows = stale.nonzero()[0]
        self._best[rows] = self._mean[rows].argmax(axis=1)
        self._most[rows] = self._mean[rows, self._best[rows]]

    def link(self, a: int, b: int, dist: FloatArray, linked: bool) -> Link:
        """The link of two people, and how far it is above the best one that it excludes."""
        x, y = self.members[a], self.members[b]
        among = np.nan_to_num(self._odds[np.ix_(x, y)], nan=-np.inf)
        i, j = np.unravel_index(among.argmax(), among.shape)
        score, rival = float(self._mean[a, b]), -math.inf
        for one, other in ((a, b), (b, a)):
            for row in (self._mean[one] > score - DOUBT).nonzero()[0].tolist():
                if row != other and not self._apart(other, row):
                    rival = max(rival, float(self._mean[one, row]))
        return Link(x[i], y[j], float(dist[x[i], y[j]]), score, score - rival, linked)

    def numbers(self) -> IntArray:
        """(N,) person of each track: 0, 1, ... in the order of the first tracks."""
        return np.unique(self.row_of, return_inverse=True)[1]
