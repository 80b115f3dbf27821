"""Hides people, or their heads, in pictures: `--blur`. What is left of a head is about one colour.

A person must stay hidden in frames where the detector misses them: before a track begins, while it is lost, at low
scores. So an area is hidden where a person may have been in any frame up to MARGIN_S earlier or later. This knows
nothing of identities, and so it also holds for boxes that belong to no track.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from tracker.errors import TrackletError
from tracker.types import FloatArray, Frame, ImageArray, IntArray, Tracks

PARTS = ("people", "heads")
MARGIN_S = 1.0  # chosen by tools/benchmarks/privacy.py: docs/privacy.md
# Sides of an area beyond the box, as shares of its width and height: boxes of detectors cut off hair and elbows.
BESIDE, ABOVE, BELOW = 0.15, 0.1, 0.05
HEAD = 0.3  # of the height of a box, from above; of one that is wide, as of a person who sits or is cut off below,
HEAD_WIDE = 0.8  # this share of its width
# A block is at least this share of the box: a head, some 1/7 of a standing person, is about one block.
BLOCK_WIDE, BLOCK_HIGH = 1 / 3, 1 / 8
LEAST_BLOCK_PX = 8
CELL_PX = 4  # areas end at multiples of it: of the boxes of a person at rest one remains, and masks are small


@dataclass(frozen=True, slots=True)
class Areas:
    """What to hide in one picture."""

    cells: IntArray  # (K, 4) x1, y1, x2, y2 in cells of CELL_PX from the left and top; at least 0
    block_px: IntArray  # (K,) side of the blocks, a power of two, ascending


def areas_of(boxes: FloatArray, part: str) -> Areas:
    """The areas of people in these boxes (K, 4) xyxy. part: one of PARTS."""
    boxes = np.clip(np.nan_to_num(boxes), -20000, 20000)  # whole pixels beyond overflow
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    bottom = boxes[:, 3] + BELOW * height
    if part == "heads":
        bottom = np.minimum(bottom, boxes[:, 1] + np.maximum(HEAD * height, HEAD_WIDE * width))
    left, right = boxes[:, 0] - BESIDE * width, boxes[:, 2] + BESIDE * width
    top = boxes[:, 1] - ABOVE * height
    first = np.floor(np.column_stack([left, top]) / CELL_PX)
    last = np.ceil(np.column_stack([right, bottom]) / CELL_PX)
    least = np.maximum(np.maximum(BLOCK_WIDE * width, BLOCK_HIGH * height), LEAST_BLOCK_PX)
    block_px = 2 ** np.ceil(np.log2(least))
    rows = np.unique(np.column_stack([block_px, np.maximum(first, 0), np.maximum(last, 0)]).astype(np.int64), axis=0)
    return Areas(rows[:, 1:], rows[:, 0])


def covered(areas: Areas, width: int, height: int) -> Iterator[tuple[int, ImageArray]]:
    """The side of the blocks, ascending, and where areas have them: (H, W) uint8, 1 or 0."""
    import cv2

    n_x, n_y = -(-width // CELL_PX), -(-height // CELL_PX)
    for block in np.unique(areas.block_px).tolist():
        mask = np.zeros((n_y, n_x), np.uint8)
        for x1, y1, x2, y2 in areas.cells[areas.block_px == block].tolist():
            mask[y1:y2, x1:x2] = 1
        large = cv2.resize(mask, (n_x * CELL_PX, n_y * CELL_PX), interpolation=cv2.INTER_NEAREST)
        yield block, np.asarray(large[:height, :width], np.uint8)


def blurred(image: ImageArray, boxes: FloatArray, part: str) -> ImageArray:
    """A copy of the image (H, W, 3) in which the people in these boxes (K, 4) are hidden. part: one of PARTS.

    Each area keeps the mean colours of a few blocks, with smooth transitions. Nothing else of its pixels is left, so
    that no filter brings them back. Where areas overlap, the larger blocks count.
    """
    import cv2

    height, width = image.shape[:2]
    picture = image.copy()
    for block, mask in covered(areas_of(boxes, part), width, height):
        few = cv2.resize(image, (-(-width // block), -(-height // block)), interpolation=cv2.INTER_AREA)
        cv2.copyTo(cv2.resize(few, (width, height), interpolation=cv2.INTER_LINEAR), mask, picture)
    return picture


class _Seen(NamedTuple):
    frame: Frame
    tracks: Tracks
    boxes: FloatArray  # (K, 4)


def with_people_around(
    frames: Iterable[tuple[Frame, Tracks]],
    boxes_of: Callable[[Frame, Tracks], FloatArray],
    live: bool = False,
) -> Iterator[tuple[Frame, Tracks, FloatArray]]:
    """Each frame with the boxes (K, 4) of the frames at most MARGIN_S away, and at least of the next one on each side.

    boxes_of: where people may be in a frame, (K, 4); called once for each, as it comes. live: no frame waits for the
    next ones, so that only earlier ones count. An error of `frames` is raised after the frames before it.
    """
    window: deque[_Seen] = deque()
    n_out = 0  # frames in the window that came out
    failure: TrackletError | None = None

    def due(end: bool) -> Iterator[tuple[Frame, Tracks, FloatArray]]:
        """Frames that have waited long enough; forgets those that no later one needs."""
        nonlocal n_out
        while n_out < len(window) and (end or live or _is_past(window, n_out)):
            now_s = window[n_out].frame.time_s
            while n_out > 1 and now_s - window[0].frame.time_s > MARGIN_S:
                window.popleft()
                n_out -= 1
            near = [
                seen.boxes
                for at, seen in enumerate(window)
                if abs(at - n_out) <= 1 or abs(seen.frame.time_s - now_s) <= MARGIN_S
            ]
            seen = window[n_out]
            window[n_out] = seen._replace(frame=replace(seen.frame, image=None))  # its memory is needed
            n_out += 1
            yield seen.frame, seen.tracks, np.concatenate(near)

    try:
        for frame, tracks in frames:
            window.append(_Seen(frame, tracks, boxes_of(frame, tracks)))
            yield from due(end=False)
    except TrackletError as error:
        failure = error
    yield from due(end=True)
    if failure is not None:
        raise failure


def _is_past(window: deque[_Seen], at: int) -> bool:
    """Whether all frames that count for this one are in the window."""
    return at + 1 < len(window) and window[-1].frame.time_s - window[at].frame.time_s > MARGIN_S


def blurred_frames(
    frames: Iterable[tuple[Frame, Tracks]],
    boxes_of: Callable[[Frame, Tracks], FloatArray],
    part: str,
    live: bool = False,
) -> Iterator[tuple[Frame, Tracks]]:
    """The frames with people hidden in their images, see `with_people_around`; a file is MARGIN_S behind."""
    for frame, tracks, boxes in with_people_around(frames, boxes_of, live):
        image = None if frame.image is None else blurred(frame.image, boxes, part)
        yield replace(frame, image=image), tracks
