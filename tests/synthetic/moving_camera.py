"""Images of a textured world seen by a camera that stands or moves, with the true motion between frames."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

SCENES = ("still", "busy", "moving")
NOISE = 3.0  # grey levels, standard deviation


def texture(rng: np.random.Generator, width: int, height: int) -> Image:
    """(height, width, 3) BGR: noise at scales from 4 to 128 pixels, stronger at larger scales."""
    out = np.zeros((height, width, 3), np.float32)
    for cell in (4, 8, 16, 32, 64, 128):
        coarse = rng.normal(0, 1, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        out += np.sqrt(cell) * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray((45 * out / out.std() + 120).clip(0, 255), np.uint8)


def similarity(zoom: float, turn_deg: float, shift: tuple[float, float], size: tuple[int, int]) -> Array:
    """(2, 3): zoom and rotation about the centre of an image of this size (width, height), then shift in pixels."""
    p, q = zoom * np.cos(np.radians(turn_deg)), zoom * np.sin(np.radians(turn_deg))
    left, middle = np.array([[p, -q], [q, p]]), np.array(size) / 2
    return np.column_stack([left, middle + shift - left @ middle])


def after(second: Array, first: Array) -> Array:
    """The motion `first` and then `second`, all (2, 3)."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def middle_of(world: Image, size: tuple[int, int]) -> Array:
    """(2, 3): from positions in the world to the view of a camera centred on it."""
    return np.column_stack([np.eye(2), (np.array(size) - world.shape[1::-1]) / 2])


def view(world: Image, place: Array, size: tuple[int, int]) -> Image:
    """The image of a camera: (height, width, 3). place (2, 3) maps positions in the world to positions in the image.

    Positions count from the edge of the first pixel; OpenCV's count from its centre.
    """
    half = np.column_stack([np.eye(2), [0.5, 0.5]])
    by_pixel = after(np.column_stack([np.eye(2), [-0.5, -0.5]]), after(place, half))
    return np.asarray(cv2.warpAffine(world, by_pixel, size, flags=cv2.INTER_CUBIC), np.uint8)


def noisy(rng: np.random.Generator, image: Image) -> Image:
    noise = rng.normal(0, NOISE, (1 << 20,)).astype(np.float32)
    noise = np.resize(noise[: rng.integers(1 << 19, 1 << 20)], image.shape)  # repeats, but not in phase with the rows
    return np.asarray((image + noise).clip(0, 255), np.uint8)


def corner_error(found: Array, true: Array, size: tuple[int, int]) -> float:
    """Largest distance at a corner of the image between two motions (2, 3), in pixels along x or y."""
    corners = np.array([[0, 0], [size[0], 0], [0, size[1]], size], np.float64)
    off = corners @ (found - true)[:, :2].T + (found - true)[:, 2]
    return float(np.abs(off).max())


def footage(
    scene: str, size: tuple[int, int], frames: int, n_people: int, seed: int
) -> Iterator[tuple[Image, Array, Array]]:
    """For each frame: the image, the people's boxes (N, 4) in the image before, and the true motion (2, 3) since then.

    scene: "still", the camera stands; "busy", it stands, the light flickers and no person is detected, so that no
    frame is skipped; "moving", it pans, turns, zooms and shakes.
    """
    rng = np.random.default_rng(seed)
    world = texture(rng, 2 * size[0], 2 * size[1])
    place = middle_of(world, size)
    height = size[1] * rng.uniform(0.15, 0.4, n_people)
    people = [texture(rng, int(0.4 * h), int(h)) for h in height]
    where = rng.uniform(0, 0.8, (n_people, 2)) * size
    speed = rng.normal(0, 0.002, (n_people, 2)) * size[0]
    boxes = np.zeros((0, 4))
    for index in range(frames):
        motion = np.eye(2, 3)
        if scene == "moving" and index:
            sway = 2 * np.pi * index / 100  # turns back at the end of the world image
            shift = (0.008 * size[0] * np.cos(sway) + rng.normal(0, 1), rng.normal(0, 1))
            motion = similarity(1 + 0.003 * np.sin(sway), 0.1 * np.sin(sway), shift, size)
        place = after(motion, place)
        image = view(world, place, size)
        before = boxes
        boxes = np.zeros((n_people, 4))
        for row, person in enumerate(people):
            x, y = np.clip(where[row], 0, np.array(size) - person.shape[1::-1]).astype(int)
            image[y : y + person.shape[0], x : x + person.shape[1]] = person
            boxes[row] = x, y, x + person.shape[1], y + person.shape[0]
        where = where + speed
        if scene == "busy" and index % 2:
            image = np.asarray((image * 1.1).clip(0, 255), np.uint8)
        yield noisy(rng, image), before[:0] if scene == "busy" else before, motion
