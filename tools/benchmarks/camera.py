"""Time and error of camera motion on one thread, for a camera that stands still and one that moves.

    python -m tools.benchmarks.camera [--size 1920 1080] [--frames 200] [--people 12]

A made-up world with people who walk through it, seen with noise. `still`: the camera stands; `busy`: it stands, the
light flickers and nobody detects the people, so that no frame is skipped; `moving`: it pans, turns, zooms and shakes.
Prints p50 and p95 of a step in milliseconds of this process (other programs may share the core), how many steps found
motion, and the largest error at a corner in pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from time import process_time

import cv2
import numpy as np
from numpy.typing import NDArray

from tracker.motion.camera import CameraMotion

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

SCENES = ("still", "busy", "moving")
NOISE = 3.0  # grey levels, standard deviation
WARM_UP = 5


def texture(rng: np.random.Generator, width: int, height: int) -> Image:
    """(height, width, 3) BGR: noise of all sizes from 4 to 128 pixels, the larger the stronger."""
    out = np.zeros((height, width, 3), np.float32)
    for cell in (4, 8, 16, 32, 64, 128):
        coarse = rng.normal(0, 1, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        out += np.sqrt(cell) * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray((45 * out / out.std() + 120).clip(0, 255), np.uint8)


def similarity(zoom: float, turn_deg: float, shift: tuple[float, float], size: tuple[int, int]) -> Array:
    """(2, 3): zoom and turn about the middle of a picture of this size (width, height), then shift in pixels."""
    p, q = zoom * np.cos(np.radians(turn_deg)), zoom * np.sin(np.radians(turn_deg))
    left, middle = np.array([[p, -q], [q, p]]), np.array(size) / 2
    return np.column_stack([left, middle + shift - left @ middle])


def after(second: Array, first: Array) -> Array:
    """The motion `first` and then `second`, all (2, 3)."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def middle_of(world: Image, size: tuple[int, int]) -> Array:
    """(2, 3): from places in the world to the view of a camera that looks at its middle."""
    return np.column_stack([np.eye(2), (np.array(size) - world.shape[1::-1]) / 2])


def view(world: Image, place: Array, size: tuple[int, int]) -> Image:
    """What a camera sees: (height, width, 3). place (2, 3) takes places in the world to places in the picture.

    Places count from the edge of the first pixel, OpenCV's from its middle.
    """
    half = np.column_stack([np.eye(2), [0.5, 0.5]])
    by_pixel = after(np.column_stack([np.eye(2), [-0.5, -0.5]]), after(place, half))
    return np.asarray(cv2.warpAffine(world, by_pixel, size, flags=cv2.INTER_CUBIC), np.uint8)


def noisy(rng: np.random.Generator, image: Image) -> Image:
    noise = rng.normal(0, NOISE, (1 << 20,)).astype(np.float32)
    noise = np.resize(noise[: rng.integers(1 << 19, 1 << 20)], image.shape)  # repeats, but never in step with rows
    return np.asarray((image + noise).clip(0, 255), np.uint8)


def corner_error(found: Array, true: Array, size: tuple[int, int]) -> float:
    """Largest distance at a corner of the picture between two motions (2, 3), in pixels along x or y."""
    corners = np.array([[0, 0], [size[0], 0], [0, size[1]], size], np.float64)
    off = corners @ (found - true)[:, :2].T + (found - true)[:, 2]
    return float(np.abs(off).max())


def footage(
    scene: str, size: tuple[int, int], frames: int, n_people: int, seed: int
) -> Iterator[tuple[Image, Array, Array]]:
    """Image, boxes (N, 4) of the people in the image before, and the true motion (2, 3) since then, for each frame."""
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
            sway = 2 * np.pi * index / 100  # comes back: the world has an end
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


def measure(scene: str, size: tuple[int, int], frames: int, n_people: int, seed: int) -> tuple[Array, Array, Array]:
    """Milliseconds, whether motion was found, and the error at the corners, for each frame after the warm-up."""
    camera = CameraMotion()
    rows = []
    for image, people, motion in footage(scene, size, frames + WARM_UP, n_people, seed):
        start = process_time()
        found = camera.step(image, people)
        spent_ms = 1e3 * (process_time() - start)
        rows.append((spent_ms, not np.array_equal(found, np.eye(2, 3)), corner_error(found, motion, size)))
    spent, moved, error = np.array(rows[WARM_UP:], np.float64).T
    return spent, moved, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[1920, 1080], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{'scene':<8} {'p50 ms':>8} {'p95 ms':>8} {'motion found':>14} {'worst corner':>14}")
    for scene in SCENES:
        spent, moved, error = measure(scene, tuple(args.size), args.frames, args.people, args.seed)
        p50, p95 = np.percentile(spent, [50, 95])
        print(f"{scene:<8} {p50:>8.2f} {p95:>8.2f} {moved.sum():>8.0f}/{len(moved):<5} {error.max():>11.2f} px")


if __name__ == "__main__":
    main()
