"""`reid train | methods | evaluate | export | adapt | crops | suggest-labels | bench`; --help imports no torch."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from reid_training.errors import FULL, ConfigError, DataError, ModelError, TrackletError
from tracker.runtime.weights import reid_file

if TYPE_CHECKING:
    from reid_training.config import RunConfig
    from reid_training.data.base import Dataset
    from reid_training.embedders import Embedder
    from reid_training.evaluate import Calibration, Ranking

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

NETWORK_HELP = "ONNX file, checkpoint or run folder; or a bundled network: fast, accurate"
SITE_METRICS = ("whitening", "odml", "mip")  # site_metric.METRICS, which --help must not import
# What a query asks for: the name of a row of scores, and what it means.
OTHER_CAMERAS, SAME_CAMERA, OTHER_IMAGES, SAME_VIDEO = "other cameras", "same camera", "other images", "same video"
RIGHT = {
    OTHER_CAMERAS: "the same person by another camera, among all people (the protocol of Market-1501)",
    SAME_CAMERA: "another image of the same person by the same camera, among the people of that camera",
    OTHER_IMAGES: "another image of the same identity, among all other images: no camera is known",
    SAME_VIDEO: "the same person in the same video, --min-gap frames away or more, among the people of that video",
}
DATA_HELP = (
    "table image,id,camera[,split], or the folder of Market-1501, MSMT17, CUHK03-NP, DukeMTMC-reID, CUB-200-2011, "
    "Cars196, Stanford Online Products or In-Shop as it was unpacked"
)


def main(argv: list[str] | None = None) -> int:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # the DataError says more about a damaged image
    # Progress goes to stdout with the results; errors go to stderr.
    progress = Progress(sys.stdout)
    logger = logging.getLogger("reid_training")
    logger.setLevel(logging.INFO)
    logger.addHandler(progress)
    try:
        arguments = parser().parse_args(argv)
        arguments.run(arguments)
        sys.stdout.flush()
    except TrackletError as error:
        print(f"reid: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(f"reid: {error.name} is not installed; in the source folder: pip install '.[train]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("reid: stopped; the files written are complete, `reid train --resume` continues", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in {errno.EPIPE, *FULL}:
            raise
        return stdout_broken(error)
    finally:
        logger.removeHandler(progress)
    return 0


class Progress(logging.StreamHandler[TextIO]):
    """Ignores errors of writing progress: a closed pipe or a full disk does not end a run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        pass


class PrintVersion(argparse.Action):
    """Prints the version of the installed package and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        from importlib.metadata import version

        print(f"tracklet {version('tracklet')}")
        parser.exit()


def stdout_broken(error: OSError) -> int:
    """The exit status of a command whose output cannot be written: the pipe is closed, the disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still waiting goes there at the end
    if not isinstance(error, BrokenPipeError):  # `| head` is no mistake
        print(f"reid: cannot write standard output: {error.strerror}", file=sys.stderr)
    return 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="reid", description="Train, score and export the appearance metric.")
    top.add_argument("--version", action=PrintVersion, nargs=0, help="show the version and exit")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_train, _add_methods, _add_evaluate, _add_export, _add_adapt, _add_crops, _add_suggest, _add_bench):
        add(commands)
    return top


def _command(commands: Commands, name: str, text: str) -> argparse.ArgumentParser:
    """The parser of a subcommand; the text stands in the list of commands and above the command's own help."""
    return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")


def _add_train(commands: Commands) -> None:
    train = _command(commands, "train", "train a network, into a run folder")
    train.add_argument(
        "--config",
        default="fast",
        help="TOML file, or one of the package: fast, accurate, taught, taught_large (default %(default)s)",
    )
    train.add_argument(
        "--data", type=Path, action="append", default=[], help=f"{DATA_HELP}; repeatable: no identity is in two sets"
    )
    train.add_argument("--out", type=Path, required=True, help="run folder")
    train.add_argument(
        "--method", metavar="NAME", help="instead of the config's; `reid methods` lists them; or module:NAME"
    )
    train.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="one setting of the config; repeatable"
    )
    teacher_help = "network to learn from: ONNX file, .xml of OpenVINO, or run folder; foreign files: see [distil]"
    train.add_argument("--teacher", metavar="MODEL_OR_RUN", help=teacher_help)
    train.add_argument(
        "--unlabelled",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="crops of unknown people, for the teacher; beside --data or alone; repeatable",
    )
    validate_help = "as --data, in a run without it: people held out of this set are looked for, it is not trained on"
    train.add_argument("--validate", type=Path, metavar="DATA", help=validate_help)
    train.add_argument("--seed", type=int, help="instead of the config's")
    train.add_argument("--jobs", type=int, default=1, metavar="N", help="members of an ensemble trained at a time")
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint in --out")
    train.set_defaults(run=run_train)


def _add_methods(commands: Commands) -> None:
    methods = _command(commands, "methods", "the methods of `reid train --method`, with their settings")
    methods.add_argument("name", nargs="?", metavar="NAME", help="explain every setting of this method")
    methods.set_defaults(run=run_methods)


def _add_evaluate(commands: Commands) -> None:
    evaluate = _command(commands, "evaluate", "rank-k, mAP, MAP@R and verification on query and gallery")
    evaluate.add_argument("model", type=reid_file, help=NETWORK_HELP)
    evaluate.add_argument("--data", type=Path, required=True, help=DATA_HELP)
    evaluate.add_argument("--rerank", action="store_true", help="also by k-reciprocal re-ranking (k1 20, k2 6, 0.3)")
    evaluate.add_argument(
        "--min-gap",
        type=int,
        metavar="N",
        help="for the table of `reid crops`: find the same person in the same video, at least N frames away",
    )
    evaluate.add_argument("--nmi", action="store_true", help="also NMI of k-means; needs scikit-learn")
    evaluate.add_argument("--picture", type=Path, metavar="PNG", help="draw queries and their ten nearest images")
    evaluate.add_argument(
        "--queries", type=int, default=10, metavar="N", help="in the picture, spread over all (default %(default)s)"
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write all scores there too")
    evaluate.add_argument("--csv", type=Path, metavar="FILE", help="the same as a table")
    evaluate.set_defaults(run=run_evaluate)


def _add_export(commands: Commands) -> None:
    export = _command(commands, "export", "write the ONNX file that the tracker reads")
    run_help = "run folder or checkpoint; for a variant also the fp32 ONNX file, or a bundled network: fast, accurate"
    export.add_argument("model", type=reid_file, metavar="RUN", help=run_help)
    export.add_argument("--out", type=Path, required=True, help="ONNX file")
    export.add_argument(
        "--data",
        type=Path,
        action="append",
        required=True,
        help=f"{DATA_HELP}; all that were trained on, in the same order: for the thresholds",
    )
    export.add_argument(
        "--precision", default="fp32", help="fp32, or a smaller variant: fp16, int8 (default %(default)s)"
    )
    export.set_defaults(run=run_export)


def _add_adapt(commands: Commands) -> None:
    adapt = _command(commands, "adapt", "fit a model to a place from a few labelled tracks, as a new ONNX file")
    adapt.add_argument("model", type=reid_file, metavar="MODEL_OR_RUN", help=NETWORK_HELP)
    adapt.add_argument("--support", type=Path, required=True, help="folder of `reid crops`, or as --data")
    adapt.add_argument("--out", type=Path, required=True, help="new ONNX file")
    adapt.add_argument(
        "--metric",
        choices=SITE_METRICS,
        help="put behind an ONNX file: whitening of the variation within people (default), one online metric layer, or "
        "a mixed-integer metric",
    )
    adapt.add_argument("--seed", type=int, default=0, help="draws the held-out people (default %(default)s)")
    adapt.add_argument("--force", action="store_true", help="write it even if retrieval of held-out people gets worse")
    adapt.set_defaults(run=run_adapt)


def _add_crops(commands: Commands) -> None:
    crops = _command(commands, "crops", "cut people out of MOT ground truth, for --data")
    crops.add_argument("folder", type=Path, metavar="MOT_FOLDER", help="a sequence, or any folder above sequences")
    crops.add_argument("--out", type=Path, required=True, help="new folder for the crops and people.csv")
    crops.add_argument("--sequences", nargs="+", default=[], metavar="NAME", help="only these (default: all)")
    crops.add_argument("--exclude", nargs="+", default=[], metavar="NAME", help="videos that are scored, by any name")
    crops.add_argument("--min-visibility", type=float, default=0.5, help="share of the box (default %(default)s)")
    crops.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th frame (default %(default)s)")
    crops.add_argument(
        "--min-height", type=int, default=32, metavar="PX", help="least height of a crop, pixels (default %(default)s)"
    )
    crops.add_argument("--margin", type=float, default=0.0, help="around the box, of its side (default %(default)s)")
    crops.set_defaults(run=run_crops)


def _add_suggest(commands: Commands) -> None:
    suggest = _command(commands, "suggest-labels", "pairs of crops that a person should label next")
    suggest.add_argument("model", type=reid_file, help=NETWORK_HELP)
    crops_help = "table image,id[,camera][,frame], the folder of `reid crops`, or any folder of images"
    suggest.add_argument("--crops", type=Path, required=True, help=crops_help)
    suggest.add_argument("--n", type=int, default=20, metavar="N", help="pairs (default %(default)s)")
    suggest.add_argument(
        "--threshold",
        type=float,
        metavar="D",
        help="suggest pairs near this cosine distance (default: tau_same of the model)",
    )
    suggest.add_argument("--out", type=Path, default=Path("pairs.csv"), metavar="FILE", help="default %(default)s")
    suggest.add_argument("--sheet", type=Path, metavar="PNG", help="picture of all pairs (default: --out with .png)")
    suggest.set_defaults(run=run_suggest_labels)


def _add_bench(commands: Commands) -> None:
    bench = _command(commands, "bench", "milliseconds per crop on the CPU")
    bench_help = "ONNX file, or a bundled network: fast, accurate; several: side by side"
    bench.add_argument("models", type=reid_file, nargs="+", metavar="MODEL", help=bench_help)
    bench.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 and 2")
    bench.set_defaults(run=run_bench)


def run_train(arguments: argparse.Namespace) -> None:
    import dataclasses

    from reid_training.config import read_toml, with_changes
    from reid_training.curve import draw
    from reid_training.data.folders import read_unlabelled
    from reid_training.devices import keep_freed_memory
    from reid_training.train import train
    from tracker.settings import pairs

    if arguments.jobs < 1:
        raise ConfigError(f"--jobs must be >= 1, got {arguments.jobs}")
    keep_freed_memory()
    config: RunConfig = read_toml(arguments.config)
    if arguments.seed is not None:
        config = dataclasses.replace(config, seed=arguments.seed)
    if arguments.teacher is not None:
        config = dataclasses.replace(config, distil=dataclasses.replace(config.distil, teacher=arguments.teacher))
    if arguments.method is not None and arguments.method != config.method["name"]:
        config = dataclasses.replace(config, method={"name": arguments.method})
    config = with_changes(config, pairs(arguments.set))
    if not arguments.data and not arguments.unlabelled:
        raise ConfigError("nothing to train on: give --data, or --teacher with --unlabelled")
    history = train(
        config,
        read_all(arguments.data) if arguments.data else None,
        arguments.out,
        unlabelled=read_unlabelled(arguments.unlabelled) if arguments.unlabelled else None,
        validation=read_data(arguments.validate) if arguments.validate else None,
        resume=arguments.resume,
        n_jobs=arguments.jobs,
    )
    if int(os.environ.get("RANK", "0")) == 0:  # under torchrun one process writes
        scores = {"held_out_rank1": "rank-1", "held_out_map": "mAP"}
        draw(history, arguments.out / "curve.png", scores, "held-out people, %", 100.0)
        print(f"written to {arguments.out}")


def run_methods(arguments: argparse.Namespace) -> None:
    import dataclasses

    from reid_training.methods import METHODS

    if arguments.name is not None:
        explain_method(arguments.name)
        return
    for name, (method, config) in METHODS.items():
        print(f"{name}: {about_method(method)[0].strip()}")
        for setting in dataclasses.fields(config):
            print(f"    {setting.name} = {getattr(config(), setting.name)}")


def about_method(method: type[Any]) -> list[str]:
    """Title and papers of a method, from its module; of one without a module, such as a notebook's, from its class."""
    module = sys.modules.get(method.__module__)
    return (getattr(module, "__doc__", None) or method.__doc__ or "").split("\n\n")[:2]


def explain_method(name: str) -> None:
    """Prints the paper of a method and for each setting its name for --set, default, allowed values and meaning."""
    import dataclasses
    import textwrap

    from reid_training.methods import method_of
    from tracker.settings import allowed, field_comments, hints_of

    method, config = method_of(name)
    print(
        f"{name}: " + "\n\n".join(about_method(method)) + "\n\nSettings, for --set or the section [method] of a config:"
    )
    comments = field_comments(config)
    for setting in dataclasses.fields(config):
        values = allowed(hints_of(config)[setting.name])
        print(f"    method.{setting.name} = {getattr(config(), setting.name)}  ({values})")
        if setting.name in comments:
            print(textwrap.indent(textwrap.fill(comments[setting.name], 100, break_on_hyphens=False), " " * 8))


def run_evaluate(arguments: argparse.Namespace) -> None:
    from reid_training.data.base import check_rankable, has_cameras
    from reid_training.embedders import embed_samples
    from reid_training.evaluate import JUNK, by_other_cameras, cosine_rows, nmi, rank, rank_by, rank_in_cameras
    from reid_training.ranked_lists import check_picture, write_ranked_lists
    from reid_training.rerank import reranked_rows

    if arguments.min_gap is not None:
        run_evaluate_in_videos(arguments)
        return
    if arguments.picture is not None:
        check_picture(arguments.picture, arguments.queries)
    embedder = load_embedder(arguments.model)
    data = read_data(arguments.data)
    check_rankable(data)
    query, gallery = data.query, data.gallery.take((data.gallery.pids != JUNK).nonzero()[0])
    labels = (query.pids, query.camids, gallery.pids, gallery.camids)
    query_emb, gallery_emb = embed_samples(embedder, query), embed_samples(embedder, gallery)
    others = OTHER_CAMERAS if has_cameras(data) else OTHER_IMAGES
    cosine = rank(query_emb, *labels[:2], gallery_emb, *labels[2:])
    found = {(others, "cosine"): cosine}
    if arguments.rerank:
        found[others, "k-reciprocal"] = rank_by(reranked_rows(query_emb, gallery_emb), *labels)
    distances = cosine_rows(query_emb, gallery_emb)
    in_cameras = rank_in_cameras(distances, query, gallery) if others == OTHER_CAMERAS else None
    if in_cameras is not None:
        found[SAME_CAMERA, "cosine"] = in_cameras

    print(f"{data.name}, single query: {cosine.n_queries} queries, {len(gallery)} gallery images")
    about: dict[str, Any] = {"model": str(arguments.model), "data": data.name, "n_gallery": len(gallery)}
    if arguments.nmi:
        people = gallery.pids > 0  # distractors are no class
        about["nmi"] = nmi(gallery_emb[people], gallery.pids[people])
    report(found, about, arguments)
    if arguments.picture is not None:
        size = (embedder.height, embedder.width)
        answers = by_other_cameras(*labels)
        n = write_ranked_lists(distances, answers, query, gallery, arguments.queries, size, arguments.picture)
        print(f"{arguments.picture}: {n} queries and their nearest images by cosine distance, {others}")


def run_evaluate_in_videos(arguments: argparse.Namespace) -> None:
    from reid_training.data import csv_table
    from reid_training.data.mot_crops import TABLE
    from reid_training.embedders import embed_samples
    from reid_training.evaluate import rank_in_videos

    if arguments.min_gap < 1:
        raise ConfigError(f"--min-gap must be >= 1, got {arguments.min_gap}")
    for option in ("rerank", "nmi", "picture"):
        if getattr(arguments, option):
            raise ConfigError(f"--{option} is for query and gallery; it does not go together with --min-gap")
    embedder = load_embedder(arguments.model)
    table = arguments.data / TABLE if arguments.data.is_dir() else arguments.data
    if arguments.data.is_dir() and not table.is_file():
        raise DataError(f"{arguments.data}: no {TABLE}; --min-gap needs the table of `reid crops`, with its frames")
    samples, frames = csv_table.read_videos(table)
    embeddings = embed_samples(embedder, samples)
    scores = rank_in_videos(embeddings, samples.pids, samples.camids, frames, arguments.min_gap)
    n_videos = len(set(samples.camids.tolist()))
    print(
        f"{table.name}, inside each video ({n_videos}), the same person at least {arguments.min_gap} frames away: "
        f"{scores.n_queries} queries, {len(samples)} crops"
    )
    about = {"model": str(arguments.model), "data": table.name, "n_gallery": len(samples), "min_gap": arguments.min_gap}
    report({(SAME_VIDEO, "cosine"): scores}, about, arguments)


def load_embedder(model: Path) -> Embedder:
    from reid_training.embedders import OnnxEmbedder, TorchEmbedder
    from reid_training.runs import load_method

    if not model.exists():
        raise ModelError(f"no file {model}")
    if model.suffix == ".onnx":
        return OnnxEmbedder(model)
    method, config, _ = load_method(model)
    return TorchEmbedder(method, config.data.height, config.data.width)


def report(found: dict[tuple[str, str], Ranking], about: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Prints one line per kind of right answer and distance, and writes the requested files."""
    from reid_training.evaluate import RANKS, as_row

    for right in dict.fromkeys(right for right, _ in found):
        print(f"{right}: {RIGHT[right]}")
    print("distance      right          rank-1  rank-5  rank-10     mAP   MAP@R  R-prec  TPR at FPR 1e-2    1e-3")
    for (right, name), scores in found.items():
        shares = (scores.rank1, scores.rank5, scores.rank10, scores.mean_ap, scores.map_at_r, scores.r_precision)
        rates = (scores.tpr_at_fpr_1e2, scores.tpr_at_fpr_1e3)
        widths = (6, 6, 7, 6, 6, 6, 15, 6)
        cells = "  ".join(f"{100 * x:{n}.2f}" for x, n in zip((*shares, *rates), widths, strict=True))
        print(f"{name:<12}  {right:<13}  {cells}")
    print(f"{'recall at':<27}  {'  '.join(f'{k:6d}' for k in RANKS)}")
    rows = {key: as_row(scores) for key, scores in found.items()}
    for (right, name), row in rows.items():
        recalls = "  ".join(f"{100 * row[f'rank{k}']:6.2f}" for k in RANKS)
        print(f"{name:<12}  {right:<13}  {recalls}")
    if "nmi" in about:
        print(f"k-means, as many clusters as people: NMI {100 * about['nmi']:.2f}")
    lines = [{**about, "distance": name, "right": right, **row} for (right, name), row in rows.items()]
    write_scores(lines, arguments.json, arguments.csv)


def write_scores(rows: list[dict[str, Any]], json_path: Path | None, csv_path: Path | None) -> None:
    """One line per row, the same columns in both files; NaN becomes null in JSON and an empty cell in CSV."""
    import json

    from reid_training.runs import csv_line, replace_file

    rows = [{key: None if value != value else value for key, value in row.items()} for row in rows]
    if json_path is not None:
        text = json.dumps(rows, indent=1) + "\n"
        replace_file(json_path, lambda stream: stream.write(text.encode()))
    if csv_path is not None:
        lines = [list(rows[0]), *(["" if value is None else str(value) for value in row.values()] for row in rows)]
        table = "".join(csv_line(line) for line in lines)
        replace_file(csv_path, lambda stream: stream.write(table.encode()))


def run_export(arguments: argparse.Namespace) -> None:
    from reid_training.export import export

    if arguments.precision != "fp32":
        run_export_variant(arguments)
        return
    if arguments.model.suffix == ".onnx":
        raise ConfigError(f"{arguments.model} is exported already; --precision fp16 or int8 makes a variant of it")
    print_calibration(export(arguments.model, read_all(arguments.data), arguments.out))
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes; agrees with torch at batch 1, 2, 7 and 32")


def run_export_variant(arguments: argparse.Namespace) -> None:
    from reid_training.precision import export_variant

    variant = export_variant(arguments.model, read_all(arguments.data), arguments.precision, arguments.out)
    if variant.calibration is None:
        if arguments.model.suffix == ".onnx":
            print(f"thresholds as in {arguments.model}: the file does not list the held-out people; a run does")
        crops = "training crops that set no scale"
    else:
        print_calibration(variant.calibration)
        crops = "crops of held-out people"
    print(
        f"{arguments.out}: {arguments.out.stat().st_size} bytes; cosine to fp32 on {variant.n_crops} {crops}: "
        f"mean {variant.mean_cosine:.5f}, least {variant.least_cosine:.5f}"
    )
    print(f"agrees with itself at batch 1, 2, 7 and 32: a coordinate differs by {variant.batch_difference:.1g} at most")


def run_adapt(arguments: argparse.Namespace) -> None:
    from reid_training.adapt import adapt

    if arguments.seed < 0:
        raise ConfigError(f"--seed must be >= 0, got {arguments.seed}")
    support = read_data(arguments.support)
    made = adapt(
        arguments.model,
        support,
        arguments.out,
        metric=arguments.metric,
        force=arguments.force,
        seed=arguments.seed,
    )
    print(f"changed: {made.change}")
    print("people held back  rank-1     mAP")
    for title, scores in (("before", made.before), ("after", made.after)):
        print(f"{title:<16}  {100 * scores.rank1:6.2f}  {100 * scores.mean_ap:6.2f}")
    if made.measured:
        print_calibration({"held back": made.calibration})
    else:
        found = made.calibration
        print(
            f"too few people to measure thresholds; carried over: tau_same {found.tau_same:.4f}, "
            f"tau_diff {found.tau_diff:.4f}, sigma_same {found.sigma_same:.4f}"
        )
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


def read_all(paths: list[Path]) -> Dataset:
    """What all --data name, as one set to train on."""
    from reid_training.data.base import combine

    data = [read_data(path) for path in paths]
    return data[0] if len(data) == 1 else combine(data)


def read_data(path: Path) -> Dataset:
    """What --data names: a table, the folder of `reid crops` with its table, or the folder of a known data set."""
    from reid_training.data import csv_table, folders
    from reid_training.data.mot_crops import TABLE

    if path.is_file():
        return csv_table.read(path)
    return csv_table.read(path / TABLE) if (path / TABLE).is_file() else folders.read(path)


def run_crops(arguments: argparse.Namespace) -> None:
    from reid_training.data.mot_crops import TABLE, CropRules, choose_sequences, cut_crops, find_sequences, other_names

    rules = CropRules(arguments.min_visibility, arguments.every, arguments.min_height, arguments.margin)
    chosen = choose_sequences(find_sequences(arguments.folder), arguments.sequences, arguments.exclude)
    n_crops = cut_crops(chosen, arguments.out, rules)
    print(f"{arguments.out / TABLE}: {n_crops} crops")
    print("do not train on a video that you also score; names of these videos:")
    for sequence in chosen:
        print("  " + " = ".join([sequence.name, *other_names(sequence.name)]))


def run_suggest_labels(arguments: argparse.Namespace) -> None:
    from reid_training.embedders import embed_samples
    from reid_training.suggest import read_crops, suggest_pairs, threshold_of, write_sheet, write_table

    sheet = arguments.sheet or arguments.out.with_suffix(".png")
    if arguments.n < 1:
        raise ConfigError(f"--n must be >= 1, got {arguments.n}")
    if arguments.threshold is not None and not 0.0 < arguments.threshold < 2.0:
        raise ConfigError(f"--threshold must be in (0, 2), a cosine distance, got {arguments.threshold}")
    for path in (arguments.out, sheet):
        if path.exists():
            raise ConfigError(f"{path} exists already and may hold labels; choose another name")
    embedder = load_embedder(arguments.model)
    threshold = threshold_of(embedder, arguments.model) if arguments.threshold is None else arguments.threshold
    crops = read_crops(arguments.crops)
    pairs = suggest_pairs(embed_samples(embedder, crops.samples), crops, arguments.n, threshold)
    write_table(pairs, crops, threshold, arguments.out)
    write_sheet(pairs, crops, sheet)
    n_outliers = sum(pair.reason == "outlier" for pair in pairs)
    print(
        f"{arguments.out}: {len(pairs)} pairs of {len(crops.samples)} crops, {len(pairs) - n_outliers} near the "
        f"distance {threshold:.3f} and {n_outliers} with an outlier; write yes or no under `same`"
    )
    print(f"{sheet}: the same pairs to look at")


def run_bench(arguments: argparse.Namespace) -> None:
    from reid_training.bench import time_crops

    if min(arguments.threads) < 1:
        raise ConfigError(f"--threads must be >= 1, got {min(arguments.threads)}")
    titles = [f"{model}, ms per crop: median" for model in arguments.models]
    print("  ".join(["batch  threads", *(f"{title}     p95" for title in titles)]))
    for batch in (1, 8, 32):
        for threads in arguments.threads:
            cells = [f"{batch:5d}  {threads:7d}"]
            for model, title in zip(arguments.models, titles, strict=True):
                median, p95 = time_crops(model, batch, threads)
                cells.append(f"{median:{len(title)}.3f}  {p95:6.3f}")
            print("  ".join(cells))


def print_calibration(groups: dict[str, Calibration]) -> None:
    """Cosine distances on held-out people, if any were measured; the file carries the pooled row."""
    if not groups:
        return
    print("pairs         tau_same  tau_diff  sigma_same  TPR at tau_same  same pairs  different pairs")
    for name, found in groups.items():
        print(
            f"{name:<12}  {found.tau_same:8.4f}  {found.tau_diff:8.4f}  {found.sigma_same:10.4f}"
            f"  {found.tpr_at_tau_same:15.4f}  {found.n_same:10d}  {found.n_diff:15d}"
        )


if __name__ == "__main__":
    sys.exit(main())
