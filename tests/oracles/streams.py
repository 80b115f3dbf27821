"""Streams of detections with ground truth, with all kinds of errors, and true or constant embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tests.synthetic.mot import Scene
from tracker.types import Detections, Frame

SIZE = (640, 480)


@dataclass(frozen=True)
class Stream:
    """One entry per frame."""

    times: list[float]
    detections: list[Detections]
    people: list[np.ndarray]  # (N,) person of each detection, from 0; -1 for a false positive
    truth: list[np.ndarray]  # (P, 4) boxes of all people
    size: tuple[int, int] = SIZE

    def __len__(self) -> int:
        return len(self.times)

    def frame(self, t: int, image=None) -> Frame:
        return Frame(t, self.times[t], image, *self.size)

    def only(self, frames) -> Stream:
        """Only those frames."""
        pick = list(frames)
        lists = ([column[t] for t in pick] for column in (self.times, self.detections, self.people, self.truth))
        return Stream(*lists, self.size)


def wild_stream(
    rng: np.random.Generator, n_people: int = 6, n_frames: int = 60, *, irregular: bool = True, chaos: float = 1.0
) -> Stream:
    """People who walk straight, bounce, cross and shrink; bursts of misses, weak scores, doubles, false positives,
    empty frames, and frames that come late."""
    height = rng.uniform(60, 160, n_people)
    size = np.stack([height * rng.uniform(0.3, 0.5, n_people), height], axis=1)
    centre = rng.uniform((40, 100), (600, 380), (n_people, 2))
    speed = rng.normal(0, 60, (n_people, 2)) * (1, 0.2)
    missed_for = np.zeros(n_people, int)
    time_s = 0.0
    times, detections, people, truth = [], [], [], []
    for _ in range(n_frames):
        dt_s = (0.04 * rng.choice([0.5, 1, 1, 1, 2, 7])) if irregular else 0.04
        time_s += dt_s
        centre = centre + speed * dt_s
        outside = (centre < (20, 80)) | (centre > (620, 400))
        speed = np.where(outside, np.abs(speed) * np.where(centre < 200, 1, -1), speed)
        boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)

        missed_for = np.maximum(missed_for - 1, 0)
        starts = (missed_for == 0) & (rng.random(n_people) < 0.04 * chaos)
        missed_for[starts] = rng.integers(1, 15, int(starts.sum()))
        seen = np.flatnonzero((missed_for == 0) & (rng.random(n_people) > 0.05 * chaos))
        found = boxes[seen] + rng.normal(0, 0.02, (len(seen), 4)) * height[seen, None]
        score = np.where(rng.random(len(seen)) < 0.2 * chaos, rng.uniform(0.05, 0.5, len(seen)), 0.9)
        score = score - rng.uniform(0, 0.09, len(seen)).round(3)
        owner = seen
        double = np.flatnonzero(rng.random(len(seen)) < 0.1 * chaos)
        n_false = rng.poisson(0.5 * chaos)
        corner = rng.uniform(0, 350, (n_false, 2))
        false = np.concatenate([corner, corner + rng.uniform(40, 120, (n_false, 2))], axis=1)
        found = np.concatenate([found, found[double] + rng.normal(0, 1, (len(double), 4)), false])
        score = np.concatenate([score, score[double] * 0.9, rng.uniform(0.05, 0.9, n_false)]).clip(0, 1)
        owner = np.concatenate([owner, owner[double], np.full(n_false, -1)])
        if rng.random() < 0.06 * chaos:
            found, score, owner = found[:0], score[:0], owner[:0]
        order = rng.permutation(len(found))
        times.append(time_s)
        detections.append(Detections(found[order], score[order], np.zeros(len(found), np.int64)))
        people.append(owner[order])
        truth.append(boxes)
    return Stream(times, detections, people, truth)


def scene_stream(scene: Scene) -> Stream:
    """A scene of the generator as a stream."""
    return Stream(
        [t / scene.fps for t in range(len(scene.boxes))],
        [Detections(d[:, :4].copy(), d[:, 4].copy(), np.zeros(len(d), np.int64)) for d in scene.detections],
        [np.where(w > 0, w - 1, -1) for w in scene.detection_ids],
        [b.copy() for b in scene.boxes],
        (scene.width, scene.height),
    )


def lone_walker(
    n_frames: int, hidden=(), *, fps: float = 25.0, speed=(50.0, 0.0), start=(100.0, 240.0), height: float = 120.0
) -> Stream:
    """One person who walks straight and is not detected in the frames `hidden`."""
    times = [t / fps for t in range(n_frames)]
    size = np.array([0.4 * height, height])
    truth = []
    for time_s in times:
        centre = np.array(start) + np.array(speed) * time_s
        truth.append(np.concatenate([centre - size / 2, centre + size / 2])[None])
    hidden = set(hidden)
    detections = [one(truth[t]) if t not in hidden else Detections.empty() for t in range(n_frames)]
    return Stream(times, detections, [np.zeros(len(d), int) for d in detections], truth)


def one(boxes, score: float = 0.9, features=None) -> Detections:
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    return Detections(boxes, np.full(len(boxes), score), np.zeros(len(boxes), np.int64), features)


def with_identity_embeddings(stream: Stream) -> Stream:
    """One-hot true identity; every false positive is a person of its own."""
    n_people = 1 + max((int(w.max()) for w in stream.people if len(w)), default=0)
    n_false = sum(int((w < 0).sum()) for w in stream.people)
    unit = np.eye(n_people + n_false, dtype=np.float32)
    used = n_people
    detections = []
    for seen, person in zip(stream.detections, stream.people, strict=True):
        person = person.copy()
        strangers = np.flatnonzero(person < 0)
        person[strangers] = used + np.arange(len(strangers))
        used += len(strangers)
        detections.append(seen.with_features(unit[person]))
    return replace(stream, detections=detections)


def with_constant_embeddings(stream: Stream, vector: np.ndarray) -> Stream:
    """The same embedding for every detection."""
    detections = [d.with_features(np.tile(vector.astype(np.float32), (len(d), 1))) for d in stream.detections]
    return replace(stream, detections=detections)


def shuffled(stream: Stream, rng: np.random.Generator) -> tuple[Stream, list[np.ndarray]]:
    """The detections of every frame in another order; orders[t][new row] = old row."""
    orders = [rng.permutation(len(d)) for d in stream.detections]
    detections = [d.take(o) for d, o in zip(stream.detections, orders, strict=True)]
    people = [p[o] for p, o in zip(stream.people, orders, strict=True)]
    return replace(stream, detections=detections, people=people), orders
