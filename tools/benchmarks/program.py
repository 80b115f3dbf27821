"""Time of the whole program, from a file to a text file, as a user runs it: start, frames per second, stages.

    python -m tools.benchmarks.program vtest.avi "MOT16/train/MOT16-09 --detections public" [--repeat 3] [--json FILE]
    python -m tools.benchmarks.program vtest.avi --peer "theirs=their-tracker --source vtest.avi"

Each argument is what follows `track` on a command line; `--out` is added. Every run is a process of its own, all
commands take turns, and of `--repeat` runs of each the fastest counts, because other programs on the machine only make
a run slower. Prints

- start: seconds of `track --help`, and from the start of the process to the first tracked frame;
- fps: frames over all of the time, start included; p50 and p95 of the milliseconds from one tracked frame to the next;
- cores: processor seconds over seconds;
- the stages of the thread that tracks, with their shares of the time, and what runs beside it in threads of its own.

--peer NAME=COMMAND times any other command on the same frames, from its start to its end: another tracker, or `track`
of another checkout. A table then has frames per second, processor seconds and peak memory of all, and the ratio of the
frames per second to those of the first argument.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

CHILD = "--measured-run"  # begins the command line of the process that is measured


@dataclass(frozen=True)
class Run:
    """What one run took."""

    words: str
    n_frames: int
    wall_s: float  # of the whole process
    first_s: float  # from the start of the process to the first frame tracked
    cpu_s: float
    peak_mb: float
    p50_ms: float  # from one tracked frame to the next
    p95_ms: float
    stage_s: dict[str, float]
    beside_s: dict[str, float]

    @property
    def fps(self) -> float:
        return self.n_frames / self.wall_s


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float  # of its resident memory, and at least what this process had when it started it


def cost_of(argv: list[str]) -> Cost:
    """Of a command. Raises SystemExit with its output if it failed."""
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(argv, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{shlex.join(argv)}: exit status {process.returncode}\n{said.read()}")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss in a MiB
    return Cost(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / unit)


def quantile(values: list[float], share: float) -> float:
    """The smallest value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measured(words: str) -> Run:
    """`track WORDS` in a process of its own. Raises SystemExit with its output if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes.json"
        track = [*shlex.split(words), "--out", str(Path(folder) / "tracks.txt"), "--quiet"]
        start_s = time.time()
        cost = cost_of([sys.executable, "-m", "tools.benchmarks.program", CHILD, str(notes), *track])
        noted = json.loads(notes.read_text())
    times: list[float] = noted["stepped"]
    steps_ms = [1000 * (b - a) for a, b in pairwise(times)] or [0.0]
    return Run(
        words=words, n_frames=len(times), first_s=times[0] - start_s, **asdict(cost),
        p50_ms=quantile(steps_ms, 0.5), p95_ms=quantile(steps_ms, 0.95),
        stage_s=noted["stage_s"], beside_s=noted["beside_s"],
    )  # fmt: skip


def run_and_note(notes: str, words: list[str]) -> int:
    """The measured process: the command itself, with the time of every step recorded."""
    from tracker.commands import track as cli
    from tracker.engine import Engine
    from tracker.pipeline import Pipeline

    stepped: list[float] = []
    step, close = Engine.step, Pipeline.close
    last: list[Pipeline] = []

    def noting_step(engine, frame, detections):  # type: ignore[no-untyped-def]
        tracks = step(engine, frame, detections)
        stepped.append(time.time())
        return tracks

    def noting_close(pipeline):  # type: ignore[no-untyped-def]
        last.append(pipeline)
        close(pipeline)

    Engine.step, Pipeline.close = noting_step, noting_close  # type: ignore[method-assign]
    status = cli.main(words)
    if status == 0:
        found = {"stepped": stepped, "stage_s": last[0].stage_s, "beside_s": last[0].beside_s}
        Path(notes).write_text(json.dumps(found))
    return status


def help_s(repeat: int) -> float:
    """Seconds that `track --help` takes."""
    took = []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tracker.commands.track", "--help"], capture_output=True, check=True)
        took.append(time.perf_counter() - start)
    return min(took)


def as_text(run: Run) -> str:
    """The lines about one run."""
    lines = [
        f"track {run.words}",
        f"  {run.n_frames} frames in {run.wall_s:.2f} s: {run.fps:.1f} fps, {run.cpu_s / run.wall_s:.2f} cores; "
        f"first frame after {run.first_s:.2f} s; p50 {run.p50_ms:.1f} ms, p95 {run.p95_ms:.1f} ms",
        f"  {'stage':<16}{'ms/frame':>9}{'share':>9}",
    ]
    other_s = run.wall_s - sum(run.stage_s.values())
    rows = [*run.stage_s.items(), ("start, write, end", other_s)]
    rows += [(f"beside: {name}", seconds) for name, seconds in run.beside_s.items()]
    for name, seconds in rows:
        lines.append(f"  {name:<17}{1000 * seconds / run.n_frames:>8.2f}{100 * seconds / run.wall_s:>7.1f} %")
    return "\n".join(lines)


def table(costs: dict[str, Cost], n_frames: int) -> str:
    """One line for each program; the first is what the others are compared with."""
    first_s = next(iter(costs.values())).wall_s
    width = max(map(len, costs))
    lines = [f"{'':<{width}}{'fps':>9}{'ratio':>8}{'CPU s':>9}{'peak MB':>10}"]
    for name, cost in costs.items():
        rates = f"{n_frames / cost.wall_s:>9.1f}{first_s / cost.wall_s:>8.2f}"
        lines.append(f"{name:<{width}}{rates}{cost.cpu_s:>9.1f}{cost.peak_mb:>10.0f}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [CHILD]:
        return run_and_note(argv[1], argv[2:])
    from tracker.errors import ConfigError  # not in the measured process before its time
    from tracker.eval.options import pairs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", help="what follows `track`, in quotes where it has spaces")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    print(f"{os.cpu_count()} cores; track --help: {help_s(args.repeat):.2f} s")
    try:
        peers = pairs(args.peer, "--peer takes NAME=COMMAND")
    except ConfigError as error:
        parser.error(str(error))
    runs, costs = dict[str, list[Run]](), dict[str, list[Cost]]()
    for _ in range(args.repeat):
        for words in args.words:
            runs.setdefault(words, []).append(measured(words))
        for name, command in peers.items():
            costs.setdefault(name, []).append(cost_of(shlex.split(command)))
    best = [min(of_one, key=lambda run: run.wall_s) for of_one in runs.values()]
    print("\n".join(map(as_text, best)))
    if peers:
        fastest = {f"track {run.words}": Cost(run.wall_s, run.cpu_s, run.peak_mb) for run in best[:1]}
        fastest |= {name: min(of_one, key=lambda cost: cost.wall_s) for name, of_one in costs.items()}
        print(table(fastest, best[0].n_frames))
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(run) for run in best], indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
