"""Time per frame and memory of the tracker core over hours of changing people, without networks.

    python -m tools.benchmarks.long [--frames 200000] [--people 16] [--trackers Tracklet ...]
                               [--peer-frames 20000] [--jobs 1] [--csv FILE] [--picture FILE]

Boxes and 128-d embeddings are given (tests/synthetic/street.py), so that only the tracker is measured. Each tracker
runs in its own process, on the same detections. Time is the CPU time of that process inside the tracker's calls;
memory is its resident set. For our tracker the sizes of its state are printed too. The trackers of
tools/benchmarks/peers.py are measured where they are installed, with their default settings and fewer frames:
    pip install trackers norfair deep-sort-realtime trackforge pyxtrackers
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tests.synthetic.street import HEIGHT, WIDTH, Street
from tools.benchmarks.peers import PEERS, NotInstalledError
from tracker.config import TrackerConfig
from tracker.engine import Engine
from tracker.types import Detections, Frame

FPS = 30.0
PARTS = 10
STEPS = 200  # points of a curve
OURS = "Tracklet"
NAMES = (OURS, *PEERS)


class Ours:
    """Our tracker with two functions of a `Peer`."""

    def __init__(self) -> None:
        self.engine = Engine(TrackerConfig())
        self._index = 0

    def prepare(self, detections: Detections, image: None) -> tuple[Frame, Detections]:
        self._index += 1
        return Frame(self._index - 1, (self._index - 1) / FPS, None, WIDTH, HEIGHT), detections

    def step(self, given: tuple[Frame, Detections]) -> object:
        return self.engine.step(*given)


def installed(name: str) -> bool:
    if name != OURS:
        try:
            PEERS[name]()
        except NotInstalledError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Run:
    """Time and memory of one tracker; S steps with the same number of frames."""

    name: str
    frames_a_step: int
    ms: np.ndarray  # (S,) mean CPU milliseconds per frame
    rss_mb: np.ndarray  # (S,) resident memory at the end of the step
    n_seen: np.ndarray  # (S,) mean detections per frame
    kept: list[dict[str, int]]  # sizes of our tracker's state at the end of each tenth

    def parts(self, values: np.ndarray) -> np.ndarray:
        """(PARTS, STEPS / PARTS) values of the steps by tenths of the run."""
        return values.reshape(PARTS, -1)


def measure(name: str, n_frames: int, people: int, seed: int) -> Run:
    """Run one tracker through the street, in this process."""
    ours = Ours() if name == OURS else None
    peer = ours or PEERS[name]()
    street = Street(people, seed)
    each = n_frames // STEPS
    # Allocated at full size: results that grow would count as the tracker's memory.
    ms, rss, n_seen = (np.full(STEPS, np.nan) for _ in range(3))
    kept: list[dict[str, int]] = []
    for step in range(STEPS):
        taken_s, n = 0.0, 0
        for _ in range(each):
            seen = street.frame()
            given = peer.prepare(seen, None)
            start = time.process_time()
            peer.step(given)
            taken_s += time.process_time() - start
            n += len(seen)
        ms[step], n_seen[step], rss[step] = 1e3 * taken_s / each, n / each, resident_mb()
        if (step + 1) % (STEPS // PARTS) == 0:
            if ours:
                kept.append({"visitors": street.n_visits, **kept_by(ours.engine)})
            print(f"{name}: frame {(step + 1) * each}, {ms[step]:.2f} ms, {rss[step]:.1f} MB", file=sys.stderr)
    return Run(name, each, ms, rss, n_seen, kept)


def kept_by(engine: Engine) -> dict[str, int]:
    """Sizes of the state that the engine keeps between frames."""
    return {"tracks": len(engine.bank), "bytes of state": size_of(engine.state())}


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
    """Resident memory of this process; its peak where the system has no /proc (macOS)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def run_all(names: Sequence[str], args: argparse.Namespace) -> Iterator[Run]:
    """Measure each tracker in a new process, in the order of `names`."""
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        frames = [args.frames if name == OURS else min(args.peer_frames, args.frames) for name in names]
        yield from pool.map(measure, names, frames, repeat(args.people), repeat(args.seed))


def table(run: Run) -> str:
    """One line per tenth of a run, and the change from the second to the last.

    Time is compared by the fastest step of a tenth: other work on the machine only adds time, growth is in every step.
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
    """Percent by which the last part differs from the second; the first is warm-up."""
    return float(100 * (parts[-1] / parts[1] - 1))


def write_csv(path: Path, runs: Sequence[Run]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["tracker", "frames", "detections", "ms", "mb"])
        for run in runs:
            for step, (n_seen, ms, mb) in enumerate(zip(run.n_seen, run.ms, run.rss_mb, strict=True), start=1):
                rows.writerow([run.name, step * run.frames_a_step, f"{n_seen:.3f}", f"{ms:.4f}", f"{mb:.2f}"])


def draw(path: Path, runs: Sequence[Run]) -> None:
    """Time per frame and growth of memory over the frames, one curve per tracker."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for run in runs:
        frames = run.frames_a_step * np.arange(1, STEPS + 1)
        style = {"color": "black", "linewidth": 2.0} if run.name == OURS else {"linewidth": 1.2}
        left.plot(frames, run.ms, label=run.name, **style)
        right.plot(frames, run.rss_mb - run.rss_mb[0], label=run.name, **style)
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
    parser.add_argument("--trackers", nargs="+", choices=NAMES, help="default: all that are installed")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="the curves as numbers")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="the curves (.png); needs matplotlib")
    args = parser.parse_args()
    if min(args.frames, args.peer_frames) < STEPS:
        parser.error(f"a run needs at least {STEPS} frames")
    names = args.trackers or [name for name in NAMES if installed(name)]
    runs = []
    for run in run_all(names, args):
        print(table(run), flush=True)
        runs.append(run)
    if args.csv:
        write_csv(args.csv, runs)
    if args.picture:
        draw(args.picture, runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
