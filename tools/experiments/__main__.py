"""Compare methods with their own baselines: same data, same network, same seeds. Needs the extra `train`.

    python -m tools.experiments --all --data ../shared/data                   # Omniglot, 5 seeds
    python -m tools.experiments --method siamese_miner --split validation     # to choose constants
    python -m tools.experiments --all --on market --market DATA/Market-1501
    python -m tools.experiments --all --reduced                               # a minute on drawn people, no data

An experiment is a TOML file in tools/experiments/configs/. What is finished in --out is not repeated,
an interrupted run (Ctrl-C) resumes; --redo restarts. How the comparison works: docs/training_results.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.experiments.catalogue import Experiment
    from tools.experiments.protocols import Protocol
    from tools.experiments.table import Comparison

# For numpy and torch, in all processes, before they load: parallel runs would compete for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True, slots=True)
class Options:
    """The command line; `parser` describes every option."""

    method: list[str] | None  # names of experiments; None with `all`
    all: bool
    on: str
    data: Path
    market: Path
    out: Path
    seeds: int
    split: str
    jobs: int
    table: Path | None
    redo: bool
    reduced: bool


def main(argv: Sequence[str] | None = None) -> int:
    from reid_training.errors import TrackletError

    args = vars(parser().parse_args(argv))
    args["market"] = args["market"] or args["data"]
    try:
        return compare(Options(**args))
    except TrackletError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("experiments: stopped; the same command resumes", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="experiments", description=(__doc__ or "").splitlines()[0])
    which = top.add_mutually_exclusive_group(required=True)
    which.add_argument("--method", nargs="+", metavar="NAME", help="experiments by name")
    which.add_argument("--all", action="store_true", help="all experiments")
    top.add_argument("--on", choices=("omniglot", "market"), default="omniglot", help="data (default: omniglot)")
    top.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder that omniglot/ lies in")
    top.add_argument("--market", type=Path, metavar="FOLDER", help="Market-1501 (default: --data)")
    top.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder of the runs (runs/compare)")
    top.add_argument("--seeds", type=positive, default=5, metavar="N", help="seeds 0 .. N - 1 (default: 5)")
    top.add_argument("--split", choices=("test", "validation"), default="test", help="constants: choose on validation")
    top.add_argument("--jobs", type=positive, default=2, metavar="N", help="runs at a time, one thread each (2)")
    top.add_argument("--table", type=Path, metavar="FILE", help="write the table, .md or .csv by its name")
    top.add_argument("--redo", action="store_true", help="repeat finished runs")
    top.add_argument("--reduced", action="store_true", help="drawn people, a tiny network, few steps, 2 seeds")
    return top


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def compare(options: Options) -> int:
    """Run what is missing and print the table. Returns the exit status: 2 if a run failed."""
    from tools.experiments import catalogue, special

    chosen = [*catalogue.names(), *special.SPECIAL] if options.all else list(dict.fromkeys(options.method or []))
    read = [catalogue.read(name) for name in chosen if name not in special.SPECIAL]
    seeds = range(min(options.seeds, 2) if options.reduced else options.seeds)
    rows, failures = trained(options, read, seeds) if read else ([], [])
    for name in chosen:
        if name not in special.SPECIAL:
            continue
        if not options.reduced:
            rows += special.run(name, options.data, options.out, seeds, options.jobs)
            continue
        reduced = special.run_reduced(name, options.out, seeds, options.jobs)
        if reduced is None:
            print(f"experiments: {name} has no reduced form; left out", file=sys.stderr)
        rows += reduced or []
    show(rows, options.table)
    for failure in failures:
        print(f"experiments: {failure}", file=sys.stderr)
    return 2 if failures else 0


def trained(options: Options, read: list[Experiment], seeds: Sequence[int]) -> tuple[list[Comparison], list[str]]:
    """Rows of the experiments that train for retrieval, and the failures."""
    from tools.experiments.compare import carry_out, comparisons, forget, outdated, plan
    from tools.experiments.protocols import PROTOCOLS, Drawn

    protocol: Protocol = Drawn() if options.reduced else PROTOCOLS[options.on]
    data, out = options.market if options.on == "market" else options.data, options.out
    # Checked before anything is read or written: a mistake in an experiment is found at once.
    plan(read, protocol, options.split, seeds, data, out)
    root = protocol.prepare(data, out / "data" / f"{protocol.name}-{protocol.key()}")
    asked = plan(read, protocol, options.split, seeds, root, out)
    if options.redo:
        forget(asked)
    results, failures = carry_out(asked, options.jobs)
    for method in outdated(asked, results):
        print(f"experiments: some results are older than the code of {method}; --redo repeats them", file=sys.stderr)
    return comparisons(asked, results), failures


def show(rows: list[Comparison], table: Path | None) -> None:
    from reid_training.runs import replace_file
    from tools.experiments.table import to_csv, to_markdown

    print(to_markdown(rows), end="")
    if table is not None:
        text = to_csv(rows) if table.suffix == ".csv" else to_markdown(rows)
        replace_file(table, lambda stream: stream.write(text.encode()))


if __name__ == "__main__":
    sys.exit(main())
