"""People of earlier visits: a new track that shows one of them gets the number of that person.

A visit is the time from the first to the last box of a confirmed track. It begins with a number of its own; some time
later, when its embeddings say enough, it keeps that number or gets that of a person who is not in view. Then it is
decided, for good. Source: docs/identities.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from tracker.appearance.people import People
from tracker.association import evidence
from tracker.association.assignment import assign
from tracker.association.tracklets import log_ratio, mean_dist
from tracker.stages.embed import Appearance
from tracker.tracks.bank import TrackBank
from tracker.types import FloatArray, Frame, FrameTracks, IntArray, State, Tracks

# A visit is decided so many seconds after its first box, once it has enough embeddings, and at the latest after
# LATEST_S: the frames of a file are held until then.
DECIDE_S, LATEST_S = 1.0, 2.0
LEAST_CROPS = 3  # embeddings; a visit with fewer is not recognised, and does not enter the gallery


@dataclass(slots=True)
class Visit:
    """A confirmed track that is in view or lost."""

    first_index: int  # frames of its first and last box
    first_s: float
    last_index: int
    total: FloatArray  # (D,) sum of its embeddings
    n_crops: int = 0
    decided: bool = False


class Recogniser:
    """Decides the numbers of one stream's tracks by the people of all streams so far."""

    def __init__(self, people: People) -> None:
        self.people = people
        self._visits: dict[int, Visit] = {}  # by the number of the track
        self._last_index: dict[int, int] = {}  # of the people seen in this run: the frame of their last box
        self.n_recognised = 0

    def step(
        self,
        frame: Frame,
        bank: TrackBank,
        output: Tracks,
        backfilled: Sequence[FrameTracks],
        appearance: Appearance,
        least_posterior: float,
    ) -> dict[int, int]:
        """Take this frame in; returns the new numbers of visits that turned out to be of known people.

        bank, output, backfilled: after the update of the frame. least_posterior: the probability that a visit is of
        that person, and neither of another one nor of a newcomer, from which it gets the number.
        """
        self._observe(frame, bank, output, backfilled, appearance)
        present = set(bank.id.tolist())
        ended = [number for number in self._visits if number not in present]
        due = [number for number, visit in self._visits.items() if self._is_due(visit, frame.time_s)]
        undecided = [number for number in ended if not self._visits[number].decided and number not in due]
        numbers = self._decide(due + undecided, appearance.thresholds.same, least_posterior)
        for number in ended:
            self._end(numbers.get(number, number))
        return numbers

    def finish(self, appearance: Appearance, least_posterior: float) -> dict[int, int]:
        """The stream has ended, and all visits with it; returns new numbers as `step`."""
        undecided = [number for number, visit in self._visits.items() if not visit.decided]
        numbers = self._decide(undecided, appearance.thresholds.same, least_posterior)
        for number in list(self._visits):
            self._end(number)
        return numbers

    @property
    def undecided_from(self) -> int | None:
        """Index of the first frame with a box whose number may still change; None: there is none."""
        return min((visit.first_index for visit in self._visits.values() if not visit.decided), default=None)

    def _observe(
        self,
        frame: Frame,
        bank: TrackBank,
        output: Tracks,
        backfilled: Iterable[FrameTracks],
        appearance: Appearance,
    ) -> None:
        """Boxes and embeddings of this frame."""
        gallery = appearance.gallery
        rows = (bank.confirmed & appearance.known(bank.slot)).nonzero()[0]
        fresh = rows[gallery.embedded_s(bank.slot[rows]) == frame.time_s]
        for number in output.id.tolist():
            visit = self._visits.setdefault(number, Visit(frame.index, frame.time_s, frame.index, np.zeros(0)))
            visit.last_index = frame.index
        for late in backfilled:
            for number in late.tracks.id.tolist():
                self._visits[number].first_index = min(self._visits[number].first_index, late.frame_index)
        for row, number, latest in zip(
            fresh.tolist(), bank.id[fresh].tolist(), gallery.latest(bank.slot[fresh]), strict=True
        ):
            visit = self._visits[number]
            # When it is confirmed, the embeddings of the frames before count, too.
            new = gallery.entries(bank.slot[row]) if visit.n_crops == 0 else latest[None]
            visit.total = new.sum(axis=0, dtype=np.float64) + (visit.total if visit.n_crops else 0.0)
            visit.n_crops += len(new)

    def _is_due(self, visit: Visit, now_s: float) -> bool:
        age_s = now_s - visit.first_s
        return not visit.decided and (age_s >= LATEST_S or (age_s >= DECIDE_S and visit.n_crops >= LEAST_CROPS))

    def _decide(self, due: Sequence[int], tau_same: float, least_posterior: float) -> dict[int, int]:
        """New numbers of those visits that are of known people; all of them are decided then."""
        for number in due:
            self._visits[number].decided = True
        known = [number for number in due if self._visits[number].n_crops >= LEAST_CROPS]
        if not known or len(self.people) == 0:
            return {}
        means = np.stack([self._visits[number].total / self._visits[number].n_crops for number in known])
        odds = log_ratio(mean_dist(self.people.mean.astype(np.float64), means), tau_same)  # (P, V)
        odds[np.isin(self.people.id, list(self._visits))] = -np.inf
        seen = np.array([self._last_index.get(person, -1) for person in self.people.id.tolist()])
        # A person is at one place of a frame.
        odds[seen[:, None] >= np.array([self._visits[number].first_index for number in known])] = -np.inf
        # Before it is looked at, a visitor is a newcomer or any one of the candidates, with even odds.
        odds -= np.log(np.maximum(np.isfinite(odds).sum(axis=0), 1))
        likely = evidence.posterior(odds) >= least_posterior
        person, visit = assign(np.where(likely, -odds, np.inf))
        numbers = {known[v]: int(self.people.id[p]) for p, v in zip(person.tolist(), visit.tolist(), strict=True)}
        self._visits = {numbers.get(number, number): visit for number, visit in self._visits.items()}
        self.n_recognised += len(numbers)
        return numbers

    def _end(self, number: int) -> None:
        visit = self._visits.pop(number)
        self._last_index[number] = visit.last_index
        if visit.n_crops >= LEAST_CROPS:
            self.people.add_visit(number, visit.total / visit.n_crops)

    def state(self) -> State:
        return {
            "people": self.people.state(),
            "visits": [{"number": number, "visit": asdict(visit)} for number, visit in self._visits.items()],
            "last_index": [list(pair) for pair in self._last_index.items()],
            "n_recognised": self.n_recognised,
        }

    def restore(self, state: State) -> None:
        self.people.restore(state["people"])
        self._visits = {late["number"]: Visit(**late["visit"]) for late in state["visits"]}
        self._last_index = dict(state["last_index"])
        self.n_recognised = state["n_recognised"]


def renumbered(tracks: Tracks, numbers: Mapping[int, int]) -> Tracks:
    """The tracks with new numbers, sorted by them. Those that `numbers` does not name keep theirs."""
    if numbers.keys().isdisjoint(tracks.id.tolist()):
        return tracks
    changed = replace(tracks, id=renumbered_ids(tracks.id, numbers))
    return changed[np.argsort(changed.id, kind="stable")]


def renumbered_ids(ids: IntArray, numbers: Mapping[int, int]) -> IntArray:
    """(n,) the same, with new numbers."""
    return np.array([numbers.get(number, number) for number in ids.tolist()], np.int64)
