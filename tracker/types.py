"""Records that flow through the program: arrays with one row for each thing, and their units.

Boxes are float64 `xyxy` in pixels of the source frame, x right, y down, continuous coordinates: the left edge of the
left-most pixel is 0 and a box covers [x1, x2) x [y1, y2). Times are seconds. `T` tracks, `N` detections, `D` the
embedding size, `M` rows of output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
FeatureArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]
ImageArray: TypeAlias = NDArray[np.uint8]
# Result of `state()` and argument of `restore()`, for a run that is resumed in another process: text keys; values are
# numbers, text, None, arrays, and lists and dicts of these. It shares arrays with the object.
State: TypeAlias = dict[str, Any]


class Source(IntEnum):
    """Where an output box comes from."""

    DETECTED = 0  # the detector found the person in this frame
    PROPOSED = 1  # the detector missed the person; use C found them
    OCCLUDED = 2  # predicted: another person is in front
    PREDICTED = 3  # predicted: the detector did not run on this frame
    INTERPOLATED = 4  # added afterwards, between boxes before and after


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a source."""

    index: int  # 0-based position in the source; MOT files count from 1
    time_s: float  # seconds since the start of the source, never decreasing
    image: ImageArray | None  # (H, W, 3) uint8 BGR; None where a sequence has detections but no images
    width: int
    height: int
    late: bool = False  # of a live source: a newer one had come when it was taken; the detector does not run on it


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """Which pixels of a frame belong to a person; all of them are within the frame."""

    x: int  # column of the frame at the left of `bits`
    y: int  # row of the frame at its top
    bits: BoolArray  # (h, w)

    def on(self, height: int, width: int) -> BoolArray:
        """(height, width) the same for every pixel of the frame, which has that size."""
        whole = np.zeros((height, width), bool)
        whole[self.y : self.y + self.bits.shape[0], self.x : self.x + self.bits.shape[1]] = self.bits
        return whole


MaskArray: TypeAlias = NDArray[np.object_]  # each a `Mask`, or None


def pack_masks(masks: MaskArray) -> State:
    """The masks (N,) as arrays of numbers: places (N, 4) x, y, h, w, and all bits in one row, eight in a byte."""
    places = [(0, 0, 0, 0) if mask is None else (mask.x, mask.y, *mask.bits.shape) for mask in masks]
    bits = [np.zeros(0, bool), *(mask.bits.ravel() for mask in masks if mask is not None)]
    return {"places": np.array(places, np.int64).reshape(-1, 4), "bits": np.packbits(np.concatenate(bits))}


def unpack_masks(state: State) -> MaskArray:
    """What `pack_masks` was given."""
    places, masks = state["places"], np.full(len(state["places"]), None, object)
    sizes = places[:, 2] * places[:, 3]
    bits = np.unpackbits(state["bits"], count=int(sizes.sum())).astype(bool)
    for row, (part, (x, y, h, w)) in enumerate(zip(np.split(bits, np.cumsum(sizes)), places.tolist(), strict=False)):
        masks[row] = Mask(x, y, part.reshape(h, w)) if h else None
    return masks


def _rows_of(record: Any, rows: Any) -> Iterator[Any]:
    """Those rows of each column; None where the record lacks it."""
    columns = (getattr(record, column.name) for column in fields(record))
    return (None if column is None else column[rows] for column in columns)


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections of one frame, in no order. N may be 0; every array still has its full rank."""

    boxes: FloatArray  # (N, 4) float64 xyxy, pixels of the source frame
    scores: FloatArray  # (N,) float64 in [0, 1]
    classes: IntArray  # (N,) class number as the detector gave it; 0 where it gave none
    features: FeatureArray | None = None  # (N, D) float32, unit rows; None where there are none yet
    # Not read by the engine, joined to the tracks at the end. None where the detector gives none.
    keypoints: FloatArray | None = None  # (N, K, 3) float64: x, y in pixels of the source frame, score in [0, 1]
    masks: MaskArray | None = None  # (N,)

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: IntArray | BoolArray) -> Detections:
        """The same columns, those rows."""
        return Detections(*_rows_of(self, rows))

    def with_features(self, features: FeatureArray | None) -> Detections:
        return replace(self, features=features)

    @staticmethod
    def empty() -> Detections:
        return Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))


class TrackRow(NamedTuple):
    """One row of `Tracks`, for reading one by one."""

    xyxy: FloatArray
    id: int
    score: float
    class_id: int
    det_index: int
    source: int


@dataclass(frozen=True, slots=True)
class Tracks:
    """Tracks of one frame: identities that were detected, proposed, occluded or predicted in it. Sorted by identity.

    `len(tracks)`, iteration (as `TrackRow`), `tracks[mask]`, and `np.asarray(tracks)` work; the last gives (M, 8)
    float64 with the columns x1, y1, x2, y2, id, score, class, det_index.
    """

    xyxy: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))  # (M, 4) pixels of the source frame
    id: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))  # (M,) >= 1, unique, never reused
    # (M,) of the detection; proposed: the verifier's belief; interpolated: the smaller one of the boxes before and
    # after; else: that of the last detection or proposal
    score: FloatArray = field(default_factory=lambda: np.zeros(0))
    class_id: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))  # (M,)
    det_index: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))  # (M,) row given to update(), or -1
    source: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))  # (M,) values of `Source`
    # (M, D) unit rows, NaN where nothing was embedded; None unless the engine keeps them
    features: FeatureArray | None = None
    # Of the detection `det_index`; None where the detector gives none, or did not run on the frame.
    keypoints: FloatArray | None = None  # (M, K, 3) x, y in pixels of the source frame, score; NaN where not detected
    masks: MaskArray | None = None  # (M,) `Mask`, None where not detected

    def __len__(self) -> int:
        return len(self.id)

    def __iter__(self) -> Iterator[TrackRow]:
        for row in range(len(self)):
            yield TrackRow(
                self.xyxy[row],
                int(self.id[row]),
                float(self.score[row]),
                int(self.class_id[row]),
                int(self.det_index[row]),
                int(self.source[row]),
            )

    def __getitem__(self, rows: Any) -> Tracks:
        """Rows chosen by a mask, an index array or a slice; one integer gives a `Tracks` of length 1."""
        if isinstance(rows, (int, np.integer)):
            # A list, not a slice: -1 must be the last row and a wrong number an IndexError.
            rows = [int(rows)]
        return Tracks(*_rows_of(self, rows))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        table = np.column_stack([self.xyxy, self.id, self.score, self.class_id, self.det_index])
        return table.astype(dtype or np.float64, copy=False)

    def state(self) -> State:
        """The columns by name."""
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        return columns | {"masks": None if self.masks is None else pack_masks(self.masks)}

    @staticmethod
    def restored(state: State) -> Tracks:
        return Tracks(**state | {"masks": None if state["masks"] is None else unpack_masks(state["masks"])})

    @property
    def proposed(self) -> BoolArray:
        """(M,) True where the detector missed the person and use C found them."""
        return np.equal(self.source, Source.PROPOSED)

    @property
    def occluded(self) -> BoolArray:
        """(M,) True where the person is occluded and the box is the prediction of the Kalman filter."""
        return np.equal(self.source, Source.OCCLUDED)

    @property
    def predicted(self) -> BoolArray:
        """(M,) True where the detector did not run and the box is the prediction of the Kalman filter."""
        return np.equal(self.source, Source.PREDICTED)

    @property
    def interpolated(self) -> BoolArray:
        """(M,) True where the box was added afterwards, see `refine_tracks`."""
        return np.equal(self.source, Source.INTERPOLATED)


@dataclass(frozen=True, slots=True)
class StepTrace:
    """Debug record of one step, for the live overlay.

    T tracks known before the frame, P pairs of the two associations (after use A), C places that use C compared, A of
    them accepted.
    """

    id: IntArray  # (T,) identity, 0 while tentative
    predicted: FloatArray  # (T, 4) xyxy predicted box
    gate_px: FloatArray  # (T, 2) half axes of the gate's ellipse around the predicted centre: x, y
    pair_id: IntArray  # (P,) identity of the track, 0 while tentative
    pair_boxes: FloatArray  # (P, 4) xyxy of the detection
    pair_cost: FloatArray  # (P, 3) total, and its parts before weighting: d / 2 of appearance (NaN: unused), 1 - IoU
    tried: FloatArray  # (C, 4) xyxy
    accepted: FloatArray  # (A, 4) xyxy


@dataclass(frozen=True, slots=True)
class FrameTracks:
    """Backfilled rows of one earlier frame: tentative boxes of tracks that were confirmed later."""

    frame_index: int
    tracks: Tracks
