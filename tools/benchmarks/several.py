"""Several sources in one process against a process for each: frames per second, processor time, memory. Linux.

    python -m tools.benchmarks.several VIDEO [--sources 4] [--frames 100] [--seconds 15] [--repeat 2]

As files: every source is the first `--frames` of VIDEO, tracked as fast as the machine can. As cameras: every source
plays them over and over at `--fps`, as Motion JPEG on this machine, for `--seconds`; then Ctrl-C. One process and many
take turns, and of `--repeat` runs of each the fastest counts, because other programs only make a run slower. Memory is
the largest sum of the proportional set sizes, in which pages that processes share count once. Starting is included.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2

from tests.oracles.cameras import MjpegCamera
from tracker.runtime.signals import INTERRUPTED

EVERY_S = 0.1  # between two looks at the memory


@dataclass(frozen=True)
class Cost:
    """What one run over all sources took."""

    fps: float  # frames of all sources whose people were detected, per second
    cpu_ms: float  # per such frame
    peak_mb: float
    latency_ms: float  # of cameras, the median; 0 for files


def measured(commands: Sequence[Sequence[str]], seconds: float | None) -> Cost:
    """All commands at the same time; seconds: until they are interrupted. Raises SystemExit where one fails."""
    start = time.perf_counter()
    peak_mb, interrupted = 0.0, False
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        running = [subprocess.Popen(command, stderr=log) for command, log in zip(commands, logs, strict=True)]
        before = os.times()
        while any(process.poll() is None for process in running):
            peak_mb = max(peak_mb, sum(_proportional_mb(process.pid) for process in running))
            if seconds is not None and not interrupted and time.perf_counter() - start > seconds:
                interrupted = True
                for process in running:
                    process.send_signal(signal.SIGINT)
            time.sleep(EVERY_S)
        wall_s, after = time.perf_counter() - start, os.times()
        said = []
        for process, log in zip(running, logs, strict=True):
            log.seek(0)
            said.append(log.read())
            if process.returncode != (INTERRUPTED if interrupted else 0):
                raise SystemExit(f"exit status {process.returncode}\n{said[-1]}")
    text = "".join(said)
    n_frames = sum(map(int, re.findall(r"^frames +(\d+)", text, re.M)))
    n_frames -= sum(map(int, re.findall(r"(\d+) of \d+ frames predicted to keep pace", text)))
    latencies = [int(number) for number in re.findall(r"latency (\d+) ms", text)]
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(n_frames / wall_s, 1000 * cpu_s / n_frames, peak_mb, median(latencies) if latencies else 0.0)


def _proportional_mb(pid: int) -> float:
    """The proportional set size of a process; 0 once it has ended."""
    with suppress(OSError):
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"), re.M)
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def compared(sources: Sequence[str], words: Sequence[str], repeat: int, seconds: float | None) -> tuple[Cost, Cost]:
    """One process, and one for each source."""
    track = [sys.executable, "-m", "tracker.commands.track"]
    found: tuple[list[Cost], list[Cost]] = ([], [])
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            together = [[*track, *sources, "--out", f"{folder}/all", *words]]
            apart = [[*track, source, "--out", f"{folder}/{i}.txt", *words] for i, source in enumerate(sources)]
            found[0].append(measured(together, seconds))
            found[1].append(measured(apart, seconds))
    one, many = (max(costs, key=lambda cost: cost.fps) for costs in found)
    return one, many


def table(one: Cost, many: Cost, n_sources: int) -> str:
    rows = [
        ("detected frames per second", one.fps, many.fps),
        ("processor ms per such frame", one.cpu_ms, many.cpu_ms),
        ("peak memory, MB", one.peak_mb, many.peak_mb),
        *([("latency, ms", one.latency_ms, many.latency_ms)] if one.latency_ms and many.latency_ms else []),
    ]
    lines = [f"{'':<28} {'one process':>12} {f'{n_sources} processes':>12} {'ratio':>7}"]
    return "\n".join([*lines, *(f"{name:<28} {a:>12.1f} {b:>12.1f} {a / b:>7.2f}" for name, a, b in rows)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--sources", type=int, default=4)
    parser.add_argument("--frames", type=int, default=100, help="of the video, for each source")
    parser.add_argument("--fps", type=float, default=15.0, help="of the cameras")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long the cameras play")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--track", nargs=argparse.REMAINDER, default=[], help="what follows goes to track")
    args = parser.parse_args(argv)
    words = ["--headless", *args.track]
    files = [args.video] * args.sources
    one, many = compared(files, [*words, "--end", str(args.frames)], args.repeat, None)
    print(f"{args.sources} files\n{table(one, many, args.sources)}", flush=True)

    capture = cv2.VideoCapture(args.video)
    pictures = [picture for _ in range(args.frames) for good, picture in [capture.read()] if good]
    capture.release()
    with ExitStack() as stack:
        cameras = [
            stack.enter_context(MjpegCamera(lambda s: pictures[int(s * args.fps) % len(pictures)], args.fps))
            for _ in files
        ]
        addresses = [camera.address for camera in cameras]
        one, many = compared(addresses, words, args.repeat, args.seconds)
        print(f"\n{args.sources} cameras\n{table(one, many, args.sources)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
