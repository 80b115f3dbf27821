"""Things that stand upright like people and are none: boards, signs, lamps, bollards and cones, drawn into scenes.

In small pictures the network takes them for people, and photographs without people show few of them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_POSTS = 4
# Shares of the height of the whole: width of the foot and of the upper end of a pole; size of what is on it.
FOOT, END = (0.03, 0.25), (0.03, 0.12)
PANEL_WIDTH, PANEL_HEIGHT = (0.12, 0.6), (0.06, 0.45)
BARE = 0.35  # share of poles with nothing on them
SHIFT = 4  # bits of a coordinate behind the point


def draw_posts(
    image: NDArray[np.uint8], people: NDArray[np.float64], heights: tuple[float, float], rng: np.random.Generator
) -> None:
    """Draw 1 to MAX_POSTS of them into the image (H, W, 3) uint8, in place; heights: least and largest, pixels.

    None covers a part of the boxes of people (N, 4) xyxy, but for the smoothed pixel at its edge.
    """
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(1, MAX_POSTS + 1))):
        h = float(np.exp(rng.uniform(np.log(heights[0]), np.log(min(heights[1], height)))))
        foot = rng.uniform(0, 1, 2) * [width, height]
        parts = _parts(rng)
        points = [foot + part * h for part in parts]
        low, high = np.concatenate(points).min(0), np.concatenate(points).max(0)
        if ((people[:, :2] < high) & (people[:, 2:] > low)).all(1).any():
            continue
        for polygon in points:
            colour = rng.uniform(0, 255) * (rng.uniform(0, 1, 3) if rng.random() < 0.5 else np.ones(3))
            fixed = np.rint(polygon * 2**SHIFT).astype(np.int32)
            cv2.fillPoly(image, [fixed], colour.tolist(), cv2.LINE_AA, SHIFT)


def _parts(rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Polygons (K, 2) of a thing one high, from its foot at (0, 0) upwards, to negative y."""
    foot, end = rng.uniform(*FOOT) / 2, rng.uniform(*END) / 2
    bare = rng.random() < BARE
    panel_height = 0.0 if bare else rng.uniform(*PANEL_HEIGHT)
    top = -1.0 + panel_height / 2
    pole = np.array([[-max(foot, end), 0], [max(foot, end), 0], [end, top], [-end, top]])
    if bare:
        stripes = [pole[[0, 1]] * (1 - share) + pole[[3, 2]] * share for share in rng.uniform(0.2, 0.9, 2)]
        band = np.concatenate([stripes[0], stripes[1][::-1]])
        return [pole, band] if rng.random() < 0.5 else [pole]
    half = rng.uniform(*PANEL_WIDTH) / 2
    if rng.random() < 0.3:  # round
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        panel = np.column_stack([half * np.cos(angle), top + panel_height / 2 * np.sin(angle)])
    else:  # seen at an angle
        panel = np.array([[-half, -1.0], [half, -1.0], [half, -1.0 + panel_height], [-half, -1.0 + panel_height]])
        panel += rng.uniform(-0.25, 0.25, (4, 2)) * [half, panel_height]
    inner = panel.mean(0) + (panel - panel.mean(0)) * rng.uniform(0.5, 0.9)
    return [pole, panel, inner]
