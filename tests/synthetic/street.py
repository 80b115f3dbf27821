"""Detections and embeddings of a street, without images: hours of people who come and go.

Half of the people wear one of six uniforms and have similar embeddings. Nearer people occlude farther ones, everyone
is undetected now and then for 2.5 seconds, five percent of the detections are missing and there are false positives.
A new person takes a place once its visitor has left, so that every part of a long run has the same load.
"""

from __future__ import annotations

import numpy as np

from tracker.types import Detections

WIDTH, HEIGHT = 1920, 1080
DIM = 128
N_UNIFORMS = 6
OWN = 0.35  # length of a person's own part of an embedding; the uniform's part has length 1
NOISE = 0.3  # length of the noise of one frame
OCCLUDED = 0.6  # a person whose box is covered by a nearer one to this share is not detected


class Street:
    """`n` places with one visitor at a time.

    stay: least and most frames of a visit; the next visitor comes after at most half of the least.
    """

    def __init__(self, n: int, seed: int, stay: tuple[int, int] = (300, 900)) -> None:
        self._stay = stay
        self._rng = rng = np.random.default_rng(seed)
        self._uniforms = _unit(rng.normal(size=(N_UNIFORMS, DIM)))
        self.n_visits = 0
        self._left = np.zeros(n, np.int64)  # frames until the visitor leaves
        self._wait = np.zeros(n, np.int64)  # frames until the next visitor comes
        self._blind = np.zeros(n, np.int64)  # frames for which the visitor is not detected
        self._foot = np.zeros((n, 2))
        self._speed = np.zeros((n, 2))  # pixels per frame
        self._height = np.zeros(n)
        self._identity = np.zeros((n, DIM))
        self._arrive(np.arange(n))

    def frame(self) -> Detections:
        """Detections of the next frame, in random order."""
        rng = self._rng
        self._move()
        boxes = self._boxes()
        there = (self._wait == 0) & (self._blind == 0) & ~occluded(boxes, self._wait == 0)
        seen = np.flatnonzero(there & (rng.uniform(size=len(boxes)) > 0.05))
        n_wrong = rng.poisson(0.3)
        corner = rng.uniform(0, (WIDTH - 100, HEIGHT - 200), (n_wrong, 2))
        wrong = np.concatenate([corner, corner + np.array([80, 200])], axis=1)
        jitter = rng.normal(0, 0.02, (len(seen), 4)) * self._height[seen, None]
        features = np.concatenate([self._identity[seen], rng.normal(size=(n_wrong, DIM))])
        features = _unit(_unit(features) + rng.normal(0, NOISE / np.sqrt(DIM), features.shape))
        n = len(seen) + n_wrong
        return Detections(
            np.concatenate([boxes[seen] + jitter, wrong]),
            np.where(rng.uniform(size=n) < 0.1, rng.uniform(0.2, 0.5, n), rng.uniform(0.6, 1.0, n)),
            np.zeros(n, np.int64),
            features.astype(np.float32),
        )

    def _move(self) -> None:
        self._foot += self._speed
        self._blind = np.where(self._rng.uniform(size=len(self._blind)) < 1 / 400, 75, np.maximum(self._blind - 1, 0))
        self._left -= 1
        self._wait = np.maximum(self._wait - 1, 0)
        gone = np.flatnonzero(self._left == 0)
        self._wait[gone] = self._rng.integers(1, self._stay[0] // 2, len(gone))
        self._arrive(np.flatnonzero((self._left < 0) & (self._wait == 0)))

    def _arrive(self, rows: np.ndarray) -> None:
        """New visitors at these places, who cross the image during their stay."""
        rng, n = self._rng, len(rows)
        stay = rng.integers(*self._stay, n)
        start, end = (rng.uniform((0, 0.4 * HEIGHT), (WIDTH, HEIGHT), (n, 2)) for _ in range(2))
        self._left[rows], self._foot[rows], self._speed[rows] = stay, start, (end - start) / stay[:, None]
        self._height[rows] = 0.25 * start[:, 1] + rng.uniform(60, 100, n)
        own = _unit(rng.normal(size=(n, DIM)))
        uniform = self._uniforms[rng.integers(0, N_UNIFORMS, n)]
        self._identity[rows] = _unit(np.where(rng.uniform(size=(n, 1)) < 0.5, uniform + OWN * own, own))
        self.n_visits += n

    def _boxes(self) -> np.ndarray:
        """(N, 4) xyxy"""
        half = 0.2 * self._height
        x, y = self._foot.T
        return np.stack([x - half, y - self._height, x + half, y], axis=1)


def occluded(boxes: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(N,) bool: a box (N, 4) is mostly covered by that of a present person who is nearer (lower in the image)."""
    sides = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    covered = sides.clip(0).prod(axis=2) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None]
    nearer = boxes[None, :, 3] > boxes[:, None, 3]
    return np.asarray((covered * (nearer & there[None])).max(axis=1, initial=0.0) > OCCLUDED)


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))
