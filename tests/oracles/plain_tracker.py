"""A slow Kalman + IoU tracker: one object for each track, loops, and textbook matrices. The engine without appearance.

Filter: a box not detected in the frame before keeps its size; the variance of a measurement is `score_noise` times
1 - score, at least LEAST_NOISE, or the same for all where `score_noise` is 0.

Association: predict all tracks; keep detections of at least `weak_score` after greedy non-maximum suppression.
High-score detections go to confirmed tracks by 1 - IoU (IoU >= min_iou), as many pairs as possible, cheapest first; the
remaining ones to tentative tracks in the same way; low-score ones to the remaining confirmed tracks (IoU >=
min_iou_weak).

Lifecycle: an unmatched high-score detection with `birth_score`, which overlaps the detection of no confirmed track by
more than NEW_TRACK_IOU, creates a tentative track; `confirm_hits` detections in
a row confirm it and give it the next identity, oldest track first; a miss deletes a tentative track at once and a
confirmed one after `coast_s`.

Occlusion (`occlusion.enabled`): a confirmed track missed in the frame before is behind the nearer (lower feet)
confirmed track, seen in the frame before, that covers most of it, if that is `min_cover`; it may not have a high-score
detection that overlaps its occluder more. A confirmed track without a detection is output as predicted where a nearer
confirmed track with one covers `min_cover` of it, and its last detection is at most `max_s` ago. The measurement of a
confirmed track is the `whole_box` of its detection.
"""

from __future__ import annotations

import numpy as np
from filterpy.kalman import KalmanFilter
from scipy.optimize import linear_sum_assignment

from tracker.config import MotionConfig, TrackerConfig
from tracker.motion import kalman
from tracker.tracks.lifecycle import NEW_TRACK_IOU
from tracker.types import Tracks

SLACK_S = 5e-7


def iou_of(a, b) -> float:
    """Intersection over union of two xyxy boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def hidden_share(box, front) -> float:
    """Share of a box that another covers: 0 unless the other's feet are lower, that is, it is nearer."""
    width = min(box[2], front[2]) - max(box[0], front[0])
    height = min(box[3], front[3]) - max(box[1], front[1])
    if front[3] <= box[3] or width <= 0 or height <= 0:
        return 0.0
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))


def whole_box(box, predicted, in_front, image_width, share):
    """A detection with `share` of its missing width put back beside it, where something takes the place of the person.

    The usual width is the predicted one, or less if the box is lower than predicted; 0.9 of it is wide enough. At least
    half of what is missing on a side must be taken by one box whose feet are lower, or lie outside the image.
    """
    x1, y1, x2, y2 = box
    usual = predicted[2] - predicted[0]
    if y2 - y1 < predicted[3] - predicted[1]:
        usual = (y2 - y1) * usual / (predicted[3] - predicted[1])
    if share == 0 or x2 - x1 >= 0.9 * usual:
        return np.array(box)
    missing = share * (usual - (x2 - x1))

    def is_taken(strip):
        outside = sum(
            max(0.0, length) for length in (min(strip[2], 0) - strip[0], strip[2] - max(strip[0], image_width))
        )
        shares = [hidden_share(strip, front) for front in in_front] + [outside / (strip[2] - strip[0])]
        return max(shares) >= 0.5, max(shares)

    (left, by_left), (right, by_right) = is_taken((x1 - missing, y1, x1, y2)), is_taken((x2, y1, x2 + missing, y2))
    if left and right:
        start = (predicted[0] + predicted[2] - (x2 - x1) - missing) / 2
        start = min(max(start, x1 - missing), x1)
        return np.array([start, y1, start + (x2 - x1) + missing, y2])
    if left and by_left > by_right:
        return np.array([x1 - missing, y1, x2, y2])
    return np.array([x1, y1, x2 + missing, y2]) if right else np.array(box)


def nms_rows(boxes, scores, max_iou: float) -> list[int]:
    """Greedy NMS: keep the best box, remove boxes that overlap it by more than max_iou, and repeat."""
    left = sorted(range(len(boxes)), key=lambda row: (-scores[row], *boxes[row]))
    kept = []
    while left:
        best, *rest = left
        kept.append(best)
        left = [row for row in rest if iou_of(boxes[best], boxes[row]) <= max_iou]
    return kept


def measurement(box) -> np.ndarray:
    """Centre x, centre y, width / height, height."""
    width, height = box[2] - box[0], box[3] - box[1]
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, width / height, height])


def textbook_filter(z, config: MotionConfig) -> KalmanFilter:
    """A filterpy filter for one person, Deep SORT's noise, time in seconds."""
    kf = KalmanFilter(dim_x=8, dim_z=4)
    kf.x = np.concatenate([z, np.zeros(4)])[:, None]
    kf.H = np.eye(4, 8)
    h, hz = z[3], config.reference_hz
    position, velocity = 2 * config.position_std * h, 10 * config.velocity_std * h * hz
    std = [position, position, config.aspect_std, position]
    std += [velocity, velocity, config.aspect_velocity_std * hz, velocity]
    kf.P = np.diag(np.square(std))
    return kf


def textbook_predict(kf: KalmanFilter, dt_s: float, config: MotionConfig, unseen: bool = False) -> None:
    if unseen:
        kf.x[6:8] = 0.0
    x = kf.x[:, 0]
    for row, least in ((2, 0.05), (3, 1.0)):
        if x[row] + dt_s * x[row + 4] < least:
            kf.x[row + 4, 0] = 0.0  # would turn inside out: it stops shrinking
    F = np.eye(8)
    F[:4, 4:] = dt_s * np.eye(4)
    h, hz = kf.x[3, 0], config.reference_hz
    position, velocity = config.position_std * h, config.velocity_std * h * hz
    std = [position, position, config.aspect_std, position]
    std += [velocity, velocity, config.aspect_velocity_std * hz, velocity]
    kf.predict(F=F, Q=np.diag(np.square(std)) * dt_s * hz)


def textbook_update(kf: KalmanFilter, z, config: MotionConfig, noise_factor: float = 1.0) -> None:
    position = config.position_std * kf.x[3, 0]
    std = [position, position, config.aspect_measurement_std, position]
    kf.update(np.asarray(z)[:, None], R=np.diag(np.square(std)) * noise_factor)


def textbook_noise(score: float, config: MotionConfig) -> float:
    """The factor of the measurement variance of a detection."""
    if config.score_noise == 0:
        return 1.0
    factor = config.score_noise * (1 - score)
    return factor if factor > kalman.LEAST_NOISE else kalman.LEAST_NOISE


class _Track:
    def __init__(self, box, score, time_s, config):
        self.id = 0
        self.hits = 1
        self.seen_s = time_s
        self.seen = True  # in the last frame
        self.score = score
        self.filter = textbook_filter(measurement(box), config.motion)
        self.waiting = []  # (frame index, box, score) of its tentative frames

    @property
    def box(self) -> np.ndarray:
        x, y, aspect, height = self.filter.x[:4, 0]
        width = aspect * height
        return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


class PlainTracker:
    """One object a track. `step` gives what is known at once; `late` holds (frame index, id, box, score) rows of
    earlier frames that the last step made known, `hidden` the identities that it output as predicted."""

    def __init__(self, config: TrackerConfig, image_width: int):
        self.config = config
        self.image_width = image_width
        self.tracks: list[_Track] = []
        self.now_s: float | None = None
        self.n_ids = 0
        self.late: list[tuple] = []
        self.hidden: list[int] = []

    def step(self, index: int, time_s: float, boxes, scores) -> Tracks:
        detection, life = self.config.detection, self.config.lifecycle
        dt_s = 0.0 if self.now_s is None else time_s - self.now_s
        self.now_s = time_s
        self.late = []
        for track in self.tracks:
            textbook_predict(track.filter, dt_s, self.config.motion, unseen=not track.seen)

        usable = [row for row in range(len(boxes)) if scores[row] >= detection.weak_score]
        kept = [usable[k] for k in nms_rows(boxes[usable], scores[usable], detection.nms_iou)]
        strong = [row for row in kept if scores[row] >= detection.strong_score]
        weak = [row for row in kept if scores[row] < detection.strong_score]

        active = [t for t in self.tracks if t.id == 0 or time_s - t.seen_s <= life.coast_s + SLACK_S]
        known, unknown = [t for t in active if t.id > 0], [t for t in active if t.id == 0]
        stolen = self._stolen(known, strong, boxes)
        first = self._pairs(known, strong, boxes, self.config.association.min_iou, stolen)
        left = [row for row in strong if all(row != taken for _, taken in first)]
        first += self._pairs(unknown, left, boxes, self.config.association.min_iou)
        rest = [t for t in active if t.id > 0 and all(t is not taken for taken, _ in first)]
        matched = first + self._pairs(rest, weak, boxes, self.config.association.min_iou_weak)
        hidden = self._hidden(time_s, matched, boxes)
        for track in self.tracks:
            track.seen = False
        there = [boxes[row] for track, row in matched if track.id > 0]
        for track, row in matched:
            noise, box = textbook_noise(scores[row], self.config.motion), boxes[row]
            if track.id > 0 and self.config.occlusion.enabled:
                box = whole_box(box, track.box, there, self.image_width, self.config.occlusion.complete)
            textbook_update(track.filter, measurement(box), self.config.motion, noise)
            track.seen = True
            track.hits += 1
            track.seen_s = time_s
            track.score = scores[row]

        seen = [track for track, _ in matched]
        self.tracks = [
            t
            for t in self.tracks
            if any(t is s for s in seen) or (t.id > 0 and time_s - t.seen_s <= life.coast_s + SLACK_S)
        ]
        taken = {row for _, row in matched}
        births = [row for row in strong if scores[row] >= life.birth_score]
        births = [row for row in births if all(iou_of(boxes[row], box) <= NEW_TRACK_IOU for box in there)]
        created = [_Track(boxes[row], scores[row], time_s, self.config) for row in births if row not in taken]
        self.tracks += created
        hidden = [t for t in hidden if any(t is alive for alive in self.tracks)]
        self.hidden = sorted(t.id for t in hidden)
        shown = seen + hidden + created

        for track in self.tracks:
            if track.id == 0 and track.hits >= life.confirm_hits:
                self.n_ids += 1
                track.id = self.n_ids
                self.late += [(at, track.id, box, score) for at, box, score in track.waiting]
            elif track.id == 0:
                track.waiting.append((index, track.box, track.score))
        return tracks_of([(t.id, t.box, t.score) for t in shown if t.id > 0])

    def _stolen(self, known, rows, boxes) -> set[tuple[int, int]]:
        """(number of the track in `known`, row of the detection) pairs that may not be."""
        config = self.config.occlusion
        stolen: set[tuple[int, int]] = set()
        if not config.enabled:
            return stolen
        for i, track in enumerate(known):
            in_front = [(hidden_share(track.box, other.box), other) for other in known if other.seen]
            if track.seen or not in_front:
                continue
            share, occluder = max(in_front, key=lambda pair: pair[0])
            if share > 0 and share >= config.min_cover:
                stolen |= {(i, row) for row in rows if iou_of(occluder.box, boxes[row]) > iou_of(track.box, boxes[row])}
        return stolen

    def _hidden(self, time_s, matched, boxes) -> list[_Track]:
        config = self.config.occlusion
        there = [boxes[row] for track, row in matched if track.id > 0]
        hidden = []
        for track in self.tracks:
            if not config.enabled or track.id == 0 or any(track is found for found, _ in matched):
                continue
            share = max((hidden_share(track.box, front) for front in there), default=0.0)
            if share > 0 and share >= config.min_cover and time_s - track.seen_s <= config.max_s + SLACK_S:
                hidden.append(track)
        return hidden

    @staticmethod
    def _pairs(tracks, rows, boxes, min_iou, forbidden_pairs=()):
        if not tracks or not rows:
            return []
        forbidden = 1000.0
        cost = np.full((len(tracks), len(rows)), forbidden)
        for i, track in enumerate(tracks):
            for j, row in enumerate(rows):
                overlap = iou_of(track.box, boxes[row])
                if overlap >= min_iou and (i, row) not in forbidden_pairs:
                    cost[i, j] = 1 - overlap
        return [(tracks[i], rows[j]) for i, j in zip(*linear_sum_assignment(cost), strict=True) if cost[i, j] < 2]


def tracks_of(rows) -> Tracks:
    """`Tracks` from (id, box, score) rows, in the order of the identities."""
    rows = sorted(rows, key=lambda row: row[0])
    n = len(rows)
    return Tracks(
        np.array([box for _, box, _ in rows]).reshape(n, 4),
        np.array([identity for identity, _, _ in rows], np.int64),
        np.array([score for _, _, score in rows], float),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.zeros(n, np.uint8),
    )
