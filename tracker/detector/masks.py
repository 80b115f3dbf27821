"""Masks of a network, cut to their boxes, in pixels of the frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tracker.detector.letterbox import Letterbox
from tracker.types import FloatArray, Mask, MaskArray


def cut_masks(
    logits: NDArray[np.float32], boxes: FloatArray, placed: Letterbox, input_size: tuple[int, int]
) -> MaskArray:
    """(N,) the pixels of the frame whose logit is positive, within each box.

    logits (N, h, w) over the whole input of the network, whose size (height, width) is input_size; boxes (N, 4) xyxy,
    pixels of the frame.
    """
    masks = np.empty(len(boxes), object)
    share_y, share_x = logits.shape[1] / input_size[0], logits.shape[2] / input_size[1]
    for row, (box, logit) in enumerate(zip(boxes, logits, strict=True)):
        (x1, y1), (x2, y2) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
        # From the middle of a pixel of the box to its place in the logits, whose pixels have their middles at 0.5, too.
        to_logits = np.array([
            [placed.scale_x * share_x, 0, ((x1 + 0.5) * placed.scale_x + placed.left) * share_x - 0.5],
            [0, placed.scale_y * share_y, ((y1 + 0.5) * placed.scale_y + placed.top) * share_y - 0.5],
        ])  # fmt: skip
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        found = cv2.warpAffine(logit, to_logits, (x2 - x1, y2 - y1), flags=how, borderMode=cv2.BORDER_REPLICATE)
        masks[row] = Mask(int(x1), int(y1), found > 0)
    return masks
