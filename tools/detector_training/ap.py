"""Average precision of boxes at one IoU, and what it is made of. Pure functions on arrays.

The PASCAL VOC Challenge (Everingham et al., 2010), section 4.2: detections in descending order of their score each take
the free person they overlap most; precision made monotone, its area over recall. All points count, not eleven.
Detections on ignored regions neither count nor cost: those that match no person and lie in one for the most part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
TAKES = 0.5  # IoU
LIES_IN = 0.5  # share of a detection inside one ignored box


@dataclass(frozen=True, slots=True)
class Found:
    """Detections of one picture, best first, and what became of them."""

    scores: FloatArray  # (N,)
    right: BoolArray  # (N,)
    counts: BoolArray  # (N,) False: on an ignored region
    n_people: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Over falling scores; one row per detection that counts."""

    scores: FloatArray  # (N,)
    recall: FloatArray  # (N,)
    precision: FloatArray  # (N,)
    ap: float
    n_people: int


def overlaps(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """IoU of every pair, and the share of each box of a that a box of b covers: (A, 4), (B, 4) -> 2 x (A, B)."""
    size = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = np.maximum(size, 0).prod(2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b))
    union = area_a[:, None] + area_b[None] - common
    return common / np.maximum(union, 1e-9), common / np.maximum(area_a[:, None], 1e-9)


def match(boxes: FloatArray, scores: FloatArray, people: FloatArray, ignored: FloatArray, iou: float = TAKES) -> Found:
    """One picture: detections (N, 4), (N,); people (G, 4); ignored (I, 4)."""
    order = np.argsort(-scores, kind="stable")
    overlap, _ = overlaps(boxes[order], people)
    right = np.zeros(len(order), bool)
    for row in range(len(order)):
        if len(people) == 0:
            break
        best = int(overlap[row].argmax())
        if overlap[row, best] >= iou:
            right[row] = True
            overlap[:, best] = -1.0  # taken
    _, inside = overlaps(boxes[order], ignored)
    in_ignored = inside.max(1, initial=0.0) >= LIES_IN
    return Found(scores[order], right, right | ~in_ignored, len(people))


def curve(found: Sequence[Found]) -> Curve:
    """All pictures together. Without people the average precision is not a number."""
    n_people = sum(item.n_people for item in found)
    scores = np.concatenate([item.scores[item.counts] for item in found]) if found else np.zeros(0)
    right = np.concatenate([item.right[item.counts] for item in found]) if found else np.zeros(0, bool)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    recall = hits / n_people if n_people else np.zeros(len(hits))
    return Curve(scores[order], recall, precision, area(recall, precision) if n_people else float("nan"), n_people)


def area(recall: FloatArray, precision: FloatArray) -> float:
    """Under the precision, made monotone from the right."""
    monotone = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * monotone))


def score_at_recall(curve: Curve, recall: float) -> float:
    """The score to let through to find this share of the people; not a number where it is never reached."""
    reached = np.flatnonzero(curve.recall >= recall)
    return float(curve.scores[reached[0]]) if len(reached) else float("nan")
