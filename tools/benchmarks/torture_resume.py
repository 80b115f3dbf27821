"""Kills `track --resume` at random moments and compares the final results to those of an uninterrupted run.

    python -m tools.benchmarks.torture_resume video.avi --kills 50 -- --device cpu

Every run writes tracks (.txt, .csv, .jsonl, .json), a video, crops, counts, a heat map, and the embeddings unless
`--reid none` is among the options of `track`, which follow --. Moments, by the seed, a quarter each: during startup,
anywhere, while a checkpoint is written, and at the end. A run that ends before its moment is compared, and another is
started until all kills are made. Equal means every byte of every file, and no file left over. Exit status 1 if anything
differs or fails.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

FIRST, LAST = "tracks.jsonl", "tracks.json"  # the first result, which names the checkpoint; one that closes late
OPTIONS = {"tracked.avi": "--video", "crops": "--crops", "counts.csv": "--counts", "heat.png": "--heatmap"}  # or --out
RESULTS = (FIRST, "tracks.txt", "tracks.csv", *OPTIONS, LAST)
COUNTED = ("--line", "middle=0.5,0,0.5,1", "--zone", "left=0,0,0.5,0,0.5,1,0,1")
EMBEDDINGS = "embeddings.npy"
CHECKPOINT = FIRST + ".resume"
MOMENTS = ("start", "anywhere", "checkpoint", "end")
POLL_S = 0.0005  # a checkpoint takes some milliseconds to write
NOTHING_LEFT = "nothing to resume"  # killed between its last action and its exit


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run."""

    contents: dict[str, bytes]  # by file name
    start_s: float  # until it had its first checkpoint
    wall_s: float


class Torture:
    """Runs of one command line, killed and resumed until they end."""

    def __init__(self, source: Path, options: Sequence[str], folder: Path, seed: int, every_s: float) -> None:
        self._source, self._options, self._folder = source, list(options), folder
        self._rng = random.Random(seed)
        self._every_s = every_s
        self._run = 0
        self.kills: Counter[str] = Counter()
        self.problems: list[str] = []
        self.whole = self._run_uninterrupted()

    def kill_once(self) -> None:
        """One process, killed at its moment; if it ended before, it is compared."""
        moment = MOMENTS[sum(self.kills.values()) % len(MOMENTS)]
        process = self._begin(self._place, "--resume")
        ended = self._wait(process, self._time_of(moment))
        if not ended:
            process.send_signal(signal.SIGKILL)
        self._end(process, moment)

    def finish(self) -> None:
        """Let the current run end."""
        process = self._begin(self._place, "--resume")
        self._end(process, "")

    @property
    def n_compared(self) -> int:
        return self._run

    @property
    def _place(self) -> Path:
        return self._folder / f"run{self._run}"

    def _run_uninterrupted(self) -> Reference:
        place = self._folder / "whole"
        begin = time.monotonic()
        process = self._begin(place)
        started = self._wait(process, lambda: (place / CHECKPOINT).exists())
        start_s = time.monotonic() - begin
        said = process.communicate()[1]
        if process.returncode != 0 or started:
            raise SystemExit(f"the uninterrupted run failed, or was over at once: {said.strip()}")
        return Reference(contents_of(place), start_s, time.monotonic() - begin)

    def _begin(self, place: Path, *more: str) -> subprocess.Popen[str]:
        place.mkdir(exist_ok=True)
        words = [
            str(self._source),
            *(word for name in RESULTS for word in (OPTIONS.get(name, "--out"), str(place / name))),
        ]
        words += COUNTED
        reid = self._options[self._options.index("--reid") + 1] if "--reid" in self._options else ""
        words += [] if reid == "none" else ["--save-embeddings", str(place / EMBEDDINGS)]
        words += ["--quiet", "--checkpoint-every", str(self._every_s), *self._options, *more]
        return subprocess.Popen(
            [sys.executable, "-m", "tracker.commands.track", *words], stderr=subprocess.PIPE, text=True
        )

    def _time_of(self, moment: str) -> Callable[[], bool]:
        """Says whether the moment has come."""
        place, begin = self._place, time.monotonic()
        if moment in ("start", "anywhere"):
            limit = self.whole.start_s * 1.2 if moment == "start" else self.whole.start_s + self.whole.wall_s / 4
            due = begin + self._rng.uniform(0, limit)
            return lambda: time.monotonic() >= due
        if moment == "checkpoint":
            n_th = self._rng.randint(1, 3)
            return after_writes(place / f"{CHECKPOINT}.new", n_th)
        size, wait_s = len(self.whole.contents[FIRST]), self._rng.uniform(0, 0.3)
        return later(lambda: size_of(place / FIRST) >= size, wait_s)

    @staticmethod
    def _wait(process: subprocess.Popen[str], come: Callable[[], bool]) -> bool:
        """True if the process ended before."""
        while not come():
            if process.poll() is not None:
                return True
            time.sleep(POLL_S)
        return process.poll() is not None

    def _end(self, process: subprocess.Popen[str], moment: str) -> None:
        said = process.communicate()[1].strip()
        if process.returncode == -signal.SIGKILL:
            self.kills[moment] += 1
            return
        over = process.returncode == 2 and NOTHING_LEFT in said
        if process.returncode != 0 and not over:
            self.problems.append(f"run {self._run} ended with status {process.returncode}: {said}")
        self._compare()

    def _compare(self) -> None:
        found = contents_of(self._place)
        names = sorted(found.keys() ^ self.whole.contents.keys())
        names += [name for name in found if name not in names and found[name] != self.whole.contents[name]]
        if names:
            self.problems.append(f"run {self._run} differs in {', '.join(names)}")
        else:
            shutil.rmtree(self._place)
        self._run += 1


def contents_of(folder: Path) -> dict[str, bytes]:
    """By path inside the folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def after_writes(draft: Path, n_th: int) -> Callable[[], bool]:
    """True once the draft of a checkpoint is seen for the n-th time."""
    seen = [0, 0]  # how often, and whether it was there at the last poll

    def come() -> bool:
        there = draft.exists()
        seen[0] += there and not seen[1]
        seen[1] = there
        return seen[0] >= n_th and there

    return come


def later(begun: Callable[[], bool], wait_s: float) -> Callable[[], bool]:
    """True from wait_s seconds after the first poll at which `begun` is."""
    since: list[float] = []

    def come() -> bool:
        if not since and begun():
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= wait_s

    return come


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    options: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, options = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=float, default=0.5, metavar="SECONDS")
    parser.add_argument("--folder", type=Path, help="for the results (default: a temporary one)")
    args = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        torture = Torture(args.source.resolve(), options, folder, args.seed, args.checkpoint_every)
        begin = time.monotonic()
        while torture.kills.total() < args.kills:
            torture.kill_once()
            print(f"\r{torture.kills.total()} of {args.kills} kills", end="", file=sys.stderr, flush=True)
        torture.finish()
        wall_s = time.monotonic() - begin
    sizes = ", ".join(f"{name} {len(data)}" for name, data in torture.whole.contents.items() if "/" not in name)
    times = f"{torture.whole.wall_s:.1f} s, first checkpoint after {torture.whole.start_s:.2f} s"
    print(f"\nuninterrupted: {times}; bytes: {sizes}")
    print(f"killed {torture.kills.total()} times in {wall_s:.0f} s: {dict(torture.kills)}")
    print(f"{torture.n_compared} runs ended, {len(torture.problems)} problems")
    for problem in torture.problems:
        print(problem)
    return 1 if torture.problems else 0


if __name__ == "__main__":
    sys.exit(main())
