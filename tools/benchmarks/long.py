"""Does the tracker stay as fast, and as small, as it was? Hours of people who come and go, without networks.

    python -m tools.benchmarks.long [--frames 200000] [--people 16] [--trackers tracklet norfair ...]
                               [--peer-frames 20000] [--jobs 1] [--csv FILE] [--picture FILE]

Boxes and 128-d embeddings are given (tests/synthetic/street.py), so that the tracker alone is measured.

Each tracker runs in a process of its own, on the same detections. Time is CPU time of that process in the tracker's own
calls alone; memory is its resident set. Of our own tracker it also prints what it keeps. Others are measured where they
are installed (pip install trackers norfair deep-sort-realtime trackforge pyxtrackers), as they come; they get fewer
frames.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys

# One thread, also inside BLAS: set before numpy loads.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tests.synthetic.street import HEIGHT, WIDTH, Street
from tracker.config import TrackerConfig
from tracker.engine import Engine
from tracker.types import Detections, Frame

FPS = 30.0
PARTS = 10
STEPS = 200  # points of a curve


# ------------------------------------------------------------------------------------------------------------ trackers


class Candidate(Protocol):
    """A tracker in its own words: `prepare` translates outside the clock, `step` is what is measured."""

    def prepare(self, index: int, seen: Detections) -> Any: ...

    def step(self, given: Any) -> object: ...


class Tracklet:
    def __init__(self) -> None:
        self.engine = Engine(TrackerConfig())

    def prepare(self, index: int, seen: Detections) -> tuple[Frame, Detections]:
        return Frame(index, index / FPS, None, WIDTH, HEIGHT), seen

    def step(self, given: tuple[Frame, Detections]) -> object:
        return self.engine.step(*given)


class Trackers:
    """ByteTrack of the package trackers: no embeddings."""

    def __init__(self) -> None:
        from trackers import ByteTrackTracker

        self._tracker = ByteTrackTracker()

    def prepare(self, index: int, seen: Detections) -> Any:
        import supervision

        return supervision.Detections(seen.boxes.astype(np.float32), confidence=seen.scores, class_id=seen.classes)

    def step(self, given: Any) -> object:
        return self._tracker.update(given)


class Norfair:
    def __init__(self) -> None:
        from norfair import Tracker

        self._tracker = Tracker(distance_function="iou", distance_threshold=0.7)

    def prepare(self, index: int, seen: Detections) -> Any:
        from norfair import Detection

        rows = zip(seen.boxes, seen.scores, seen.features, strict=True)  # type: ignore[arg-type]
        return [Detection(box.reshape(2, 2), np.full(2, score), embedding=look) for box, score, look in rows]

    def step(self, given: Any) -> object:
        return self._tracker.update(given)


class DeepSortRealtime:
    def __init__(self) -> None:
        from deep_sort_realtime.deepsort_tracker import DeepSort

        self._tracker = DeepSort(embedder=None)

    def prepare(self, index: int, seen: Detections) -> Any:
        rows = zip(tlwh(seen), seen.scores.tolist(), strict=True)
        return [(box, score, "person") for box, score in rows], list(seen.features)  # type: ignore[arg-type]

    def step(self, given: Any) -> object:
        return self._tracker.update_tracks(given[0], embeds=given[1])


class Trackforge:
    def __init__(self) -> None:
        from trackforge import DEEPSORT

        self._tracker = DEEPSORT()

    def prepare(self, index: int, seen: Detections) -> Any:
        rows = zip(tlwh(seen), seen.scores.tolist(), strict=True)
        return [(box, score, 0) for box, score in rows], seen.features.tolist()  # type: ignore[union-attr]

    def step(self, given: Any) -> object:
        return self._tracker.update(*given)


class Pyxtrackers:
    """ByteTrack: no embeddings."""

    def __init__(self) -> None:
        from pyxtrackers import BYTETracker

        self._tracker = BYTETracker()

    def prepare(self, index: int, seen: Detections) -> Any:
        return np.concatenate([seen.boxes, seen.scores[:, None]], axis=1)

    def step(self, given: Any) -> object:
        return self._tracker.update(given)


OURS = "tracklet"
# name -> the package that it needs, and how it is opened
CANDIDATES: dict[str, tuple[str, Callable[[], Candidate]]] = {
    OURS: ("tracker", Tracklet),
    "trackers ByteTrack": ("trackers", Trackers),
    "norfair": ("norfair", Norfair),
    "deep-sort-realtime": ("deep_sort_realtime", DeepSortRealtime),
    "trackforge DeepSORT": ("trackforge", Trackforge),
    "pyxtrackers ByteTrack": ("pyxtrackers", Pyxtrackers),
}


def tlwh(seen: Detections) -> list[list[float]]:
    """Left, top, width and height of each."""
    size = seen.boxes[:, 2:] - seen.boxes[:, :2]
    rows: list[list[float]] = np.concatenate([seen.boxes[:, :2], size], axis=1).tolist()
    return rows


# ----------------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True, slots=True)
class Run:
    """What one tracker took; S steps of equally many frames."""

    name: str
    frames_a_step: int
    ms: np.ndarray  # (S,) mean CPU milliseconds per frame
    rss_mb: np.ndarray  # (S,) resident memory at the end of the step
    n_seen: np.ndarray  # (S,) mean detections per frame
    kept: list[dict[str, int]]  # of our own tracker, at the end of each tenth

    def parts(self, values: np.ndarray) -> np.ndarray:
        """(PARTS, STEPS / PARTS) values of the steps, tenth by tenth."""
        return values.reshape(PARTS, -1)


def measure(name: str, n_frames: int, people: int, seed: int) -> Run:
    """Run one tracker through the street, in this process."""
    candidate = CANDIDATES[name][1]()
    street = Street(people, seed)
    each = n_frames // STEPS
    # Full from the start: results that grow would be taken for the tracker's memory.
    ms, rss, n_seen = (np.full(STEPS, np.nan) for _ in range(3))
    kept: list[dict[str, int]] = []
    for step in range(STEPS):
        taken_s, n = 0.0, 0
        for index in range(step * each, (step + 1) * each):
            seen = street.frame()
            given = candidate.prepare(index, seen)
            start = time.process_time()
            candidate.step(given)
            taken_s += time.process_time() - start
            n += len(seen)
        ms[step], n_seen[step], rss[step] = 1e3 * taken_s / each, n / each, resident_mb()
        if (step + 1) % (STEPS // PARTS) == 0:
            if isinstance(candidate, Tracklet):
                kept.append({"visitors": street.n_visits, **kept_by(candidate.engine)})
            print(f"{name}: frame {(step + 1) * each}, {ms[step]:.2f} ms, {rss[step]:.1f} MB", file=sys.stderr)
    return Run(name, each, ms, rss, n_seen, kept)


def kept_by(engine: Engine) -> dict[str, int]:
    """What an engine holds for later frames, in rows."""
    state = engine.state()
    return {
        "identities so far": engine.identities.n_ids,
        "tracks": len(engine.bank),
        "gallery slots": len(state["appearance"]["gallery"]["counts"]),
        "undecided frames": engine.identities.n_undecided_frames,
        "bytes of state": size_of(state),
    }


def size_of(state: Any) -> int:
    """Bytes of the arrays and the plain values in nested dictionaries and lists."""
    if isinstance(state, np.ndarray):
        return state.nbytes
    if isinstance(state, dict):
        return sum(size_of(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(size_of(value) for value in state)
    return 8


def resident_mb() -> float:
    """Of this process now; its peak where the system does not tell (macOS, Windows)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def run_all(names: Sequence[str], args: argparse.Namespace) -> Iterator[Run]:
    """Each in a fresh process, in the order of `names`."""
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        frames = [args.frames if name == OURS else min(args.peer_frames, args.frames) for name in names]
        yield from pool.map(measure, names, frames, repeat(args.people), repeat(args.seed))


# ------------------------------------------------------------------------------------------------------------- results


def table(run: Run) -> str:
    """Every tenth of a run in a line, and the last against the second.

    Time is compared by the least step of a tenth: other work on the machine only adds, and growth would be in all.
    """
    ms, rss, n_seen = run.parts(run.ms), run.parts(run.rss_mb).mean(axis=1), run.parts(run.n_seen).mean(axis=1)
    each = run.frames_a_step * STEPS // PARTS
    lines = [f"{run.name}, {PARTS} x {each} frames"]
    lines.append(f"{'part':>4} {'detections':>10} {'ms least':>9} {'median':>7} {'MB':>7}")
    for part in range(PARTS):
        kept = ", ".join(f"{name} {n}" for name, n in run.kept[part].items()) if run.kept else ""
        numbers = (
            f"{part + 1:>4} {n_seen[part]:>10.2f} {ms[part].min():>9.3f} {np.median(ms[part]):>7.3f} {rss[part]:>7.1f}"
        )
        lines.append(f"{numbers}  {kept}".rstrip())
    lines.append(
        f"last part against the second: time {change(ms.min(axis=1)):+.1f} %, memory {change(rss):+.1f} % "
        f"({rss[-1] - rss[1]:+.1f} MB)"
    )
    return "\n".join(lines)


def change(parts: np.ndarray) -> float:
    """Percent by which the last part differs from the second; the first warms up."""
    return float(100 * (parts[-1] / parts[1] - 1))


def write_csv(path: Path, runs: Sequence[Run]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["tracker", "frames", "detections", "ms", "mb"])
        for run in runs:
            for step, (n_seen, ms, mb) in enumerate(zip(run.n_seen, run.ms, run.rss_mb, strict=True), start=1):
                rows.writerow([run.name, step * run.frames_a_step, f"{n_seen:.3f}", f"{ms:.4f}", f"{mb:.2f}"])


def draw(path: Path, runs: Sequence[Run]) -> None:
    """Time per frame and growth of memory over the frames, one curve a tracker."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for run in runs:
        frames = run.frames_a_step * np.arange(1, STEPS + 1)
        look = {"color": "black", "linewidth": 2.0} if run.name == OURS else {"linewidth": 1.2}
        left.plot(frames, run.ms, label=run.name, **look)
        right.plot(frames, run.rss_mb - run.rss_mb[0], label=run.name, **look)
    left.set(xscale="log", yscale="log", xlabel="frames", ylabel="CPU ms per frame", title="time")
    right.set(xscale="log", xlabel="frames", ylabel="MB", title="memory of the process since its first steps")
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(runs), fontsize=8)
    FigureCanvasAgg(figure).print_figure(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--peer-frames", type=int, default=20_000, help="of trackers that are not ours")
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="trackers measured at a time (default: 1)")
    parser.add_argument("--trackers", nargs="+", choices=CANDIDATES, help="default: all that are installed")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="the curves as numbers")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="the curves (.png); needs matplotlib")
    args = parser.parse_args()
    if min(args.frames, args.peer_frames) < STEPS:
        parser.error(f"a run needs at least {STEPS} frames")
    installed = [name for name, (package, _) in CANDIDATES.items() if find_spec(package) is not None]
    runs = []
    for run in run_all(args.trackers or installed, args):
        print(table(run), flush=True)
        runs.append(run)
    if args.csv:
        write_csv(args.csv, runs)
    if args.picture:
        draw(args.picture, runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
