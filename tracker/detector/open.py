"""Which detector a user means: a detection file, a model, or the built-in one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tracker.detector.base import Detector
from tracker.errors import ConfigError


def open_detector(
    *,
    detections: str | Path | None = None,
    model: str | Path | None = None,
    scores: str = "auto",
    classes: Sequence[str | int] = ("person",),
    score: float = 0.1,
    nms_iou: float = 0.65,
    layout: str = "auto",
    size: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Detector:
    """A MOT detection file to replay wins over a model; with neither, the built-in HOG detector.

    scores belongs to the file (see `PublicDetections`), all that follows it to the model (see `OnnxDetector`). Raises
    ConfigError for a size without a model.
    """
    if size is not None and (detections is not None or model is None):
        what = "the built-in detector has its own" if detections is None else "detections from a file have none"
        raise ConfigError(f"a detector size of {size} is for an ONNX model; {what}")
    # Each is imported where it is used: a replay loads neither OpenCV nor onnxruntime.
    if detections is not None:
        from tracker.detector.public import PublicDetections

        return PublicDetections(detections, scores)
    if model is not None:
        from tracker.detector.onnx import OnnxDetector

        return OnnxDetector(
            model,
            classes=classes,
            score=score,
            nms_iou=nms_iou,
            device=device,
            size=size,
            layout=layout,
            threads=threads,
        )
    from tracker.detector.hog import HogDetector

    return HogDetector()
