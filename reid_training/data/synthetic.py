"""Synthetic people for tests and CI: each has its own clothes, each camera its own light.

Written to disk in Market-1501's layout, so that a test reads it as it reads a user's data.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from reid_training.data.base import ByteArray


def draw_person(look: np.random.Generator, pose: np.random.Generator, light: float, size: tuple[int, int]) -> ByteArray:
    """One picture (height, width, 3) RGB. `look` fixes colours and build, `pose` place, stride and background."""
    height, width = size
    hair, skin, shirt, trousers, shoes = look.integers(20, 236, (5, 3))
    stripe = look.integers(20, 236, 3)
    n_stripes, shoulder, waist = look.integers(0, 4), look.uniform(0.18, 0.30), look.uniform(0.45, 0.58)

    image = np.empty((height, width, 3), np.uint8)
    image[:] = pose.integers(60, 200, 3)
    x = width * pose.uniform(0.44, 0.56)
    top, bottom = height * pose.uniform(0.03, 0.08), height * pose.uniform(0.93, 0.98)
    body = bottom - top
    stride = width * pose.uniform(0.02, 0.16)

    def box(left: float, upper: float, right: float, lower: float, colour: np.ndarray) -> None:
        corners = [(int(left), int(top + body * upper)), (int(right), int(top + body * lower))]
        cv2.rectangle(image, corners[0], corners[1], [int(c) for c in colour], -1)

    half = width * shoulder
    for side in (-1, 1):
        foot = x + side * stride
        box(foot - half * 0.4, waist, foot + half * 0.4, 0.95, trousers)
        box(foot - half * 0.4, 0.95, foot + half * 0.5, 1.0, shoes)
    box(x - half, 0.16, x + half, waist, shirt)
    for index in range(n_stripes):
        upper = 0.2 + 0.08 * index
        box(x - half, upper, x + half, upper + 0.03, stripe)
    box(x - half * 0.45, 0.0, x + half * 0.45, 0.06, hair)
    box(x - half * 0.45, 0.06, x + half * 0.45, 0.16, skin)
    noisy = image * light + pose.normal(0.0, 6.0, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def write_market_folder(
    root: Path,
    *,
    n_train: int = 12,
    n_test: int = 8,
    n_cameras: int = 3,
    n_per_camera: int = 2,
    n_distractors: int = 3,
    size: tuple[int, int] = (64, 32),
    seed: int = 0,
) -> Path:
    """bounding_box_train, query and bounding_box_test under `root`; every person is seen by every camera."""
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)

    def write(folder: str, pid: int, camera: int, shot: int, look_seed: int) -> None:
        light = 0.75 + 0.5 * camera / max(1, n_cameras - 1)
        pose = np.random.default_rng([seed, 1, look_seed, camera, shot])
        picture = draw_person(np.random.default_rng([seed, 2, look_seed]), pose, light, size)
        person_name = "-1" if pid == -1 else f"{pid:04d}"
        path = root / folder / f"{person_name}_c{camera + 1}s1_{shot:06d}_01.png"
        if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise OSError(f"cannot write {path}")

    for person in range(n_train + n_test):
        for camera in range(n_cameras):
            for shot in range(n_per_camera):
                in_train = person < n_train
                folder = "bounding_box_train" if in_train else "query" if shot == 0 else "bounding_box_test"
                write(folder, person + 1, camera, shot, person)
    for index in range(n_distractors):
        write("bounding_box_test", 0, index % n_cameras, index, 10_000 + index)
        write("bounding_box_test", -1, index % n_cameras, index, 20_000 + index)
    return root
