"""Camera motion from frame to frame, for global motion compensation.

Sparse optical flow on a small grey image: corners outside the boxes of people (Shi & Tomasi, "Good features to
track", CVPR 1994), followed into the next frame by the pyramid of Bouguet, "Pyramidal implementation of the affine
Lucas Kanade feature tracker", 2000, and back again (Kalal et al., "Forward-backward error", ICPR 2010); RANSAC fits one
similarity to what returned to its start. BoT-SORT (Aharon et al., 2022, https://arxiv.org/abs/2206.14651, section 3.2)
corrects a Kalman filter with the same kind of estimate. Where we differ: people are masked, and most rules below
reject doubtful estimates. A wrong motion costs identities; without one the Kalman filter still follows slow motion; and
a fixed camera must never drift.

A motion is a similarity [[p, -q, x], [q, p, y]]: (2, 3) float64 that takes a place in the frame before, in pixels of
the source (x right, y down, the left edge of the left-most pixel is 0), to the place of the same background now.

Without images, the camera motion is estimated from the tracks themselves: `SharedMotion`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tracker import boxes as bx
from tracker.types import FeatureArray, FloatArray, ImageArray, IntArray, State

# All lengths are pixels of the small image, where not said otherwise.
LONG_SIDE_PX = 500  # halved until the long side is no longer: 1920 -> 480; with 240, corners are off by 0.8 px, not 0.2
MAX_GAIN = 2.0  # factor; largest change of brightness between two frames
LEAST_SIDE_PX = 32  # a smaller image has nothing to follow
MASK_MARGIN = 0.1  # of a box's size, added on each side: limbs and shadows lie outside boxes

# The camera is at rest, and no flow is computed, if a smaller share of the background changed by more than noise.
CHANGED_LEVELS, CHANGED_SHARE = 8, 0.005  # grey levels of 255

MAX_POINTS, POINT_DISTANCE_PX, POINT_QUALITY = 80, 12, 0.01
WINDOW_PX, PYRAMID_LEVELS = 13, 3  # follows motion of about 6 px * 2 ** 3, a tenth of the image
RETURN_PX = 0.5  # largest forward-backward error of a point

# The camera is at rest if a fifth of the points rest: a bus may fill half of the image and have more corners than the
# street, but where a camera moves, hardly any point rests. At rest are 76 % or more in MOT16-09;
# in 95 % of ETH-Sunnyday's 353 steps less than 12 %, and more than 20 % only where it moved by a pixel of the source.
REST_PX, REST_SHARE = 0.2, 0.2

MIN_POINTS = 12  # inliers; fewer may all lie on one moving object
MIN_INLIER_SHARE = 0.5  # of the points that returned
MIN_RETURN_SHARE = 0.25  # of the points sent out: after a cut few come back, but also where people walk over them
RANSAC_PX = 1.5  # of ETH-Sunnyday's 353 steps, 1 leaves 15 unexplained: what is near moves more than what is far
MAX_MISS = 2.5  # of the median distance to the first fit: a point farther off takes no part in the final one
# Of the long side; factor; radians. More between two frames is a cut of the video.
MAX_SHIFT, MAX_ZOOM, MAX_TURN = 0.3, 1.25, 0.35
# Of each side: least standard deviation of the inliers; a cluster determines neither turn nor zoom.
MIN_SPREAD = 0.1

# Without images, see SharedMotion.
MIN_PEOPLE = 4  # tracks matched in a frame; the median of three may be the walk of one
SHARED_IOU = 0.2  # least IoU of a prediction and a detection of one person
SHARED_MEMORY = 0.015  # weight of the newest frame in the running means: about 70 frames count
MOVES_RATIO = 1.7  # of the two running means: the camera moves; measured between 1.33 (at rest) and 2.2 (moving)
START_SQ = 1e-4  # of both running means: 1 % of a height

_STILL = np.eye(2, 3)


class CameraMotion:
    """Motion of the background from image to image of one stream. Deterministic."""

    def __init__(self) -> None:
        self._before: ImageArray | None = None  # (h, w) the last image, small and grey
        self._size = (0, 0)  # (height, width) of the source then

    def step(self, image: ImageArray | None, people: FloatArray) -> FloatArray:
        """(2, 3) similarity from the image of the step before to this one; exactly np.eye(2, 3) if at rest.

        image (H, W, 3) uint8 BGR or None; people (N, 4) xyxy, pixels of the source, in the step before.
        Identity also where nothing can be estimated: a first image, one after None or of another size, too few
        corners, a cut, a black or blurred image. The next step compares with this image in any case.
        """
        before, size = self._before, self._size
        if image is None:
            self._before = None
            return still()
        self._before, self._size = shrink(image), (image.shape[0], image.shape[1])
        if before is None or size != self._size or min(before.shape) < LEAST_SIDE_PX:
            return still()
        scale = round(size[1] / before.shape[1])
        return motion_between(before, self._before, _background(people / scale, before.shape), scale)

    def state(self) -> State:
        return {"before": self._before, "size": self._size}

    def restore(self, state: State) -> None:
        height, width = state["size"]
        self._before, self._size = state["before"], (height, width)


class SharedMotion:
    """Camera motion without images, from the residuals that all tracks share. Deterministic.

    People move independently, so with a camera at rest the median of their n residuals (detected minus predicted
    centre) has pi / 2 times their variance, divided by n. If the median varies much more than that for some seconds,
    the camera moves, and by the median. On MOT17-10, filmed by hand, the ratio of the two variances is 2.2 and more
    from the third second on (DPM and FRCNN detections); on six sequences with a camera at rest it is at most 1.33.
    """

    def __init__(self) -> None:
        self._common_sq, self._chance_sq = START_SQ, START_SQ  # running means, squared shares of people's heights

    @property
    def moves(self) -> bool:
        """Whether the camera moved in the last seconds."""
        return self._common_sq > MOVES_RATIO * self._chance_sq

    def step(
        self,
        predicted: FloatArray,
        detected: FloatArray,
        overlapping: tuple[IntArray, IntArray, FloatArray] | None = None,
    ) -> FloatArray:
        """The shift (2, 3) that takes the predicted boxes (T, 4) onto those detected (N, 4), xyxy.

        overlapping, if known: rows (P,) of the predictions and (P,) of the detections that share area, ascending by
        both, and their IoU (P,).

        Exactly np.eye(2, 3) while the camera seems to be at rest, and where fewer than MIN_PEOPLE tracks were matched.
        """
        shift = np.zeros(2)
        for _ in range(1 + self.moves):  # the second time with tracks that were too far off
            if overlapping is None or np.count_nonzero(shift):
                overlapping = bx.overlapping(predicted + np.concatenate([shift, shift]), detected)
            i, j = _nearest(*overlapping)
            if len(i) < MIN_PEOPLE:
                return still()
            left, top, right, bottom = (detected.take(j, axis=0) - predicted.take(i, axis=0)).T
            residual = np.array([left + right, top + bottom]) / 2  # (2, n) of the centres
            shift = _median(residual)
        share = residual / (predicted[i, 3] - predicted[i, 1])
        common_sq = (_median(share) ** 2).sum()
        deviation = share - np.add.reduce(share, axis=1, keepdims=True) / len(i)
        chance_sq = np.pi / 2 * (deviation * deviation).sum() / (len(i) - 1) / len(i)
        self._common_sq += SHARED_MEMORY * (common_sq - self._common_sq)
        self._chance_sq += SHARED_MEMORY * (chance_sq - self._chance_sq)
        return np.column_stack([np.eye(2), shift]) if self.moves else still()

    def state(self) -> State:
        return {"common_sq": self._common_sq, "chance_sq": self._chance_sq}

    def restore(self, state: State) -> None:
        self._common_sq, self._chance_sq = state["common_sq"], state["chance_sq"]


def _nearest(i: IntArray, j: IntArray, overlap: FloatArray) -> tuple[IntArray, IntArray]:
    """Of pairs i, j (P,) of predictions and detections those in which each overlaps the other most."""
    near = overlap >= SHARED_IOU
    i, j = i[near], j[near]
    # By ascending overlap, so that the last entry written stands for the best; of equal ones the first pair wins.
    order = len(i) - 1 - overlap[near][::-1].argsort(kind="stable")
    best_of_row, best_of_column = np.zeros((2, 1 + max(i.max(initial=0), j.max(initial=0))), np.int64)
    best_of_row[i[order]] = order
    best_of_column[j[order]] = order
    pair = np.arange(len(i))
    mutual = (best_of_row[i] == pair) & (best_of_column[j] == pair)
    return i[mutual], j[mutual]


def _median(rows: FloatArray) -> FloatArray:
    """The median of each row of (2, n): (2,)."""
    n, ordered = rows.shape[1], np.sort(rows)
    return np.asarray((ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2)


def still() -> FloatArray:
    """The identity (2, 3): a camera at rest."""
    return _STILL.copy()


def shrink(image: ImageArray) -> ImageArray:
    """(H, W, 3) BGR -> (h, w) grey, halved until no side is longer than LONG_SIDE_PX.

    A halving is the mean of 2 x 2 pixels: nothing finer than the small grid shows up as motion, and pixel u of the
    result covers [u, u + 1) * scale of the source. An odd last row or column is left out.
    """
    small: NDArray[Any] = image
    while max(small.shape[:2]) > LONG_SIDE_PX and min(small.shape[:2]) > 1:
        height, width = small.shape[0] // 2, small.shape[1] // 2
        halved = cv2.resize(small[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        small = _grey(halved)  # after the first halving: a quarter of the pixels to convert
    return _grey(small)


def motion_between(before: ImageArray, after: ImageArray, background: ImageArray, scale: int) -> FloatArray:
    """The similarity (2, 3) in source pixels that takes `before` to `after`; exactly the identity if still or unsure.

    before, after, background (h, w) uint8: two small grey images, and 255 where no person was in the first; one of
    their pixels is `scale` of the source.
    """
    after = _lit_like(before, after, background)
    changed = cv2.absdiff(before, after) > CHANGED_LEVELS
    if np.count_nonzero(changed & (background > 0)) < CHANGED_SHARE * before.size:
        return still()
    start, end, n_sent = _flow(before, after, background)
    if len(start) < max(MIN_POINTS, MIN_RETURN_SHARE * n_sent):
        return still()
    resting = np.abs(end - start).max(axis=1) < REST_PX
    if resting.mean() >= REST_SHARE:
        return still()
    # Pixel u of an image is the place u + 1/2. OpenCV seeds RANSAC anew in every call: the same points, the same fit.
    found, agreeing = cv2.estimateAffinePartial2D(
        scale * (start + 0.5), scale * (end + 0.5), ransacReprojThreshold=scale * RANSAC_PX, confidence=0.999
    )
    if found is None:
        return still()
    agree = agreeing[:, 0] > 0
    height, width = before.shape
    enough = np.count_nonzero(agree) >= max(MIN_POINTS, MIN_INLIER_SHARE * len(agree))
    spread = (start[agree].std(axis=0) >= MIN_SPREAD * np.array([width, height])).all()
    if not (enough and spread):
        return still()
    motion = _refitted(np.asarray(found, np.float64), scale * (start[agree] + 0.5), scale * (end[agree] + 0.5))
    return motion if _plausible(motion, width * scale, height * scale) else still()


def _refitted(motion: FloatArray, start: FloatArray, end: FloatArray) -> FloatArray:
    """The least-squares similarity (2, 3) of those places (n, 2) that `motion` misses by no more than most.

    RANSAC's limit must be wide where near and far move differently; where they do not, this is the sharper one.
    """
    missed_by = np.linalg.norm(start @ motion[:, :2].T + motion[:, 2] - end, axis=1)
    near = missed_by <= MAX_MISS * np.median(missed_by)
    middle_start, middle_end = start[near].mean(axis=0), end[near].mean(axis=0)
    x, y = (start[near] - middle_start).T
    u, v = (end[near] - middle_end).T
    # The pair (x, y) as the complex number x + iy: a turn with zoom is one complex factor, p + iq.
    p, q = np.array([(x * u + y * v).sum(), (x * v - y * u).sum()]) / (x * x + y * y).sum()
    left = np.array([[p, -q], [q, p]])
    return np.column_stack([left, middle_end - left @ middle_start])


def _flow(before: ImageArray, after: ImageArray, background: ImageArray) -> tuple[FloatArray, FloatArray, int]:
    """Corners of the background that flow to the next image and back: (n, 2) from, (n, 2) to, and how many were sent.

    Both in pixels of the small image, the centre of the first pixel at 0.
    """
    nothing = np.zeros((0, 2))
    # Corners are chosen in half the size, a quarter of the time: flow needs their surroundings, not their exact place.
    height, width = before.shape[0] // 2, before.shape[1] // 2
    half = cv2.resize(before[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    free = np.ascontiguousarray(background[: 2 * height : 2, : 2 * width : 2])
    chosen = cv2.goodFeaturesToTrack(half, MAX_POINTS, POINT_QUALITY, POINT_DISTANCE_PX / 2, mask=free)
    if chosen is None:
        return nothing, nothing, 0
    corners = (2 * chosen + 0.5).astype(np.float32)
    there, found = _followed(before, after, corners)
    back, returned = _followed(after, before, there)
    missed_by = np.linalg.norm(back - corners, axis=2)[:, 0]
    good = (found[:, 0] > 0) & (returned[:, 0] > 0) & (missed_by < RETURN_PX)
    return corners[good, 0].astype(np.float64), there[good, 0].astype(np.float64), len(corners)


def _followed(before: ImageArray, after: ImageArray, points: FeatureArray) -> tuple[FeatureArray, ImageArray]:
    """Where the points (n, 1, 2) of one image are in another, and (n, 1) whether each was found."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
        before, after, points, None, winSize=(WINDOW_PX, WINDOW_PX), maxLevel=PYRAMID_LEVELS
    )
    return there, found


def _plausible(motion: FloatArray, width: int, height: int) -> bool:
    """Whether a camera may move like that between two frames of this size: finite, and no more than a little."""
    zoom = float(np.hypot(motion[0, 0], motion[1, 0]))
    turn = abs(float(np.arctan2(motion[1, 0], motion[0, 0])))
    centre = np.array([width / 2, height / 2])
    shift = np.abs(motion[:, :2] @ centre + motion[:, 2] - centre).max()
    limits = 1 / MAX_ZOOM <= zoom <= MAX_ZOOM and turn <= MAX_TURN and shift <= MAX_SHIFT * max(width, height)
    return bool(limits)  # False for NaN


def _background(people: FloatArray, shape: tuple[int, ...]) -> ImageArray:
    """(h, w) uint8: 0 inside the boxes (N, 4) xyxy with a margin, 255 elsewhere."""
    mask = np.full(shape, 255, np.uint8)
    # Half a window more: the window of a corner must not contain a moving person.
    margin = MASK_MARGIN * (people[:, 2:] - people[:, :2]) + WINDOW_PX // 2
    low = np.floor(people[:, :2] - margin).clip(0, (shape[1], shape[0])).astype(int)
    high = np.ceil(people[:, 2:] + margin).clip(0, (shape[1], shape[0])).astype(int)
    for (x1, y1), (x2, y2) in zip(low, high, strict=True):
        mask[y1:y2, x1:x2] = 0
    return mask


def _lit_like(before: ImageArray, after: ImageArray, background: ImageArray) -> ImageArray:
    """`after` with the mean and spread of brightness that `before` has outside people.

    Flow takes every change of brightness for motion: flickering light, or an exposure that adapts. (Local contrast
    instead, brightness minus its mean nearby, leaves large motion nothing to see on the upper pyramid levels.)
    """
    (mean, spread), (mean_after, spread_after) = (cv2.meanStdDev(each, mask=background) for each in (before, after))
    gain = float(np.clip(spread[0, 0] / max(spread_after[0, 0], 1.0), 1 / MAX_GAIN, MAX_GAIN))
    bias = float(mean[0, 0] - gain * mean_after[0, 0])
    return np.asarray(cv2.addWeighted(after, gain, after, 0.0, bias), np.uint8)


def _grey(image: NDArray[Any]) -> ImageArray:
    """(h, w) of (h, w, 3) BGR or of what is grey already."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return np.asarray(grey, np.uint8)
