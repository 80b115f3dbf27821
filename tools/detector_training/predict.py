"""From a picture to boxes, with the network in torch: what validation during training uses."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from tools.detector_training.ap import FloatArray
from tools.detector_training.net import Decoded, PersonNet
from tools.detector_training.scenes import GREY
from tracker.boxes import clip, nms

COARSEST = 32
MAX_KEPT = 300
SCORE, NMS_IOU = 0.02, 0.6  # of raw scores; see `calibrate`


class TorchDetector:
    """People in a BGR picture. side: the longer one of the network's input, a multiple of 32 around the picture."""

    def __init__(self, net: PersonNet, side: int, *, score: float = SCORE, nms_iou: float = NMS_IOU) -> None:
        self.decoded = Decoded(net).eval()
        self.device = next(net.parameters()).device
        self.side, self.score, self.nms_iou = side, score, nms_iou

    def __call__(self, image: NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        """Boxes (N, 4) xyxy in pixels of the picture and scores (N,), best first."""
        canvas, scale = fit(image, self.side)
        batch = torch.from_numpy(canvas).to(self.device).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            rows = self.decoded(batch)[0].cpu().numpy().astype(np.float64)
        rows = rows[rows[:, 4] >= self.score]
        rows = rows[np.argsort(-rows[:, 4], kind="stable")][:MAX_KEPT]
        boxes = clip(rows[:, :4] / scale, image.shape[1], image.shape[0])
        keep = nms(boxes, rows[:, 4], self.nms_iou)
        return boxes[keep], rows[keep, 4]


def fit(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], float]:
    """At the top left of a grey canvas whose sides are multiples of 32; canvas and scale."""
    scale = side / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    rounded = (math.ceil(length / COARSEST) * COARSEST for length in (height, width))
    canvas = np.full((*rounded, 3), GREY, np.uint8)
    canvas[:height, :width] = small
    return canvas, scale
