"""Poles, signs and stalls: where people who walk through a scene go unseen, learned from the tracks alone.

A coarse grid over the image counts seconds. Where a confirmed track was found, people are visible. Where it was missed
and then found again farther on, under the same identity and with nobody in front of it, something else hid it: it was
on the straight line between its last place and the one where it returned. A prediction is hidden by the scenery if
that happened where its box lies, to more than one person and for a fair share of the time that people are there.

What counts as evidence was settled on the recorded gaps of MOT16-09, MOT17-02, -04, -09, -10, PETS09-S2L1 and
TUD-Campus:

1. Only who came back half a width farther on teaches anything. A detector that flickers on a statue or a waiting person
   looks like an occluder otherwise: of 406 predictions put out, 26 lay on a person; with the rule, 5 of 5.
2. Only the spine of a box counts. A pole is narrower than a person: who stands half behind it is found, and would
   teach, with the whole box, that the pole hides nobody.
3. Cells are of the place in the image, not of the feet: a pole hides at all depths behind it. A grid of feet finds the
   lamp post of PETS09-S2L1 in 2 of 3 cases only, for its passers-by are spread over many cells.

The map holds for one view. A camera that moves makes the engine forget it; to carry it along would smear it a little
in each frame, until it hides people everywhere.
"""

from __future__ import annotations

import math

import numpy as np

from tracker import boxes as bx
from tracker.config import OcclusionConfig
from tracker.tracks.bank import TrackBank
from tracker.tracks.lifecycle import TIME_SLACK_S
from tracker.types import BoolArray, FloatArray, IntArray, State

N_CELLS = 48  # along the longer side: 16 px on PETS09-S2L1, half a person; with 64 on MOT17-10, 6 wrong predictions
SPINE = np.array([0.4, 0.1, 0.6, 0.9])  # left, top, right, bottom of the part of a box that counts: shares of its size
MIN_MISSES = 2  # frames of a gap; a single one is an accident of the detector
MAX_GAP_S = 1.0  # nobody walks straight for much longer than this
MIN_WAY = 0.5  # from the last place to the new one, as a share of the width
LEAST_CASES = 0.999  # of the cases needed: a mean over cells is no larger than the largest, but for rounding
MIN_REACH = 0.3  # of a cell, summed over the frames of a gap: less does not make it a case of that cell


# Arrays of a Scenery that grow out of what it saw.
_REMEMBERED = ("hidden_s", "visible_s", "cases", "_last_key", "_missed_key", "_missed_at", "_covered")


class Scenery:
    """What hides people in one view. Deterministic; its memory does not grow with time."""

    def __init__(self, config: OcclusionConfig) -> None:
        self._config = config
        self._size = (0, 0)  # (width, height) of the image
        self.forget()

    def fit(self, width: int, height: int) -> None:
        """Lay the grid over an image of that many pixels; one of another size is another view."""
        if (width, height) != self._size:
            self._size = (width, height)
            self.forget()

    def forget(self) -> None:
        """Nothing is known any more."""
        width, height = self._size
        # An image of unknown size (0, 0) has no cells: nothing is learned, and nobody is hidden.
        self.cell_px = max(width, height, 1) / N_CELLS
        shape = (math.ceil(height / self.cell_px), math.ceil(width / self.cell_px))
        # Upper edges of the rows and left edges of the columns of cells.
        self._edges = tuple(np.arange(n, dtype=np.float64) * self.cell_px for n in shape)
        self.hidden_s = np.zeros(shape)  # seconds, times the share of the cell that was covered
        self.visible_s = np.zeros(shape)
        self.cases = np.zeros(shape)  # people who were hidden there
        self._last_key = np.full(shape, -1, np.int64)  # track of the last case: one who flickers is one case
        # Frames without a detection, one row for each confirmed track and frame of the last MAX_GAP_S.
        self._missed_key = np.zeros(0, np.int64)
        self._missed_at = np.zeros((0, 2))  # its time, and the step to it: seconds
        self._covered = np.zeros(0, bool)  # somebody stood in front

    def state(self) -> State:
        return {"size": self._size, **{name: getattr(self, name) for name in _REMEMBERED}}

    def restore(self, state: State) -> None:
        width, height = state["size"]
        self._size = (width, height)
        self.forget()
        for name in _REMEMBERED:
            setattr(self, name, state[name])

    def hides(self, boxes: FloatArray) -> BoolArray:
        """(T,) True for boxes (T, 4) that lie where the scenery hides people."""
        config = self._config
        needed = config.scenery_cases - 0.5  # half a case less: cases fade with time, too
        if self.cases.max(initial=0.0) < LEAST_CASES * needed:  # in most views nothing hides anybody
            return np.zeros(len(boxes), bool)
        down, across = self._reach(boxes)
        area = down.sum(axis=1) * across.sum(axis=1)
        hidden, visible, cases = (
            np.divide((down @ grid * across).sum(axis=1), area, out=np.zeros(len(boxes)), where=area > 0)
            for grid in (self.hidden_s, self.visible_s, self.cases)
        )
        share = hidden / (hidden + visible + config.scenery_prior_s)
        return np.asarray((share >= config.scenery_share) & (cases >= needed))

    def learn(self, bank: TrackBank, rows: IntArray, boxes: FloatArray, now_s: float, step_s: float) -> None:
        """Tracks that are found in this frame: rows (k,) of `bank` as predicted, boxes (k, 4) of their detections.

        Call it in every frame at which the detector looks, before `miss`; step_s is the time since the one before.
        """
        fade = math.exp(-step_s / self._config.scenery_memory_s)
        for grid in (self.hidden_s, self.visible_s, self.cases):
            grid *= fade
        down, across = self._reach(boxes)
        self.visible_s += min(step_s, MAX_GAP_S) * (down.T @ across)

        gap_s = now_s - bank.seen_s[rows]
        back = ((gap_s > step_s + TIME_SLACK_S) & (gap_s <= MAX_GAP_S + TIME_SLACK_S)).nonzero()[0]
        if len(back) == 0:
            return
        rows, boxes = rows[back], boxes[back]
        left = bx.cxcyah_to_xyxy(np.concatenate([bank.seen_xy[rows], bank.mean[rows, 2:4]], axis=1))
        way = np.abs(boxes[:, 0] + boxes[:, 2] - left[:, 0] - left[:, 2]) / 2
        for k in (way >= MIN_WAY * (left[:, 2] - left[:, 0])).nonzero()[0]:
            key, seen_s = int(bank.key[rows[k]]), float(bank.seen_s[rows[k]])
            self._learn_gap(key, seen_s, left[k], boxes[k], now_s)

    def miss(self, keys: IntArray, covered: BoolArray, now_s: float, step_s: float) -> None:
        """Confirmed tracks that were not found in this frame; covered (T,): somebody stands in front."""
        recent = now_s - self._missed_at[:, 0] <= MAX_GAP_S + TIME_SLACK_S
        self._missed_key = np.concatenate([self._missed_key[recent], keys])
        at = np.full((len(keys), 2), (now_s, step_s))
        self._missed_at = np.concatenate([self._missed_at[recent], at])
        self._covered = np.concatenate([self._covered[recent], covered])

    def _learn_gap(self, key: int, seen_s: float, left: FloatArray, box: FloatArray, now_s: float) -> None:
        """One track that was missed since seen_s, then in the box `left` (4,), and returns as `box` (4,)."""
        gap = (self._missed_key == key) & (self._missed_at[:, 0] > seen_s + TIME_SLACK_S)
        if np.count_nonzero(gap) < MIN_MISSES or self._covered[gap].any():
            return
        time_s, step_s = self._missed_at[gap].T
        done = ((time_s - seen_s) / (now_s - seen_s))[:, None]
        down, across = self._reach((1 - done) * left + done * box)
        self.hidden_s += (down * step_s[:, None]).T @ across
        fresh = (down.T @ across > MIN_REACH) & (self._last_key != key)
        self.cases[fresh] += 1
        self._last_key[fresh] = key

    def _reach(self, boxes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(T, R) and (T, C): how far the spine of each box reaches over each row and column of cells, in [0, 1]."""
        size = boxes[:, 2:] - boxes[:, :2]
        start = boxes[:, :2] + size * SPINE[:2]
        end = boxes[:, :2] + size * SPINE[2:]
        rows, columns = self._edges
        down = _overlap(start[:, 1], end[:, 1], rows, self.cell_px)
        return down, _overlap(start[:, 0], end[:, 0], columns, self.cell_px)


def _overlap(start: FloatArray, end: FloatArray, edges: FloatArray, cell_px: float) -> FloatArray:
    """(T, n) share of each of n cells in a row, that begin at edges (n,), between start and end (T,): pixels."""
    common = np.minimum(end[:, None], edges + cell_px) - np.maximum(start[:, None], edges)
    np.maximum(common, 0.0, out=common)
    common /= cell_px
    return common
