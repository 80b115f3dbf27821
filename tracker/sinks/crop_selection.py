"""Selects the crops of an identity to keep: large, sharp, unoccluded, inside the picture, and spread over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tracker import boxes as bx
from tracker.types import FloatArray, ImageArray

FIRST_SPAN_S = 0.5  # neighbouring frames hardly differ
MIN_RELATIVE_QUALITY = 0.25  # of the best: beside good crops a poor one adds nothing
HALF_SIZE_PX = 90.0  # side of a square as large as 64 x 128 px, below which re-ID networks enlarge: size 1/2
HALF_SHARPNESS = 100.0  # variance of the Laplacian below which people call a picture blurred: sharpness 1/2
HEIGHT_MEMORY_S = 5.0  # a box that is suddenly higher holds a second person; people come nearer more slowly
SHARPNESS_SIZE_PX = (64, 128)  # (width, height), the same for all, because sharpness depends on the scale


@dataclass(slots=True)
class Crop:
    """A crop that is kept for now."""

    frame: int  # from 1
    time_s: float
    box: tuple[float, float, float, float]  # xyxy, as tracked
    score: float
    quality: float
    jpeg: bytes | None  # None once it is on disk


class CropSelection:
    """Crops of one identity: the best of every span of time, of which there are `n_spans` at most.

    Spans are half a second long; when there are too many of them, all are doubled. So crops are spread over time
    however long the person stays.
    """

    def __init__(self, n_spans: int) -> None:
        self._n_spans = n_spans
        self._span_s = FIRST_SPAN_S
        self._crops: dict[int, Crop] = {}  # number of the span -> its best
        self._log_height: float | None = None  # usual height of the box, in the last seconds
        self._height_s = 0.0  # when it was brought up to date

    def __len__(self) -> int:
        return len(self._crops)

    @property
    def crops(self) -> list[Crop]:
        """By time."""
        return [self._crops[span] for span in sorted(self._crops)]

    def steadiness(self, time_s: float, height_px: float) -> float:
        """In (0, 1]: how near the height of a box is to what it was in the last seconds. To be called in order."""
        now = math.log(height_px)
        if self._log_height is None:
            self._log_height, self._height_s = now, time_s
        fresh = 1.0 - math.exp(-(time_s - self._height_s) / HEIGHT_MEMORY_S)
        self._log_height += fresh * (now - self._log_height)
        self._height_s = time_s
        return math.exp(-2.0 * abs(now - self._log_height))  # the square of the ratio

    def wants(self, time_s: float, quality: float) -> bool:
        """Whether a crop of that quality would be the best of its span."""
        known = self._crops.get(self._span(time_s))
        return known is None or quality > known.quality

    def add(self, crop: Crop) -> list[Crop]:
        """Add a crop that is wanted; returns those that it replaces."""
        out = [known for known in [self._crops.pop(self._span(crop.time_s), None)] if known is not None]
        self._crops[self._span(crop.time_s)] = crop
        while len(self._crops) > self._n_spans:
            self._span_s *= 2
            crops, self._crops = self.crops, {}
            for each in crops:
                span = self._span(each.time_s)
                better, worse = _by_quality(each, self._crops.get(span))
                self._crops[span] = better
                out += [worse] if worse is not None else []
        return out

    def reduce(self, n: int) -> list[Crop]:
        """Keep the n most valuable crops, without those far below the best; returns the others."""
        crops, out = self.crops, []
        best = max((crop.quality for crop in crops), default=0.0)
        while crops and (len(crops) > n or min(crop.quality for crop in crops) < MIN_RELATIVE_QUALITY * best):
            qualities = np.array([crop.quality for crop in crops])
            poor = qualities < MIN_RELATIVE_QUALITY * best
            out.append(crops.pop(int(np.argmin(np.where(poor, qualities - 1.0, worths(crops))))))
        self._crops = {self._span(crop.time_s): crop for crop in crops}
        return out

    def _span(self, time_s: float) -> int:
        return int(time_s // self._span_s)


def _by_quality(crop: Crop, other: Crop | None) -> tuple[Crop, Crop | None]:
    """The better one first."""
    return (other, crop) if other is not None and other.quality >= crop.quality else (crop, other)


def worths(crops: Sequence[Crop]) -> list[float]:
    """What each crop (by time) adds: its quality, less where the nearest other one is near in time.

    It counts in full where its neighbours are as far away as they would be if all were spread evenly.
    """
    if len(crops) < 2:
        return [crop.quality for crop in crops]
    times_s = [crop.time_s for crop in crops]
    even_s = (times_s[-1] - times_s[0]) / (len(crops) - 1)
    gaps_s = [np.inf, *(later - earlier for earlier, later in pairwise(times_s)), np.inf]
    nearest_s = [min(before, after) for before, after in pairwise(gaps_s)]
    return [crop.quality * min(1.0, gap_s / even_s) for crop, gap_s in zip(crops, nearest_s, strict=True)]


def unoccluded(boxes: FloatArray) -> FloatArray:
    """(N,) share of each box (N, 4) that is free of the one box in front that covers most of it.

    The box that ends lower is in front: on flat ground, its feet are nearer to the camera.
    """
    in_front = boxes[None, :, 3] > boxes[:, None, 3]  # (N, N): column in front of row
    covered: FloatArray = np.where(in_front, bx.cover(boxes, boxes), 0.0)
    return np.asarray(1.0 - covered.max(axis=1, initial=0.0))


def inside(boxes: FloatArray, clipped: FloatArray) -> FloatArray:
    """(N,) share of each box (N, 4) that lies in the picture; `clipped` (N, 4) are the boxes cut to it."""
    whole = bx.area(boxes)
    return np.divide(bx.area(clipped), whole, out=np.zeros_like(whole), where=whole > 0)


def sized(boxes: FloatArray) -> FloatArray:
    """(N,) in [0, 1): how large the boxes (N, 4) are, one half at 64 x 128 pixels."""
    side = np.sqrt(bx.area(boxes))
    return np.asarray(side / (side + HALF_SIZE_PX))


def sharpness(crop: ImageArray) -> float:
    """In [0, 1): how much fine detail (H, W, 3) uint8 BGR has, by the variance of its Laplacian at one fixed size.

    The measure is LAPV of Pertuz, Puig and Garcia, "Analysis of focus measure operators for shape-from-focus", 2013.
    """
    import cv2

    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
    shrinks = crop.shape[0] > SHARPNESS_SIZE_PX[1]
    grey = cv2.resize(grey, SHARPNESS_SIZE_PX, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    variance = float(cv2.Laplacian(grey, cv2.CV_64F).var())
    return variance / (variance + HALF_SHARPNESS)
