"""Boxes to network input: the one place where crops are cut, resized and normalised."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracker.types import BoolArray, FloatArray, ImageArray

_MIN_SIDE_PX = 2


def crop_batch(
    image: ImageArray,
    boxes: FloatArray,
    size: tuple[int, int],
    mean: ArrayLike,
    std: ArrayLike,
    pixel_scale: float,
    rgb: bool,
) -> tuple[NDArray[np.float32], BoolArray]:
    """Cut every box out of the image, resize, normalise.

    image (h, w, 3) uint8 BGR; boxes (N, 4) float xyxy, clipped to the image and rounded to whole pixels; size is
    (height, width); mean, std have 3 values, in the network's order of colours: value = (pixel * pixel_scale - mean)
    / std. Returns crops (N, 3, height, width) float32 in RGB or BGR, and (N,) True where the crop
    is not empty: crops of less than 2 pixels are zeros.
    """
    height, width = size
    limit = np.array([image.shape[1], image.shape[0]] * 2)
    # A huge or broken box must not overflow the conversion to integers.
    edges = np.rint(np.clip(np.nan_to_num(boxes), 0, limit)).astype(np.int64)
    large = ((edges[:, 2:] - edges[:, :2]) >= _MIN_SIDE_PX).all(axis=1)
    seen: BoolArray = np.asarray(large & np.isfinite(boxes).all(axis=1))
    pixels = np.zeros((len(boxes), height, width, 3), dtype=np.uint8)
    for row in np.flatnonzero(seen):
        x1, y1, x2, y2 = edges[row]
        # Bilinear, as in training; cv2 takes the target's memory, which saves one copy of every crop.
        cv2.resize(image[y1:y2, x1:x2], (width, height), dst=pixels[row], interpolation=cv2.INTER_LINEAR)
    # (p * scale - mean) / std = p * gain + bias: one pass over the memory in place of three.
    gain = (pixel_scale / np.asarray(std, dtype=np.float64)).astype(np.float32)
    bias = (-np.asarray(mean, dtype=np.float64) / np.asarray(std, dtype=np.float64)).astype(np.float32)
    crops = np.empty((len(boxes), 3, height, width), dtype=np.float32)
    for channel in range(3):
        plane = pixels[..., 2 - channel if rgb else channel]
        np.multiply(plane, gain[channel], out=crops[:, channel], dtype=np.float32)
        crops[:, channel] += bias[channel]
    crops[~seen] = 0.0
    return crops, seen
