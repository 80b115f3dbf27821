"""What the stages of a step share: one frame with its tracks and detections, and what is decided about each track."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from tracker import boxes as bx
from tracker.association.pairs import Pairs
from tracker.config import AssociationConfig
from tracker.tracks import lifecycle
from tracker.tracks.bank import TrackBank
from tracker.types import BoolArray, Detections, FloatArray, Frame, ImageArray, IntArray, State


@dataclass(slots=True)
class Clock:
    """When the frames were, and at which of them the detector looked."""

    now_s: float | None = None  # time of the last frame
    looked_s: float | None = None  # time of the last frame at which the detector looked
    looked_index: int = -1  # and its index
    gap_s: float = 0.0  # from the last such frame before this one to this one

    def tick(self, frame: Frame, looked: bool) -> float:
        """Go on to this frame; seconds since the one before, 0 at the first."""
        dt_s = 0.0 if self.now_s is None else frame.time_s - self.now_s
        self.gap_s = 0.0 if self.looked_s is None else frame.time_s - self.looked_s
        self.now_s = frame.time_s
        if looked:
            self.looked_s, self.looked_index = frame.time_s, frame.index
        return dt_s

    def visible(self, bank: TrackBank) -> BoolArray:
        """(T,) tracks that were detected when the detector last looked, before this frame."""
        return (self.now_s or 0.0) - bank.seen_s <= self.gap_s + lifecycle.TIME_SLACK_S

    def state(self) -> State:
        return dataclasses.asdict(self)

    @staticmethod
    def restored(state: State) -> Clock:
        return Clock(**state)


@dataclass(frozen=True, slots=True)
class Expected:
    """Where the tracks of the predicted bank should be in this frame, and what was detected there."""

    boxes: FloatArray  # (T, 4) xyxy
    visible: BoolArray  # (T,) detected when the detector last looked, before this frame
    pairs: Pairs  # of tracks and detections whose boxes share area
    near: tuple[IntArray, IntArray]  # (P,) rows of tracks whose boxes share area, each pair once

    @staticmethod
    def of(bank: TrackBank, seen: Detections, visible: BoolArray, link: AssociationConfig) -> Expected:
        boxes = bx.cxcyah_to_xyxy(bank.mean[:, :4])
        i, j = bx.meeting_among(np.concatenate([boxes, seen.boxes]))
        if min(link.min_iou, link.min_iou_weak) > 0:
            track, detection = bx.across(i, j, len(bank), len(seen))
        else:  # also those that do not meet
            track, detection = np.ones((len(bank), len(seen)), bool).nonzero()
        among = j < len(bank)
        pairs = Pairs.of(boxes, seen.boxes, track, detection)
        return Expected(boxes, visible, pairs, (i[among], j[among]))


@dataclass(slots=True)
class Scene:
    """A frame as the stages see it: T tracks, predicted to this frame, and N detections."""

    frame: Frame
    image: ImageArray | None  # where the network may look; None if embeddings came along or nobody makes them
    clock: Clock
    looked: bool  # the detector did, at this frame
    bank: TrackBank
    seen: Detections  # above the weak score, by descending score; their embeddings join at the stage "embed"
    rows: IntArray  # (N,) of the detections in what the detector gave
    strong: BoolArray  # (N,) detections that begin tracks and are looked at
    covered: BoolArray  # (N,) detections of which another one hides too much to remember how they look
    copied: BoolArray  # (N,) detections that count as looking as they did last time
    expected: Expected

    @property
    def now_s(self) -> float:
        return self.frame.time_s


@dataclass(slots=True)
class Links:
    """What a frame decides about each track of the predicted bank."""

    detection: IntArray  # (T,) row of the detection matched, -1 none
    relinked: BoolArray  # (T,) use B matched it: the filter starts anew
    absorbed: BoolArray  # (T,) a tentative track that turned out to be a lost one
    inherited: IntArray  # (T,) the detection that an absorbed track handed over, -1 none
    proposed: BoolArray  # (T,) use C found it
    held: BoolArray  # (T,) known to be hidden: its prediction stands for it
    measured: FloatArray  # (T, 4) box of the detection or proposal
    belief: FloatArray  # (T,) score of a proposal

    @staticmethod
    def none(n: int) -> Links:
        nothing, no = np.full(n, -1, np.int64), np.zeros(n, bool)
        return Links(nothing, no, no.copy(), nothing.copy(), no.copy(), no.copy(), np.zeros((n, 4)), np.zeros(n))

    def owners(self, n_detections: int) -> IntArray:
        """(N,) row of the track that holds each detection, -1 none."""
        owner = np.full(n_detections, -1, np.int64)
        held = rows_of(self.detection >= 0)
        owner[self.detection[held]] = held
        return owner

    def relink(self, lost: IntArray, detections: IntArray, owner: IntArray) -> None:
        """Give detections to lost tracks; the tentative tracks that held them are absorbed."""
        tentative = owner[detections]
        held = tentative >= 0
        self.absorbed[tentative[held]] = True
        self.inherited[tentative[held]] = detections[held]
        self.detection[tentative[held]] = -1
        self.detection[lost] = detections
        self.relinked[lost] = True


def rows_of(mask: BoolArray) -> IntArray:
    """Where a mask (n,) is True."""
    return mask.nonzero()[0]
