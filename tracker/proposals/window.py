"""Use C, the other likelihood: the detector runs once more, on an enlarged window around each prediction.

A person is easier to detect there than in the whole frame, and a prediction justifies a lower score threshold. All
windows of a frame are tiled into one mosaic, so that the detector runs once more for each frame, not for each window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from tracker import boxes as bx
from tracker.classes import Classes
from tracker.proposals.prior import Candidates
from tracker.types import Detections, FloatArray, Frame, ImageArray, IntArray

# Columns and rows of the mosaic: as few cells as the windows need, so that they are large.
_GRIDS = ((2, 1), (4, 2))
MAX_WINDOWS = _GRIDS[-1][0] * _GRIDS[-1][1]
MOSAIC_PX = 416  # side of the square mosaic, pixels
SCALE = 1.6  # height of a window over that of the predicted box; at 1.3 parts of people are detected as people
MIN_IOU = 0.4  # of a detection with the predicted box; less is another person in the window
_GREY = 114  # grey level outside the frame, as in the letterbox of the detectors
MIN_BOX_PX = 12.0  # pixels; predicted boxes of less height are not enlarged


class WindowDetector(Protocol):
    """A detector that runs on any image, unlike a replayed file."""

    def detect(self, frame: Frame) -> Detections: ...


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Windows of a frame, tiled into one image."""

    image: ImageArray  # (P, P, 3) uint8 BGR
    windows: IntArray  # (n, 4) xyxy, pixels of the frame; may reach beyond it
    cells: IntArray  # (n, 4) xyxy of the same windows in the mosaic

    def to_frame(self, boxes: FloatArray, cell: IntArray) -> FloatArray:
        """(M, 4) boxes in the mosaic, each in the given cell (M,) -> pixels of the frame."""
        windows, cells = self.windows[cell].astype(np.float64), self.cells[cell].astype(np.float64)
        scale = (windows[:, 2:] - windows[:, :2]) / (cells[:, 2:] - cells[:, :2])
        return (boxes - np.tile(cells[:, :2], 2)) * np.tile(scale, 2) + np.tile(windows[:, :2], 2)


def around(boxes: FloatArray) -> IntArray:
    """(n, 4) -> (n, 4) windows in whole pixels, twice as high as wide, SCALE times as high as the box, or more."""
    size = np.maximum(boxes[:, 3] - boxes[:, 1], 2 * (boxes[:, 2] - boxes[:, 0])) * SCALE
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = np.stack([size / 4, size / 2], axis=1)
    low = np.floor(centre - half)
    return np.concatenate([low, np.maximum(np.ceil(centre + half), low + 2)], axis=1).astype(np.int64)


def mosaic(image: ImageArray, windows: IntArray, side: int = MOSAIC_PX) -> Mosaic:
    """The windows (n, 4), n <= MAX_WINDOWS, of the image (H, W, 3), row by row; grey where there is no image."""
    columns, rows = next(grid for grid in _GRIDS if grid[0] * grid[1] >= len(windows))
    width, height = side // columns, side // rows
    tiled = np.full((side, side, 3), _GREY, np.uint8)
    at = np.arange(len(windows))
    low = np.stack([at % columns * width, at // columns * height], axis=1)
    cells = np.concatenate([low, low + np.array([width, height])], axis=1)
    limit = np.array([image.shape[1], image.shape[0]] * 2)
    for window, cell in zip(windows, cells, strict=True):
        inside = np.clip(window, 0, limit)
        cut = image[inside[1] : inside[3], inside[0] : inside[2]]
        if cut.size == 0:
            continue
        left, top, right, bottom = np.abs(window - inside)
        whole = cv2.copyMakeBorder(cut, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(_GREY,) * 3)
        how = cv2.INTER_AREA if whole.shape[0] > height else cv2.INTER_LINEAR
        tiled[cell[1] : cell[3], cell[0] : cell[2]] = cv2.resize(whole, (width, height), interpolation=how)
    return Mosaic(tiled, windows, cells)


def cell_of(boxes: FloatArray, cells: IntArray) -> IntArray:
    """(M,) the cell in which each box has its centre, -1 none."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = np.all((centre[:, None] >= cells[None, :, :2]) & (centre[:, None] < cells[None, :, 2:]), axis=2)  # (M, n)
    found = np.full(len(boxes), -1, np.int64)
    box, cell = np.nonzero(inside)  # cells lie apart: no box is in two
    found[box] = cell
    return found


def detect_in_windows(
    detector: WindowDetector,
    frame: Frame,
    tracks: IntArray,
    mean: FloatArray,
    variance: FloatArray,
    group: IntArray,
    classes: Classes,
) -> tuple[Candidates, FloatArray]:
    """Detections in windows around the given tracks, of their class and near enough: candidates (C,), scores (C,).

    tracks (T,) rows, T <= MAX_WINDOWS; mean (T, >= 4) predicted [cx, cy, a, h] and variance (T, 4), the diagonal of S,
    of these tracks; group (T,) of their classes.
    """
    assert frame.image is not None
    predicted = bx.cxcyah_to_xyxy(mean[:, :4])
    tiled = mosaic(frame.image, around(predicted))
    side = tiled.image.shape[0]
    found = detector.detect(Frame(frame.index, frame.time_s, tiled.image, side, side))
    cell = cell_of(found.boxes, tiled.cells)
    usable = np.flatnonzero((cell >= 0) & bx.valid(found.boxes))
    cell = cell[usable]
    boxes = tiled.to_frame(found.boxes[usable], cell)
    near = bx.iou(predicted, boxes)[cell, np.arange(len(cell))] >= MIN_IOU
    near &= classes.group(found.classes[usable]) == group[cell]
    boxes, cell = boxes[near], cell[near]
    log_prior = -0.5 * ((bx.xyxy_to_cxcyah(boxes) - mean[cell, :4]) ** 2 / variance[cell]).sum(axis=1)
    return Candidates(tracks[cell], boxes, log_prior), found.scores[usable[near]]


def best(places: Candidates, scores: FloatArray) -> IntArray:
    """For each track the place with the largest log p = log prior + log score, by ascending track; of equals the first.

    places and scores (C,); returns indices into them. The score is taken for the likelihood of a person there.
    """
    log_posterior = places.log_prior + np.log(np.maximum(scores, 1e-9))
    order = np.lexsort((np.arange(len(places)), -log_posterior, places.track))
    _, first = np.unique(places.track[order], return_index=True)
    return np.asarray(order[first], np.int64)
