"""Person detection with an ONNX model: letterbox, inference, decode, NMS.

The layouts of outputs that are known are in `detector.layouts`; docs/detectors.md describes them for users.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker import boxes as box_maths
from tracker.detector.base import DetectorBase
from tracker.detector.layouts.base import STRIDES, Blob, Facts, Heads, Layout, Outputs, n_points
from tracker.detector.layouts.registry import LAYOUT_NAMES, LAYOUTS
from tracker.detector.letterbox import PAD, Letterbox, letterbox
from tracker.detector.masks import cut_masks
from tracker.errors import DetectionError, ModelError
from tracker.runtime.onnx_session import PackagedModel, open_session
from tracker.types import Detections, Frame, IntArray

PERSON_FORMAT = "person/1"  # "tracklet.format" in the metadata of the layout "person"

# The 80 classes of MS COCO in the order that every detector trained on it uses.
# fmt: off
COCO_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
_NO_CATEGORIES = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # numbers up to 90 that COCO gave no class
_CATEGORIES = dict(zip((i for i in range(1, 91) if i not in _NO_CATEGORIES), COCO_NAMES, strict=True))

# Long side of the input of models that leave it open, where neither the user nor the model's "imgsz" says one: what
# most YOLO networks are trained at.
DEFAULT_LONG_SIDE_PX = 640
_MIN_SIZE, _MAX_SIZE = 32, 8192
_MAX_LISTED = 100  # names of classes in a message; COCO has 80
_MAX_CANDIDATES = 1000  # non-maximum suppression is quadratic; no frame has so many people
_CLASS_NUMBER = re.compile(r"[0-9]{1,9}")
_OTHER_TASKS = ("classify", "obb", "semantic", "depth")  # obb: rotated boxes
_DTYPES: dict[str, Any] = {"float": np.float32, "float16": np.float16, "uint8": np.uint8}  # of the picture
_NUMBERS = (*_DTYPES, "double", "int32", "int64")  # of outputs
_SIZES = "orig_target_sizes"  # name of the second input of RT-DETR and its heirs


@dataclass(frozen=True, slots=True)
class Prepared:
    """A frame as the network expects it."""

    pixels: Blob  # (1, 3, H, W)
    placed: Letterbox


class OnnxDetector(DetectorBase):
    """A detector from a model file.

    classes: names or numbers of the classes to keep; a model with one class is taken to find people. score: least
    score to keep. nms_iou: boxes of one class that overlap more are one. size: long side of the input, pixels, of a
    model that leaves it open; the other side follows the frame, both rounded up to multiples of 32; None: see
    `default_long_side`. layout: one of `detector.layouts.registry.LAYOUT_NAMES`; "auto" tells it from the file's
    metadata, and from the names, shapes and numbers of the outputs for a grey picture. A colon and words for the
    picture may follow, see `Picture.changed`: "mmdeploy:bgr,255". device, threads: see `open_session`. n_at_once: how
    many frames may be searched at once, each with so many threads; nothing is kept from frame to frame. Raises
    ModelError if the model cannot be used.
    """

    def __init__(
        self,
        path: str | Path | PackagedModel,
        *,
        classes: Sequence[str | int] = ("person",),
        score: float = 0.1,
        nms_iou: float = 0.65,
        device: str = "auto",
        size: int | None = None,
        layout: str = "auto",
        threads: int | None = None,
        n_at_once: int = 1,
    ) -> None:
        name, _, picture = layout.partition(":")
        if name not in LAYOUT_NAMES:
            raise ModelError(f"unknown detector layout {name!r}; there are: {', '.join(LAYOUT_NAMES)}")
        self._session = open_session(path, device, threads)
        self.path = self._session.path
        self.name = self.path.name
        self.provider = self._session.provider
        self.second_look = self  # frames are shrunk to the network's input, so a window of them shows more
        self.n_at_once = n_at_once if self.provider != "cuda" else 1  # a GPU has work enough with one
        self._score, self._nms_iou = score, nms_iou
        self._check_ports()
        self._size = self._check_size(size)
        self._own_size = long_side_in(self._session.metadata, "imgsz")
        self._largest_size = long_side_in(self._session.metadata, "tracklet.largest_imgsz")
        self._file_names = class_names_in(self._session.metadata)
        self._facts = Facts(len(self._file_names), keypoints_in(self._session.metadata), len(self._session.inputs) > 1)
        # One run on a grey picture: warms the network up and shows the outputs' real shapes before the video starts.
        height, width = self._input_size(DEFAULT_LONG_SIDE_PX, DEFAULT_LONG_SIDE_PX)
        outputs = self._run(np.full((1, 3, height, width), PAD, dtype=np.float32))
        if any(output.size and not np.isfinite(output).any() for output in outputs.values()):
            raise ModelError(f"{self.path}: its output for a grey picture is no number (NaN); float16 may overflow")
        self.layout, table = self._layout_of(outputs, height, width, name)
        self._picture = LAYOUTS[self.layout].picture
        if picture:
            self._picture = self._picture.changed(picture)
        n_classes = LAYOUTS[self.layout].n_classes(table)
        self.class_names = self._names(n_classes)
        self._classes = self._choose(classes, n_classes)

    def detect(self, frame: Frame) -> Detections:
        """People in the frame, best first, cut to the picture; with keypoints and masks if the network gives them."""
        prepared = self.prepare(frame)
        return self.decode(frame, prepared, self.infer(prepared.pixels)[0])

    def prepare(self, frame: Frame) -> Prepared:
        """The first step of `detect`. Raises DetectionError for a frame without a picture."""
        if frame.image is None:
            raise DetectionError(
                f"frame {frame.index} has no picture: {self.name} needs one; give --detections instead"
            )
        height, width = self._input_size(frame.height, frame.width)
        picture = self._picture
        blob, placed = letterbox(frame.image, height, width, place=picture.place, smooth=picture.smooth)
        return Prepared(picture.pixels(blob), placed)

    def infer(self, pixels: Blob) -> list[Outputs]:
        """The second step: the outputs for each of the pictures (B, 3, H, W); B is 1 unless `takes_batches`."""
        outputs = self._run(pixels)
        if len(pixels) == 1:
            return [outputs]
        return [{name: value[row : row + 1] for name, value in outputs.items()} for row in range(len(pixels))]

    def takes_batches(self) -> bool:
        """Whether several pictures of one size can be searched in one run. Runs the network once."""
        if not self._open_batch:
            return False
        height, width = self._input_size(DEFAULT_LONG_SIDE_PX, DEFAULT_LONG_SIDE_PX)
        try:
            outputs = self._run(np.full((2, 3, height, width), PAD, dtype=np.float32))
        except ModelError:  # some exports open the axis of the input alone
            return False
        return all(value.ndim > 0 and len(value) == 2 for value in outputs.values())

    def decode(self, frame: Frame, prepared: Prepared, outputs: Outputs) -> Detections:
        """The third step: what the outputs say of the frame."""
        height, width = prepared.pixels.shape[2:]
        layout, placed = LAYOUTS[self.layout], prepared.placed
        heads = layout.heads(outputs, height, width, self._facts)
        if heads is None:
            raise ModelError(f"{self.path}: the outputs for frame {frame.index + 1} are not those of {self.layout}")
        scores, classes = layout.score(heads.table, self._classes)
        rows = np.flatnonzero(scores >= self._score)
        scores, classes = scores[rows].astype(np.float64), classes[rows]
        boxes = layout.boxes(heads.table, rows, height, width)
        boxes = box_maths.clip(placed.to_source(boxes), frame.width, frame.height)
        good = np.flatnonzero(box_maths.valid(boxes) & np.isfinite(scores))
        good = good[np.argsort(-scores[good], kind="stable")][:_MAX_CANDIDATES]
        # Shifted apart by class: boxes of different classes never suppress one another.
        apart = boxes[good] + (classes[good] * (max(frame.width, frame.height) + 1.0))[:, None]
        keep = good[box_maths.nms(apart, scores[good], self._nms_iou)]
        found = Detections(boxes[keep], np.clip(scores[keep], 0.0, 1.0), classes[keep])
        return self._with_extras(found, heads, rows[keep], placed, (height, width))

    def _with_extras(
        self, found: Detections, heads: Heads, rows: IntArray, placed: Letterbox, input_size: tuple[int, int]
    ) -> Detections:
        """The detections, which are these rows of the heads, with their keypoints and masks."""
        logits, keypoints = heads.mask_logits(rows), heads.keypoints
        if keypoints is not None:
            found = replace(found, keypoints=placed.points_to_source(keypoints[rows].astype(np.float64)))
        return found if logits is None else replace(found, masks=cut_masks(logits, found.boxes, placed, input_size))

    def _run(self, blob: Blob) -> Outputs:
        """All outputs for pictures (B, 3, H, W) as the network expects them; floats as float32."""
        height, width = blob.shape[2:]
        given = [
            np.array([[width, height]] * len(blob), np.int64) if port.name == _SIZES
            else np.ascontiguousarray(blob.transpose(0, 2, 3, 1) if self._rows_first else blob, dtype=self._dtype)
            for port in self._session.inputs
        ]  # fmt: skip
        outputs = zip(self._session.outputs, self._session.run(*given), strict=True)
        return {
            port.name: value.astype(np.float32, copy=False) if value.dtype.kind == "f" else value
            for port, value in outputs
        }

    def _input_size(self, frame_height: int, frame_width: int) -> tuple[int, int]:
        """(height, width) of the network's input for frames of this size."""
        size = self._size or default_long_side(frame_height, frame_width, self._own_size, self._largest_size)
        coarse, scale = STRIDES[-1], size / max(frame_height, frame_width)
        open_height, open_width = (
            max(coarse, math.ceil(side * scale / coarse - 1e-9) * coarse) for side in (frame_height, frame_width)
        )
        return self._fixed[0] or open_height, self._fixed[1] or open_width

    def _check_size(self, size: int | None) -> int | None:
        """The size asked for, if the model can have it."""
        if size is None:
            return None
        if isinstance(size, bool) or not isinstance(size, int) or not _MIN_SIZE <= size <= _MAX_SIZE:
            raise ModelError(
                f"the detector's size is its long side in pixels, {_MIN_SIZE} to {_MAX_SIZE}, got {size!r}"
            )
        height, width = self._fixed
        if (height or width) and size != max(height or 0, width or 0):
            fixed = " x ".join("any" if side is None else str(side) for side in self._fixed)
            raise ModelError(
                f"{self.path}: its input is fixed at {fixed} (height x width), so it cannot run at {size}; "
                "leave the size away, or export it with an open height and width"
            )
        return size

    def _check_ports(self) -> None:
        """Learn the picture's input, and refuse inputs and outputs that no layout has."""
        inputs, outputs = self._session.inputs, self._session.outputs
        pictures = [port for port in inputs if port.name != _SIZES]
        port = pictures[0] if len(pictures) == 1 else None
        shape = port.shape if port is not None else ()
        self._rows_first = len(shape) == 4 and shape[3] == 3 and shape[1] != 3  # TensorFlow's order
        batch, channels, *sides = (*shape[:1], *shape[3:], *shape[1:3]) if self._rows_first else shape or (0, 0)
        if port is None or len(sides) != 2 or batch not in (1, None) or channels not in (3, None):
            expected = f"one picture (1, 3, height, width) or (1, height, width, 3), and at most {_SIZES!r} beside it"
            raise ModelError(f"{self.path}: no detector: expected {expected}; found {self._ports()}")
        if port.dtype not in _DTYPES or any(output.dtype not in _NUMBERS for output in outputs):
            expected = f"a picture of {', '.join(_DTYPES)} and outputs of numbers"
            raise ModelError(f"{self.path}: no detector: expected {expected}; found {self._ports()}")
        task = self._session.metadata.get("task")  # as ultralytics writes it
        if task in _OTHER_TASKS:
            raise ModelError(
                f"{self.path}: no detector: its metadata says that its task is {task}; expected detect, pose or segment"
            )
        self._dtype, self._fixed, self._open_batch = _DTYPES[port.dtype], (sides[0], sides[1]), batch is None

    def _ports(self) -> str:
        inputs, outputs = self._session.inputs, self._session.outputs
        return f"inputs {', '.join(map(str, inputs))} and outputs {', '.join(map(str, outputs))}"

    def _layout_of(self, outputs: Outputs, height: int, width: int, asked: str) -> tuple[str, NDArray[Any]]:
        """The layout that was asked for, that the metadata name, or the only one that explains shape and numbers; and
        its table.
        """
        known = self._session.metadata.get("tracklet.format")
        if known is not None:
            if known != PERSON_FORMAT:
                raise ModelError(f"{self.path}: its metadata says {known!r}; expected a detector, {PERSON_FORMAT!r}")
            asked = "person" if asked == "auto" else asked
        possible = tuple(LAYOUTS.values()) if asked == "auto" else (LAYOUTS[asked],)
        sorted_out = [(layout, layout.heads(outputs, height, width, self._facts)) for layout in possible]
        shaped = [
            (layout, heads.table) for layout, heads in sorted_out
            if heads is not None and layout.shaped(heads.table, height, width)
        ]  # fmt: skip
        n_names = len(self._file_names)
        fitting = [
            (layout, table) for layout, table in shaped
            if asked != "auto"
            or (layout.plausible(table, height, width) and (not n_names or layout.n_classes(table) in (0, n_names)))
        ]  # fmt: skip
        if len(fitting) == 1:
            return fitting[0][0].name, fitting[0][1]
        shapes = ", ".join(f"{name!r} {output.shape}" for name, output in outputs.items())
        image = ", ".join(f"{port.name!r} {port.shape}" for port in self._session.inputs)
        found = f"outputs {shapes} for an input of {height} x {width} pixels"
        if not shaped:
            raise ModelError(
                f"{self.path}: no known detector: {found}{_hint(outputs)}; inputs {image}; known are "
                f"{_words(possible, n_points(height, width))}"
            )
        listed = " or ".join(layout.name for layout, _ in shaped)
        raise ModelError(
            f"{self.path}: {found}, which fits {listed}, but its numbers for a grey picture and its class names do not "
            f"confirm one; if you know the layout, name it with --layout (layout= in Python): "
            f"{', '.join(LAYOUT_NAMES[1:])}"
        )

    def _names(self, n_classes: int) -> dict[int, str]:
        """Class names by number; numbers as text where they have none. n_classes 0: the layout does not tell."""
        if self._file_names:
            return self._file_names
        if LAYOUTS[self.layout].category_ids and n_classes in (max(_CATEGORIES) + 1, 0):
            return _CATEGORIES
        if n_classes in (len(COCO_NAMES), 0):
            return dict(enumerate(COCO_NAMES))
        return {number: str(number) for number in range(n_classes)}

    def _choose(self, classes: Sequence[str | int], n_classes: int) -> IntArray:
        if isinstance(classes, str):
            classes = (classes,)
        if n_classes == 1 or (n_classes == 0 and len(self.class_names) == 1):
            # A model with one class: "person" means that class, whatever its name.
            only = self.class_names.get(0, "0").lower()
            classes = [0 if str(wanted).strip().lower() in (only, "person") else wanted for wanted in classes]
        by_name = {name.lower(): number for number, name in self.class_names.items()}
        if [str(wanted).strip().lower() for wanted in classes] == ["all"] and "all" not in by_name:
            classes = list(range(n_classes)) or sorted(self.class_names)
        chosen = set()
        for wanted in classes:
            number = by_name.get(str(wanted).strip().lower())
            if number is None and str(wanted).strip().isdecimal():
                number = int(wanted)
            known = number in self.class_names if not n_classes else number is not None and number < n_classes
            if number is None or not known:
                raise ModelError(f"{self.path}: no class {wanted!r}; there are: {self._possible(n_classes)}")
            chosen.add(number)
        if not chosen:
            raise ModelError(f"{self.path}: no class was chosen; give names or numbers, such as person")
        return np.array(sorted(chosen), dtype=np.int64)

    def _possible(self, n_classes: int) -> str:
        """The possible classes in words: names with the range of their numbers, or the numbers alone."""
        count = n_classes or max(self.class_names, default=-1) + 1
        numbers = f"0 to {count - 1}" if count > 1 else "0"
        named = [name for number, name in self.class_names.items() if name != str(number) and number < count]
        return f"{_listed(named)}, or numbers {numbers}" if named else f"numbers {numbers}, for the file holds no names"


def _words(layouts: Sequence[Layout], points: int) -> str:
    """The outputs of these layouts in words; points: the number of anchor points."""
    return "; ".join(f"{layout.name}: {layout.words.format(n=points)}" for layout in layouts)


def _hint(outputs: Outputs) -> str:
    """What these outputs probably are, and what to do about it; "": not known."""
    if any(output.ndim in (4, 5) for output in outputs.values()):
        return " (maps are raw heads: export with the decoding inside)"
    return ""


def _listed(names: Sequence[str]) -> str:
    shown = names[:_MAX_LISTED]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def default_long_side(frame_height: int, frame_width: int, own: int | None = None, largest: int | None = None) -> int:
    """Long side of the input for frames of this size where the user names none, before rounding up to 32.

    The frame's own, so that nothing is enlarged, but at most the size the network was made for: own, its "imgsz", else
    DEFAULT_LONG_SIDE_PX. largest: of a network that was trained for more, too; large frames, which have more and
    smaller people, then get half their own size, up to this.
    """
    longest = max(frame_height, frame_width)
    own = own or DEFAULT_LONG_SIDE_PX
    return min(longest, max(own, min(longest // 2, largest or own)))


def class_names_in(metadata: Mapping[str, str]) -> dict[int, str]:
    """The names in "names" by number, as ultralytics writes them, {0: 'person', ...} or a list; {} if none."""
    names = _literal_in(metadata, "names")
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(_CLASS_NUMBER.fullmatch(str(key)) for key in names):
        return {}
    return dict(sorted((int(key), str(name)) for key, name in names.items()))


def _literal_in(metadata: Mapping[str, str], key: str) -> Any:
    """The Python literal under a key; None where it is none."""
    try:
        return ast.literal_eval(metadata.get(key, "None"))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def keypoints_in(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Number and columns (2 or 3) of the keypoints of a pose, as ultralytics writes its "kpt_shape": [17, 3]."""
    shape = _literal_in(metadata, "kpt_shape")
    good = isinstance(shape, (list, tuple)) and len(shape) == 2 and all(isinstance(side, int) for side in shape)
    return (shape[0], shape[1]) if good and shape[0] > 0 and shape[1] in (2, 3) else None


def long_side_in(metadata: Mapping[str, str], key: str) -> int | None:
    """The long side under a key, as ultralytics writes its "imgsz": 640 or [480, 640]."""
    sides = _literal_in(metadata, key)
    sides = sides if isinstance(sides, (list, tuple)) else [sides]
    good = [side for side in sides if isinstance(side, int) and _MIN_SIZE <= side <= _MAX_SIZE]
    return max(good) if good and len(good) == len(sides) else None
