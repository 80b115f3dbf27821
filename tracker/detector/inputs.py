"""Convert users' detections to `Detections`: arrays, lists, tables, and objects of supervision and ultralytics.

Nothing is cropped, sorted or dropped: row i of the input is row i of the output, or an error names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tracker.boxes import MAX_PX
from tracker.errors import DetectionError
from tracker.types import BoolArray, Detections, FeatureArray, FloatArray, IntArray

_SHAPES = "expected (N, 4) x1, y1, x2, y2, (N, 5) with a score, or (N, 6) with a score and a class"
_COLUMNS = (
    ("x1", "xmin"), ("y1", "ymin"), ("x2", "xmax"), ("y2", "ymax"), ("score", "confidence", "conf"),
    ("class", "class_id", "cls"),
)  # fmt: skip
SCORE_SLACK = 1e-3  # float32 networks write 1.0000001, float16 ones 1.0005


def as_detections(dets: Any) -> Detections:
    """Detections of one frame, all with area.

    dets: see `parse_detections`. Raises DetectionError with the shape, or with the row and the box.
    """
    found = parse_detections(dets)
    _check_boxes(found.boxes)
    return found


def parse_detections(dets: Any) -> Detections:
    """Detections of one frame, whose boxes may be impossible.

    dets: None or [] for no detection; an array, list or tensor of shape (N, 4), (N, 5) or (N, 6) with columns x1, y1,
    x2, y2, score, class; `Detections`; an object with `.xyxy`, such as supervision.Detections (`.confidence`,
    `.class_id`, `.data["embedding"]`) and ultralytics' Boxes (`.conf`, `.cls`), whose columns may be None; ultralytics'
    Results (`.boxes`), also as a list of one; a DataFrame with columns of those names; or a dictionary of boxes, scores
    and labels, as torchvision's detectors give it. A missing score is 1, a missing class 0. Raises DetectionError.
    """
    if dets is None:
        return Detections.empty()
    if isinstance(dets, Detections):
        checked = _checked(dets.boxes, dets.scores, dets.classes, dets.features)
        for name, column in (("keypoints", dets.keypoints), ("masks", dets.masks)):
            if column is not None and len(column) != len(checked):
                raise DetectionError(f"{name} have {len(column)} rows; expected {len(checked)}, one for each box")
        return replace(checked, keypoints=dets.keypoints, masks=dets.masks)
    if isinstance(dets, (list, tuple)) and dets and (hasattr(dets[0], "boxes") or hasattr(dets[0], "xyxy")):
        if len(dets) > 1:
            raise DetectionError(f"got the results of {len(dets)} frames; give those of one frame")
        return parse_detections(dets[0])
    if hasattr(dets, "xyxy"):
        return _from_object(dets)
    if hasattr(dets, "boxes"):
        if dets.boxes is None:
            raise DetectionError(f"{type(dets).__name__} without boxes: its model does not detect (upright) boxes")
        return parse_detections(dets.boxes)
    if hasattr(dets, "columns") and hasattr(dets, "to_numpy"):
        return _from_frame(dets)
    if isinstance(dets, Mapping) and "boxes" in dets:
        return _checked(dets["boxes"], dets.get("scores"), dets.get("labels"), None)
    return _from_table(dets)


def _from_table(dets: Any) -> Detections:
    table = as_numbers("detections", dets)
    if table.shape == (0,):
        return Detections.empty()
    if table.ndim != 2 or table.shape[1] not in (4, 5, 6):
        hint = "; one box has shape (1, 4)" if table.shape in ((4,), (5,), (6,)) else ""
        raise DetectionError(f"detections have shape {table.shape}; {_SHAPES}{hint}")
    scores = table[:, 4] if table.shape[1] > 4 else None
    classes = table[:, 5] if table.shape[1] > 5 else None
    return _checked(table[:, :4], scores, classes, None)


def _from_frame(dets: Any) -> Detections:
    """A DataFrame of pandas or polars, by the names of its columns: their order differs from tool to tool."""
    known = {str(name).strip().lower(): name for name in dets.columns}
    names = [next((known[word] for word in words if word in known), None) for words in _COLUMNS]
    if None in names[:4]:
        has = ", ".join(map(str, dets.columns))
        raise DetectionError(
            f"a table of detections needs the columns x1, y1, x2, y2 (or xmin, ymin, xmax, ymax), it has: {has}"
        )
    *edges, scores, classes = (None if name is None else dets[name] for name in names)
    return _checked(np.column_stack([as_numbers("boxes", edge) for edge in edges]), scores, classes, None)


def _from_object(dets: Any) -> Detections:
    scores, classes = _first(dets, "confidence", "conf"), _first(dets, "class_id", "cls")
    data = getattr(dets, "data", None)
    # ultralytics calls its raw tensor `data` too: only a dictionary has names in it.
    features = data.get("embedding") if isinstance(data, dict) else None
    return _checked(dets.xyxy, scores, classes, features)


def _first(dets: Any, *names: str) -> Any:
    for name in names:
        value = getattr(dets, name, None)
        if value is not None:
            return value
    return None


def _checked(boxes: Any, scores: Any, classes: Any, features: Any) -> Detections:
    boxes = as_numbers("boxes", boxes)
    if boxes.shape == (0,):
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DetectionError(f"boxes have shape {boxes.shape}; expected (N, 4): x1, y1, x2, y2")
    n = len(boxes)
    return Detections(boxes, _scores(scores, n), _classes(classes, n), _features(features, n))


def _check_boxes(boxes: FloatArray) -> None:
    finite: BoolArray = np.asarray(np.isfinite(boxes).all(axis=1))
    with np.errstate(invalid="ignore"):
        upright = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        possible: BoolArray = np.asarray((np.abs(boxes) <= MAX_PX).all(axis=1))
    wrong = np.flatnonzero(~(finite & upright & possible))
    if len(wrong):
        row = int(wrong[0])
        problem = "finite numbers"
        if finite[row]:
            problem = "x2 > x1 and y2 > y1" if possible[row] else f"pixels, {MAX_PX:g} at most"
        text = ", ".join(f"{value:g}" for value in boxes[row])
        raise DetectionError(f"detection {row} has the box ({text}); expected {problem}")


def _scores(scores: Any, n: int) -> FloatArray:
    if scores is None:
        return np.ones(n)
    column = _column("scores", scores, n)
    wrong = np.flatnonzero(~((column >= -SCORE_SLACK) & (column <= 1 + SCORE_SLACK)))  # true for NaN as well
    if len(wrong):
        raise DetectionError(f"detection {int(wrong[0])} has the score {column[wrong[0]]:g}; expected 0 to 1")
    return np.clip(column, 0.0, 1.0)


def _classes(classes: Any, n: int) -> IntArray:
    if classes is None:
        return np.zeros(n, np.int64)
    column = _column("classes", classes, n)
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~((column == np.floor(column)) & (np.abs(column) < 2**31)))
    if len(wrong):
        raise DetectionError(f"detection {int(wrong[0])} has the class {column[wrong[0]]:g}; expected a whole number")
    return column.astype(np.int64)


def _features(features: Any, n: int) -> FeatureArray | None:
    """(n, D) float32, rows brought to length 1: cosine distances assume it."""
    if features is None:
        return None
    table = as_numbers("embeddings", features)
    if table.ndim != 2 or len(table) != n or (n > 0 and table.shape[1] == 0):
        if n == 0 and table.size == 0:
            return None
        raise DetectionError(f"embeddings have shape {table.shape}; expected ({n}, D), one row for each detection")
    length = np.linalg.norm(table, axis=1)
    wrong = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
    if len(wrong):
        row = int(wrong[0])
        raise DetectionError(f"the embedding of detection {row} has length {length[row]:g}; expected a positive one")
    unit: FeatureArray = (table / length[:, None]).astype(np.float32)
    return unit


def _column(name: str, values: Any, n: int) -> FloatArray:
    column = as_numbers(name, values)
    if column.shape != (n,):
        raise DetectionError(f"{name} have shape {column.shape}; expected ({n},), one for each box")
    return column


def as_numbers(name: str, values: Any) -> FloatArray:
    """A new float64 array from arrays, lists, tensors of torch of any kind on any device, and columns of tables.

    Raises DetectionError that begins with the name.
    """
    try:
        array = np.asarray([_plain(value) for value in values] if isinstance(values, (list, tuple)) else _plain(values))
        if array.dtype.kind == "O" and all(isinstance(value, (int, float, np.number)) for value in array.flat):
            return array.astype(np.float64)
        if array.dtype.kind not in "fiub" and array.size:
            raise TypeError(f"dtype {array.dtype}")
        return np.array(array, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(values).__name__
        shapes = f": {_SHAPES}" if name == "detections" else ""
        raise DetectionError(f"{name} must be rows of numbers of one length, got {kind}{shapes}") from error


def _plain(values: Any) -> Any:
    """The values without gradient, device, sparseness and types that NumPy lacks, such as bfloat16."""
    for method in ("detach", "cpu", "to_dense", "double", "numpy", "to_numpy"):
        if not isinstance(values, np.ndarray) and hasattr(values, method):
            values = getattr(values, method)()
    return values
