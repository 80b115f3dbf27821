"""Resize a frame to the network's input, pad it with grey where its shape is another (letterbox), map boxes back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from tracker.types import FloatArray, ImageArray

PAD = 114  # grey of the training of YOLO and YOLOX
Place: TypeAlias = Literal["corner", "centre", "stretch"]  # of the picture in the input; corner: top left


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Position of the picture in the network's input: input = source * scale + offset, on each axis."""

    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_source(self, boxes: FloatArray) -> FloatArray:
        """(N, 4) xyxy in input pixels -> source pixels."""
        offset = np.array([self.left, self.top, self.left, self.top], dtype=np.float64)
        return np.asarray((boxes - offset) / [self.scale_x, self.scale_y, self.scale_x, self.scale_y])

    def points_to_source(self, points: FloatArray) -> FloatArray:
        """(..., 3) x, y and a score: x and y from input pixels to source pixels."""
        return np.asarray((points - [self.left, self.top, 0]) / [self.scale_x, self.scale_y, 1])


def letterbox(
    image: ImageArray, height: int, width: int, *, place: Place, smooth: bool = False
) -> tuple[NDArray[np.float32], Letterbox]:
    """The picture resized to fit, padded with grey: (h, w, 3) uint8 -> (1, 3, height, width) float32 in 0 to 255.

    place: where the picture lies; "stretch" fills the whole input, without padding, and changes its proportions.
    smooth: shrink by averaging areas, as in the training of our own network; else bilinear, as in that of YOLO.
    """
    scale = min(height / image.shape[0], width / image.shape[1])
    if place == "stretch":
        new_h, new_w = height, width
    elif place == "centre":  # each family rounds as it does in training
        new_h, new_w = (max(1, round(side * scale)) for side in image.shape[:2])
    else:
        new_h, new_w = (max(1, math.floor(side * scale + 1e-9)) for side in image.shape[:2])
    left, top = ((width - new_w) // 2, (height - new_h) // 2) if place == "centre" else (0, 0)
    canvas = np.full((height, width, 3), PAD, dtype=np.uint8)
    inner = canvas[top : top + new_h, left : left + new_w]
    how = cv2.INTER_AREA if smooth and scale < 1 else cv2.INTER_LINEAR
    inner[...] = cv2.resize(_halved(image, scale) if smooth else image, (new_w, new_h), interpolation=how)
    blob = canvas.transpose(2, 0, 1)[None].astype(np.float32)
    return blob, Letterbox(new_w / image.shape[1], new_h / image.shape[0], left, top)


def _halved(image: ImageArray, scale: float) -> ImageArray:
    """The picture halved as often as `scale` and even sides allow: that is what OpenCV has a fast way for."""
    while scale <= 0.5 and image.shape[0] % 2 == 0 and image.shape[1] % 2 == 0:
        size = (image.shape[1] // 2, image.shape[0] // 2)
        image, scale = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), 2 * scale
    return image
