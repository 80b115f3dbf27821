"""The built-in person detector: OpenCV's HOG windows, with a pyramid, boxes and scores that were measured.

Histograms of oriented gradients and a linear classifier look at windows of 64 x 128 pixels on a pyramid of the picture.
The picture is first resized so that its long side has 1152 pixels: small videos grow, since people in them are lower
than a window, large ones shrink. Every window found goes into our own suppression; OpenCV's grouping is off.

Measured by `python tools/measure_hog.py --data ../shared/data` (AP at IoU 0.5; milliseconds per frame, the fastest of
100 and 75 frames on two CPU cores). Size, step, box and score curve were chosen on these very frames:

| scene | AP | recall | ms |
|---|---|---|---|
| vtest.avi, 768 x 576, resized x 1.5 | 0.860 | 0.911 | 87 |
| MOT16-09, 1920 x 1080, resized x 0.6 | 0.551 | 0.653 | 78 |

References: Histograms of Oriented Gradients for Human Detection (Dalal & Triggs, CVPR 2005)
"""

from __future__ import annotations

import cv2
import numpy as np

from tracker import boxes as box_maths
from tracker.errors import DetectionError
from tracker.types import Detections, FloatArray, Frame, ImageArray

# Chosen by the command above. A step of 1.05 wins 0.02 AP at twice the time, one of 1.2 loses 0.04.
LONG_SIDE_PX = 1152
PYRAMID_STEP = 1.1
_MAX_ENLARGE = 2.0  # beyond it a picture has nothing more to show
_STRIDE_PX = 8  # one cell of the descriptor: half of it costs four times as much
_PADDING_PX = 16  # people who touch the edge of the picture
_MIN_MARGIN = -0.2  # of the classifier; 2 % of the windows below are people
# The classifier was trained on people with a border around them: their share of the window.
_PERSON_WIDTH, _PERSON_HEIGHT = 0.68, 0.76
_NMS_IOU = 0.5
_VOTE_IOU = 0.6  # windows that overlap the best one so much refine its box: the pyramid is coarser than a box
_SCORE_HALF, _SCORE_SLOPE = 1.0, 3.0  # by deciles of the margin: every second window at 1.0 is a person


class HogDetector:
    """People in a picture, without a model file. class 0 is a person.

    It has no `second_look` (see `Detector`): it has enlarged the picture already, so that windows show it nothing new.
    As verifier of proposals it found 17 people on vtest.avi for 18 wrong boxes, and took 140 ms a frame.
    """

    name = "HOG"

    def __init__(self, long_side_px: int = LONG_SIDE_PX, pyramid_step: float = PYRAMID_STEP) -> None:
        if not hasattr(cv2, "HOGDescriptor"):
            raise DetectionError(
                f"OpenCV {cv2.__version__} has no HOG detector; install opencv-python<5 or give a model"
            )
        self._long_side_px, self._pyramid_step = long_side_px, pyramid_step
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector()))

    def detect(self, frame: Frame) -> Detections:
        """People in the frame, best first, cut to the picture."""
        if frame.image is None:
            raise DetectionError(f"frame {frame.index} has no picture for the HOG detector; give --detections instead")
        windows, margins = self._windows(frame.image)
        keep = box_maths.nms(windows, margins, _NMS_IOU)
        boxes = box_maths.clip(vote(windows[keep], windows, margins), frame.width, frame.height)
        keep, boxes = keep[box_maths.valid(boxes)], boxes[box_maths.valid(boxes)]
        scores = 1.0 / (1.0 + np.exp(-_SCORE_SLOPE * (margins[keep] - _SCORE_HALF)))
        return Detections(boxes, scores, np.zeros(len(boxes), np.int64))

    def _windows(self, image: ImageArray) -> tuple[FloatArray, FloatArray]:
        """Every window above the threshold: people's boxes (K, 4) in source pixels, margins (K,)."""
        scale = min(self._long_side_px / max(image.shape[:2]), _MAX_ENLARGE)
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        window_width, window_height = self._hog.winSize
        if size[0] < window_width or size[1] < window_height:
            return np.zeros((0, 4)), np.zeros(0)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        found, raw_margins = self._hog.detectMultiScale(
            cv2.resize(image, size, interpolation=how),
            hitThreshold=_MIN_MARGIN,
            winStride=(_STRIDE_PX, _STRIDE_PX),
            padding=(_PADDING_PX, _PADDING_PX),
            scale=self._pyramid_step,
            groupThreshold=0,
        )
        ltwh = np.asarray(found, dtype=np.float64).reshape(-1, 4)
        half = ltwh[:, 2:] / 2 * [_PERSON_WIDTH, _PERSON_HEIGHT]
        centre = ltwh[:, :2] + ltwh[:, 2:] / 2
        shrink = np.array([image.shape[1] / size[0], image.shape[0] / size[1]] * 2)
        windows = np.concatenate([centre - half, centre + half], axis=1) * shrink
        margins = np.asarray(raw_margins, dtype=np.float64).reshape(-1)
        # The threads of the pyramid deliver in any order, and sums below must not depend on it.
        order = np.lexsort((*windows.T, margins))
        return windows[order], margins[order]


def vote(kept: FloatArray, windows: FloatArray, margins: FloatArray) -> FloatArray:
    """Each kept box (M, 4) becomes the mean of the windows (K, 4) that agree with it, weighted by margin (K,)."""
    weight = np.maximum(margins, 0.0) + 0.01  # the best window alone may have a margin below 0
    agree = np.where(box_maths.iou(kept, windows) >= _VOTE_IOU, weight, 0.0)  # (M, K)
    return np.asarray(agree @ windows / agree.sum(axis=1, keepdims=True)) if len(kept) else kept
