"""Compare methods with their own baselines: same data, same network, same seeds. Needs the extra `train`.

    python -m tools.experiments --all --data ../shared/data                   # Omniglot, 5 seeds
    python -m tools.experiments --method cosine_intra --split validation --grid method.margin=0.4,0.6,0.8
    python -m tools.experiments --method bier --on cifar100 --trunk tuned     # from ImageNet, the last stage trained
    python -m tools.experiments --all --on market --market DATA/Market-1501
    python -m tools.experiments --all --reduced                               # a minute on drawn people, no data

An experiment is a TOML file in tools/experiments/configs/; constants that it lists under [choose] are chosen on the
validation split before the test. What is finished in --out is not repeated,
an interrupted run (Ctrl-C) resumes; --redo restarts. How the comparison works: docs/training_results.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.experiments.catalogue import Experiment
    from tools.experiments.protocols import Protocol
    from tools.experiments.table import Comparison

ON = ("omniglot", "market", "cifar100", "cub", "cars", "sop", "inshop")
SEEDS = 5
CHOICE_SEEDS = 2  # of each value of an experiment's [choose], on validation
# For numpy and torch, in all processes, before they load: parallel runs would compete for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True, slots=True)
class Options:
    """The command line; `parser` describes every option."""

    method: list[str] | None  # names of experiments; None with `all`
    all: bool
    on: str
    trunk: str | None
    data: Path
    market: Path
    out: Path
    seeds: int
    split: str
    grid: list[str]
    jobs: int
    table: Path | None
    picture: Path | None
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
    top.add_argument("--on", choices=ON, default="omniglot", help=f"data: {', '.join(ON)} (default: omniglot)")
    top.add_argument(
        "--trunk",
        choices=("frozen", "tuned"),
        help="EfficientNet-Lite0 from ImageNet, as it is or with its last stage trained "
        "(default: a small network from scratch on omniglot and market, frozen elsewhere)",
    )
    top.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder that omniglot/, cifar100/ ... lie in"
    )
    top.add_argument("--market", type=Path, metavar="FOLDER", help="Market-1501 (default: --data)")
    top.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder of the runs (runs/compare)")
    top.add_argument("--seeds", type=positive, default=SEEDS, metavar="N", help="seeds 0 .. N - 1 (default: 5)")
    top.add_argument("--split", choices=("test", "validation"), default="test", help="constants: choose on validation")
    top.add_argument(
        "--grid", nargs="+", default=[], metavar="NAME=V,V", help="the method with each combination of these settings"
    )
    top.add_argument("--jobs", type=positive, default=2, metavar="N", help="runs at a time, one thread each (2)")
    top.add_argument("--table", type=Path, metavar="FILE", help="write the table, .md or .csv by its name")
    top.add_argument("--picture", type=Path, metavar="FILE", help="draw the differences, .png or .svg by its name")
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
    if options.grid:
        read = [variant for experiment in read for variant in catalogue.variants(experiment, grid_of(options))]
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
    show([replace(row, command=command_of(row, options)) for row in rows], options)
    if options.grid:
        for name, best in best_of(rows).items():
            print(f"best of {name} by {best.measure}: {best.title.partition(': ')[2]}")
    for failure in failures:
        print(f"experiments: {failure}", file=sys.stderr)
    return 2 if failures else 0


def trained(options: Options, read: list[Experiment], seeds: Sequence[int]) -> tuple[list[Comparison], list[str]]:
    """Rows of the experiments that train for retrieval, and the failures."""
    from tools.experiments.compare import carry_out, choices, chosen, comparisons, forget, outdated, plan
    from tools.experiments.protocols import PROTOCOLS, Drawn
    from tools.experiments.trunk import OnTrunk

    protocol: Protocol = Drawn() if options.reduced else PROTOCOLS[options.on]
    trunk = options.trunk or ("frozen" if not protocol.settings else None)
    if trunk is not None:
        protocol = OnTrunk(protocol, trunk)
        for experiment in read:
            reason = protocol.refuses(experiment.roles["method"]["method"]["name"])
            if reason is not None:
                print(f"experiments: {experiment.name} is left out: {reason}", file=sys.stderr)
                read = [one for one in read if one is not experiment]
    data, out = options.market if options.on == "market" else options.data, options.out
    # Checked before anything is read or written: a mistake in an experiment is found at once.
    tried = [] if options.split == "validation" or options.reduced else [c for one in read for c in choices(one)]
    plan([*read, *tried], protocol, options.split, seeds, data, out)
    root = protocol.prepare(data, out / "data" / f"{protocol.name}-{protocol.key()}")
    candidates = [
        one for one in plan(tried, protocol, "validation", seeds[:CHOICE_SEEDS], root, out) if one.role == "method"
    ]
    if options.redo:
        forget(candidates)
    validated, lost = carry_out(candidates, options.jobs)
    asked = plan(chosen(read, candidates, validated), protocol, options.split, seeds, root, out)
    if options.redo:
        forget(one for one in asked if one.job.folder not in {tried.job.folder for tried in candidates})
    results, failures = carry_out(asked, options.jobs)
    failures = [*lost, *failures]
    for method in outdated(asked, results):
        print(f"experiments: some results are older than the code of {method}; --redo repeats them", file=sys.stderr)
    return comparisons(asked, results), failures


def grid_of(options: Options) -> dict[str, list[object]]:
    """Values of --grid by the name of their setting."""
    from reid_training.errors import ConfigError
    from tracker.settings import pairs, read_value

    if options.split != "validation":
        raise ConfigError("--grid chooses constants: it needs --split validation")
    named = pairs(options.grid, "--grid", "SECTION.NAME=VALUE,VALUE")
    if not all("." in name for name in named):
        raise ConfigError(f"--grid takes SECTION.NAME=VALUE,VALUE, got {' '.join(options.grid)}")
    return {name: [read_value(text, Any) for text in values.split(",")] for name, values in named.items()}


def best_of(rows: list[Comparison]) -> dict[str, Comparison]:
    """Of each experiment's variants, the one with the largest mean of its first measure."""
    from tools.experiments.picture import main_rows
    from tools.experiments.table import summary

    found: dict[str, Comparison] = {}
    for row in main_rows(rows):
        name = row.name.partition(":")[0]
        if name not in found or summary(row.method).mean > summary(found[name].method).mean:
            found[name] = row
    return found


def command_of(row: Comparison, options: Options) -> str:
    """Without the folders, which are the user's."""
    from tools.experiments import special

    words = ["python -m tools.experiments --method", row.name.partition(":")[0]]
    if row.name not in special.SPECIAL:
        words += ["--on", options.on] if options.on != "omniglot" else []
        words += ["--trunk", options.trunk] if options.trunk else []
    words += ["--seeds", str(options.seeds)] if options.seeds != SEEDS else []
    words += ["--split", options.split] if options.split != "test" else []
    words += ["--grid", *options.grid] if options.grid else []
    words += ["--reduced"] if options.reduced else []
    return " ".join(words)


def show(rows: list[Comparison], options: Options) -> None:
    from reid_training.runs import replace_file
    from tools.experiments.picture import draw
    from tools.experiments.table import to_csv, to_markdown

    print(to_markdown(rows), end="")
    if options.table is not None:
        text = to_csv(rows) if options.table.suffix == ".csv" else to_markdown(rows)
        replace_file(options.table, lambda stream: stream.write(text.encode()))
    if options.picture is not None:
        draw(rows, options.picture)


if __name__ == "__main__":
    sys.exit(main())
