"""Drawn people: coloured rectangles on noise, which a network can learn in seconds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tools.detector_training.config import from_dict

SIZE = (96, 128)  # height, width
PERSON = (40, 40, 230)  # BGR


def draw(rng, boxes):
    """Grey noise, dark, and on it a person's rectangle for each box."""
    image = rng.integers(0, 60, (*SIZE, 3), dtype=np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = PERSON
    return image


def write_yolo(folder: Path, n: int, seed: int = 0) -> Path:
    """n pictures with one or two people each, in YOLO's layout."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for k in range(n):
        boxes = []
        for _ in range(rng.integers(1, 3)):
            h = int(rng.integers(30, 60))
            left, top = int(rng.integers(0, SIZE[1] - h // 2)), int(rng.integers(0, SIZE[0] - h))
            boxes.append((left, top, left + h // 2, top + h))
        cv2.imwrite(str(folder / "images" / f"{k:03d}.png"), draw(rng, boxes))
        lines = (
            f"0 {(a + c) / 2 / SIZE[1]} {(b + d) / 2 / SIZE[0]} {(c - a) / SIZE[1]} {(d - b) / SIZE[0]}\n"
            for a, b, c, d in boxes
        )
        (folder / "labels" / f"{k:03d}.txt").write_text("".join(lines))
    return folder


def small_config(**schedule):
    """Two epochs of a few tiny scenes, from random weights."""
    return from_dict(
        {
            "scenes": {
                **{"heights": [64, 96], "widths": [96, 96], "chances": [0.8, 0.2]},
                **{"cached_side": 128, "person_px": [20.0, 60.0], "beyond": 1.2, "min_px": 8.0, "max_pasted": 2},
            },
            "net": {"channels": [8, 16, 16, 24, 32, 32], "blocks": [1, 1, 1, 1, 0], "width": 16},
            "schedule": {
                **{"epochs": 2, "decay_epochs": 1, "steps_per_epoch": 2, "batch_pixels": 4 * 64 * 96, "loaders": 0},
                **{"threads": 1, "plain_epochs": 1, "device": "cpu", "validate_sides": [96], "calibrate_side": 96},
                **schedule,
            },
            "sources": {
                "drawn": {"format": "yolo", "images": "drawn/images", "labels": "drawn/labels", "held_out": 0.3}
            },
        }
    )
