"""Which crops of a person are worth keeping: large, sharp, unhidden, inside the picture, and spread over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tracker import boxes as bx
from tracker.types import FloatArray, ImageArray, State

FIRST_SPAN_S = 0.5  # neighbouring frames hardly differ
MIN_RELATIVE_QUALITY = 0.25  # of the best: a poor crop of somebody with good ones tells nothing
HALF_SIZE_PX = 90.0  # side of a square as large as 64 x 128 px, below which re-ID networks enlarge: size 1/2
HALF_SHARPNESS = 100.0  # variance of the Laplacian below which people call a picture blurred: sharpness 1/2
HEIGHT_MEMORY_S = 5.0  # a box that is suddenly higher holds somebody else too; people come nearer more slowly
SHARPNESS_SIZE_PX = (64, 128)  # (width, height), the same for all, because sharpness depends on the scale


@dataclass(slots=True)
class Pick:
    """A crop that is worth keeping for now."""

    frame: int  # from 1
    time_s: float
    box: tuple[float, float, float, float]  # xyxy, as tracked
    score: float
    quality: float
    jpeg: bytes | None  # None once it is on disk
    check: int = 0  # CRC-32 of the file, once it is on disk


class Album:
    """Picks of one identity: the best of every span of time, of which there are `n_spans` at most.

    Spans are half a second long; when there are too many of them, all are doubled. So picks are spread over time
    however long the person stays, and who walks up to the camera has early ones too.
    """

    def __init__(self, n_spans: int) -> None:
        self._n_spans = n_spans
        self._span_s = FIRST_SPAN_S
        self._picks: dict[int, Pick] = {}  # number of the span -> its best
        self._log_height: float | None = None  # usual height of the box, in the last seconds
        self._height_s = 0.0  # when it was brought up to date

    def __len__(self) -> int:
        return len(self._picks)

    @property
    def picks(self) -> list[Pick]:
        """By time."""
        return [self._picks[span] for span in sorted(self._picks)]

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
        known = self._picks.get(self._span(time_s))
        return known is None or quality > known.quality

    def add(self, pick: Pick) -> list[Pick]:
        """Take a pick that is wanted; returns those whose place it took."""
        out = [known for known in [self._picks.pop(self._span(pick.time_s), None)] if known is not None]
        self._picks[self._span(pick.time_s)] = pick
        while len(self._picks) > self._n_spans:
            self._span_s *= 2
            picks, self._picks = self.picks, {}
            for each in picks:
                span = self._span(each.time_s)
                better, worse = _by_quality(each, self._picks.get(span))
                self._picks[span] = better
                out += [worse] if worse is not None else []
        return out

    def reduce(self, n: int) -> list[Pick]:
        """Keep the n picks that are worth most, without those far behind the best; returns the others."""
        picks, out = self.picks, []
        best = max((pick.quality for pick in picks), default=0.0)
        while picks and (len(picks) > n or min(pick.quality for pick in picks) < MIN_RELATIVE_QUALITY * best):
            qualities = np.array([pick.quality for pick in picks])
            poor = qualities < MIN_RELATIVE_QUALITY * best
            out.append(picks.pop(int(np.argmin(np.where(poor, qualities - 1.0, worths(picks))))))
        self._picks = {self._span(pick.time_s): pick for pick in picks}
        return out

    @property
    def memory(self) -> tuple[float, float, float]:
        """Span in s, logarithm of the usual height (NaN: none yet), when that was brought up to date: all but picks."""
        return self._span_s, math.nan if self._log_height is None else self._log_height, self._height_s

    def restore(self, memory: Sequence[float], picks: Sequence[Pick]) -> None:
        """Go on where the album with this `memory` and these `picks` was."""
        self._span_s, log_height, self._height_s = memory
        self._log_height = None if math.isnan(log_height) else log_height
        self._picks = {self._span(pick.time_s): pick for pick in picks}

    def _span(self, time_s: float) -> int:
        return int(time_s // self._span_s)


def albums_state(albums: Mapping[int, Album]) -> State:
    """The albums of all identities, without the pictures in memory; arrays, for there may be thousands of people."""
    picks = [(who, pick) for who, album in albums.items() for pick in album.picks]
    return {
        "who": np.fromiter(albums, np.int64, len(albums)),
        "memory": np.array([album.memory for album in albums.values()]).reshape(-1, 3),
        "owner": np.array([who for who, _ in picks], np.int64),
        "frame": np.array([pick.frame for _, pick in picks], np.int64),
        # time_s, box, score, quality
        "values": np.array([(pick.time_s, *pick.box, pick.score, pick.quality) for _, pick in picks]).reshape(-1, 7),
        "on_disk": np.array([pick.jpeg is None for _, pick in picks], np.bool_),
        "check": np.array([pick.check for _, pick in picks], np.uint32),
    }


def albums_of(state: State, n_spans: int, jpegs: Mapping[tuple[int, int], bytes]) -> dict[int, Album]:
    """What `albums_state` was given. jpegs: the pictures that were in memory, by identity and frame."""
    picks: dict[int, list[Pick]] = {who: [] for who in state["who"].tolist()}
    columns = (state[name].tolist() for name in ("owner", "frame", "values", "on_disk", "check"))
    for who, frame, (time_s, x1, y1, x2, y2, score, quality), on_disk, check in zip(*columns, strict=True):
        jpeg = None if on_disk else jpegs[who, frame]
        picks[who].append(Pick(frame, time_s, (x1, y1, x2, y2), score, quality, jpeg, check))
    albums = {who: Album(n_spans) for who in picks}
    for (who, album), memory in zip(albums.items(), state["memory"].tolist(), strict=True):
        album.restore(memory, picks[who])
    return albums


def _by_quality(pick: Pick, other: Pick | None) -> tuple[Pick, Pick | None]:
    """The better one first."""
    return (other, pick) if other is not None and other.quality >= pick.quality else (pick, other)


def worths(picks: Sequence[Pick]) -> list[float]:
    """What each pick (by time) adds: its quality, less where the nearest other one is near in time.

    It counts in full where its neighbours are as far away as they would be if all were spread evenly.
    """
    if len(picks) < 2:
        return [pick.quality for pick in picks]
    times_s = [pick.time_s for pick in picks]
    even_s = (times_s[-1] - times_s[0]) / (len(picks) - 1)
    gaps_s = [np.inf, *(later - earlier for earlier, later in pairwise(times_s)), np.inf]
    nearest_s = [min(before, after) for before, after in pairwise(gaps_s)]
    return [pick.quality * min(1.0, gap_s / even_s) for pick, gap_s in zip(picks, nearest_s, strict=True)]


def unhidden(boxes: FloatArray) -> FloatArray:
    """(N,) share of each box (N, 4) that is free of the one box in front that covers most of it.

    In front is whose box ends lower: on flat ground, those feet are nearer to the camera.
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
