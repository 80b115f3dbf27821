"""Person detection with an ONNX model: letterbox, inference, decode, NMS.

The layouts of outputs that are known are in `detector.decode`; docs/detectors.md describes them for users.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker import boxes as box_maths
from tracker.detector.base import DetectorBase
from tracker.detector.decode import LAYOUT_NAMES, LAYOUTS, STRIDES, Layout, layout_named, n_points
from tracker.detector.letterbox import PAD, letterbox
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

# Long side of the input of models that leave it open, where neither the user nor the model's "imgsz" says one: what
# most YOLO networks are trained at.
DEFAULT_LONG_SIDE_PX = 640
_MIN_SIZE, _MAX_SIZE = 32, 8192
_MAX_LISTED = 100  # names of classes in a message; COCO has 80
_MAX_CANDIDATES = 1000  # non-maximum suppression is quadratic; no frame has so many people
_CLASS_NUMBER = re.compile(r"[0-9]{1,9}")
_OTHER_TASKS = ("classify", "segment", "obb")  # obb: rotated boxes
_DTYPES: dict[str, type[np.floating[Any]]] = {"float": np.float32, "float16": np.float16}


class OnnxDetector(DetectorBase):
    """A detector from a model file.

    classes: names or numbers of the classes to keep; a model with one class is taken to find people. score: least
    score to keep. nms_iou: boxes of one class that overlap more are one. size: long side of the input, pixels, of a
    model that leaves it open; the other side follows the frame, both rounded up to multiples of 32; None: see
    `default_long_side`. layout: one of `detector.decode.LAYOUT_NAMES`; "auto" tells it from the file's metadata, and
    from the shape and the numbers of the output for a grey picture. device, threads: see `open_session`. n_at_once: how
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
        if layout not in LAYOUT_NAMES:
            raise ModelError(f"unknown detector layout {layout!r}; there are: {', '.join(LAYOUT_NAMES)}")
        self._session = open_session(path, device, threads)
        self.path = self._session.path
        self.name = self.path.name
        self.provider = self._session.provider
        self.second_look = self  # frames are shrunk to the network's input, so a window of them shows more
        self.n_at_once = n_at_once if self.provider != "cuda" else 1  # a GPU has work enough with one
        self._score, self._nms_iou = score, nms_iou
        self._labelled = sorted(port.name for port in self._session.outputs) == ["dets", "labels"]
        self._dtype, self._fixed = self._check_input()
        self._size = self._check_size(size)
        self._own_size = long_side_in(self._session.metadata, "imgsz")
        self._largest_size = long_side_in(self._session.metadata, "tracklet.largest_imgsz")
        self._file_names = class_names_in(self._session.metadata)
        # One run on a grey picture: warms the network up and shows the output's real shape before the video starts.
        height, width = self._input_size(DEFAULT_LONG_SIDE_PX, DEFAULT_LONG_SIDE_PX)
        output = self._infer(np.full((1, 3, height, width), PAD, dtype=np.float32))
        if output.size and not np.isfinite(output).any():
            raise ModelError(f"{self.path}: its output for a grey picture is no number (NaN); float16 may overflow")
        self._layout = self._layout_of(output, height, width, layout)
        self.layout = self._layout.name
        n_classes = self._layout.n_classes(output[0])
        self.class_names = self._names(n_classes)
        self._classes = self._choose(classes, n_classes)

    def detect(self, frame: Frame) -> Detections:
        """People in the frame, best first, cut to the picture."""
        if frame.image is None:
            raise DetectionError(
                f"frame {frame.index} has no picture: {self.name} needs one; give --detections instead"
            )
        height, width = self._input_size(frame.height, frame.width)
        layout = self._layout
        blob, placed = letterbox(frame.image, height, width, place=layout.place, smooth=layout.smooth)
        output = self._infer(layout.pixels(blob))
        boxes, scores, classes = layout.decode(output[0], height, width, self._classes, self._score)
        boxes = box_maths.clip(placed.to_source(boxes), frame.width, frame.height)
        good = np.flatnonzero(box_maths.valid(boxes) & np.isfinite(scores))
        good = good[np.argsort(-scores[good], kind="stable")][:_MAX_CANDIDATES]
        boxes, scores, classes = boxes[good], scores[good], classes[good]
        # Shifted apart by class: boxes of different classes never suppress one another.
        apart = boxes + (classes * (max(frame.width, frame.height) + 1.0))[:, None]
        keep = box_maths.nms(apart, scores, self._nms_iou)
        return Detections(boxes[keep], np.clip(scores[keep], 0.0, 1.0), classes[keep])

    def _infer(self, blob: NDArray[np.float32]) -> NDArray[Any]:
        outputs = self._session.run(np.ascontiguousarray(blob, dtype=self._dtype))
        if self._labelled:
            found = dict(zip((port.name for port in self._session.outputs), outputs, strict=True))
            return np.concatenate([found["dets"], found["labels"][:, :, None]], axis=2).astype(np.float32)
        output = outputs[0].astype(np.float32, copy=False)
        if self._session.metadata.get("task") == "pose" and self._file_names and output.ndim == 3:  # key points last
            return output[:, : 4 + len(self._file_names)] if output.shape[1] < output.shape[2] else output[:, :, :6]
        return output

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

    def _check_input(self) -> tuple[type[np.floating[Any]], tuple[int | None, int | None]]:
        inputs, outputs = self._session.inputs, self._session.outputs
        found = f"found inputs {', '.join(map(str, inputs))} and outputs {', '.join(map(str, outputs))}"
        image = inputs[0].shape if len(inputs) == 1 else ()
        if len(image) != 4 or image[0] not in (1, None) or image[1] not in (3, None) or inputs[0].dtype not in _DTYPES:
            raise ModelError(f"{self.path}: no detector: expected one float input (1, 3, height, width), {found}")
        if not self._labelled and (len(outputs) != 1 or outputs[0].dtype not in _DTYPES):
            hint = _hint([port.shape for port in outputs])
            wanted = _words(LAYOUTS, "N")
            raise ModelError(f"{self.path}: no known detector: expected one float output, {wanted}; {found}{hint}")
        task = self._session.metadata.get("task")  # as ultralytics writes it
        if task in _OTHER_TASKS:
            raise ModelError(f"{self.path}: no detector: its metadata says that its task is {task}; expected detect")
        return _DTYPES[inputs[0].dtype], (image[2], image[3])

    def _layout_of(self, output: NDArray[Any], height: int, width: int, asked: str) -> Layout:
        """The layout that was asked for, that the metadata name, or the only one that explains shape and numbers."""
        known = self._session.metadata.get("tracklet.format")
        if known is not None:
            if known != PERSON_FORMAT:
                raise ModelError(f"{self.path}: its metadata says {known!r}; expected a detector, {PERSON_FORMAT!r}")
            asked = "person" if asked == "auto" else asked
        if self._labelled and asked in ("auto", "mmdeploy"):
            return layout_named("mmdeploy")
        possible = LAYOUTS if asked == "auto" else (layout_named(asked),)
        shape, names = output.shape, len(self._file_names)
        shaped = []
        if len(shape) == 3 and shape[0] == 1:
            shaped = [layout for layout in possible if layout.shaped(output[0], height, width)]
        if shaped and asked != "auto":
            return shaped[0]
        fitting = [
            layout for layout in shaped
            if layout.plausible(output[0], height, width)
            and (not names or layout.n_classes(output[0]) in (0, names))
        ]  # fmt: skip
        if len(fitting) == 1:
            return fitting[0]
        points = n_points(height, width)
        image, port = self._session.inputs[0], self._session.outputs[0]
        found = f"output {port.name!r} has shape {shape} for the input {image.name!r} of (1, 3, {height}, {width})"
        if not shaped:
            raise ModelError(f"{self.path}: {found}; expected {_words(possible, points)}{_hint([shape])}")
        listed = " or ".join(layout.name for layout in shaped)
        raise ModelError(
            f"{self.path}: {found}, which fits {listed}, but its numbers for a grey picture and its class names do not "
            f"confirm one; if you know the layout, name it with --layout (layout= in Python): "
            f"{', '.join(LAYOUT_NAMES[1:])}"
        )

    def _names(self, n_classes: int) -> dict[int, str]:
        """Class names by number; numbers as text where they have none. n_classes 0: the layout does not tell."""
        if self._file_names:
            return self._file_names
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


def _words(layouts: Sequence[Layout], points: int | str) -> str:
    """The outputs of these layouts in words; points: the number of anchor points."""
    return " or ".join(dict.fromkeys(layout.words.format(n=points) for layout in layouts))


def _hint(shapes: Sequence[tuple[int | None, ...]]) -> str:
    """What outputs of these shapes probably are, and what to do about it; "": not known."""
    if len(shapes) > 1 and any(len(shape) in (4, 5) for shape in shapes):
        return "; several maps are raw heads or masks: export a plain detector, with its decoding inside"
    if len(shapes) == 4:
        return "; four outputs are those of a TensorRT plug-in: export without it"
    if len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] == 7:
        return "; rows of seven with the batch first are YOLOv7's end-to-end export: export without suppression"
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


def long_side_in(metadata: Mapping[str, str], key: str) -> int | None:
    """The long side under a key, as ultralytics writes its "imgsz": 640 or [480, 640]."""
    sides = _literal_in(metadata, key)
    sides = sides if isinstance(sides, (list, tuple)) else [sides]
    good = [side for side in sides if isinstance(side, int) and _MIN_SIZE <= side <= _MAX_SIZE]
    return max(good) if good and len(good) == len(sides) else None
