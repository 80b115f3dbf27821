"""`reid train | evaluate | export | bench`. Arguments to calls; torch is imported by a command, not by --help."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reid_training.errors import ConfigError, ModelError, ReidError

if TYPE_CHECKING:
    from reid_training.config import RunConfig
    from reid_training.evaluate import Calibration


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    # Messages about progress go to stdout with the rest of what was asked for; mistakes go to stderr.
    progress = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("reid_training")
    logger.setLevel(logging.INFO)
    logger.addHandler(progress)
    try:
        arguments.run(arguments)
    except ReidError as error:
        print(f"reid: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"reid: {error.name} is not installed; pip install 'tracklet[train]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("reid: stopped; what was written is whole, `reid train --resume` goes on", file=sys.stderr)
        return 130
    finally:
        logger.removeHandler(progress)
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="reid", description="Train, score and export the appearance metric.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    data_help = "Market-1501 folder (bounding_box_train, query, bounding_box_test)"

    train = commands.add_parser("train", help="train a network, into a run folder")
    train.add_argument("--config", default="reid_fast", help="TOML file or packaged name (default %(default)s)")
    train.add_argument("--data", type=Path, required=True, help=data_help)
    train.add_argument("--out", type=Path, required=True, help="run folder")
    train.add_argument("--seed", type=int, help="instead of the config's")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    train.set_defaults(run=run_train)

    evaluate = commands.add_parser("evaluate", help="rank-1/5/10 and mAP on query and gallery")
    evaluate.add_argument("model", type=Path, help="ONNX file, checkpoint or run folder")
    evaluate.add_argument("--data", type=Path, required=True, help=data_help)
    evaluate.set_defaults(run=run_evaluate)

    export = commands.add_parser("export", help="write the ONNX file that the tracker reads")
    export.add_argument("checkpoint", type=Path, metavar="RUN", help="run folder or checkpoint")
    export.add_argument("--out", type=Path, required=True, help="ONNX file")
    export.add_argument("--data", type=Path, required=True, help=f"{data_help}, the one trained on: for the thresholds")
    export.set_defaults(run=run_export)

    bench = commands.add_parser("bench", help="milliseconds per crop on the CPU")
    bench.add_argument("model", type=Path, help="ONNX file")
    bench.add_argument("--threads", type=int, default=1, help="default %(default)s")
    bench.set_defaults(run=run_bench)
    return top


def run_train(arguments: argparse.Namespace) -> None:
    import dataclasses

    from reid_training.config import read_toml
    from reid_training.curve import draw
    from reid_training.data import market1501
    from reid_training.train import train

    config: RunConfig = read_toml(arguments.config)
    if arguments.seed is not None:
        config = dataclasses.replace(config, seed=arguments.seed)
    history = train(config, market1501.read(arguments.data), arguments.out, resume=arguments.resume)
    draw(history, arguments.out / "curve.png")
    print(f"written to {arguments.out}")


def run_evaluate(arguments: argparse.Namespace) -> None:
    from reid_training.data import market1501
    from reid_training.embedders import Embedder, OnnxEmbedder, TorchEmbedder, embed_samples
    from reid_training.evaluate import rank
    from reid_training.runs import load_method

    if not arguments.model.exists():
        raise ModelError(f"no file {arguments.model}")
    embedder: Embedder
    if arguments.model.suffix == ".onnx":
        embedder = OnnxEmbedder(arguments.model)
    else:
        method, config, _ = load_method(arguments.model)
        embedder = TorchEmbedder(method, config.data.height, config.data.width)
    data = market1501.read(arguments.data)
    query, gallery = data.query, data.gallery
    scores = rank(
        embed_samples(embedder, query),
        query.pids,
        query.camids,
        embed_samples(embedder, gallery),
        gallery.pids,
        gallery.camids,
    )
    print(f"{data.name}, single query, same-camera rule: {scores.n_queries} queries, {len(gallery)} gallery images")
    print("rank-1  rank-5  rank-10  mAP")
    print("  ".join(f"{100 * x:6.2f}" for x in (scores.rank1, scores.rank5, scores.rank10, scores.mean_ap)))


def run_export(arguments: argparse.Namespace) -> None:
    from reid_training.data import market1501
    from reid_training.export import export

    print_calibration(export(arguments.checkpoint, market1501.read(arguments.data), arguments.out))
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes; agrees with torch at batch 1, 2, 7 and 32")


def run_bench(arguments: argparse.Namespace) -> None:
    from reid_training.bench import time_crops

    if arguments.threads < 1:
        raise ConfigError(f"--threads must be >= 1, got {arguments.threads}")
    print("batch  ms per crop: median     p95")
    for batch in (1, 8, 32):
        median, p95 = time_crops(arguments.model, batch, arguments.threads)
        print(f"{batch:5d}  {median:19.3f}  {p95:6.3f}")


def print_calibration(groups: dict[str, Calibration]) -> None:
    """Cosine distances on held-out people; the file carries the pooled row."""
    print("pairs         tau_same  tau_diff  sigma_same  TPR at tau_same  same pairs  different pairs")
    for name, found in groups.items():
        print(
            f"{name:<12}  {found.tau_same:8.4f}  {found.tau_diff:8.4f}  {found.sigma_same:10.4f}"
            f"  {found.tpr_at_tau_same:15.4f}  {found.n_same:10d}  {found.n_diff:15d}"
        )


if __name__ == "__main__":
    sys.exit(main())
