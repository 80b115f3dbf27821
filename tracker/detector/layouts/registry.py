"""All known layouts."""

from __future__ import annotations

from tracker.detector.layouts import apart, detr, points, yolo

LAYOUTS = {layout.name: layout for family in (points, yolo, detr, apart) for layout in family.LAYOUTS}
LAYOUT_NAMES = ("auto", *LAYOUTS)
