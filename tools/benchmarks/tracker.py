"""Time of the tracker core without networks: boxes and embeddings given, one thread.

    python -m tools.benchmarks.tracker [--people 50 200 500] [--frames 300] [--dim 128]
    python -m tools.benchmarks.tracker --peers
    python -m tools.benchmarks.tracker --growth speed_people.png

People walk at constant speed through a large image and are detected with jitter; one in ten is missed, embeddings are
identity vectors with noise. Prints p50 and p95 of the whole step in milliseconds per frame, and of every stage. All
runs see the same frames; the shortest time of each over a few runs counts, to exclude other work on the machine.

--peers: also times the other installed trackers on the same frames, with their default settings. Their input is
converted before the clock starts:
    pip install trackers norfair deep-sort-realtime trackforge pyxtrackers
--growth: p50 at 10 to 500 people, as a table and a picture.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial

# One thread, also inside BLAS: set before numpy loads.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = "1"

from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from tools.benchmarks.peers import PEERS, NotInstalledError
from tracker.config import TrackerConfig
from tracker.engine import Engine
from tracker.types import Detections, Frame

FPS = 30.0
WARM_UP = 30  # frames in which tracks are born and galleries fill
GROWTH = (10, 50, 100, 200, 300, 400, 500)

Times = dict[str, NDArray[np.float64]]  # milliseconds of every frame after the warm-up, by stage; "step" is all


def side_of(n: int) -> float:
    """Pixels on each side of the image: the density of a busy street, whatever the number of people."""
    return float(120.0 * np.sqrt(n))


def crowd(n: int, frames: int, dim: int, seed: int) -> list[Detections]:
    """`frames` frames of detections of n people, jittered by 2 % of their height, in shuffled order."""
    rng = np.random.default_rng(seed)
    side = side_of(n)
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


def measure(n: int, frames: int, dim: int, seed: int) -> Times:
    """Ours, with n people."""
    engine, side = Engine(TrackerConfig()), round(side_of(n))
    times: dict[str, list[float]] = {}
    for index, detections in enumerate(crowd(n, frames + WARM_UP, dim, seed)):
        before = dict(engine.stage_s)
        start = perf_counter()
        engine.step(Frame(index, index / FPS, None, side, side), detections)
        total = perf_counter() - start
        if index >= WARM_UP:
            times.setdefault("step", []).append(1e3 * total)
            for stage, seconds in engine.stage_s.items():
                times.setdefault(stage, []).append(1e3 * (seconds - before.get(stage, 0.0)))
    return {stage: np.array(values) for stage, values in times.items()}


def measure_peer(name: str, n: int, frames: int, dim: int, seed: int) -> Times:
    """The same for another tracker. Raises NotInstalledError."""
    peer = PEERS[name]()
    inputs = [peer.prepare(detections, None) for detections in crowd(n, frames + WARM_UP, dim, seed)]
    times = []
    for index, given in enumerate(inputs):
        start = perf_counter()
        peer.step(given)
        if index >= WARM_UP:
            times.append(1e3 * (perf_counter() - start))
    return {"step": np.array(times)}


def least(run: Callable[[], Times], repeat: int) -> Times:
    """The least time of each frame over that many runs."""
    runs = [run() for _ in range(repeat)]
    return {stage: np.min([times[stage] for times in runs], axis=0) for stage in runs[0]}


def row(people: int, what: str, values: NDArray[np.float64]) -> str:
    return f"{people:>6}  {what:<40} {np.percentile(values, 50):>8.3f} {np.percentile(values, 95):>8.3f}"


def compare(people: Sequence[int], frames: int, dim: int, seed: int, repeat: int, peers: bool) -> None:
    print(f"{'people':>6}  {'tracker, and our stages':<40} {'p50 ms':>8} {'p95 ms':>8}")
    missing: dict[str, str] = {}
    for n in people:
        for stage, values in least(partial(measure, n, frames, dim, seed), repeat).items():
            print(row(n, "Tracklet" if stage == "step" else f"  {stage}", values), flush=True)
        for name in PEERS if peers else ():
            try:
                times = least(partial(measure_peer, name, n, frames, dim, seed), repeat)
                print(row(n, name, times["step"]), flush=True)
            except NotInstalledError as error:
                missing[name] = str(error)
    for name, package in missing.items():
        print(f"{name}: not installed (pip install {package})")


def growth(frames: int, dim: int, seed: int, repeat: int, picture: Path) -> None:
    """p50 of the whole step by the number of people, printed and drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    print(f"{'people':>6} {'p50 ms':>8} {'ms per 100 people':>18}")
    medians = []
    for n in GROWTH:
        medians.append(float(np.median(least(partial(measure, n, frames, dim, seed), repeat)["step"])))
        print(f"{n:>6} {medians[-1]:>8.3f} {100 * medians[-1] / n:>18.3f}", flush=True)
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot(GROWTH, medians, "o-", color="tab:blue")
    axes.set(xlabel="people in the frame", ylabel="milliseconds per frame (p50)", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, nargs="+", default=[50, 200, 500])
    parser.add_argument("--frames", type=int, default=300, help="that are timed, after a warm-up")
    parser.add_argument("--dim", type=int, default=128, help="size of the embeddings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3, help="runs over the same frames")
    parser.add_argument("--peers", action="store_true", help="also time the other trackers that are installed")
    parser.add_argument("--growth", metavar="PNG", type=Path, help="10 to 500 people instead, and a picture of it")
    args = parser.parse_args(argv)
    if args.growth is not None:
        growth(args.frames, args.dim, args.seed, args.repeat, args.growth)
    else:
        compare(args.people, args.frames, args.dim, args.seed, args.repeat, args.peers)


if __name__ == "__main__":
    main()
