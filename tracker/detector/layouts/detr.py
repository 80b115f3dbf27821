"""DETR and its heirs, whose queries need no NMS: RT-DETR, D-FINE, DEIM, RF-DETR.

References: RT-DETR (Zhao et al., 2023), https://arxiv.org/abs/2304.08069; D-FINE (Peng et al., 2024),
https://arxiv.org/abs/2410.13842; DEIM (Huang et al., 2024), https://arxiv.org/abs/2412.04234; RF-DETR's outputs:
https://rfdetr.roboflow.com/latest/exports/onnx/.
"""

from __future__ import annotations

import numpy as np

from tracker.detector.layouts import base
from tracker.detector.layouts.base import Facts, Heads, Layout, Output, Outputs, Picture, n_points

_N_CATEGORIES = 91  # columns of a network trained on COCO's category ids: all are classes, and none is the background
_UNIT = Picture("stretch", "rgb", "unit", smooth=True)


def _rfdetr(outputs: Outputs, height: int, width: int, facts: Facts) -> Heads | None:
    """dets (1, N, 4), labels (1, N, C + 1) logits, whose last column is the background; for masks also masks
    (1, N, h, w) logits, for poses keypoints (1, N, K, 3 or more) as shares of the input and logits of the one class.
    """
    dets, labels = outputs.get("dets"), outputs.get("labels")
    others = [name for name in outputs if name not in ("dets", "labels")]
    if dets is None or labels is None or labels.ndim != 3 or dets.shape[2:] != (4,):
        return None
    if others not in ([], ["masks"], ["keypoints"]):
        return None
    logits, points, masks = labels[0], outputs.get("keypoints"), outputs.get("masks")
    n_classes = 1 if points is not None else logits.shape[1] - (logits.shape[1] != _N_CATEGORIES)
    table = np.concatenate([dets[0], base.sigmoid(logits[:, :n_classes])], axis=1)
    if points is not None:
        points = np.concatenate([points[0, :, :, :2] * [width, height], base.sigmoid(points[0, :, :, 2:3])], axis=2)
    return Heads(table, keypoints=points, masks=None if masks is None else masks[0])


def _logits_and_boxes(outputs: Outputs, height: int, width: int, facts: Facts) -> Heads | None:
    """logits (1, N, C) and pred_boxes (1, N, 4), also named so with pred_ or as boxes; other outputs are not read."""
    logits = outputs.get("logits", outputs.get("pred_logits"))
    boxes = outputs.get("pred_boxes", outputs.get("boxes"))
    if logits is None or boxes is None or logits.ndim != 3 or boxes.shape[2:] != (4,):
        return None
    return Heads(np.concatenate([boxes[0], base.sigmoid(logits[0])], axis=1))


def _sized(outputs: Outputs, height: int, width: int, facts: Facts) -> Heads | None:
    """labels (1, N), boxes (1, N, 4) scaled to the size in the second input, and scores (1, N)."""
    if not facts.sized or set(outputs) != {"labels", "boxes", "scores"}:
        return None
    return base.joined(outputs["boxes"][0], outputs["scores"][0], outputs["labels"][0])


def _shaped(table: Output, height: int, width: int) -> bool:
    return table.shape[1] >= 5 and len(table) != n_points(height, width)


def _shaped_top(table: Output, height: int, width: int) -> bool:
    return table.shape[1] == 6 and len(table) != n_points(height, width)


def _is_rtdetr(table: Output, height: int, width: int) -> bool:
    return base.in_unit(table) and bool((table[:, 2:4] > 0).all()) and not base.whole(table[:, -1])


def _is_top(table: Output, height: int, width: int) -> bool:
    """Shares, a score and a class. Not corners: some box would end before it begins."""
    turned = (table[:, 2:4] < table[:, :2]).any()
    return bool(turned) and base.in_unit(table[:, :5]) and bool((table[:, 2:4] > 0).all()) and base.whole(table[:, 5])


LAYOUTS = (
    Layout(
        "rtdetr", "(1, queries, 4 + C)", heads=base.only, shaped=_shaped, plausible=_is_rtdetr,
        score=base.class_columns, boxes=base.centre_size_shares, picture=Picture("stretch", "rgb", "unit"),
    ),
    Layout(
        "rtdetr-top", "(1, queries, 6)", heads=base.only, shaped=_shaped_top, plausible=_is_top,
        n_classes=lambda table: 0, score=base.score_and_class, boxes=base.centre_size_shares,
        picture=Picture("stretch", "rgb", "unit"),
    ),
    Layout(
        "rfdetr", "dets (1, queries, 4) and labels (1, queries, C + 1), maybe masks or keypoints", heads=_rfdetr,
        score=base.class_columns, boxes=base.centre_size_shares, picture=Picture("stretch", "rgb", "imagenet"),
        category_ids=True,
    ),
    Layout(
        "detr", "logits (1, queries, C) and pred_boxes (1, queries, 4)", heads=_logits_and_boxes,
        score=base.class_columns, boxes=base.centre_size_shares, picture=_UNIT,
    ),
    Layout(
        "detr-sized", "labels, boxes and scores, with a second input orig_target_sizes", heads=_sized,
        n_classes=lambda table: 0, score=base.score_and_class, boxes=base.corners, picture=_UNIT,
    ),
)  # fmt: skip
