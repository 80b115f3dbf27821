"""Time and error of the camera motion estimate on one thread, for a camera that stands still and one that moves.

    python -m tools.benchmarks.camera [--size 1920 1080] [--frames 200] [--people 12]

The scenes are those of tests/synthetic/moving_camera.py. Prints p50 and p95 of one step in milliseconds of CPU time,
in how many steps motion was found, and the largest error at a corner of the image in pixels.
"""

from __future__ import annotations

import argparse
from time import process_time

import cv2
import numpy as np

from tests.synthetic.moving_camera import SCENES, Array, corner_error, footage
from tracker.motion.camera import CameraMotion

WARM_UP = 5  # frames


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
