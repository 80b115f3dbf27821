"""Open a detector: a detection file to replay, a model file, or the bundled model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tracker.detector.base import DetectorBase
from tracker.errors import ConfigError

PERSON = "person"  # stands for the bundled network, unless a file of that name is in the working directory
PACKAGED = "person.onnx"  # in weights/


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
    n_at_once: int = 1,
) -> DetectorBase:
    """A MOT detection file to replay wins over a model; with neither, or with PERSON as model, the bundled network.

    scores belongs to the file (see `PublicDetections`), all that follows it to the model (see `OnnxDetector`). Raises
    ConfigError for a file with a size, and ModelError where the model cannot be used.
    """
    # Each is imported where it is used: a replay loads neither OpenCV nor onnxruntime.
    if detections is not None:
        if size is not None:
            raise ConfigError(f"a detector size of {size} is for a network; detections from a file have none")
        from tracker.detector.public import PublicDetections

        return PublicDetections(detections, scores)
    from tracker.detector.onnx import OnnxDetector
    from tracker.runtime.onnx_session import packaged_model

    with ExitStack() as stack:
        if model is not None and str(model) == PERSON and not Path(model).is_file():
            model = None
        return OnnxDetector(
            stack.enter_context(packaged_model(PACKAGED)) if model is None else model,
            classes=classes,
            score=score,
            nms_iou=nms_iou,
            device=device,
            size=size,
            layout=layout,
            threads=threads,
            n_at_once=n_at_once,
        )
