"""Other trackers beside Tracklet on replicas of MOT sequences: who is ahead, and by how many standard errors.

    python -m tools.benchmarks.tracking_peers SEQUENCES... --replicas 6 [--video NAME=FILE] [--markdown FILE]
    pip install trackforge trackers norfair deep-sort-realtime pyxtrackers

Every tracker has its default settings (ours with `--verify appearance`: the others have no detector beside the boxes)
and gets the same detections, those of `track-eval --replicas`: from a file, moved a little, some dropped, mirrored.
Trackers that take embeddings get those of our default network for every
detection, trackers that know of camera motion get it or the images. Their boxes are scored as ours are. Columns
"..._margin": how far Tracklet is ahead on the same replicas, in standard errors of the difference.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # of trackforge

import numpy as np

from tools.benchmarks.peers import PEERS, NotInstalledError
from tracker.build import load_encoder
from tracker.config import TrackerConfig
from tracker.detector.open import open_detector
from tracker.eval import report
from tracker.eval.options import add_jobs, add_paths, pairs
from tracker.eval.replica_table import ReplicaRow, mean_rows, paired_rows
from tracker.eval.replicas import Replica, ReplicaDetector, ReplicaSource
from tracker.eval.report import Difference, Estimate, Row, Value
from tracker.eval.sequences import find_sequences, info_of
from tracker.eval.track_and_score import Job, Outcome, Tracking, combined, evaluate_sequence
from tracker.runtime.processes import Advanced, Failure, run_all, share_of_cores
from tracker.sinks.mot_txt import mot_lines
from tracker.sources.open import open_source
from tracker.types import FloatArray, Tracks

OURS = "Tracklet"
MEASURES = ("HOTA", "MOTA", "IDF1", "IDs", "FP", "FN")
MARGINS = ("HOTA", "MOTA", "IDF1")
LEAST_PX = 0.01  # a side of a box, as a result file rounds it


@dataclass(frozen=True, slots=True)
class Item:
    """One replica of one sequence, for all trackers."""

    sequence: Path
    video: str | None
    detections: str  # file inside the sequence folder
    replica: Replica
    peers: tuple[str, ...]
    out: Path
    threads: int | None


@dataclass(frozen=True, slots=True)
class PeerRow:
    """A line of the table of one replica."""

    tracker: str
    row: Row

    def values(self) -> dict[str, Value]:
        scores = self.row.values()
        return {"sequence": self.row.name, "tracker": self.tracker} | {name: scores[name] for name in MEASURES}


def run_item(item: Item, advanced: Advanced) -> dict[str, Outcome]:
    """Tracker -> its scores."""
    config = TrackerConfig().override({"proposals.verify": "appearance"})
    tracking = Tracking(config, item.detections, None, "default", "cpu", item.threads)
    ours = Job(item.sequence, _results(item, OURS), tracking, item.video, True, item.replica)
    found = {OURS: evaluate_sequence(ours, advanced)}
    _track_peers(item)
    for name in item.peers:
        found[name] = evaluate_sequence(
            Job(item.sequence, _results(item, name), None, None, True, item.replica), lambda _: None
        )
    return found


def _track_peers(item: Item) -> None:
    """Write the result files of all peers."""
    peers = {name: PEERS[name]() for name in item.peers}
    lines: dict[str, list[str]] = {name: [] for name in peers}
    encoder, _ = load_encoder("default", "cpu", item.threads)
    assert encoder is not None
    public = open_detector(detections=item.sequence / item.detections)
    detector = ReplicaDetector(public, item.replica, of_video=True)
    fps = info_of(item.sequence, "frameRate") if item.video else None
    with closing(ReplicaSource(open_source(item.video or item.sequence, fps=fps), item.replica)) as source:
        for frame in source:
            assert frame.image is not None, f"{item.sequence}: has no images"
            detections = detector.detect(frame)
            detections = detections.with_features(encoder.embed(frame.image, detections.boxes))
            for name, peer in peers.items():
                found = peer.boxes(peer.step(peer.prepare(detections, frame.image)))
                tracks = item.replica.results(as_tracks(found), frame.width)
                lines[name].append(mot_lines(frame.index, tracks))
    for name in peers:
        _results(item, name).write_text("".join(lines[name]))


def as_tracks(found: FloatArray) -> Tracks:
    """Of (M, 5) boxes and identities, which may count from 0; those below 0 are no tracks, nor are inverted boxes."""
    width, height = found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    found = found[(found[:, 4] >= 0) & (np.minimum(width, height) > LEAST_PX)]
    none = np.zeros(len(found), np.int64)
    ids = found[:, 4].astype(np.int64) + 1
    return Tracks(found[:, :4], ids, np.ones(len(found)), none, none - 1, none.astype(np.uint8))


def margins(tables: Sequence[Sequence[PeerRow]]) -> list[ReplicaRow]:
    """Means and standard errors, and by how many standard errors ours is ahead."""
    found = []
    pairs_of = paired_rows(tables, MARGINS, lambda labels: (labels[0], OURS))
    for mean, paired in zip(mean_rows(tables), pairs_of, strict=True):
        columns: dict[str, Value | Estimate] = dict(mean.values())
        for name in MARGINS:
            behind = paired.values()[f"{name}_diff"]
            assert isinstance(behind, Difference)
            columns[f"{name}_margin"] = -behind.mean / behind.se if behind.se > 0 else None
        found.append(ReplicaRow(columns))
    return found


def compare(items: Sequence[Item], n_jobs: int) -> tuple[list[ReplicaRow], list[str]]:
    """The table, and one line for each item that failed. items: of one replica after the other."""
    found: dict[int, dict[str, Outcome]] = {}
    failures = []
    for index, outcome in run_all(run_item, items, min(n_jobs, len(items)), lambda _: None):
        name = f"{items[index].replica.seed}/{items[index].sequence.name}"
        if isinstance(outcome, Failure):
            failures.append(f"{name}: {outcome.text}")
        else:
            found[index] = outcome.result
        print(f"{name}: {'failed' if isinstance(outcome, Failure) else 'done'}", file=sys.stderr, flush=True)
    tables = []
    for replica in dict.fromkeys(item.replica for item in items):
        of = [index for index, item in enumerate(items) if item.replica == replica]
        done = [found[index] for index in of if index in found]
        names = [OURS, *items[0].peers]
        rows = [PeerRow(name, scores[name].row) for scores in done for name in names]
        if done and len(of) > 1:
            rows += [PeerRow(name, combined([scores[name] for scores in done], len(of))) for name in names]
        tables.append(rows)
    return margins(tables), failures


def installed() -> tuple[str, ...]:
    """Names of the peers that can be opened; says on standard error what the others lack."""
    found = []
    for name, open_peer in PEERS.items():
        try:
            open_peer()
            found.append(name)
        except NotInstalledError as error:
            print(f"{name}: not installed (pip install {error})", file=sys.stderr)
    return tuple(found)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_paths(parser)
    parser.add_argument("--replicas", type=int, metavar="N", default=6)
    parser.add_argument("--seed", type=int, metavar="S", default=0, help="of the first replica")
    parser.add_argument("--det", metavar="FILE", default="det/det.txt", help="detections inside each sequence folder")
    parser.add_argument("--video", action="append", default=[], metavar="SEQUENCE=FILE", help="of one without images")
    parser.add_argument("--out", metavar="DIR", type=Path, help="keep the result files: DIR/<tracker>/<replica>/...")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="also write the table as Markdown")
    add_jobs(parser, "sequences at a time (default: one per core)")
    args = parser.parse_args(argv)
    videos, peers = pairs(args.video, "--video takes SEQUENCE=FILE"), installed()
    with tempfile.TemporaryDirectory() as scratch:
        items = [
            Item(
                sequence, videos.get(sequence.name), args.det, Replica.of(seed), peers, args.out or Path(scratch),
                share_of_cores(args.jobs),
            )
            for seed in range(args.seed, args.seed + args.replicas)
            for sequence in find_sequences(args.paths)
        ]  # fmt: skip
        rows, failures = compare(items, args.jobs)
    if rows:
        sys.stdout.write(report.as_text(rows))
    if rows and args.markdown is not None:
        report.write_text(args.markdown, report.as_markdown(rows))
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


def _results(item: Item, tracker: str) -> Path:
    folder = item.out / re.sub(r"\W+", "-", tracker).strip("-") / str(item.replica.seed)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{item.sequence.name}.txt"


if __name__ == "__main__":
    sys.exit(main())
