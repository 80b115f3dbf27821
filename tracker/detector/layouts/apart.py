"""NMS inside, and boxes, classes and scores as outputs of their own: SSD, torchvision, TensorFlow, MMDeploy, RTMO."""

from __future__ import annotations

from tracker.detector.layouts import base
from tracker.detector.layouts.base import Facts, Heads, Layout, Outputs, Picture


def _mmdeploy(outputs: Outputs, height: int, width: int, facts: Facts) -> Heads | None:
    """dets (1, N, 5) with the score behind the box, labels (1, N); RTMDet-Ins: masks (1, N, H, W), probabilities."""
    if set(outputs) not in ({"dets", "labels"}, {"dets", "labels", "masks"}):
        return None
    dets, labels, masks = outputs["dets"], outputs["labels"], outputs.get("masks")
    if labels.ndim != 2 or dets.shape[2:] != (5,) or (masks is not None and masks.shape[2:] != (height, width)):
        return None
    heads = base.joined(dets[0, :, :4], dets[0, :, 4], labels[0])
    return heads if masks is None else heads._replace(masks=masks[0] - 0.5)


def _rtmo(outputs: Outputs, height: int, width: int, facts: Facts) -> Heads | None:
    """dets (1, N, 5) with the score behind the box, and keypoints (1, N, K, 3), both in pixels."""
    if set(outputs) != {"dets", "keypoints"} or outputs["dets"].shape[2:] != (5,):
        return None
    return Heads(outputs["dets"][0], keypoints=outputs["keypoints"][0])


def _ssd(outputs: Outputs, height: int, width: int, facts: Facts) -> Heads | None:
    """bboxes (1, N, 4) as shares, labels (1, N) that count from 1, scores (1, N)."""
    if set(outputs) != {"bboxes", "labels", "scores"}:
        return None
    return base.joined(outputs["bboxes"][0], outputs["scores"][0], outputs["labels"][0] - 1)


def _torchvision(outputs: Outputs, height: int, width: int, facts: Facts) -> Heads | None:
    """Boxes (N, 4) in pixels of the input, and labels (N,) and scores (N,), in any order and without a batch axis."""
    boxes = [output for output in outputs.values() if output.ndim == 2 and output.shape[1] == 4]
    scores = [output for output in outputs.values() if output.ndim == 1 and output.dtype.kind == "f"]
    labels = [output for output in outputs.values() if output.ndim == 1 and output.dtype.kind == "i"]
    if len(outputs) != 3 or not (len(boxes) == len(scores) == len(labels) == 1):
        return None
    return base.joined(boxes[0], scores[0], labels[0])


def _tensorflow(outputs: Outputs, height: int, width: int, facts: Facts) -> Heads | None:
    """detection_boxes (1, N, 4) y1, x1, y2, x2 as shares, detection_classes (1, N) and detection_scores (1, N); other
    outputs are not read.
    """
    found = {name.partition(":")[0]: output for name, output in outputs.items()}
    parts = [found.get(f"detection_{part}") for part in ("boxes", "scores", "classes")]
    known = [part for part in parts if part is not None]
    if len(known) != 3 or known[0].shape[2:] != (4,):
        return None
    return base.joined(known[0][0][:, [1, 0, 3, 2]], known[1][0], known[2][0])


LAYOUTS = (
    Layout(
        "mmdeploy", "dets (1, rows, 5) and labels (1, rows), maybe masks (1, rows, H, W)", heads=_mmdeploy,
        n_classes=lambda table: 0, score=base.score_and_class, boxes=base.corners,
        picture=Picture("corner", "bgr", "imagenet"),
    ),
    Layout(
        "rtmo", "dets (1, rows, 5) and keypoints (1, rows, K, 3)", heads=_rtmo, n_classes=lambda table: 1,
        score=base.score_alone, boxes=base.corners, picture=Picture("corner", "bgr", "255"),
    ),
    Layout(
        "ssd", "bboxes, labels and scores", heads=_ssd, n_classes=lambda table: 0, score=base.score_and_class,
        boxes=base.corner_shares, picture=Picture("stretch", "rgb", "imagenet"),
    ),
    Layout(
        "torchvision", "boxes (rows, 4), labels (rows) and scores (rows)", heads=_torchvision,
        n_classes=lambda table: 0, score=base.score_and_class, boxes=base.corners,
        picture=Picture("corner", "rgb", "unit"), category_ids=True,
    ),
    Layout(
        "tensorflow", "detection_boxes, detection_classes and detection_scores", heads=_tensorflow,
        n_classes=lambda table: 0, score=base.score_and_class, boxes=base.corner_shares,
        picture=Picture("stretch", "rgb", "255"), category_ids=True,
    ),
)  # fmt: skip
