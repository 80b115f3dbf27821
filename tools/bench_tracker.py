"""Time of the tracker core without networks: boxes and embeddings given, one thread.

    python tools/bench_tracker.py [--people 50 200] [--frames 300] [--dim 128]

People walk at constant speed through a large image and are detected with jitter; one in ten is missed, embeddings are
identity vectors with noise. Prints p50 and p95 of every stage in milliseconds per frame, and of the whole step.
"""

from __future__ import annotations

import argparse
import os

# One thread, also inside BLAS: set before numpy loads.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

from time import perf_counter

import numpy as np

from tracker.config import TrackerConfig
from tracker.engine import Engine
from tracker.types import Detections, Frame

FPS = 30.0
WARM_UP = 30  # frames in which tracks are born and galleries fill


def crowd(n: int, frames: int, dim: int, seed: int) -> list[Detections]:
    """`frames` frames of detections of n people, jittered by 2 % of their height, in shuffled order."""
    rng = np.random.default_rng(seed)
    side = 120.0 * np.sqrt(n)  # the density of a busy street, whatever the number of people
    place = rng.uniform(0, side, (n, 2))
    speed = rng.normal(0, 1.5, (n, 2))  # pixels per frame
    height = rng.uniform(80, 160, n)
    identity = rng.normal(size=(n, dim))
    identity /= np.linalg.norm(identity, axis=1, keepdims=True)
    out = []
    for _ in range(frames):
        place = place + speed
        speed = np.where((place < 0) | (place > side), -speed, speed)
        size = np.stack([0.4 * height, height], axis=1)
        boxes = np.concatenate([place - size / 2, place + size / 2], axis=1) + rng.normal(0, 0.02, (n, 4)) * size[:, 1:]
        features = identity + rng.normal(0, 0.3 / np.sqrt(dim), (n, dim))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        seen = rng.permutation(n)[rng.uniform(size=n) > 0.1]
        out.append(
            Detections(
                boxes[seen], rng.uniform(0.4, 1.0, len(seen)), np.zeros(len(seen), np.int64),
                features[seen].astype(np.float32),
            )
        )  # fmt: skip
    return out


def measure(n: int, frames: int, dim: int, seed: int) -> dict[str, np.ndarray]:
    """Milliseconds of every frame after the warm-up, for each stage and for the whole step."""
    engine = Engine(TrackerConfig())
    times: dict[str, list[float]] = {}
    for index, detections in enumerate(crowd(n, frames + WARM_UP, dim, seed)):
        before = dict(engine.stage_s)
        start = perf_counter()
        engine.step(Frame(index, index / FPS, None, 0, 0), detections)
        total = perf_counter() - start
        if index >= WARM_UP:
            for stage, seconds in engine.stage_s.items():
                times.setdefault(stage, []).append(1e3 * (seconds - before.get(stage, 0.0)))
            times.setdefault("step", []).append(1e3 * total)
    return {stage: np.array(values) for stage, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"{'people':>6}  {'stage':<14} {'p50 ms':>8} {'p95 ms':>8}")
    for n in args.people:
        for stage, values in measure(n, args.frames, args.dim, args.seed).items():
            print(f"{n:>6}  {stage:<14} {np.percentile(values, 50):>8.3f} {np.percentile(values, 95):>8.3f}")


if __name__ == "__main__":
    main()
